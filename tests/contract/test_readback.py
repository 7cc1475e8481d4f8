"""Readback: what the peer gives back is compared with what was sent, over C-GET and over WADO-RS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from understudy.adapters.healing import GetSource
from understudy.core.model import HolderKind, Outcome
from understudy.core.obligations import Selection
from understudy.core.ports import HolderUnavailableError, NotGivenError, UnansweredError
from understudy.core.refusals import hint_of

from tests.contract.route import Route, destination, lane_to
from tests.peer.archive import Archive
from tests.peer.script import Answer, Kept, Script
from tests.peer.web import WebArchive
from tests.unit.fakes import ROUTE, dump

Kind = type[Archive] | type[WebArchive]


@pytest.fixture(params=[Archive, WebArchive], ids=["DICOM", "DICOMweb"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Over what the peer is spoken to."""
    found: Kind = request.param
    return found


class Comparing(Route):
    """A route whose instances are read back."""

    def wait(self, timeout: float) -> None:
        self.holder = destination(self.archive, self.storage, self.clock, timeout=timeout, reads_back=True)
        self.lane = lane_to(self.holder, self.ledger, self.clock)

    def proofs(self) -> list[str]:
        """Return the kinds of all proofs."""
        return [row[3] for row in dump(self.ledger)["proofs"]]


@contextmanager
def comparing(folder: Path, kind: Kind, script: Script) -> Iterator[Comparing]:
    with kind(script) as archive:
        route = Comparing(folder, archive)
        try:
            yield route
            route.expect_custody()
        finally:
            route.ledger.close()


def test_data_set_that_comes_back_as_it_was_sent_proves(tmp_path: Path, kind: Kind) -> None:
    with comparing(tmp_path, kind, Script()) as route:
        route.owe(3)
        route.run()
        assert route.states() == ["proven"] * 3
        assert route.proofs() == ["readback"] * 3
        assert "data_set_sha256" in dump(route.ledger)["proofs"][0][5]
        assert route.holder.kind is HolderKind.ROUTE
        assert route.holder.proof.kind.value == "readback"


def test_data_set_that_comes_back_changed_waits_for_a_person_though_it_is_listed(
    tmp_path: Path, kind: Kind
) -> None:
    with comparing(tmp_path, kind, Script()) as route:
        first, second = route.owe(2)
        route.archive.script = Script(altered=frozenset({second}))
        route.run(seconds=200)
        assert route.outcomes() == {first: [Outcome.DELIVERED], second: [Outcome.DELIVERED]}
        assert route.states() == ["proven", "refused"]
        (letter,) = route.ledger.dead_letters.listed(Selection(ROUTE))
        assert letter.reason.startswith(
            "unproven: acknowledged once, and the instance that it gives back differs"
        )
        assert "replay" in hint_of(letter.reason)
        route.archive.script = Script()
        route.ledger.dead_letters.replay(ROUTE, None, "ann", route.clock.now())
        route.run()
        assert route.states() == ["proven"] * 2
        assert route.deliveries() == {first: 1, second: 1}, "looked for before it is sent again"


def test_instance_that_is_listed_and_not_given_back_is_not_proven(tmp_path: Path, kind: Kind) -> None:
    with comparing(tmp_path, kind, Script()) as route:
        first, second = route.owe(2)
        route.archive.script = Script(withheld=frozenset({second}))
        route.run(seconds=50)
        assert route.states() == ["proven", "sent"]
        assert route.deliveries() == {first: 1, second: 1}
        route.run(seconds=1800, step=60)
        assert route.states() == ["proven", "refused"]
        assert route.deliveries() == {first: 1, second: 3}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0xA702, NotGivenError),
        (0xC001, NotGivenError),
        (0xB000, NotGivenError),
        (0x0122, UnansweredError),
        (0x0211, UnansweredError),
    ],
)
def test_c_get_that_fails_is_no_answer_that_there_is_nothing(
    tmp_path: Path, status: int, error: type[HolderUnavailableError]
) -> None:
    with comparing(tmp_path, Archive, Script(get_status=status)) as route:
        route.owe(1)
        route.run()
        peer = route.archive
        assert isinstance(peer, Archive)
        source = GetSource(
            ROUTE,
            ae_title=peer.ae_title,
            host=peer.host,
            port=peer.port,
            calling_ae_title="STANDBY",
            timeout=5.0,
        )
        with pytest.raises(HolderUnavailableError, match=f"0x{status:04X}") as failed:
            source.fetch(route.instances[0])
        assert failed.type is error
        assert route.states() == ["sent"]


def test_instance_that_the_peer_has_already_is_read_back_before_it_counts(tmp_path: Path, kind: Kind) -> None:
    with comparing(tmp_path, kind, Script()) as route:
        first, second = route.owe(2)
        route.run()
        route.ledger.custody.disprove(
            ROUTE,
            [one.number for one in route.instances],
            reason="asked again",
            now=route.clock.now(),
            due=route.clock.now(),
        )
        route.archive.script = Script(altered=frozenset({second}))
        route.run()
        assert route.deliveries() == {first: 1, second: 2}
        assert route.states() == ["proven", "refused"]


def test_instance_that_is_kept_under_another_uid_is_not_proven(tmp_path: Path, kind: Kind) -> None:
    with comparing(tmp_path, kind, Script(act=Answer(kept=Kept.RENAMED))) as route:
        route.owe(1)
        route.run(seconds=100)
        assert route.proofs() == []
