"""Which configuration runs: alarms if it is not the present one, or if the services do not run the same."""

from collections.abc import Callable, Mapping, Sequence

from understudy.core.model import Timestamp
from understudy.core.ports import Clock
from understudy.core.views import Alarm, Urgency, iso

_PATIENCE = 120.0
"""Seconds that the services may differ: they do not start at the same moment."""


class ConfigurationWatch:
    """Compares the services' configurations; `problems` are the faults of the one in the folder."""

    def __init__(
        self,
        own: str,
        others: Callable[[], Mapping[str, str]],
        problems: Sequence[str],
        clock: Clock,
        *,
        wrong: str,
        hint: str,
    ) -> None:
        """`own` is the digest of the agent's configuration; `others` returns the services', or empty ones."""
        self._own = own
        self._others = others
        self._problems = problems
        self._clock = clock
        self._wrong = wrong
        self._hint = hint
        self._began = clock.now()
        self._differ_since: dict[str, Timestamp] = {}

    def alarms(self) -> Sequence[Alarm]:
        """Compare, and return the alarms."""
        now = self._clock.now()
        different = {name for name, digest in self._others().items() if digest not in ("", self._own)}
        self._differ_since = {name: self._differ_since.get(name, now) for name in different}
        found = []
        if self._problems:
            what = f"{self._wrong}: {'; '.join(self._problems)}"
            found.append(Alarm(iso(self._began), what, self._hint, Urgency.NOW))
        for name, since in sorted(self._differ_since.items()):
            if self._clock.has_waited(since, _PATIENCE):
                what = f"the service {name} and the agent run different configurations"
                found.append(
                    Alarm(iso(since), what, "`docker compose restart` makes all services read the same one")
                )
        return found
