"""The gate's two pure Lua modules: what they refuse, and that they decide and count as the agent expects."""

import ipaddress
import re
import struct
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa.lua54 import LuaRuntime
from pynetdicom.pdu import A_ASSOCIATE_RQ
from understudy.adapters.edge_config import TEMPLATES, devices_table
from understudy.core.gate import NOWHERE, UNKNOWN, Allowed, certificate_of, verdict

from tests import requests
from tests.requests import ACCEPTED, LONG, REFUSED, context, item, maximum, request, user

INSTRUCTIONS = 5_000_000
"""Of Lua, for one call: more is taken for a loop without an end."""

RUNTIME: Any = LuaRuntime(encoding=None, unpack_returned_tuples=True)
RUNTIME.globals()[b"package"][b"path"] = str(TEMPLATES / "?.lua").encode()
ASSOCIATION = RUNTIME.eval(b"(require('association'))")
ADMISSION = RUNTIME.eval(b"(require('admission'))")
EXAMINE = RUNTIME.eval(
    b"""function(examine, most, bytes)
        too_long = false
        debug.sethook(function() too_long = true error("too long") end, "", most)
        local found = examine(bytes)
        debug.sethook()
        return found, too_long
    end"""
)


def examine(pdu: bytes) -> tuple[bytes | None, str, bytes, bytes]:
    """Return the answer (None where the request passes), the reason and both AE titles."""
    found, too_long = EXAMINE(ASSOCIATION[b"examine"], INSTRUCTIONS, pdu)
    assert not too_long
    reason = (found[b"reason"] or b"").decode("ascii")
    return found[b"answer"], reason, found[b"calling"], found[b"called"]


@pytest.mark.parametrize("name", ACCEPTED)
def test_request_that_devices_send_passes(name: str) -> None:
    assert examine(ACCEPTED[name])[:2] == (None, "")


@pytest.mark.parametrize("name", REFUSED)
def test_faulty_request_is_answered_with_a_reason(name: str) -> None:
    answer, reason, *_ = examine(REFUSED[name])
    assert answer is not None
    assert len(answer) == 10
    assert struct.unpack(">BBI", answer[:6]) == (answer[0], 0, 4)
    assert answer[0] in (3, 7)
    assert reason
    assert "could not be examined" not in reason


@pytest.mark.parametrize("padding", [b" ", b"\0"])
@pytest.mark.parametrize(
    "place",
    [
        lambda content: item(0x10, content),
        lambda content: context(3, content),
        lambda content: context(3, transfer=(content,)),
        lambda content: user(requests.role(content)),
        lambda content: user(item(0x52, content)),
    ],
)
def test_long_run_of_padding_takes_no_time(place: Callable[[bytes], bytes], padding: bytes) -> None:
    """A pattern's work is no instruction of Lua, and HAProxy's thread does nothing else meanwhile."""
    good = item(0x10, requests.APPLICATION_CONTEXT) + context(1)
    pdu = request(items=good + place(padding * 60_000 + b"x"))
    began = time.process_time()
    assert examine(pdu)[0] is not None
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize(
    ("pdu", "answer"),
    [
        (REFUSED["blank called title"], "03000000000400010107"),
        (REFUSED["tab in calling title"], "03000000000400010103"),
        (REFUSED["another application context"], "03000000000400010102"),
        (REFUSED["protocol version 2"], "03000000000400010202"),
        (REFUSED["no context"], "03000000000400010101"),
        (REFUSED["item longer than the PDU"], "07000000000400000206"),
        (b"GET / HTTP/1.1\r\n\r\n", "07000000000400000201"),
        (bytes.fromhex("05000000000400000000"), "07000000000400000202"),
        (request(length=0x10000), "03000000000400010101"),
        (request(length=400), "07000000000400000206"),
        (b"\1", "07000000000400000206"),
        (b"", "07000000000400000201"),
    ],
)
def test_answer_is_the_one_that_dicom_prescribes(pdu: bytes, answer: str) -> None:
    """PS3.8 tables 9-21 and 9-26: result, source and reason."""
    given_answer, *_ = examine(pdu)
    assert given_answer is not None
    assert given_answer.hex() == answer


