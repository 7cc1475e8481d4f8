"""A route to a peer that misbehaves: the outcome of each instance, and what the ledger then holds.

Each test says what the peer does and which outcome that is. Then the peer is mended, and in the end all is
proven, whatever was done before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import JPEGBaseline8Bit
from understudy.core.model import Outcome
from understudy.core.obligations import Selection
from understudy.core.refusals import hint_of

from tests.contract.route import IMPATIENCE, PATIENCE, Route, serving
from tests.peer.archive import Archive
from tests.peer.record import Moment
from tests.peer.script import Act, Answer, Break, Ending, Hang, Kept, Listing, Script, Trickle
from tests.peer.web import WebArchive
from tests.unit.fakes import ROUTE

DELIVERED, ALTERED, CONFLICT = Outcome.DELIVERED, Outcome.DELIVERED_ALTERED, Outcome.CONFLICT
RETRY, REFUSED, UNKNOWN = Outcome.RETRY, Outcome.REFUSED, Outcome.UNKNOWN

COUNT, EVERY = 6, 3
"""Instances of a test, and the distance of those that the script is about."""
LARGE = 1024
"""Rows and columns of an instance of 2 MB, which is still under way when the peer acts."""
MIDDLE = 500_000
"""Bytes of a request after which the peer acts in its middle."""
LONG_ENOUGH = 200.0
"""Seconds of the clock after which what was acknowledged and lost has been owed and sent again."""


Kind = type[Archive] | type[WebArchive]


@pytest.fixture(params=[Archive, WebArchive], ids=["DICOM", "DICOMweb"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Over what the peer is spoken to."""
    found: Kind = request.param
    return found


@contextmanager
def route_to(
    folder: Path, script: Script, kind: Kind = Archive, *, timeout: float = PATIENCE, associations: int = 1
) -> Iterator[Route]:
    with (
        kind(script) as archive,
        serving(folder, archive, timeout=timeout, associations=associations) as route,
    ):
        yield route


def every_third(act: Act) -> Script:
    return Script(act=act, every=EVERY)


def thirds(common: object, third: object) -> list[object]:
    """Return what is expected of six instances, of which every third is another case."""
    return [third if number % EVERY == 0 else common for number in range(1, COUNT + 1)]


def mend(route: Route, *, seconds: float = 0.0) -> None:
    """Let the peer behave, work for a while, and expect that all is proven, and kept as it was sent."""
    route.archive.script = Script()
    route.wait(PATIENCE)
    route.run(seconds=seconds)
    assert route.states() == ["proven"] * len(route.instances)
    assert route.archive.record.kept.keys() >= {instance.sop_instance_uid for instance in route.instances}
    sent: dict[str, set[str]] = {}
    for arrival in route.archive.record.arrivals:
        sent.setdefault(arrival.sop_instance_uid, set()).add(arrival.dataset_sha256)
    assert {uid: len(digests) for uid, digests in sent.items()} == dict.fromkeys(sent, 1)


def replay(route: Route) -> None:
    route.ledger.dead_letters.replay(ROUTE, None, "ann", route.clock.now())


def test_peer_that_plays_along_gets_everything_once(tmp_path: Path, kind: Kind) -> None:
    with route_to(tmp_path, Script(), kind) as route:
        uids = route.owe(COUNT)
        route.run()
        assert list(route.outcomes().values()) == [[DELIVERED]] * COUNT
        assert route.deliveries() == dict.fromkeys(uids, 1)
        mend(route)


