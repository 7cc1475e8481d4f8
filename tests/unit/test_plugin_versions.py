"""Replaced versions are kept, in every order and however close in time, and files are healed by a copy."""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from understudy.plugin.versions import Index, NotKeptError, StoredFile, Versions

UID = "1.2.3"
ORTHANC_ID = "0a1b-2c3d"


class Orthanc:
    """Orthanc's index and storage area, as far as versions ask for them: overwrites as IfChanged does."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.files: dict[str, StoredFile] = {}
        self.commits = 0
        self.broken = False
        self.versions = Versions(
            storage, Index(self._instances, self.files.get, self._identity, lambda _: {}), lambda _: None
        )

    def _instances(self, uid: str) -> Sequence[str]:
        if self.broken:
            raise NotKeptError("the index does not answer")
        return [ORTHANC_ID] if uid == UID and ORTHANC_ID in self.files else []

    def _identity(self, _orthanc_id: str) -> dict[str, str]:
        return {"sop_instance_uid": UID}

    def path(self, file: StoredFile) -> Path:
        return self.storage / file.uuid[0:2] / file.uuid[2:4] / file.uuid

    def commit(self, content: bytes) -> None:
        """Do what lies between the two callbacks."""
        md5 = hashlib.md5(content).hexdigest()
        present = self.files.get(ORTHANC_ID)
        if present is not None and present.md5 == md5:
            return
        self.commits += 1
        file = StoredFile(f"{self.commits:08x}-0000-0000-0000-000000000000", md5, len(content))
        self.path(file).parent.mkdir(parents=True, exist_ok=True)
        self.path(file).write_bytes(content)
        self.files[ORTHANC_ID] = file
        if present is not None:
            self.path(present).unlink(missing_ok=True)

    def end(self, content: bytes) -> None:
        self.versions.after_store(ORTHANC_ID, lambda: content, dict)

    def store(self, content: bytes) -> None:
        self.versions.before_store(UID, content)
        self.commit(content)
        self.end(content)

    def current(self) -> bytes:
        return self.path(self.files[ORTHANC_ID]).read_bytes()

    def kept(self) -> set[bytes]:
        folder = self.storage / "understudy" / "versions"
        found = set()
        for path in folder.glob("*.dcm"):
            note = json.loads(path.with_name(path.name + ".json").read_text())
            content = path.read_bytes()
            assert (note["orthanc_id"], note["sop_instance_uid"]) == (ORTHANC_ID, UID)
            assert (note["md5"], note["size"]) == (hashlib.md5(content).hexdigest(), len(content))
            assert path.name == f"{ORTHANC_ID}.{note['md5']}.dcm"
            found.add(content)
        return found


class Sender:
    """A thread that does one step when told to."""

    def __init__(self) -> None:
        self._step: Callable[[], object] | None = None
        self._told = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def do(self, step: Callable[[], object]) -> None:
        self._step = step
        self._told.release()
        assert self._done.acquire(timeout=60), "a callback waits for another store"

    def end(self) -> None:
        self._step = None
        self._told.release()
        self._thread.join(60)

    def _run(self) -> None:
        while True:
            self._told.acquire()
            if self._step is None:
                return
            self._step()
            self._done.release()


@pytest.fixture
def orthanc(tmp_path: Path) -> Orthanc:
    return Orthanc(tmp_path)


def test_ordinary_stores_keep_nothing_and_write_nothing(orthanc: Orthanc) -> None:
    orthanc.store(b"first")
    assert orthanc.kept() == set()
    assert not (orthanc.storage / "understudy").exists()


def test_other_bytes_keep_what_they_replace(orthanc: Orthanc) -> None:
    for content in (b"first", b"second", b"third"):
        orthanc.store(content)
    assert orthanc.current() == b"third"
    assert orthanc.kept() == {b"first", b"second"}
    assert orthanc.versions.counts().kept == 2


def test_a_version_that_comes_back_is_kept_once(orthanc: Orthanc) -> None:
    for content in (b"first", b"second", b"first", b"second"):
        orthanc.store(content)
    assert orthanc.kept() == {b"first", b"second"}


def test_an_identical_copy_keeps_nothing(orthanc: Orthanc) -> None:
    orthanc.store(b"first")
    orthanc.store(b"first")
    assert orthanc.kept() == set()
    assert orthanc.versions.counts().healed == 0


STEPS = ("before", "commit", "end")


@settings(max_examples=60, deadline=None)
@given(order=st.permutations([number for number in range(3) for _ in STEPS]), same=st.booleans())
def test_every_interleaving_of_three_stores_keeps_all_that_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, order: Sequence[int], same: bool
) -> None:
    orthanc = Orthanc(tmp_path_factory.mktemp("storage"))
    contents = [b"a", b"b", b"a" if same else b"c"]
    senders = [Sender() for _ in contents]
    steps = [0] * len(contents)
    acknowledged = set()
    try:
        for number in order:
            content = contents[number]
            calls: dict[str, Callable[[], object]] = {
                "before": lambda content=content: orthanc.versions.before_store(UID, content),  # type: ignore[misc]
                "commit": lambda content=content: orthanc.commit(content),  # type: ignore[misc]
                "end": lambda content=content: orthanc.end(content),  # type: ignore[misc]
            }
            senders[number].do(calls[STEPS[steps[number]]])
            steps[number] += 1
            if steps[number] == len(STEPS):
                acknowledged.add(content)
            assert acknowledged <= orthanc.kept() | ({orthanc.current()} if orthanc.files else set())
    finally:
        for sender in senders:
            sender.end()


def test_a_store_that_never_ended_does_not_disturb_the_next(orthanc: Orthanc) -> None:
    orthanc.versions.before_store(UID, b"refused by Orthanc later")
    orthanc.store(b"first")
    assert orthanc.kept() == set()


def test_a_missing_file_is_healed_by_the_same_bytes(orthanc: Orthanc) -> None:
    orthanc.store(b"first")
    file = orthanc.files[ORTHANC_ID]
    path = orthanc.path(file)
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()
    orthanc.store(b"first")
    assert path.read_bytes() == b"first"
    assert orthanc.files[ORTHANC_ID] == file
    assert orthanc.versions.counts().healed == 1
    assert not list((orthanc.storage / "understudy" / "versions").glob(".*"))


@pytest.mark.parametrize("damaged", [b"", b"fir", b"firsT"])
def test_a_damaged_file_is_healed_and_set_aside(orthanc: Orthanc, damaged: bytes) -> None:
    orthanc.store(b"first")
    file = orthanc.files[ORTHANC_ID]
    orthanc.path(file).write_bytes(damaged)
    orthanc.store(b"first")
    assert orthanc.current() == b"first"
    quarantine = orthanc.storage / "understudy" / "quarantine"
    assert (quarantine / file.uuid).read_bytes() == damaged
    assert "healed" in json.loads((quarantine / f"{file.uuid}.json").read_text())["reason"]


def test_other_bytes_over_a_missing_file_are_let_through(orthanc: Orthanc) -> None:
    orthanc.store(b"first")
    orthanc.path(orthanc.files[ORTHANC_ID]).unlink()
    orthanc.store(b"second")
    assert orthanc.current() == b"second"
    assert orthanc.kept() == set()


def test_a_version_that_cannot_be_kept_refuses_the_store(
    orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    orthanc.store(b"first")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(NotKeptError, match="No space left"):
            orthanc.versions.before_store(UID, b"second")
    assert orthanc.versions.counts().refused == 1
    orthanc.store(b"second")
    assert orthanc.kept() == {b"first"}


def test_an_index_that_does_not_answer_refuses_the_store(orthanc: Orthanc) -> None:
    orthanc.broken = True
    with pytest.raises(NotKeptError, match="does not answer"):
        orthanc.versions.before_store(UID, b"first")


def test_a_file_system_without_links_gets_a_copy(orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    orthanc.store(b"first")

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    orthanc.store(b"second")
    assert orthanc.kept() == {b"first"}


def test_a_damaged_file_is_set_aside_as_a_copy_where_there_are_no_links(
    orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    orthanc.store(b"first")
    file = orthanc.files[ORTHANC_ID]
    orthanc.path(file).write_bytes(b"other")

    def no_links(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    orthanc.store(b"first")
    assert orthanc.current() == b"first"
    assert (orthanc.storage / "understudy" / "quarantine" / file.uuid).read_bytes() == b"other"


@pytest.mark.parametrize(("named", "refused"), [(16, False), (17, True)])
def test_uid_that_names_too_many_instances_takes_no_more(tmp_path: Path, named: int, refused: bool) -> None:
    asked: list[str] = []

    def file(orthanc_id: str) -> None:
        asked.append(orthanc_id)

    index = Index(lambda _uid: [f"{number}-a" for number in range(named)], file, lambda _: {}, lambda _: {})
    versions = Versions(tmp_path, index, lambda _: None)
    if refused:
        with pytest.raises(NotKeptError, match="17 instances have its SOP Instance UID already"):
            versions.before_store(UID, b"one more")
        assert asked == []
        assert versions.counts().refused == 1
    else:
        versions.before_store(UID, b"one more")
        assert len(asked) == named
