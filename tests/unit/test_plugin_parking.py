"""Parking: whom the end of Orthanc makes a suspect, who is parked, who gets away."""

import errno
import os
import re
import threading
from pathlib import Path

import pytest
from understudy.plugin import elements, parking, shape
from understudy.plugin.parking import (
    DECODE,
    NOTES,
    PARKED_AT,
    SLOT_BYTES,
    SUSPECTS,
    Counted,
    End,
    Parking,
    boot_id,
    count_ends,
    ends,
    forget,
    suspects,
    word,
)

BOOT = "6ca2d8f1-0000-4000-8000-123456789abc"


def note(folder: Path, slot: int, text: str) -> None:
    """Write into a slot as docker/reception does."""
    with (folder / NOTES).open("r+b") as file:
        file.seek(SLOT_BYTES * (1 + slot))
        file.write(text.encode().ljust(SLOT_BYTES, b"\0"))


class Requests:
    """Notes what the threads work on, as docker/reception/requests.cc does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._slots: dict[int, int] = {}

    def note(self, text: str) -> None:
        slot = self._slots.setdefault(threading.get_ident(), 64 + len(self._slots))
        note(self._folder, slot, text)


def parking_of(folder: Path) -> Parking:
    return Parking(folder, Requests(folder).note)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder after a first start."""
    assert count_ends(tmp_path / "parking", BOOT, 0.0) == Counted(None)
    return tmp_path / "parking"


def ended(folder: Path, *notes: str, boot: str = BOOT, now: float = 100.0) -> list[str]:
    """Let Orthanc end with these notes, and return what the next start parks."""
    for slot, text in enumerate(notes):
        note(folder, slot, text)
    return [suspect.sop_instance_uid for suspect in count_ends(folder, boot, now).parked]


def counts(folder: Path) -> dict[str, int]:
    return {uid: suspect.ends for uid, suspect in suspects(folder).items()}


def test_one_end_makes_all_that_were_on_their_way_suspects(folder: Path) -> None:
    assert ended(folder, "store CT1 1.1", "", "store US 1.2") == []
    assert counts(folder) == {"1.1": 1, "1.2": 1}
    assert not any(suspect.parked for suspect in suspects(folder).values())


def test_a_second_end_parks_the_one_that_was_worked_on_alone_and_no_other(folder: Path) -> None:
    ended(folder, "store CT1 1.1", "store US 1.2")
    assert ended(folder, "store MR 1.3", "alone CT1 1.1") == ["1.1"]
    assert counts(folder) == {"1.1": 2, "1.2": 1}
    assert suspects(folder)["1.1"].parked
    assert suspects(folder)["1.1"].calling_ae_title == "CT1"


def test_two_ends_by_rest_park(folder: Path) -> None:
    assert ended(folder, "store - 1.1") == []
    assert ended(folder, "store - 1.1") == ["1.1"]


def test_what_is_parked_is_refused_whatever_its_uid_is_written_with(folder: Path) -> None:
    for _ in range(2):
        present = parking_of(folder)
        assert present.begin("1.2/3 *", by_rest=True) is None
        count_ends(folder, BOOT, 1.0)
    assert parking_of(folder).begin("1.2/3 *", by_rest=True) is not None


@pytest.mark.parametrize("length", [64, 65, 256, 5000])
@pytest.mark.parametrize("character", ["1", "/"])
def test_a_uid_of_any_length_is_parked_by_its_own_key(folder: Path, length: int, character: str) -> None:
    uid, neighbour = character * length, character * (length - 1) + "2"
    for _ in range(2):
        assert parking_of(folder).begin(uid, by_rest=True) is None
        count_ends(folder, BOOT, 1.0)
        assert parking_of(folder).begin_decoding(uid, "anna" * 20) is None
        count_ends(folder, BOOT, 1.0)
    present = parking_of(folder)
    assert present.begin(uid, by_rest=True) is not None
    assert present.begin_decoding(uid, "anna") is not None
    assert present.begin(neighbour, by_rest=True) is None
    for parked in list(counts(folder)):
        assert forget(folder, parked)
    assert present.begin(uid, by_rest=True) is None