# Answers


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0001, ALTERED),
        (0x0107, ALTERED),
        (0x0116, ALTERED),
        (0xB000, ALTERED),
        (0xB006, ALTERED),
        (0xB007, ALTERED),
        (0xBABE, ALTERED),
        (0x0110, RETRY),
        (0x0211, RETRY),
        (0x0213, RETRY),
        (0xA700, RETRY),
        (0xA7FF, RETRY),
        (0x0117, REFUSED),
        (0x0122, REFUSED),
        (0x0124, REFUSED),
        (0xA900, REFUSED),
        (0xC122, REFUSED),
        (0x1234, REFUSED),
        (0xFE00, REFUSED),
    ],
)
def test_status_of_every_third_instance_is_its_outcome_and_blames_no_other(
    tmp_path: Path, kind: Kind, status: int, outcome: Outcome
) -> None:
    state = {ALTERED: "proven", RETRY: "owed", REFUSED: "refused"}[outcome]
    with route_to(tmp_path, every_third(Answer(status)), kind) as route:
        uids = route.owe(COUNT)
        route.run()
        assert list(route.outcomes().values()) == thirds([DELIVERED], [outcome])
        assert route.states() == thirds("proven", state)
        assert route.deliveries() == dict.fromkeys(uids, 1)
        assert [f"0x{status:04X}" in view.reason for view in route.obligations()] == thirds(False, True)
        if outcome is REFUSED:
            route.run(seconds=LONG_ENOUGH, step=50)
            assert route.deliveries() == dict.fromkeys(uids, 1), "sent again though refused"
            replay(route)
        mend(route, seconds=20)
        again = 1 if outcome is ALTERED else 2
        assert list(route.deliveries().values()) == thirds(1, again)


def test_poison_among_500_waits_for_a_person_and_499_are_proven(tmp_path: Path) -> None:
    with route_to(tmp_path, Script(), associations=4) as route:
        first, *others = route.owe(500, size=2)
        route.archive.script = Script(poison={first: 0xC000})
        route.run()
        assert route.states() == ["refused"] + ["proven"] * 499
        assert route.deliveries() == {first: 2} | dict.fromkeys(others, 1)
        (poison,) = [view for view in route.obligations() if view.state.value == "refused"]
        assert "cannot understand it" in poison.reason
        assert "replay" in hint_of(poison.reason)
        replay(route)
        mend(route)


@pytest.mark.parametrize("status", [0xC000, 0xCFFF])
def test_instance_that_is_not_understood_is_refused_when_it_is_not_alone_either(
    tmp_path: Path, status: int
) -> None:
    with route_to(tmp_path, Script()) as route:
        first, second, third = route.owe(3)
        route.archive.script = Script(poison={second: status})
        route.run()
        assert route.outcomes() == {first: [DELIVERED], second: [REFUSED], third: [DELIVERED]}
        assert route.deliveries() == {first: 1, second: 2, third: 1}
        route.run(seconds=LONG_ENOUGH, step=50)
        assert route.deliveries()[second] == 2, "sent again though refused"
        replay(route)
        mend(route)


def test_instance_that_is_understood_alone_is_delivered_over_an_association_of_its_own(
    tmp_path: Path,
) -> None:
    with route_to(tmp_path, Script(act=Answer(0xC000), only=(2,))) as route:
        first, second, third = route.owe(3)
        began = route.archive.record.times(Moment.ASSOCIATED)
        route.run()
        assert list(route.outcomes().values()) == [[DELIVERED]] * 3
        assert route.deliveries() == {first: 1, second: 2, third: 1}
        # For two questions and two times of storing.
        assert route.archive.record.times(Moment.ASSOCIATED) - began == 4
        mend(route)


def test_instance_that_is_not_understood_over_http_was_alone_and_is_refused(tmp_path: Path) -> None:
    with route_to(tmp_path, Script(), WebArchive) as route:
        first, second = route.owe(2)
        route.archive.script = Script(poison={first: 0xC000})
        route.run()
        assert route.outcomes() == {first: [REFUSED], second: [DELIVERED]}
        assert route.deliveries() == {first: 1, second: 1}


