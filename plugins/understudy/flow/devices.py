"""Devices: who calls here, what was refused from them, and who is approved."""

from collections.abc import Sequence

from understudy.core.gate import Allowed
from understudy.core.views import ModalityView
from understudy.flow.gate import Gate
from understudy.flow.reception import ReceptionWatch


class Devices:
    """What a person asks of the devices that call here."""

    def __init__(self, gate: Gate, reception: ReceptionWatch) -> None:
        self._gate = gate
        self._reception = reception

    def modalities(self) -> Sequence[ModalityView]:
        """Return every device that was seen, with what was refused from it."""
        return self._reception.beside(self._gate.modalities())

    def approve(self, who: str, entry: Allowed) -> bool:
        """Let a device in, and say whether the running edge does so already."""
        return self._gate.approve(who, entry)

    def revoke(self, who: str, entry: Allowed) -> bool:
        """Take an approval back, and say whether the running edge knows already."""
        return self._gate.revoke(who, entry)