def test_the_notes_of_one_end_count_once(folder: Path) -> None:
    ended(folder, "store CT1 1.1")
    assert count_ends(folder, BOOT, 200.0).parked == ()
    assert counts(folder) == {"1.1": 1}


def test_the_end_of_the_host_is_nobodys_fault(folder: Path) -> None:
    assert ended(folder, "store CT1 1.1", boot="another") == []
    assert counts(folder) == {}


def test_an_orderly_end_is_nobodys_fault(folder: Path) -> None:
    note(folder, 0, "store CT1 1.1")
    os.truncate(folder / NOTES, 0)
    # A thread may still write behind that.
    assert ended(folder, "", "store CT1 1.2") == []
    assert counts(folder) == {}


def test_an_end_by_our_own_will_is_nobodys_fault(folder: Path) -> None:
    present = parking_of(folder)
    present.begin("1.1", by_rest=True)
    present.disown("index_sync_failed")
    assert count_ends(folder, BOOT, 1.0) == Counted(End(1.0, ("index_sync_failed",)))
    assert counts(folder) == {}


@pytest.mark.parametrize("damage", ["store CT1", "store  CT1 1.1", "nonsense", "\xff\xfe"])
def test_a_slot_that_says_nothing_counts_for_nobody(folder: Path, damage: str) -> None:
    assert ended(folder, damage) == []
    assert counts(folder) == {}


def test_a_damaged_list_costs_its_damaged_lines_alone(folder: Path) -> None:
    (folder / SUSPECTS).write_text("2 100 CT1 1.1\nx y z\n2 100 CT1\n1 5 US 1.2\n", encoding="ascii")
    assert counts(folder) == {"1.1": 2, "1.2": 1}


def test_the_list_is_bounded_and_keeps_what_is_parked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "_MOST_SUSPECTS", 3)
    ended(folder, "store CT1 1.0")
    ended(folder, "alone CT1 1.0", now=101.0)
    for number in range(1, 6):
        ended(folder, f"store CT1 1.{number}", now=200.0 + number)
    assert counts(folder) == {"1.0": 2, "1.4": 1, "1.5": 1}


def test_what_comes_by_rest_is_noted_until_it_is_stored(folder: Path) -> None:
    present = parking_of(folder)
    assert present.begin("1.1", by_rest=True) is None
    assert b"store - 1.1" in (folder / NOTES).read_bytes()
    present.stored()
    assert b"1.1" not in (folder / NOTES).read_bytes()


def test_what_comes_by_c_store_is_noted_by_the_reception_alone(folder: Path) -> None:
    before = (folder / NOTES).read_bytes()
    assert parking_of(folder).begin("1.1", by_rest=False) is None
    assert (folder / NOTES).read_bytes() == before


def test_a_slot_far_behind_the_first_counts_as_well(folder: Path) -> None:
    """There are as many as there are threads for associations, and a thousand may be configured."""
    note(folder, 1200, "store CT1 1.1")
    assert ended(folder) == []
    assert counts(folder) == {"1.1": 1}


def test_an_instance_in_several_slots_counts_once(folder: Path) -> None:
    """A device that gives up and sends again has its instance in two slots."""
    assert ended(folder, "store CT1 1.1", "store CT1 1.1", "store - 1.1", "decode anna decode/1.1") == []
    assert counts(folder) == {"1.1": 1, "decode/1.1": 1}
    assert ended(folder, "alone CT1 1.1", "alone CT1 1.1") == ["1.1"]
    assert counts(folder) == {"1.1": 2, "decode/1.1": 1}


