"""Parking: whom the end of Orthanc makes a suspect, who is parked, who gets away."""

import errno
import os
import re
import threading
from pathlib import Path

import pytest
from understudy.plugin import parking, shape
from understudy.plugin.parking import (
    C_STORE_SLOTS,
    NOTES,
    PARKED_AT,
    SLOT_BYTES,
    SLOTS,
    SUSPECTS,
    Parking,
    boot_id,
    count_ends,
    forget,
    suspects,
    word,
)

BOOT = "6ca2d8f1-0000-4000-8000-123456789abc"


def note(folder: Path, slot: int, text: str) -> None:
    """Write into a slot what the reception writes."""
    with (folder / NOTES).open("r+b") as file:
        file.seek(SLOT_BYTES * (1 + slot))
        file.write(text.encode().ljust(SLOT_BYTES, b"\0"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder after a first start."""
    assert count_ends(tmp_path / "parking", BOOT, 0.0) == []
    return tmp_path / "parking"


def ended(folder: Path, *notes: str, boot: str = BOOT, now: float = 100.0) -> list[str]:
    """Let Orthanc end with these notes, and return what the next start parks."""
    for slot, text in enumerate(notes):
        note(folder, slot, text)
    return [suspect.sop_instance_uid for suspect in count_ends(folder, boot, now)]


def ends(folder: Path) -> dict[str, int]:
    return {uid: suspect.ends for uid, suspect in suspects(folder).items()}


def test_one_end_makes_all_that_were_on_their_way_suspects(folder: Path) -> None:
    assert ended(folder, "store CT1 1.1", "", "store US 1.2") == []
    assert ends(folder) == {"1.1": 1, "1.2": 1}
    assert not any(suspect.parked for suspect in suspects(folder).values())


def test_a_second_end_parks_the_one_that_was_worked_on_alone_and_no_other(folder: Path) -> None:
    ended(folder, "store CT1 1.1", "store US 1.2")
    assert ended(folder, "store MR 1.3", "alone CT1 1.1") == ["1.1"]
    assert ends(folder) == {"1.1": 2, "1.2": 1}
    assert suspects(folder)["1.1"].parked
    assert suspects(folder)["1.1"].calling_ae_title == "CT1"


def test_two_ends_by_rest_park(folder: Path) -> None:
    assert ended(folder, "store - 1.1") == []
    assert ended(folder, "store - 1.1") == ["1.1"]


def test_what_is_parked_is_refused_whatever_its_uid_is_written_with(folder: Path) -> None:
    for _ in range(2):
        present = Parking(folder)
        assert present.begin("1.2/3 *", by_rest=True) is None
        count_ends(folder, BOOT, 1.0)
    assert Parking(folder).begin("1.2/3 *", by_rest=True) is not None


def test_the_notes_of_one_end_count_once(folder: Path) -> None:
    ended(folder, "store CT1 1.1")
    assert count_ends(folder, BOOT, 200.0) == []
    assert ends(folder) == {"1.1": 1}


def test_the_end_of_the_host_is_nobodys_fault(folder: Path) -> None:
    assert ended(folder, "store CT1 1.1", boot="another") == []
    assert ends(folder) == {}


def test_an_orderly_end_is_nobodys_fault(folder: Path) -> None:
    note(folder, 0, "store CT1 1.1")
    os.truncate(folder / NOTES, 0)
    # A thread may still write behind that.
    assert ended(folder, "", "store CT1 1.2") == []
    assert ends(folder) == {}


def test_an_end_by_our_own_will_is_nobodys_fault(folder: Path) -> None:
    present = Parking(folder)
    present.begin("1.1", by_rest=True)
    present.disown()
    assert count_ends(folder, BOOT, 1.0) == []
    assert ends(folder) == {}


@pytest.mark.parametrize("damage", ["store CT1", "store  CT1 1.1", "nonsense", "\xff\xfe"])
def test_a_slot_that_says_nothing_counts_for_nobody(folder: Path, damage: str) -> None:
    assert ended(folder, damage) == []
    assert ends(folder) == {}


def test_a_damaged_list_costs_its_damaged_lines_alone(folder: Path) -> None:
    (folder / SUSPECTS).write_text("2 100 CT1 1.1\nx y z\n2 100 CT1\n1 5 US 1.2\n", encoding="ascii")
    assert ends(folder) == {"1.1": 2, "1.2": 1}


def test_the_list_is_bounded_and_keeps_what_is_parked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "_MOST_SUSPECTS", 3)
    ended(folder, "store CT1 1.0")
    ended(folder, "alone CT1 1.0", now=101.0)
    for number in range(1, 6):
        ended(folder, f"store CT1 1.{number}", now=200.0 + number)
    assert ends(folder) == {"1.0": 2, "1.4": 1, "1.5": 1}


def test_what_comes_by_rest_is_noted_until_it_is_stored(folder: Path) -> None:
    present = Parking(folder)
    assert present.begin("1.1", by_rest=True) is None
    assert b"store - 1.1" in (folder / NOTES).read_bytes()
    present.stored()
    assert b"1.1" not in (folder / NOTES).read_bytes()


def test_what_comes_by_c_store_is_noted_by_the_reception_alone(folder: Path) -> None:
    before = (folder / NOTES).read_bytes()
    assert Parking(folder).begin("1.1", by_rest=False) is None
    assert (folder / NOTES).read_bytes() == before


def test_the_next_call_of_the_thread_ends_a_store_that_was_refused(folder: Path) -> None:
    present = Parking(folder)
    present.begin("1.1", by_rest=True)
    assert present.end() == "1.1"
    assert present.end() is None
    assert ended(folder) == []
    assert ends(folder) == {}


def test_the_plugin_keeps_to_its_own_slots(folder: Path) -> None:
    present = Parking(folder)
    barrier = threading.Barrier(SLOTS)

    def store(number: int) -> None:
        present.begin(f"1.{number}", by_rest=True)
        barrier.wait()

    # More than there are slots: the rest is not noted, and received all the same.
    threads = [threading.Thread(target=store, args=(number,)) for number in range(SLOTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (folder / NOTES).read_bytes()
    assert len(content) == SLOT_BYTES * (1 + SLOTS)
    assert not content[SLOT_BYTES : SLOT_BYTES * (1 + C_STORE_SLOTS)].strip(b"\0")
    assert content.count(b"store - 1.") == SLOTS - C_STORE_SLOTS


def test_a_suspect_that_is_stored_is_none_any_more(folder: Path) -> None:
    ended(folder, "store CT1 1.1", "store CT1 1.2")
    present = Parking(folder)
    assert present.begin("1.1", by_rest=False) is None
    present.stored()
    assert ends(folder) == {"1.2": 1}


def test_a_parked_instance_is_refused_until_it_is_released(folder: Path) -> None:
    ended(folder, "store CT1 1.1")
    ended(folder, "alone CT1 1.1")
    present = Parking(folder)
    refusal = present.begin("1.1", by_rest=True)
    assert refusal is not None
    assert refusal.ends == 2
    assert b"1.1" not in (folder / NOTES).read_bytes()
    assert present.begin("1.2", by_rest=True) is None
    assert forget(folder, "1.1")
    assert not forget(folder, "1.1")
    assert present.begin("1.1", by_rest=True) is None


def test_a_folder_that_is_not_there_hinders_no_store(tmp_path: Path) -> None:
    present = Parking(tmp_path / "nothing")
    assert present.begin("1.1", by_rest=True) is None
    present.stored()
    present.disown()


def test_a_word_holds_no_blank_and_nothing_that_steers_a_terminal() -> None:
    assert word("1.2.840") == "1.2.840"
    assert word("CT 1 ") == "CT%201"
    assert word("../../etc/passwd") == "..%2F..%2Fetc%2Fpasswd"
    assert word("1.2\n\x1b[2J\x00~%") == "1.2%0A%1B%5B2J%00%7E%25"
    assert word("    ") == "-"


def test_the_reception_has_the_same_limits_and_slots() -> None:
    source = (Path(__file__).parents[2] / "docker" / "reception" / "reception.cc").read_text()
    for name, value in (
        ("MAX_DEPTH", str(shape.MAX_DEPTH)),
        ("MAX_INFLATED", f"{shape.MAX_INFLATED >> 20} << 20"),
        ("SLOTS", str(C_STORE_SLOTS)),
        ("SLOT_BYTES", str(SLOT_BYTES)),
        ("PARKED_AT", str(PARKED_AT)),
    ):
        assert re.findall(rf"^constexpr \w+ {name} = (.*);$", source, re.MULTILINE) == [value], name
    assert f'"/{NOTES}"' in source
    assert f'"/{SUSPECTS}"' in source


def test_the_host_names_its_run() -> None:
    assert len(boot_id()) == 36


def test_disk_that_takes_no_notes_hinders_neither_a_store_nor_the_end_of_orthanc(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = Parking(folder)
    tried: list[str] = []

    def refuse(name: str) -> None:
        def call(*_: object) -> int:
            tried.append(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, name, call)

    refuse("pwrite")
    refuse("ftruncate")
    assert stores.begin("1.1", by_rest=True) is None
    stores.stored()
    stores.disown()
    assert tried == ["pwrite", "pwrite", "ftruncate"]


def test_parked_instance_stays_parked_where_the_list_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(folder, "store CT1 1.1")
    ended(folder, "alone CT1 1.1")
    stores = Parking(folder)

    def refuse(_folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(parking, "suspects", refuse)
    refused = stores.begin("1.1", by_rest=False)
    assert refused is not None
    assert refused.sop_instance_uid == "1.1"
