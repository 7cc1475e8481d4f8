"""The plugin's callbacks: whatever fails in them, Orthanc is told no (`store`, `decode`, `call`)."""

import base64
import ctypes
import hashlib
import importlib
import inspect
import itertools
import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import understudy
from understudy.plugin.parking import PARKING, SUSPECTS, Parking
from understudy.plugin.probe import CHECK_TITLE, PROBE_UID, PROBED

from tests import bombs, hostile

GET, POST = 1, 2
AGENT = {"authorization": "Basic " + base64.b64encode(b"agent:x").decode()}


class OrthancError(Exception):
    """What the module `orthanc` raises."""


class Action(IntEnum):
    KEEP_AS_IS, MODIFY, DISCARD = 1, 2, 3


class Origin(IntEnum):
    DICOM_PROTOCOL, REST_API = 1, 3


class Library:
    """The functions of docker/reception that the plugin calls."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.answers: list[tuple[int, str]] = []
        self.receiving = 0
        self.received: tuple[bytes, ...] | None = None
        """Instance, study and series that the parser found, while a C-STORE is being stored."""

    def understudy_received(self, uids: Any) -> int:
        if self.received is None:
            return 0
        for uid, value in zip(uids, self.received, strict=True):
            uid.value = value
        return 1

    def understudy_note(self, text: ctypes.c_char_p) -> None:
        self.notes.append((text.value or b"").decode())

    def understudy_receive(self) -> None:
        self.receiving += 1

    def understudy_answer(self, status: ctypes.c_int, json: ctypes.c_char_p) -> None:
        self.answers.append((status.value, (json.value or b"").decode()))


class Instance:
    """What Orthanc hands to its callbacks."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    title = "CT1"
    uid = "1.2.3"
    tags: Mapping[str, str] = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1"}

    def GetInstanceData(self) -> bytes:  # noqa: N802 - Orthanc's name
        return self.content

    def GetInstanceRemoteAet(self) -> str:  # noqa: N802
        return self.title

    def GetInstanceSimplifiedJson(self) -> str:  # noqa: N802
        return json.dumps({**self.tags, "SOPInstanceUID": self.uid})


class Host(types.ModuleType):
    """The module `orthanc`, and an index that holds one stored file."""

    def __init__(self, storage: Path) -> None:
        super().__init__("orthanc")
        self.storage = storage
        self.lines: list[str] = []
        self.ReceivedInstanceAction, self.InstanceOrigin, self.OrthancException = Action, Origin, OrthancError
        self.ErrorCode = types.SimpleNamespace(UNKNOWN_RESOURCE=1, BAD_FILE_FORMAT=2)
        self.LogError = self.LogWarning = self.lines.append
        for name in ("OnChange", "ReceivedInstance", "OnStoredInstance"):
            setattr(self, f"Register{name}Callback", lambda _callback: None)
        self.RegisterIncomingCStoreInstanceFilter = lambda _callback: None
        self.RegisterIncomingHttpRequestFilter = lambda _callback: None
        self.RegisterRestCallback = lambda _path, _callback: None

    def GetConfiguration(self) -> str:  # noqa: N802
        return (
            f'{{"StorageDirectory": "{self.storage}", "IndexDirectory": "{self.storage}",'
            ' "UnderstudyPlugin": {"RefusePercent": 100, "BallastBytes": 0}}'
        )

    def RestApiPost(self, _path: str, _body: bytes) -> bytes:  # noqa: N802
        return b"[]"

    def RestApiGet(self, _path: str) -> bytes:  # noqa: N802
        raise OrthancError(1)

    def CreateDicomInstance(self, _content: bytes) -> object:  # noqa: N802
        raise OrthancError(2)


class Ended(BaseException):
    """Orthanc's process has ended."""