def test_duplicate_that_is_listed_late_is_a_conflict_and_proven_without_another_delivery(
    tmp_path: Path,
    kind: Kind,
) -> None:
    # It stores and ends the connection, and its index is behind: we cannot know that it has the instance.
    begin = Script(act=Break(Ending.CLOSE, kept=Kept.AS_SENT), listing=Listing.EMPTY)
    with route_to(tmp_path, begin, kind) as route:
        (uid,) = route.owe(1)
        route.run()
        route.archive.script = Script(refuses_duplicates=True, listing=Listing.EMPTY)
        route.run(seconds=20)
        assert route.outcomes() == {uid: [UNKNOWN, CONFLICT]}
        assert route.states() == ["owed"]
        route.archive.script = Script(refuses_duplicates=True)
        route.run(seconds=40)
        assert route.states() == ["proven"]
        assert route.deliveries() == {uid: 2}


def test_duplicate_that_is_never_listed_is_a_conflict_and_never_proven(tmp_path: Path, kind: Kind) -> None:
    with route_to(tmp_path, Script(act=Answer(0x0111), only=(2, 4, 5, 6)), kind) as route:
        first, second, third = route.owe(3)
        route.run(seconds=80)
        # After 10, 20 and 40 seconds, and not at every step.
        assert route.outcomes() == {first: [DELIVERED], second: [CONFLICT] * 4, third: [DELIVERED]}
        assert route.states() == ["proven", "owed", "proven"]
        mend(route, seconds=LONG_ENOUGH)


def test_acknowledged_and_lost_is_delivered_and_owed_again_until_it_is_there(
    tmp_path: Path, kind: Kind
) -> None:
    with route_to(tmp_path, every_third(Answer(kept=Kept.NOT)), kind) as route:
        route.owe(COUNT)
        route.run()
        assert list(route.outcomes().values()) == [[DELIVERED]] * COUNT
        assert route.states() == thirds("proven", "sent")
        route.archive.script = Script(listing=Listing.WHOLE)
        route.run(seconds=50)
        assert route.states() == thirds("proven", "sent"), "its index may be behind"
        mend(route, seconds=LONG_ENOUGH)
        assert list(route.deliveries().values()) == thirds(1, 2)


@pytest.mark.parametrize(("status", "outcome"), [(0x0000, DELIVERED), (0xB000, ALTERED)])
def test_instance_that_is_kept_under_another_uid_waits_for_a_person_after_three_copies(
    tmp_path: Path, kind: Kind, status: int, outcome: Outcome
) -> None:
    with route_to(tmp_path, every_third(Answer(status, kept=Kept.RENAMED)), kind) as route:
        route.owe(COUNT)
        route.run()
        route.archive.script = Script(act=Answer(status, kept=Kept.RENAMED))
        route.run(seconds=7200, step=60)
        assert list(route.outcomes().values()) == thirds([DELIVERED], [outcome] * 3)
        assert list(route.deliveries().values()) == thirds(1, 3)
        assert route.states() == thirds("proven", "refused")
        (letter,) = route.ledger.dead_letters.listed(Selection(ROUTE))
        assert letter.reason.startswith("unproven: acknowledged 3 times")
        assert "changed its SOP Instance UID" in hint_of(letter.reason)
        replay(route)
        mend(route)


def test_index_that_is_behind_leaves_everything_delivered_and_unproven(tmp_path: Path, kind: Kind) -> None:
    with route_to(tmp_path, Script(listing=Listing.EMPTY), kind) as route:
        uids = route.owe(COUNT)
        route.run(seconds=30)
        assert list(route.outcomes().values()) == [[DELIVERED]] * COUNT
        assert route.states() == ["sent"] * COUNT
        mend(route, seconds=10)
        assert route.deliveries() == dict.fromkeys(uids, 1)


# Associations

REJECTIONS = [
    (result, source, reason)
    for result in (1, 2)
    for source, reasons in ((1, (1, 2, 3, 7)), (2, (1, 2)), (3, (1, 2)))
    for reason in reasons
]
"""Every result, source and reason that the standard knows (DICOM PS3.8 table 9-21)."""


