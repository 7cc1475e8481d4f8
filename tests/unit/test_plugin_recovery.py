"""A recovered file leaves its folder only when Orthanc has it, and one that ends Orthanc is set aside."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from understudy.plugin.recovery import (
    QUARANTINE,
    RECOVER,
    RESULT_FILE,
    NotNowError,
    RecoveringOrthanc,
    Recovery,
    RefusedFileError,
)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@dataclass
class Index:
    """Orthanc as far as recovery sees it: what it holds, what is durable, and what goes wrong."""

    held: dict[str, bytes] = field(default_factory=dict)
    durable: set[str] = field(default_factory=set)
    parked: set[str] = field(default_factory=set)
    fails: Callable[[bytes], None] = lambda _: None
    syncs: Callable[[], None] = lambda: None

    def held_md5s(self, uid: str) -> frozenset[str]:
        return frozenset({md5(self.held[uid])} if uid in self.held else ())

    def store(self, content: bytes) -> None:
        self.fails(content)
        self.held[content.decode().split("/")[0]] = content

    def make_durable(self) -> None:
        self.syncs()
        self.durable |= self.held.keys()


class Area:
    """The folder storage/understudy with an Orthanc beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / RECOVER).mkdir()
        self.index = Index()
        self.log: list[str] = []

    def put(self, name: str, content: bytes, attempts: int = 0) -> Path:
        path = self.root / RECOVER / name
        path.write_bytes(content)
        note = {"sop_instance_uid": content.decode().split("/")[0], "attempts": attempts}
        path.with_name(f"{name}.json").write_text(json.dumps(note))
        return path

    def recovery(self) -> Recovery:
        index = self.index
        orthanc = RecoveringOrthanc(
            index.held_md5s, index.store, index.make_durable, index.parked.__contains__
        )
        return Recovery(self.root, orthanc, self.log.append)

    def aside(self) -> dict[str, str]:
        folder = self.root / QUARANTINE
        return {
            path.name: json.loads(path.with_name(f"{path.name}.json").read_text())["reason"]
            for path in folder.glob("*")
            if path.suffix != ".json"
        }


@pytest.fixture
def area(tmp_path: Path) -> Area:
    return Area(tmp_path)


def test_take_all_stores_and_removes_what_is_durable(area: Area) -> None:
    path = area.put("a", b"1.2/x")
    assert area.recovery().take_all()
    assert area.index.held == {"1.2": b"1.2/x"}
    assert area.index.durable == {"1.2"}
    assert not path.exists()
    assert list((area.root / RECOVER).iterdir()) == []


def test_take_all_keeps_the_file_while_it_is_not_durable(area: Area) -> None:
    path = area.put("a", b"1.2/x")

    def broken() -> None:
        raise OSError(5, "Input/output error")

    area.index.syncs = broken
    assert not area.recovery().take_all()
    assert path.read_bytes() == b"1.2/x"
    area.index.syncs = lambda: None
    assert area.recovery().take_all()
    assert not path.exists()


def test_take_all_removes_what_orthanc_has_with_the_same_bytes(area: Area) -> None:
    area.index.held["1.2"] = b"1.2/x"
    path = area.put("a", b"1.2/x")
    assert area.recovery().take_all()
    assert not path.exists()
    assert area.index.durable == {"1.2"}


def test_take_all_sets_aside_other_content_of_the_same_uid(area: Area) -> None:
    area.index.held["1.2"] = b"1.2/later"
    area.put("a", b"1.2/x")
    assert area.recovery().take_all()
    assert area.index.held == {"1.2": b"1.2/later"}
    reason = area.aside()["a"]
    assert md5(b"1.2/later") in reason
    assert md5(b"1.2/x") in reason
    assert (area.root / QUARANTINE / "a").read_bytes() == b"1.2/x"


def test_take_all_sets_aside_what_orthanc_refuses_and_goes_on(area: Area) -> None:
    def refuse(content: bytes) -> None:
        if content.endswith(b"bad"):
            raise RefusedFileError("Bad file format")

    area.index.fails = refuse
    area.put("a", b"1.2/bad")
    area.put("b", b"1.3/good")
    assert area.recovery().take_all()
    assert list(area.aside()) == ["a"]
    assert area.index.held.keys() == {"1.3"}


def test_take_all_waits_where_orthanc_cannot_take_it_now(area: Area) -> None:
    def full(_: bytes) -> None:
        raise NotNowError("The disk is full")

    area.index.fails = full
    path = area.put("a", b"1.2/x")
    for _ in range(5):
        assert not area.recovery().take_all()
    assert json.loads(path.with_name("a.json").read_text())["attempts"] == 0
    assert path.exists()


def test_take_all_goes_on_where_orthanc_cannot_take_one_now(area: Area) -> None:
    def busy(content: bytes) -> None:
        if content.endswith(b"odd"):
            raise NotNowError("Error in the plugin")

    area.index.fails = busy
    odd = area.put("a", b"1.2/odd")
    area.put("b", b"1.3/good")
    assert not area.recovery().take_all()
    assert area.index.held.keys() == {"1.3"}
    assert odd.exists()


def test_take_all_sets_aside_what_is_parked(area: Area) -> None:
    area.index.parked = {"1.2"}
    area.put("a", b"1.2/poison")
    assert area.recovery().take_all()
    assert "parked" in area.aside()["a"]
    assert area.index.held == {}


def test_take_all_sets_aside_a_file_that_ended_orthanc_twice(area: Area) -> None:
    class Killed(BaseException):
        """The process ends here."""

    def crash(content: bytes) -> None:
        if content.endswith(b"poison"):
            raise Killed

    area.index.fails = crash
    area.put("a", b"1.2/poison")
    area.put("b", b"1.3/good")
    for _ in range(2):
        with pytest.raises(Killed):
            area.recovery().take_all()
    assert area.recovery().take_all()
    assert "ended 2 times" in area.aside()["a"]
    assert area.index.held.keys() == {"1.3"}


def test_thread_tells_its_result(area: Area) -> None:
    area.put("a", b"1.2/x")
    recovery = area.recovery()
    recovery.start()
    recovery.stop(timeout=60)
    result = json.loads((area.root / RESULT_FILE).read_text())
    assert result["stored"] + result["waiting"] == 1
