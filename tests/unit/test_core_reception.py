"""What Orthanc's reception refused is read from its file and told by device, in words, within bounds."""

from pathlib import Path

import pytest
from understudy.adapters.dictionary import name_of_uid
from understudy.adapters.reception import read_refusals
from understudy.core.model import Timestamp
from understudy.core.reception import BY_HTTP, OTHERS, Refusal, alarms, beside, counts, refusals
from understudy.core.views import ModalityView, RefusalView
from understudy.flow.reception import ReceptionWatch

from tests.unit.fakes import Clock

NOW = Timestamp(1_795_923_700)
CT = "1.2.840.10008.5.1.4.1.1.2"


def device(title: str, *, address: str = "192.0.2.1", seen: float = NOW, accepted: int = 1) -> ModalityView:
    at = Timestamp(seen)
    return ModalityView(title, "STANDBY", address, 0, at, at, known=True, associations=accepted)


def told(*lines: str) -> list[RefusalView]:
    """Return what is told of one device."""
    (view,) = beside([], refusals(lines), (), name_of_uid)
    return list(view.refusals)


def test_refusals_are_read_and_damaged_lines_passed_over() -> None:
    lines = [
        "3 1795923605 CT%201 syntax class=1.2.840.1,syntax=1.2.3,1.2.4",
        "1 1795923606 MG1 large class=1.2.840.2,instance=2.25.1,bytes=335552000",
        "1 1795923607 - large class=-,instance=-",
        "x 1795923606 MG1 large class=1",
        "1 17959",
        f"{'9' * 5000} 1795923606 MG1 large class=1",
        f"1 {'9' * 19} MG1 large class=1",
        "",
    ]
    assert refusals(lines) == [
        Refusal(3, 1795923605, "CT%201", "syntax", {"class": "1.2.840.1", "syntax": "1.2.3,1.2.4"}),
        Refusal(
            1, 1795923606, "MG1", "large", {"class": "1.2.840.2", "instance": "2.25.1", "bytes": "335552000"}
        ),
        Refusal(1, 1795923607, "-", "large", {"class": "-", "instance": "-"}),
    ]


def test_file_is_read_and_none_is_nothing(tmp_path: Path) -> None:
    assert read_refusals(tmp_path) == ()
    (tmp_path / "understudy").mkdir()
    (tmp_path / "understudy" / "refusals").write_bytes(b"\xff\xfe\n1 2 CT1 uid class=-\n")
    assert read_refusals(tmp_path) == [Refusal(1, 2, "CT1", "uid", {"class": "-"})]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            f"1 1 X syntax class={CT},syntax=1.2.840.10008.1.2.4.94,1.2.3",
            "images in an encoding that is not accepted here: CT Image Storage as JPIP Referenced, 1.2.3",
        ),
        (
            f"1 1 X large class={CT},instance=1,bytes=335552000",
            "an image larger than 320 MiB: CT Image Storage",
        ),
        ("1 1 X large class=-,instance=-", "an image larger than the limit"),
        (
            "1 1 X class class=1.2.840.113619.5.2,syntax=1.2",
            "a kind of object that is not accepted here: 1.2.840.113619.5.2",
        ),
        (
            "1 1 X class class=1.2.840.10008.5.1.4.31,syntax=1.2",
            "a service that is not offered here: Modality Worklist Information Model - FIND",
        ),
        ("1 1 X unheard class=-", "an object, for an unknown reason"),
    ],
)
def test_refusal_is_told_in_words(line: str, expected: str) -> None:
    (view,) = told(line)
    assert view.what == expected
    assert view.hint


@pytest.mark.parametrize(
    "reason",
    [
        "class",
        "syntax",
        "alternative",
        "uid",
        "shape",
        "large",
        "memory",
        "slow",
        "parked",
        "orthanc",
        "message",
        "query",
    ],
)
def test_every_reason_of_the_reception_has_words_and_stands_in_the_manual(reason: str) -> None:
    root = Path(__file__).parents[2]
    sources = "".join(path.read_text() for path in (root / "docker" / "reception").glob("*.cc"))
    assert f'"{reason}"' in sources
    (view,) = told(f"1 1 X {reason} class=-")
    assert view.reason == reason
    assert f"`{reason}`" in (root / "docs" / "intake.md").read_text(encoding="utf-8")


