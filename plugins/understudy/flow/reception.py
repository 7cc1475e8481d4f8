"""Reception: a worker reads the refusals of Orthanc's reception from a file, for display by device."""

from collections.abc import Callable, Collection, Mapping, Sequence

from understudy.core import reception
from understudy.core.ports import Clock
from understudy.core.reception import Refusal
from understudy.core.views import Alarm, ModalityView, iso
from understudy.engine.board import Watch


class ReceptionWatch:
    """`step` reads the refusals; all other calls read memory and wait for no disk."""

    def __init__(
        self,
        read: Callable[[], Sequence[Refusal]],
        clock: Clock,
        listed: Callable[[], Collection[str]],
        name_of: Callable[[str], str],
    ) -> None:
        self._watch = Watch(read, clock)
        self._clock = clock
        self._listed = listed
        """The AE titles of the allow-list."""
        self._name_of = name_of

    def step(self) -> bool:
        """Look once."""
        return self._watch.step()

    def counts(self) -> Mapping[str, int]:
        """Return the number of refusals by reason."""
        return reception.counts(self._watch.value or ())

    def beside(self, views: Sequence[ModalityView]) -> list[ModalityView]:
        """Return the devices with their refusals, also devices that the edge did not see."""
        return reception.beside(views, self._watch.value or (), self._listed(), self._name_of)

    def alarms(self) -> list[Alarm]:
        """Return the alarms on recent refusals, or one that says that they are not known."""
        if (since := self._watch.unknown_since) is not None:
            what = "the list of images that Orthanc refused cannot be read"
            return [Alarm(iso(since), what, "look at the storage volume: it does not answer")]
        found = self._watch.value
        return reception.alarms(found, self._listed(), self._clock.waited) if found else []
