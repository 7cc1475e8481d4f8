"""Devices: which devices call here, what was refused from them, and which are approved."""

from collections.abc import Sequence

from understudy.core.gate import Allowed
from understudy.core.views import ModalityView
from understudy.flow.gate import Gate
from understudy.flow.reception import ReceptionWatch


class Devices:
    """The devices that call here, for a person to list and approve."""

    def __init__(self, gate: Gate, reception: ReceptionWatch) -> None:
        self._gate = gate
        self._reception = reception

    def modalities(self) -> Sequence[ModalityView]:
        """Return every device that was seen, with what was refused from it."""
        return self._reception.beside(self._gate.modalities())

    def approve(self, who: str, entry: Allowed) -> bool:
        """Approve a device, and say whether the running edge knows already."""
        return self._gate.approve(who, entry)

    def revoke(self, who: str, entry: Allowed) -> bool:
        """Revoke an approval, and say whether the running edge knows already."""
        return self._gate.revoke(who, entry)