@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"CT1", b"CT1"),
        (b"  CT1", b"CT1"),
        (b"CT1\0\0\0", b"CT1"),
        (b"CT1\0WS1", b"CT1"),
        (b"CT1 \0 x", b"CT1"),
        (b"A" * 16, b"A" * 16),
        (b"CT 1", b"CT 1"),
    ],
)
def test_title_is_read_as_orthanc_reads_it(field: bytes, title: bytes) -> None:
    """DCMTK ends it at the first zero: who writes something behind it is no stranger to Orthanc."""
    assert examine(request(field, field))[2:] == (title, title)


UIDS = st.sampled_from(
    [b"1.2.840.10008.1.1", b"1.2.840.10008.1.2", b"1.2.3\0", b"", LONG, b"1.2.x", b"1" * 64, b"1" * 65]
) | st.binary(max_size=70)
LENGTHS = st.none() | st.sampled_from([0, 1, 3, 4, 60, 500, 0xFFFF])
BYTE = st.integers(0, 255)


def _any_item(kinds: st.SearchStrategy[int], content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(item, kinds, content, LENGTHS)


def _list_of(items: st.SearchStrategy[bytes], most: int) -> st.SearchStrategy[bytes]:
    return st.lists(items, max_size=most).map(b"".join)


CONTEXTS = st.builds(
    context,
    BYTE,
    st.none() | UIDS,
    st.lists(UIDS, max_size=3).map(tuple),
    more=st.just(b"") | _any_item(BYTE, st.binary(max_size=8)),
    kind=st.sampled_from([0x20, 0x20, 0x20, 0x21, 0x30]),
    result=BYTE,
)
GOOD_CONTEXTS = st.integers(0, 127).map(lambda number: context(2 * number + 1))
USER_ITEMS = (
    st.sampled_from([maximum(), requests.IMPLEMENTATION, requests.role(), requests.extended()])
    | st.builds(requests.role, UIDS, LENGTHS, st.binary(max_size=4))
    | st.builds(requests.extended, UIDS, LENGTHS, st.binary(max_size=4))
    | st.builds(requests.identity, st.binary(max_size=8), st.binary(max_size=8), kind=BYTE, claimed=LENGTHS)
    | _any_item(st.integers(0x50, 0x5A), UIDS)
)
ITEMS = (
    GOOD_CONTEXTS
    | CONTEXTS
    | st.just(item(0x10, requests.APPLICATION_CONTEXT))
    | st.builds(user, st.just(maximum()), _list_of(USER_ITEMS, 4), length=LENGTHS)
    | _any_item(BYTE, st.binary(max_size=20))
)
TITLES = st.sampled_from([b"CT1", b"STANDBY", b"", b"\0", b"A\\B", b"a b"]) | st.binary(max_size=16)
BUILT = st.builds(
    request,
    TITLES,
    TITLES,
    items=st.tuples(st.just(item(0x10, requests.APPLICATION_CONTEXT)) | st.just(b""), _list_of(ITEMS, 6)).map(
        b"".join
    ),
    version=st.sampled_from([1, 1, 1, 3, 0, 2]),
    length=st.none() | st.integers(0, 70000),
)


@st.composite
def _changed(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    """Return a good request with some bytes changed, put in or taken out."""
    pdu = bytearray(draw(st.sampled_from(list(ACCEPTED.values()))))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(pdu) - 1))
        how = draw(st.sampled_from(["change", "insert", "delete", "cut"]))
        if how == "change":
            pdu[place] = draw(BYTE)
        elif how == "insert":
            pdu[place:place] = draw(st.binary(max_size=4))
        elif how == "delete":
            del pdu[place : place + draw(st.integers(1, 4))]
        elif place >= 6:
            pdu = pdu[:place]
            pdu[2:6] = struct.pack(">I", place - 6)
        if not pdu:
            break
    return bytes(pdu)