@pytest.mark.parametrize("other", ["alone MR 1.2", "beside MR 1.2", "decode anna decode/1.3", "store - 1.4"])
def test_nobody_is_parked_where_it_is_not_known_who_it_was(folder: Path, other: str) -> None:
    ended(folder, "store CT1 1.1", "store MR 1.2")
    for _ in range(3):
        assert ended(folder, "alone CT1 1.1", other) == []
    assert counts(folder)["1.1"] == 1
    assert ended(folder, "alone CT1 1.1", "store MR 1.2") == ["1.1"], "what waits has done nothing"


def test_a_slow_reader_of_an_answer_keeps_nobody_from_being_parked(folder: Path) -> None:
    ended(folder, "store CT1 1.1", "sends anna decode/1.2")
    assert counts(folder) == {"1.1": 1}
    assert ended(folder, "alone CT1 1.1", "sends anna decode/1.2") == ["1.1"]


def test_an_answer_that_has_begun_is_blamed_where_nothing_else_is(folder: Path) -> None:
    ended(folder, "sends anna decode/1.2")
    assert ended(folder, "sends anna decode/1.2") == ["decode/1.2"]


def test_a_store_that_orthanc_had_already_leaves_nothing(folder: Path) -> None:
    """The stored-instance callback never comes for it; the end of the request does."""
    requests = Requests(folder)
    present = Parking(folder, requests.note)
    for _ in range(4):
        present.begin("1.1", by_rest=True)
        requests.note("")
    assert ended(folder) == []
    assert counts(folder) == {}


def test_a_refused_store_leaves_nothing(folder: Path) -> None:
    present = parking_of(folder)
    present.begin("1.1", by_rest=True)
    present.end()
    assert ended(folder) == []
    assert counts(folder) == {}


def test_what_is_decoded_is_parked_for_readers_and_for_nobody_else(folder: Path) -> None:
    for _ in range(2):
        present = parking_of(folder)
        assert present.begin_decoding("1.1", "anna") is None
        count_ends(folder, BOOT, 1.0)
    present = parking_of(folder)
    assert counts(folder) == {DECODE + "1.1": 2}
    assert present.begin_decoding("1.1", "anna") is not None
    assert present.begin("1.1", by_rest=True) is None, "it is stored all the same"
    assert present.begin_decoding("1.2", "anna") is None
    assert forget(folder, "1.1")
    assert present.begin_decoding("1.1", "anna") is None


def test_a_suspect_is_decoded_alone_and_is_none_after_that(folder: Path) -> None:
    ended(folder, "decode anna decode/1.1", "decode anna decode/1.2")
    requests = Requests(folder)
    present = Parking(folder, requests.note)
    present.begin_decoding("1.1", "anna")
    assert b"alone anna decode/1.1" in (folder / NOTES).read_bytes()
    other = threading.Thread(target=present.begin_decoding, args=("1.3", "berta"))
    other.start()
    other.join()
    assert counts(folder) == {"decode/1.1": 1, "decode/1.2": 1}, "it is decoded still"
    requests.note("")
    present.begin_decoding("1.4", "anna")
    assert counts(folder) == {"decode/1.2": 1}


def test_each_unwanted_end_is_remembered_with_what_was_done(folder: Path) -> None:
    ended(folder, "store CT1 1.1", "decode anna decode/1.2", now=100.0)
    ended(folder, now=200.0)
    parking_of(folder).disown("index_sync_failed")
    ended(folder, now=300.0)
    assert ends(folder) == (
        End(100.0, ("store CT1 1.1", "decode anna decode/1.2")),
        End(200.0, ()),
        End(300.0, ("index_sync_failed",)),
    )


def test_an_orderly_stop_and_the_end_of_the_host_are_no_unwanted_end(folder: Path) -> None:
    parking_of(folder).stop()
    assert count_ends(folder, BOOT, 1.0).end is None
    assert count_ends(folder, "another", 2.0).end is None
    assert ends(folder) == ()


def test_damaged_ends_are_forgotten(folder: Path) -> None:
    ended(folder)
    (folder / parking.ENDS).write_text('[{"at": "x"}]')
    assert ends(folder) == ()
    ended(folder, now=5.0)
    assert ends(folder) == (End(5.0, ()),)