@pytest.mark.parametrize("rejection", REJECTIONS)
def test_rejected_association_lets_the_lane_wait_and_blames_no_instance(
    tmp_path: Path, rejection: tuple[int, int, int]
) -> None:
    with route_to(tmp_path, Script(rejection=rejection)) as route:
        route.owe(2)
        route.run()
        assert "rejects our association" in route.waits_because
        assert "source {1}, reason {2}".format(*rejection) in route.waits_because
        assert route.outcomes_known == 0
        assert route.states() == ["owed"] * 2
        assert [view.attempts for view in route.obligations()] == [0, 0]
        mend(route, seconds=10)
        assert set(route.deliveries().values()) == {1}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (Script(sop_classes=()), "SOP class not supported"),
        (Script(transfer_syntaxes=(JPEGBaseline8Bit,)), "transfer syntax not supported"),
    ],
    ids=["no storage class", "no transfer syntax"],
)
def test_context_that_is_not_accepted_is_refused_until_a_person_acts(
    tmp_path: Path, script: Script, words: str
) -> None:
    with route_to(tmp_path, script) as route:
        uids = route.owe(3)
        route.run(seconds=LONG_ENOUGH, step=50)
        assert list(route.outcomes().values()) == [[REFUSED]] * 3
        assert route.states() == ["refused"] * 3
        assert all(words in reason for reason in route.reasons())
        replay(route)
        mend(route)
        assert route.deliveries() == dict.fromkeys(uids, 1)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (Script(listing=Listing.SILENT), "no answer in time"),
        (Script(deaf=True), "no answer in time"),
    ],
    ids=["silent", "deaf"],
)
def test_peer_that_cannot_be_asked_lets_the_lane_wait_and_gets_nothing(
    tmp_path: Path, script: Script, words: str
) -> None:
    with route_to(tmp_path, script, timeout=IMPATIENCE) as route:
        route.owe(2)
        route.run()
        assert words in route.waits_because
        assert route.outcomes_known == 0
        assert route.states() == ["owed"] * 2
        assert route.archive.record.arrivals == []
        mend(route, seconds=10)


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        (Script(answers_queries=False), Archive, "SOP class not supported"),
        (Script(listing=Listing.REFUSED), Archive, "0xA700"),
        (Script(listing=Listing.ABORTED), Archive, "check our AE title"),
        (Script(listing=Listing.ABORTED), WebArchive, "HTTP status 403"),
    ],
    ids=["no query class", "refused", "aborted", "forbidden"],
)
def test_peer_that_takes_and_answers_no_question_gets_everything_once_and_proves_nothing(
    tmp_path: Path, script: Script, kind: Kind, words: str
) -> None:
    with route_to(tmp_path, script, kind) as route:
        uids = route.owe(COUNT)
        route.run(seconds=LONG_ENOUGH, step=50)
        assert route.deliveries() == dict.fromkeys(uids, 1)
        assert route.states() == ["sent"] * COUNT
        assert words in route.waits_because
        since = route.lane.view.since
        route.run(seconds=LONG_ENOUGH, step=50)
        assert route.lane.view.since == since
        mend(route, seconds=200)
        assert route.deliveries() == dict.fromkeys(uids, 1)


@pytest.mark.parametrize(
    ("script", "outcomes"),
    [
        (Script(answers_queries=False, sop_classes=()), []),
        (Script(answers_queries=False, act=Answer(0xA700)), []),
        (Script(listing=Listing.ABORTED, act=Break(Ending.ABORT)), [UNKNOWN]),
    ],
    ids=["refuses everything", "is full", "aborts everything"],
)
def test_peer_that_answers_nothing_and_takes_nothing_is_away_and_blames_no_instance(
    tmp_path: Path, script: Script, outcomes: list[Outcome]
) -> None:
    with route_to(tmp_path, script) as route:
        uids = route.owe(COUNT)
        route.run()
        since = route.lane.view.since
        assert "does not offer us" in route.waits_because or "it aborted" in route.waits_because
        assert [delivery.outcome for delivery in route.witness.told] == outcomes
        route.run(seconds=LONG_ENOUGH)
        assert route.lane.view.since == since
        assert route.states() == ["owed"] * COUNT
        mend(route, seconds=LONG_ENOUGH)
        assert route.archive.record.kept.keys() == set(uids)