def test_device_has_its_refusals_beside_what_the_edge_counted() -> None:
    found = refusals(
        [
            f"2 20 CT1 uid class={CT}",
            f"1 30 CT1 shape class={CT}",
            "1 40 CT1 query class=-",
            "4 10 MR%201 query class=-",
        ]
    )
    views = beside([device("CT1"), device("US1")], found, {"MR 1"}, name_of_uid)
    by_title = {view.calling_ae_title: view for view in views}
    assert [(one.reason, one.count) for one in by_title["CT1"].refusals] == [
        ("shape", 1),
        ("uid", 2),
        ("query", 1),
    ]
    assert by_title["US1"].refusals == ()
    assert by_title["MR 1"].known
    assert by_title["MR 1"].last_seen == Timestamp(10)


def test_refusals_stand_at_the_row_that_was_let_in_last() -> None:
    views = [
        device("CT1", address="192.0.2.9", seen=NOW + 2, accepted=0),
        device("CT1", address="192.0.2.2", seen=NOW + 1),
        device("CT1", address="192.0.2.1", seen=NOW),
    ]
    shown = beside(views, refusals(["1 1 CT1 uid class=-"]), (), name_of_uid)
    assert [view.remote_address for view in shown if view.refusals] == ["192.0.2.2"]


def test_http_and_what_is_no_longer_told_apart_are_no_ae_title() -> None:
    found = refusals(["1 1 - large class=-", "1 1 * uid class=-", "1 1 %2D uid class=-"])
    titles = {view.calling_ae_title for view in beside([], found, (), name_of_uid)}
    assert titles == {BY_HTTP, OTHERS, "-"}
    # No device can bear these names.
    assert min(len(BY_HTTP), len(OTHERS)) > 16


def test_hostile_text_is_made_visible_everywhere() -> None:
    escape, override = "%1B%5B2J", "%9B31m"
    found = refusals([f"1 {int(NOW)} A{escape} class class=1.2{override},syntax=1.2{escape}"])
    (view,) = beside([], found, (), name_of_uid)
    (alarm,) = alarms(found, (), Clock(NOW).waited)
    for text in (view.calling_ae_title, view.refusals[0].what, view.refusals[0].sop_class_uid, alarm.what):
        assert text.isascii()
        assert text.isprintable()
    assert view.calling_ae_title == r"A\x1b[2J"


def test_one_alarm_for_each_reason_names_listed_devices_first_however_many_strangers_there_are() -> None:
    found = refusals(
        [
            f"1 {int(NOW)} STRANGER{number} {reason} class=-"
            for number in range(100)
            for reason in ("uid", "shape")
        ]
        + [f"7 {int(NOW) - 60} CT1 uid class=-"]
    )
    shown = alarms(found, {"CT1"}, Clock(NOW).waited)
    assert len(shown) == 2
    (uid,) = [alarm for alarm in shown if "SOP Instance UID" in alarm.what]
    assert "from CT1 (7 in all), STRANGER0 (1 in all)" in uid.what
    assert "98 more" in uid.what
    assert uid.hint.startswith("the device is faulty")
    assert all(len(alarm.what) < 300 for alarm in shown)


@pytest.mark.parametrize(
    "line",
    [
        f"1 {int(NOW) - 3601} CT1 uid class=-",
        f"1 {int(NOW)} CT1 query class=-",
        f"1 {int(NOW)} * class class=-",
        f"1 {int(NOW)} CT1 alternative class={CT},syntax=1.2",
        f"1 {int(NOW)} CT1 class class=1.2.840.10008.3.1.2.3.3,syntax=1.2",
    ],
)
def test_no_alarm_for_what_is_old_or_keeps_no_image_out(line: str) -> None:
    assert alarms(refusals([line]), (), Clock(NOW).waited) == []


def test_counts_by_reason_have_no_word_of_a_peer() -> None:
    found = refusals(["1 1 A uid class=-", "2 1 B uid class=1", "5 1 * uid class=-", "1 1 A %0Aevil class=-"])
    assert counts(found) == {"uid": 8, "other": 1}


def test_watch_shows_what_its_worker_saw_and_says_since_when_it_sees_nothing() -> None:
    clock = Clock(NOW)
    lines = [f"1 {int(NOW)} CT1 uid class=-"]
    watch = ReceptionWatch(lambda: refusals(lines), clock, lambda: {"CT1"}, name_of_uid)
    assert watch.alarms() == []
    assert watch.beside([device("CT1")]) == [device("CT1")]
    watch.step()
    assert [alarm.what for alarm in watch.alarms()] == [
        "refused within the last hour: an image without a valid SOP Instance UID, from CT1 (1 in all)"
    ]
    assert watch.counts() == {"uid": 1}
    (view,) = watch.beside([device("CT1")])
    assert [one.reason for one in view.refusals] == ["uid"]
    clock.advance(11)
    assert [alarm.what for alarm in watch.alarms()] == [
        "the list of images that Orthanc refused cannot be read"
    ]