def test_a_suspect_that_is_stored_is_none_any_more(folder: Path) -> None:
    ended(folder, "store CT1 1.1", "store CT1 1.2")
    present = parking_of(folder)
    assert present.begin("1.1", by_rest=False) is None
    present.stored()
    assert counts(folder) == {"1.2": 1}


def test_a_parked_instance_is_refused_until_it_is_released(folder: Path) -> None:
    ended(folder, "store CT1 1.1")
    ended(folder, "alone CT1 1.1")
    present = parking_of(folder)
    refusal = present.begin("1.1", by_rest=True)
    assert refusal is not None
    assert refusal.ends == 2
    assert b"1.1" not in (folder / NOTES).read_bytes()
    assert present.begin("1.2", by_rest=True) is None
    assert forget(folder, "1.1")
    assert not forget(folder, "1.1")
    assert present.begin("1.1", by_rest=True) is None


def test_a_folder_that_is_not_there_hinders_no_store(tmp_path: Path) -> None:
    present = Parking(tmp_path / "nothing", lambda _text: None)
    assert present.begin("1.1", by_rest=True) is None
    present.stored()
    present.stop()
    present.disown("index_sync_failed")


def test_a_word_holds_no_blank_and_nothing_that_steers_a_terminal() -> None:
    assert word("1.2.840") == "1.2.840"
    assert word("CT 1 ") == "CT%201"
    assert word("../../etc/passwd") == "..%2F..%2Fetc%2Fpasswd"
    assert word("1.2\n\x1b[2J\x00~%") == "1.2%0A%1B%5B2J%00%7E%25"
    assert word("    ") == "-"


def test_the_reception_has_the_same_limits_and_slots() -> None:
    folder = Path(__file__).parents[2] / "docker" / "reception"
    source = "".join((folder / name).read_text() for name in ("reception.h", "reception.cc", "parking.cc"))
    for name, value in (
        ("MAX_DEPTH", str(shape.MAX_DEPTH)),
        ("MAX_ELEMENTS", str(elements.MAX_ELEMENTS)),
        ("MAX_INFLATED", f"{elements.MAX_INFLATED >> 20} << 20"),
        ("SLOT_BYTES", str(SLOT_BYTES)),
        ("PARKED_AT", str(PARKED_AT)),
    ):
        assert re.findall(rf"^constexpr \w+ {name} = (.*);$", source, re.MULTILINE) == [value], name
    assert f'"/{NOTES}"' in source
    assert f'"/{SUSPECTS}"' in source


def test_no_wait_of_the_reception_follows_a_clock_that_may_be_set() -> None:
    """A clock that is set back by an hour would hold every store for an hour."""
    files = sorted((Path(__file__).parents[2] / "docker" / "reception").glob("*.cc"))
    waits = re.compile(
        r"CLOCK_REALTIME|gettimeofday|system_clock|_timed\w*lock|_timedwait|sem_timed|wait_until"
    )
    assert len(files) > 5
    assert not [(file.name, found) for file in files for found in waits.findall(file.read_text())]


def test_the_host_names_its_run() -> None:
    assert len(boot_id()) == 36


def test_disk_that_takes_no_mark_does_not_hinder_the_end_of_orthanc(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = parking_of(folder)
    tried: list[str] = []

    def refuse(name: str) -> None:
        def call(*_: object) -> int:
            tried.append(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, name, call)

    refuse("pwrite")
    refuse("truncate")
    stores.disown("index_sync_failed")
    stores.stop()
    assert tried == ["pwrite", "truncate"]


def test_parked_instance_stays_parked_where_the_list_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(folder, "store CT1 1.1")
    ended(folder, "alone CT1 1.1")
    stores = parking_of(folder)

    def refuse(_folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(parking, "suspects", refuse)
    refused = stores.begin("1.1", by_rest=False)
    assert refused is not None
    assert refused.sop_instance_uid == "1.1"