@settings(max_examples=300, deadline=None)
@given(pdu=BUILT | _changed() | st.binary(max_size=200))
def test_no_request_makes_the_gate_fail_and_none_passes_that_others_cannot_read(pdu: bytes) -> None:
    answer, reason, *_ = examine(pdu)
    assert "could not be examined" not in reason
    assert (answer is None) is (reason == "")
    if answer is not None:
        return
    walked = _walk_as_dcmtk(pdu)
    assert walked.application == requests.APPLICATION_CONTEXT
    assert walked.contexts
    assert len(set(walked.contexts)) == len(walked.contexts) <= 128
    if _is_read_by_pynetdicom(pdu):
        decoded = A_ASSOCIATE_RQ()
        # It says of each padded UID that it is padded.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoded.decode(pdu[: 6 + struct.unpack(">I", pdu[2:6])[0]])
        assert [one.context_id for one in decoded.presentation_context] == walked.contexts
        assert str(decoded.application_context_name) == requests.APPLICATION_CONTEXT.decode()


def _is_read_by_pynetdicom(pdu: bytes) -> bool:
    """Say whether pynetdicom knows all that is in there: no unknown item or role, no odd byte in a title."""
    walked = _walk_as_dcmtk(pdu)
    known = {None: {0x10, 0x20, 0x50}, 0x20: {0x30, 0x40}, 0x50: {0x51, 0x52, 0x53, 0x54}}
    in_place = all(kind in known.get(within, ()) for within, kind in walked.kinds)
    return in_place and walked.roles <= {0, 1} and re.fullmatch(rb"[ -\[\]-~]{32}", pdu[10:42]) is not None


class _Walked:
    def __init__(self) -> None:
        self.application = b""
        self.contexts: list[int] = []
        self.kinds: list[tuple[int | None, int]] = []
        """Of every item, the kind of the item that it is in, and its own."""
        self.roles: set[int] = set()


def _walk_as_dcmtk(pdu: bytes) -> _Walked:
    """Walk a request by the rules of DCMTK 3.7's dulparse.cc, and fail where it would refuse."""
    length = struct.unpack(">I", pdu[2:6])[0]
    assert pdu[0] == 1
    assert length >= 68
    assert struct.unpack(">H", pdu[6:8])[0] & 1
    walked = _Walked()
    for kind, content in _items(pdu[74 : 6 + length]):
        walked.kinds.append((None, kind))
        if kind == 0x10:
            assert len(content) <= 64
            walked.application = content.partition(b"\0")[0]
        elif kind in (0x20, 0x21):
            assert len(content) >= 4
            walked.contexts.append(content[0])
            transfers = 0
            for sub, value in _items(content[4:]):
                walked.kinds.append((kind, sub))
                if sub in (0x30, 0x40):
                    assert len(value) <= 64
                    transfers += sub == 0x40
            assert transfers
        elif kind == 0x50:
            for sub, value in _items(content):
                walked.kinds.append((kind, sub))
                _user_item_as_dcmtk(sub, value)
                if sub == 0x54:
                    # PS3.7 D.3.3.4 knows 0 and 1; DCMTK takes any byte.
                    walked.roles.update(value[-2:])
    return walked


