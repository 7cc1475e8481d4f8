"""Names: look up the addresses of devices that are configured by host name alone, for the gate."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from understudy.core.gate import is_network
from understudy.core.model import Timestamp
from understudy.core.ports import Clock
from understudy.core.views import Alarm, iso

_log = logging.getLogger(__name__)

_PATIENCE = 60.0
"""Seconds that a name may have no address before it is an alarm: hosts that start together need time."""


class NamesFile(Protocol):
    """Keeps the last addresses of each name over a restart."""

    def read(self) -> Mapping[str, Sequence[str]]: ...

    def write(self, names: Mapping[str, Sequence[str]]) -> None: ...


class HostNames:
    """The addresses of some host names, as they were when the name service last answered.

    An outage often takes the name service along, so an answer counts until another one comes.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        resolve: Callable[[str], Sequence[str]],
        file: NamesFile,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self._hosts = hosts
        self._resolve = resolve
        self._file = file
        self._clock = clock
        self._on_change = on_change
        kept = file.read()
        self._found = {host: tuple(kept[host]) for host in hosts if kept.get(host)}
        self._unknown_since: dict[str, Timestamp] = {}

    @property
    def found(self) -> Mapping[str, Sequence[str]]:
        """The addresses by name, as networks of one address; a name without any is absent."""
        return self._found

    def step(self) -> bool:
        """Look every name up once."""
        before = dict(self._found)
        for host in self._hosts:
            try:
                networks = tuple(sorted(filter(is_network, self._resolve(host))))
            except OSError as error:
                _log.debug("names lookup failed host=%s because=%s", host, error)
                networks = ()
            if networks:
                self._found[host] = networks
            if host in self._found:
                self._unknown_since.pop(host, None)
            else:
                self._unknown_since.setdefault(host, self._clock.now())
        if self._found != before:
            self._file.write(self._found)
            _log.info("names changed %s", " ".join(host for host in self._hosts if host in self._found))
            self._on_change()
        return False

    def alarms(self) -> Sequence[Alarm]:
        """Return one alarm for each name that has never had an address."""
        hint = "name the device's Addresses in orthanc-config/understudy.json, or correct the name service"
        return [
            Alarm(iso(since), f"the address of {host} is not known: its associations may be refused", hint)
            for host, since in dict(self._unknown_since).items()
            if self._clock.has_waited(since, _PATIENCE)
        ]