def test_what_a_peer_that_answers_no_question_did_not_take_is_sent_again(tmp_path: Path) -> None:
    with route_to(tmp_path, replace(every_third(Answer(0xA700)), answers_queries=False)) as route:
        uids = route.owe(COUNT)
        route.run()
        assert route.states() == thirds("sent", "owed")
        route.archive.script = Script(answers_queries=False)
        route.run(seconds=200)
        assert route.states() == ["sent"] * COUNT
        assert route.archive.record.kept.keys() == set(uids)
        mend(route, seconds=200)


# Ends in the middle


@pytest.mark.parametrize("kept", [Kept.NOT, Kept.AS_SENT], ids=["not kept", "kept"])
@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (Ending.ABORT, "it aborted"),
        (Ending.PROVIDER_ABORT, "its network service aborted"),
        (Ending.CLOSE, "the connection ended"),
        (Ending.RESET, "the connection ended"),
        (Ending.GARBAGE, "breaks the protocol"),
    ],
)
def test_end_in_place_of_an_answer_is_unknown_and_found_out_before_it_is_sent_again(
    tmp_path: Path, kind: Kind, ending: Ending, words: str, kept: Kept
) -> None:
    with route_to(tmp_path, every_third(Break(ending, kept=kept)), kind) as route:
        route.owe(COUNT)
        route.run()
        assert list(route.outcomes().values()) == thirds([DELIVERED], [UNKNOWN])
        assert route.states() == thirds("proven", "owed")
        if kind is Archive:
            # HTTP tells less: there are no aborts.
            assert [words in view.reason for view in route.obligations()] == thirds(False, True)
        mend(route, seconds=20)
        assert list(route.deliveries().values()) == thirds(1, 1 if kept is Kept.AS_SENT else 2)


@pytest.mark.parametrize("ending", list(Ending))
def test_end_in_the_middle_of_a_data_set_is_unknown_and_the_others_go_over_a_new_association(
    tmp_path: Path, kind: Kind, ending: Ending
) -> None:
    with route_to(tmp_path, every_third(Break(ending, after_bytes=MIDDLE)), kind) as route:
        uids = route.owe(COUNT, size=LARGE)
        route.run()
        assert list(route.outcomes().values()) == thirds([DELIVERED], [UNKNOWN])
        assert route.states() == thirds("proven", "owed")
        assert list(route.deliveries().values()) == thirds(1, 0)
        mend(route, seconds=20)
        assert route.deliveries() == dict.fromkeys(uids, 1)


def test_ends_on_parallel_associations_lose_nothing(tmp_path: Path, kind: Kind) -> None:
    with route_to(tmp_path, every_third(Break(Ending.RESET)), kind, associations=4) as route:
        route.owe(24)
        route.run()
        found = [outcomes for outcomes in route.outcomes().values() if outcomes]
        assert all(outcomes in ([DELIVERED], [UNKNOWN]) for outcomes in found)
        assert [UNKNOWN] in found
        mend(route, seconds=100)


# Silence


@pytest.mark.parametrize("kept", [Kept.NOT, Kept.AS_SENT], ids=["not kept", "kept"])
@pytest.mark.parametrize(
    "act",
    [lambda kept: Hang(kept=kept), lambda kept: Trickle(most=5, kept=kept)],
    ids=["no answer", "part of an answer"],
)
def test_hanging_in_place_of_an_answer_is_unknown_after_the_timeout(
    tmp_path: Path, kind: Kind, act: Callable[[Kept], Act], kept: Kept
) -> None:
    with route_to(tmp_path, every_third(act(kept)), kind, timeout=IMPATIENCE) as route:
        route.owe(COUNT)
        route.run()
        assert list(route.outcomes().values()) == thirds([DELIVERED], [UNKNOWN])
        assert route.states() == thirds("proven", "owed")
        assert ["no answer in time" in view.reason for view in route.obligations()] == thirds(False, True)
        mend(route, seconds=20)
        assert list(route.deliveries().values()) == thirds(1, 1 if kept is Kept.AS_SENT else 2)


