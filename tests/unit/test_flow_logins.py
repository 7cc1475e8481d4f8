"""Wrong passwords at the edge become an alarm by address, and stay one while the edge does not answer."""

import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from understudy.adapters.edge import EdgeLink, EdgeUnavailableError
from understudy.adapters.edge_config import CONTROL
from understudy.flow.logins import OFTEN, Logins

from tests.unit.fakes import Clock


class Table:
    """What the edge counts; absent while the edge is."""

    def __init__(self) -> None:
        self.counts: dict[str, int] | None = {}

    def __call__(self, least: int) -> Mapping[str, int]:
        if self.counts is None:
            raise EdgeUnavailableError("gone")
        return {address: count for address, count in self.counts.items() if count >= least}


def test_alarm_names_address_and_number_and_keeps_when_it_began() -> None:
    table, clock = Table(), Clock()
    logins = Logins(table, clock, unavailable=EdgeUnavailableError)
    table.counts = {"192.0.2.5": OFTEN - 1}
    logins.step()
    assert not logins.alarms()

    table.counts = {"192.0.2.5": OFTEN, "2001:db8::5": 3}
    logins.step()
    (first,) = logins.alarms()
    assert first.what == f"{OFTEN} wrong passwords came from 192.0.2.5 in the last hour"

    clock.advance(60)
    table.counts = {"192.0.2.5": 57}
    logins.step()
    (second,) = logins.alarms()
    assert second.what.startswith("57 ")
    assert second.since == first.since

    table.counts = None
    logins.step()
    assert list(logins.alarms()) == [second]

    table.counts = {}
    logins.step()
    assert not logins.alarms()


def test_table_of_the_edge_is_read(tmp_path: Path) -> None:
    """As HAProxy 3.2 answered it."""
    shown = (
        "# table: http_failures, type: ip, size:65536, used:3\n"
        "0x7f1a26473418: key=192.0.2.5 use=0 exp=3599437 shard=0 gpc0_rate(60000)=4 gpc1_rate(3600000)=41\n"
        "0x7f1a26473518: key=2001:db8::5 use=1 exp=1 shard=0 gpc0_rate(60000)=0 gpc1_rate(3600000)=20\n\n"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / CONTROL))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"show table http_failures data.gpc1_rate ge 20\n"
                connection.sendall(shown.encode())

        thread = threading.Thread(target=answer)
        thread.start()
        assert EdgeLink(tmp_path).wrong_passwords(OFTEN) == {"192.0.2.5": 41, "2001:db8::5": 20}
        thread.join(60)


def test_edge_that_is_absent_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(EdgeUnavailableError):
        EdgeLink(tmp_path).wrong_passwords(OFTEN)