class Setup:
    def __init__(self, plugin: Any, host: Host, library: Library, ended: list[int]) -> None:
        self.plugin, self.host, self.library, self.ended = plugin, host, library, ended


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    host, library, ended = Host(tmp_path), Library(), list[int]()
    (tmp_path / "index-wal").touch()
    (tmp_path / "understudy" / "parking").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "orthanc", host)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    monkeypatch.setenv("UNDERSTUDY_AGENT_SOCKET", str(tmp_path / "agent.sock"))
    sys.modules.pop("understudy_plugin", None)
    module = importlib.import_module("understudy_plugin")

    def end(status: int) -> None:
        ended.append(status)
        raise Ended

    monkeypatch.setattr(module.os, "_exit", end)
    plugin = module.Plugin(
        {
            "StorageDirectory": str(tmp_path),
            "IndexDirectory": str(tmp_path),
            "UnderstudyPlugin": {"RefusePercent": 100, "BallastBytes": 0},
        },
        tmp_path / "agent.sock",
        module.Requests(),
        2 * 2**30,
    )
    yield Setup(plugin, host, library, ended)
    sys.modules.pop("understudy_plugin", None)


def fail(*_arguments: object, **_more: object) -> None:
    raise RuntimeError("nobody foresaw this")


GOOD = hostile.good("callbacks").content


def test_a_good_store_is_kept_and_made_durable(setup: Setup) -> None:
    action, _ = setup.plugin.on_received(GOOD, Origin.REST_API)
    assert action is Action.KEEP_AS_IS
    setup.plugin.on_stored_instance(Instance(GOOD), "0-0")
    assert setup.ended == []
    assert setup.library.notes[-1] == "", "nothing is on its way any more"
    assert any(note.startswith("store - ") for note in setup.library.notes)


UNKNOWN_SYNTAX = hostile.header("1.2.3", "1.2.3") + hostile.good("unknown syntax").data_set
"""Orthanc reads and stores it; its UID is not plain to see, for DCMTK guesses at its encoding."""
HIDDEN_KEY = f"content-{hashlib.sha224(UNKNOWN_SYNTAX).hexdigest()}"