def test_peer_that_stops_reading_in_the_middle_of_a_data_set_is_unknown_after_the_timeout(
    tmp_path: Path,
    kind: Kind,
) -> None:
    with route_to(
        tmp_path, Script(act=Hang(after_bytes=MIDDLE), only=(2,)), kind, timeout=IMPATIENCE
    ) as route:
        # Larger than the buffers of a connection.
        first, second, third = route.owe(3, size=2 * LARGE)
        route.run()
        assert route.outcomes() == {first: [DELIVERED], second: [UNKNOWN], third: [DELIVERED]}
        assert route.states() == ["proven", "owed", "proven"]
        assert route.deliveries()[second] == 0
        mend(route, seconds=20)


def test_answer_that_trickles_in_within_the_timeout_is_an_answer(tmp_path: Path, kind: Kind) -> None:
    with route_to(tmp_path, every_third(Trickle()), kind) as route:
        uids = route.owe(COUNT)
        route.run()
        assert list(route.outcomes().values()) == [[DELIVERED]] * COUNT
        assert route.deliveries() == dict.fromkeys(uids, 1)
        mend(route)


# What DICOMweb alone has


@pytest.mark.parametrize("status", [301, 401, 404, 429, 503])
def test_http_status_that_speaks_of_the_server_lets_the_lane_wait_and_blames_no_instance(
    tmp_path: Path, status: int
) -> None:
    with route_to(tmp_path, Script(http_status=status), WebArchive) as route:
        uids = route.owe(3)
        route.run()
        assert f"HTTP status {status}" in route.waits_because
        assert route.outcomes_known == 0
        assert route.states() == ["owed"] * 3
        assert [view.attempts for view in route.obligations()] == [0] * 3
        mend(route, seconds=10)
        assert route.deliveries() == dict.fromkeys(uids, 1)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, UNKNOWN),
        (202, UNKNOWN),
        (400, REFUSED),
        (409, REFUSED),
        (413, REFUSED),
        (415, REFUSED),
        (500, RETRY),
    ],
)
def test_http_status_without_a_body_is_the_outcome_of_its_instance(
    tmp_path: Path, status: int, outcome: Outcome
) -> None:
    with route_to(tmp_path, Script(http_status=status), WebArchive) as route:
        uids = route.owe(2)
        route.run()
        assert list(route.outcomes().values()) == [[outcome]] * 2
        assert route.states() == ["refused" if outcome is REFUSED else "owed"] * 2
        if outcome is REFUSED:
            replay(route)
        mend(route, seconds=10)
        assert route.deliveries() == dict.fromkeys(uids, 1)


def test_instance_that_the_body_leaves_out_is_unknown_and_found_out(tmp_path: Path) -> None:
    with route_to(tmp_path, Script(), WebArchive) as route:
        uids = route.owe(3)
        route.archive.script = Script(unmentioned=frozenset({uids[1]}))
        route.run()
        assert list(route.outcomes().values()) == [[DELIVERED], [UNKNOWN], [DELIVERED]]
        mend(route, seconds=10)
        assert route.deliveries() == dict.fromkeys(uids, 1)


@pytest.mark.parametrize(
    ("listing", "words"),
    [(Listing.REFUSED, "HTTP status 503"), (Listing.SILENT, "no answer in time")],
)
def test_server_that_cannot_be_asked_lets_the_lane_wait_and_gets_nothing(
    tmp_path: Path, listing: Listing, words: str
) -> None:
    with route_to(tmp_path, Script(listing=listing), WebArchive, timeout=IMPATIENCE) as route:
        route.owe(2)
        route.run()
        assert words in route.waits_because
        assert route.states() == ["owed"] * 2
        assert route.archive.record.arrivals == []
        mend(route, seconds=10)
