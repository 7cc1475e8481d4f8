"""The peer on DICOMweb, asked by httpx: its answers and the lack of them are as the script says."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from tests.data import Series, ct_series
from tests.peer.record import Moment
from tests.peer.script import Act, Answer, Break, Ending, Hang, Kept, Listing, Script, Trickle
from tests.peer.web import WebArchive


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return ct_series(tmp_path_factory.mktemp("series"), seed="web", instances=4, rows=64, columns=64)


@pytest.fixture
def archive() -> Iterator[WebArchive]:
    with WebArchive() as found:
        yield found


def store(archive: WebArchive, series: Series, *, timeout: float = 60.0) -> httpx.Response:
    parts = b"".join(
        b"--cut\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n"
        for path in series.paths
    )
    return httpx.post(
        f"{archive.url}/studies",
        content=parts + b"--cut--\r\n",
        headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=cut'},
        timeout=timeout,
    )


def told(answer: httpx.Response) -> dict[str, int]:
    """Return by SOP Instance UID what the body says: 0, or the warning or failure reason."""
    body = answer.json()
    found: dict[str, int] = {}
    for sequence, reason in (("00081199", "00081196"), ("00081198", "00081197")):
        for one in body.get(sequence, {"Value": []})["Value"]:
            found[one["00081155"]["Value"][0]] = one.get(reason, {"Value": [0]})["Value"][0]
    return found


def listed(archive: WebArchive, series: Series, **asked: str) -> list[str]:
    answer = httpx.get(f"{archive.url}/studies/{series.study_instance_uid}/instances", params=asked)
    assert answer.status_code in (200, 204)
    entries: list[dict[str, Any]] = answer.json() if answer.content else []
    return [one["00080018"]["Value"][0] for one in entries]


@pytest.mark.parametrize(
    ("act", "every", "status", "reasons"),
    [
        (Answer(), 1, 200, [0, 0, 0, 0]),
        (Answer(0xB000), 2, 202, [0, 0xB000, 0, 0xB000]),
        (Answer(0xA700), 4, 202, [0, 0, 0, 0xA700]),
        (Answer(0x0122), 1, 409, [0x0122] * 4),
    ],
)
def test_store_answers_as_the_script_says_and_keeps_what_it_says_to_keep(
    archive: WebArchive, series: Series, act: Act, every: int, status: int, reasons: Sequence[int]
) -> None:
    archive.script = Script(act=act, every=every)
    answer = store(archive, series)
    assert answer.status_code == status
    assert told(answer) == dict(zip(series.sop_instance_uids, reasons, strict=True))
    kept = [uid for uid, reason in told(answer).items() if reason in (0, 0xB000)]
    assert listed(archive, series) == kept


def test_store_can_lose_rename_and_leave_out(archive: WebArchive, series: Series) -> None:
    first, second, *rest = series.sop_instance_uids
    archive.script = Script(act=Answer(kept=Kept.NOT), only=(1,), unmentioned=frozenset({second}))
    assert set(told(store(archive, series))) == {first, *rest}
    assert listed(archive, series) == [second, *rest]
    archive.script = Script(refuses_duplicates=True, act=Answer(0xB000, kept=Kept.RENAMED), only=(1,))
    answer = told(store(archive, series))
    assert answer == {first: 0xB000} | dict.fromkeys([second, *rest], 0x0111)
    assert first not in listed(archive, series)
    assert len(listed(archive, series)) == 4


@pytest.mark.parametrize("status", [401, 413, 503])
def test_store_answered_with_a_status_alone_keeps_nothing(
    archive: WebArchive, series: Series, status: int
) -> None:
    archive.script = Script(http_status=status)
    answer = store(archive, series)
    assert (answer.status_code, answer.content) == (status, b"")
    assert archive.record.arrivals == []


@pytest.mark.parametrize("after_bytes", [None, 5000])
@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET, Ending.GARBAGE])
def test_store_is_broken_off_before_its_answer(
    archive: WebArchive, series: Series, ending: Ending, after_bytes: int | None
) -> None:
    archive.script = Script(act=Break(ending, after_bytes, kept=Kept.AS_SENT), only=(1,))
    with pytest.raises(httpx.TransportError):
        store(archive, series)
    archive.record.wait_for(Moment.BROKEN)
    assert len(archive.record.kept) == (4 if after_bytes is None else 0)


@pytest.mark.parametrize("act", [Hang(), Hang(after_bytes=5000), Trickle(most=10)])
def test_store_hangs_until_its_sender_gives_up(archive: WebArchive, series: Series, act: Act) -> None:
    archive.script = Script(act=act, only=(1,))
    with pytest.raises(httpx.ReadTimeout):
        store(archive, series, timeout=2)
    archive.record.wait_for(Moment.HANGING)


def test_answer_that_trickles_is_an_answer(archive: WebArchive, series: Series) -> None:
    archive.script = Script(act=Trickle(), only=(1,))
    assert set(told(store(archive, series)).values()) == {0}


def test_listing_is_whole_by_pages_empty_refused_or_silent(archive: WebArchive, series: Series) -> None:
    store(archive, series)
    assert listed(archive, series) == list(series.sop_instance_uids)
    pages = [listed(archive, series, offset=str(start), limit="3") for start in (0, 3)]
    assert list(itertools.chain(*pages)) == list(series.sop_instance_uids)
    archive.script = Script(listing=Listing.EMPTY)
    assert listed(archive, series) == []
    archive.script = Script(listing=Listing.REFUSED)
    assert httpx.get(f"{archive.url}/studies").status_code == 503
    archive.script = Script(listing=Listing.SILENT)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{archive.url}/studies", timeout=0.3)