def test_what_hides_its_uid_is_noted_before_orthanc_parses_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = []

    def parse(_content: bytes) -> Instance:
        notes.append(setup.library.notes[-1])
        return Instance(UNKNOWN_SYNTAX)

    monkeypatch.setattr(setup.host, "CreateDicomInstance", parse)
    assert setup.plugin.on_received(UNKNOWN_SYNTAX, Origin.REST_API)[0] is Action.KEEP_AS_IS
    assert notes == [f"store - {HIDDEN_KEY}"]
    assert setup.library.notes[-1] == notes[0], "storing it is noted as well"
    setup.plugin.on_stored_instance(Instance(UNKNOWN_SYNTAX), "0-0")
    assert setup.library.notes[-1] == ""


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_what_hides_that_it_has_no_name_is_refused_before_orthanc_logs_its_patient(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    nameless = Instance(UNKNOWN_SYNTAX)
    nameless.tags = {name: value for name, value in Instance.tags.items() if name != missing}
    monkeypatch.setattr(setup.host, "CreateDicomInstance", lambda _content: nameless)
    assert setup.plugin.on_received(UNKNOWN_SYNTAX, Origin.REST_API)[0] is Action.MODIFY
    assert setup.library.notes[-1] == ""


@pytest.mark.parametrize("key", [HIDDEN_KEY, Instance.uid])
def test_what_hides_its_uid_is_parked_like_any_other(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    folder = setup.host.storage / "understudy" / PARKING
    (folder / SUSPECTS).write_text(f"2 1 - {key}\n", encoding="ascii")
    monkeypatch.setattr(setup.plugin, "_parking", Parking(folder, lambda text: notes.append(text)))
    notes, parsed = list[str](), list[bytes]()

    def parse(content: bytes) -> Instance:
        parsed.append(content)
        return Instance(content)

    monkeypatch.setattr(setup.host, "CreateDicomInstance", parse)
    assert setup.plugin.on_received(UNKNOWN_SYNTAX, Origin.REST_API)[0] is Action.MODIFY
    assert any(f"instance={key} because=parked" in line for line in setup.host.lines)
    assert len(parsed) == (0 if key == HIDDEN_KEY else 1)
    assert notes[-1] == ""


@pytest.mark.parametrize(
    ("received", "action"),
    [
        ((b"1.2.3", b"1.2", b"1.2.1"), Action.KEEP_AS_IS),
        ((b"1.2.3", b" ", b"1.2.1"), Action.MODIFY),
        ((b"", b"1.2", b"1.2.1"), Action.MODIFY),
    ],
)
def test_nobody_reads_the_headers_of_what_the_reception_has_read(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, received: tuple[bytes, ...], action: Action
) -> None:
    """Python took 0.2 s for 60,000 elements before the UIDs, and every other store waited meanwhile."""
    setup.library.received = received
    module = sys.modules["understudy_plugin"]
    monkeypatch.setattr(module, "names", fail)
    monkeypatch.setattr(module, "fault", fail)
    looked_up = list[str]()

    def before_store(uid: str, _content: bytes) -> bool:
        looked_up.append(uid)
        return False

    monkeypatch.setattr(setup.plugin._versions, "before_store", before_store)
    assert setup.plugin.on_received(GOOD, Origin.DICOM_PROTOCOL)[0] is action
    assert looked_up == (["1.2.3"] if action is Action.KEEP_AS_IS else [])


STORE_CALLS = (
    "fault",
    "names",
    "_parking.begin",
    "_versions.before_store",
    "_sync",
)


STORE_CASES = [
    (call, origin)
    for call in STORE_CALLS
    for origin in Origin
    # The reception has looked at what comes by C-STORE.
    if not (call == "fault" and origin is Origin.DICOM_PROTOCOL)
]


@pytest.mark.parametrize(("call", "origin"), STORE_CASES)
def test_a_store_is_refused_whatever_fails_before_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, call: str, origin: Origin
) -> None:
    _break(setup, monkeypatch, call)
    if call == "_sync":
        monkeypatch.setattr(setup.plugin._versions, "before_store", lambda *_: True)
    action, content = setup.plugin.on_received(GOOD, origin)
    assert (action, content) == (Action.MODIFY, b""), "Orthanc throws at an empty modification"
    assert any("store refused" in line for line in setup.host.lines)
    assert not any("nobody foresaw" in line for line in setup.host.lines)


class FaultAt:
    """Raises what nobody foresaw at one of the calls that a callback comes to make, of Python or of C."""

    def __init__(self, step: int, callback: str) -> None:
        self.left = step
        self.callback = callback
        self.place = ""

    def __call__(self, frame: FrameType, event: str, called: object) -> None:
        code = frame.f_code
        # The callback itself is the net: what it has to catch comes from below.
        if event not in ("call", "c_call") or code.co_name == self.callback:
            return
        # What is raised in a generator that is thrown away reaches nobody; locks are released in any case.
        if event == "call" and code.co_flags & inspect.CO_GENERATOR:
            return
        if getattr(called, "__name__", "") == "__exit__":
            return
        if code.co_filename.startswith(str(PLUGINS)):
            self.left -= 1
            if self.left == -1:
                self.place = f"{Path(code.co_filename).name}:{frame.f_lineno}"
                raise Unforeseen


class Unforeseen(BaseException):
    """No handler names it: it is neither an error of ours nor an `Exception`."""


PLUGINS = Path(understudy.__file__).parents[1]
HELD = json.dumps([{"ID": "0-0", "Type": "Instance"}]).encode()


def every_fault(callback: str, call: Callable[[], object]) -> Iterator[tuple[str, object]]:
    """Run the callback once for each call below it, with a fault there; yield the place and the result."""
    for step in itertools.count():
        injected = FaultAt(step, callback)
        sys.setprofile(injected)
        try:
            result = call()
        finally:
            sys.setprofile(None)
        if not injected.place:
            return
        yield injected.place, result


@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize("case", ["new", "held already", "hides its UID"])
def test_a_store_is_refused_wherever_anything_is_raised_before_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, origin: Origin, case: str
) -> None:
    content = UNKNOWN_SYNTAX if case == "hides its UID" else GOOD
    if case == "held already":
        held = {"Uuid": "0" * 36, "UncompressedMD5": "0" * 32, "UncompressedSize": 1, "MainDicomTags": {}}
        monkeypatch.setattr(setup.host, "RestApiPost", lambda _path, _body: HELD)
        monkeypatch.setattr(setup.host, "RestApiGet", lambda _path: json.dumps(held).encode())
    if case == "hides its UID":
        monkeypatch.setattr(setup.host, "CreateDicomInstance", Instance)
    assert setup.plugin.on_received(content, origin)[0] is Action.KEEP_AS_IS
    places = []
    for place, answer in every_fault("on_received", lambda: setup.plugin.on_received(content, origin)):
        assert answer == (Action.MODIFY, b""), place
        assert setup.library.notes[-1] == "", f"{place}: nothing is on its way any more"
        places.append(place)
    assert len(places) > 30
    assert setup.plugin.on_received(content, origin)[0] is Action.KEEP_AS_IS