def _items(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    while body:
        assert len(body) >= 4
        kind, length = struct.unpack(">BxH", body[:4])
        assert len(body) >= 4 + length
        found.append((kind, body[4 : 4 + length]))
        body = body[4 + length :]
    return found


def _user_item_as_dcmtk(kind: int, value: bytes) -> None:
    if kind == 0x51:
        assert len(value) >= 4
    elif kind in (0x52, 0x55):
        assert len(value) <= 64
    elif kind == 0x54:
        assert len(value) >= 4
        assert len(value) - 4 >= struct.unpack(">H", value[:2])[0]
    elif kind == 0x56:
        assert len(value) >= 2
        assert len(value) - 2 >= struct.unpack(">H", value[:2])[0]
    elif kind in (0x58, 0x59):
        assert len(value) >= 6
        primary = struct.unpack(">H", value[2:4])[0]
        assert len(value) - 6 >= primary
        assert len(value) - 6 - primary >= struct.unpack(">H", value[4 + primary : 6 + primary])[0]


TITLE = st.sampled_from(["CT1", "ct1", "WS 1", "MR|1"])
ENTRIES = st.builds(
    Allowed,
    TITLE,
    st.sampled_from(["192.0.2.0/28", "192.0.2.5/32", "2001:db8::/64", "0.0.0.0/0", NOWHERE, UNKNOWN]),
    st.none() | st.sampled_from(["STANDBY", "OTHER"]),
    st.none() | st.sampled_from([certificate_of("ct1"), certificate_of("AA" * 32)]),
)


@settings(deadline=None)
@given(
    allowed=st.lists(ENTRIES, max_size=4),
    address=st.sampled_from(["192.0.2.5", "192.0.2.9", "198.51.100.1", "2001:db8::9"]),
    calling=TITLE,
    called=st.sampled_from(["STANDBY", "X"]),
    shown=st.none() | st.sampled_from([certificate_of("ct1"), certificate_of("AA" * 32)]),
)
def test_gate_decides_as_the_agent_shows_it(
    allowed: list[Allowed], address: str, calling: str, called: str, shown: str | None
) -> None:
    table = devices_table(allowed)
    key = ADMISSION[b"key"](calling.encode()).decode()
    source = ipaddress.ip_address(address)
    decided = ADMISSION[b"verdict"](
        table[key].encode() if key in table else None,
        calling.encode(),
        called.encode(),
        lambda network: source in ipaddress.ip_network(network.decode()),
        lambda certificate: shown is not None and certificate == shown.encode(),
    )
    expected = verdict(
        allowed, address=address, calling=calling, called=called, shows=lambda one: one == shown
    )
    assert decided.decode() == expected.value


def take(counter: Any, noted: int) -> tuple[int, dict[str, int]]:
    number, lines = ADMISSION[b"take"](counter, noted)
    counts = (line.decode().partition(" ") for line in lines.values())
    return number, {text: int(count) for count, _, text in counts}


def test_counts_are_told_until_they_are_noted() -> None:
    counter = ADMISSION[b"counter"](100)
    for _ in range(60):
        ADMISSION[b"count"](counter, b"known", b"CT1", b"rest")
    first, counts = take(counter, 0)
    assert counts == {"CT1": 60}
    # The agent was killed before it wrote them down; meanwhile more is counted.
    ADMISSION[b"count"](counter, b"known", b"CT1", b"rest")
    assert take(counter, 0) == (first, {"CT1": 60})
    assert take(counter, first) == (first + 1, {"CT1": 1})
    assert take(counter, first + 1) == (first + 1, {})


def test_invented_titles_take_no_memory_and_push_no_listed_device_out() -> None:
    counter = ADMISSION[b"counter"](10)
    for number in range(1000):
        ADMISSION[b"count"](counter, b"others", f"S{number}".encode(), b"rest")
    ADMISSION[b"count"](counter, b"known", b"CT1", b"rest")
    counts = take(counter, 0)[1]
    assert len(counts) == 12
    assert counts["rest"] == 990
    assert counts["CT1"] == 1


@pytest.mark.parametrize(
    ("text", "revoked"), [(b"", []), (b"AB12\nCD34\n", [b"AB12", b"CD34"]), (b"AB12", [b"AB12"])]
)
def test_revoked_certificates_are_those_of_the_file(text: bytes, revoked: list[bytes]) -> None:
    assert sorted(ADMISSION[b"revoked"](text)) == revoked


def test_budget_is_spent_and_comes_back_with_time() -> None:
    budget = ADMISSION[b"budget"](1000)

    def spend(items: int, now: float) -> bool:
        return bool(ADMISSION[b"spend"](budget, items, now))

    assert spend(600, 10.0)
    assert not spend(600, 10.0)
    assert spend(400, 10.0)
    assert not spend(1, 10.0)
    # What was refused cost nothing, and a clock that is set back gives nothing.
    assert not spend(300, 5.0)
    assert spend(500, 5.5)
    assert not spend(1, 5.5)
    # No more is saved than the whole.
    assert spend(1000, 1000.0)
    assert not spend(1, 1000.0)


def test_largest_request_with_names_of_dicom_passes() -> None:
    """As many contexts as there are, and as many transfer syntaxes as fit."""
    names = tuple(b"1.2.840.10008.1.2.4.%d" % (50 + number) for number in range(15))
    pdu = request(contexts=b"".join(context(number, transfer=names) for number in range(1, 256, 2)))
    assert 50_000 < len(pdu) < 65_000
    assert examine(pdu)[:2] == (None, "")
