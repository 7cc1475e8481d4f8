"""Which holders an instance is owed to, decided when it is first seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from understudy.core.model import HolderName, NewInstance


@dataclass(frozen=True, slots=True)
class Route:
    """A destination and the instances that it wants; an empty set wants all."""

    holder: HolderName
    ae_title: str
    modalities: frozenset[str] = frozenset()
    sop_classes: frozenset[str] = frozenset()
    calling_ae_titles: frozenset[str] = frozenset()

    def wants(self, instance: NewInstance) -> bool:
        """Say whether the instance is owed to this destination: never to where it came from."""
        if instance.calling_ae_title == self.ae_title:
            return False
        return all(
            not wanted or value in wanted
            for wanted, value in (
                (self.modalities, instance.modality),
                (self.sop_classes, instance.sop_class_uid),
                (self.calling_ae_titles, instance.calling_ae_title),
            )
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """All that decides what an instance owes."""

    primary: HolderName | None
    primary_ae_title: str
    vaults: Sequence[HolderName]
    routes: Sequence[Route]

    def came_from_primary(self, instance: NewInstance) -> bool:
        """Say whether the primary itself sent the instance: it forwarded it or answered our pull."""
        return self.primary is not None and instance.calling_ae_title == self.primary_ae_title

    def owed(self, instance: NewInstance) -> list[HolderName]:
        """Return the holders that have yet to be proven to have it.

        Every vault, every route that wants it, and the primary unless it came from there.
        """
        holders = list(self.vaults)
        holders += [route.holder for route in self.routes if route.wants(instance)]
        if self.primary is not None and not self.came_from_primary(instance):
            holders.append(self.primary)
        return holders