def test_a_refusal_holds_where_the_log_takes_no_line(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.host, "LogError", fail)
    assert setup.plugin.on_received(b"", Origin.DICOM_PROTOCOL)[0] is Action.MODIFY
    _break(setup, monkeypatch, "names")
    assert setup.plugin.on_received(GOOD, Origin.DICOM_PROTOCOL)[0] is Action.MODIFY
    _break(setup, monkeypatch, "_guard")
    assert setup.plugin.filter_c_store(Instance(GOOD)) == 0xA700
    assert setup.plugin.filter_http("/system") is False
    with pytest.raises(Ended):
        setup.plugin.on_stored_instance(Instance(GOOD), "0-0")


@pytest.mark.parametrize(
    "call", ["_durability.after_store", "_decoding.forget", "_parking.stored", "_versions.after_store"]
)
def test_orthanc_ends_before_it_answers_whatever_fails_after_a_store(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    setup.plugin.on_received(GOOD, Origin.REST_API)
    _break(setup, monkeypatch, call)
    with pytest.raises(Ended):
        setup.plugin.on_stored_instance(Instance(GOOD), "0-0")
    assert setup.ended == [70]


@pytest.mark.parametrize("refused_before", [False, True])
def test_orthanc_ends_before_it_answers_a_store_that_was_not_looked_at(
    setup: Setup, refused_before: bool
) -> None:
    """Where there is no memory for the callback, Orthanc takes that for consent."""
    if refused_before:
        setup.plugin.on_received(GOOD, Origin.REST_API)
        setup.plugin.on_received(b"", Origin.REST_API)
    with pytest.raises(Ended):
        setup.plugin.on_stored_instance(Instance(GOOD), "0-0")
    assert setup.ended == [70]
    assert any("NotLookedAtError" in line for line in setup.host.lines)


def test_each_store_is_looked_at_by_itself(setup: Setup) -> None:
    setup.plugin.on_received(GOOD, Origin.REST_API)
    setup.plugin.on_stored_instance(Instance(GOOD), "0-0")
    with pytest.raises(Ended):
        setup.plugin.on_stored_instance(Instance(GOOD), "0-0")


@pytest.mark.parametrize("name", bombs.NAMES)
def test_a_bomb_is_stored(setup: Setup, name: str) -> None:
    bomb = bombs.bomb(name, "callbacks").content
    assert setup.plugin.on_received(bomb, Origin.DICOM_PROTOCOL)[0] is Action.KEEP_AS_IS
    setup.plugin.on_stored_instance(Instance(bomb), "0-0")
    assert setup.ended == []


def test_an_object_that_names_no_series_is_refused_before_orthanc_logs_its_patient(setup: Setup) -> None:
    nameless = bombs.uncompressed("callbacks", change={0x0020000E: None}).content
    assert setup.plugin.on_received(nameless, Origin.DICOM_PROTOCOL)[0] is Action.MODIFY
    assert not any(canary in line for line in setup.host.lines for canary in hostile.CANARIES)


@pytest.mark.parametrize("call", ["_guard", "_durability.before_store"])
def test_a_c_store_is_refused_whatever_fails(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    assert setup.plugin.filter_c_store(Instance(GOOD)) == 0
    _break(setup, monkeypatch, call)
    assert setup.plugin.filter_c_store(Instance(GOOD)) == 0xA700


def test_the_health_check_tries_the_disk_and_keeps_nothing(setup: Setup) -> None:
    probe = Instance(GOOD)
    probe.title, probe.uid = CHECK_TITLE, PROBE_UID
    assert setup.plugin.filter_c_store(probe) == PROBED
    assert not (setup.host.storage / ".probe").exists()


@pytest.mark.parametrize(("title", "uid"), [(CHECK_TITLE, "1.2.3"), ("CT1", PROBE_UID)])
def test_an_image_is_never_taken_for_the_health_check(setup: Setup, title: str, uid: str) -> None:
    image = Instance(GOOD)
    image.title, image.uid = title, uid
    assert setup.plugin.filter_c_store(image) == 0


@pytest.mark.parametrize("call", ["_sync", "try_disk", "_guard", "_durability.before_store"])
def test_the_health_check_is_red_where_a_store_would_fail(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    probe = Instance(GOOD)
    probe.title, probe.uid = CHECK_TITLE, PROBE_UID
    _break(setup, monkeypatch, call)
    assert setup.plugin.filter_c_store(probe) == 0xA700


@pytest.mark.parametrize(
    "call", ["identify", "allowed", "canonical_path", "_decoding.judge", "_parking.begin_decoding"]
)
def test_a_call_is_refused_whatever_fails(setup: Setup, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    request: dict[str, Any] = {"method": GET, "headers": AGENT, "get": {}}
    assert setup.plugin.filter_http("/instances/0-0/preview", **request) is True
    monkeypatch.setattr(setup.plugin._decoding, "judge", lambda *_: ("1.2",))
    _break(setup, monkeypatch, call)
    assert setup.plugin.filter_http("/instances/0-0/preview", **request) is False


@pytest.mark.parametrize("request_", [{}, {"headers": AGENT}, {"headers": AGENT, "method": 99}])
def test_a_request_of_another_form_is_refused(setup: Setup, request_: dict[str, Any]) -> None:
    assert setup.plugin.filter_http("/system", **request_) is False


def test_a_store_by_http_has_the_memory_of_an_instance(setup: Setup) -> None:
    assert setup.plugin.filter_http("/instances", method=POST, headers=AGENT) is True
    assert setup.library.receiving == 1
    assert setup.plugin.filter_http("/system", method=GET, headers=AGENT, get={}) is True
    assert setup.library.receiving == 1


def test_a_refusal_says_why(setup: Setup) -> None:
    request: dict[str, Any] = {"method": GET, "headers": AGENT, "get": {"width": "40000"}}
    assert setup.plugin.filter_http("/instances/0-0/rendered", **request) is False
    assert setup.library.answers == [
        (400, '{"HttpStatus": 400, "Message": "width is not a number up to 8192"}')
    ]


def _break(setup: Setup, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Let one thing that the callbacks use raise what nobody foresaw."""
    *owners, name = call.split(".")
    owner: Any = setup.plugin
    for part in owners:
        owner = getattr(owner, part)
    if hasattr(owner, name):
        if not isinstance(getattr(owner, name), Callable):  # type: ignore[arg-type]
            monkeypatch.setattr(owner, name, None)
            return
        monkeypatch.setattr(owner, name, fail)
    else:
        monkeypatch.setattr(sys.modules["understudy_plugin"], name, fail)
