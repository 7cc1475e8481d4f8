"""The parsers, each as a function of bytes that raises only where it breaks its promise, with examples."""

import base64
import contextlib
import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import json5
import zstandard
from understudy.adapters import commitment, dimse
from understudy.adapters.association import (
    IMPLICIT_LITTLE_ENDIAN,
    Association,
    AssociationLostError,
    AssociationRejectedError,
    Context,
)
from understudy.adapters.dicom import decoded, encoded
from understudy.adapters.edge import parse_counts, parse_reports
from understudy.adapters.healing import is_same_instance
from understudy.adapters.keys import KeysError, _parse_users
from understudy.adapters.part10 import BrokenFileError, examine_stream
from understudy.adapters.storage import PARSE_ERRORS, StorageArea
from understudy.config import ConfigurationError, parse, substitute
from understudy.core.commitment import denial, is_committed
from understudy.core.packing import (
    FORMAT,
    Manifest,
    ManifestError,
    Member,
    StudyFacts,
    is_member_name,
    keys_for,
    manifest_from_json,
    manifest_to_json,
    name_part,
)
from understudy.flow.contents import RestoreError
from understudy.flow.restore import _unpack
from understudy.plugin.identity import identify
from understudy.plugin.pixels import pixels
from understudy.plugin.roles import CallerRole, Method, allowed
from understudy.plugin.shape import fault
from understudy.plugin.sop_instance import names

from tests import bombs, hostile

PACK_KEY, MANIFEST_KEY = keys_for(0.0, "0" * 32)  # type: ignore[arg-type]
STUDY, SERIES, SOP = "1.2.3", "1.2.4", "1.2.5"
MEMBER = Member(
    f"{STUDY}/{SERIES}/{SOP}.dcm", SOP, SERIES, hostile.CT, hostile.EXPLICIT, 4, "0" * 64, "0" * 32, 1.0
)


@dataclass(frozen=True, slots=True)
class Target:
    """One parser; `run` raises only where the parser breaks its promise."""

    run: Callable[[bytes], None]
    examples: Sequence[bytes]


def _files() -> list[bytes]:
    return [item.content for item in hostile.corpus("fuzz", 2**20) if len(item.content) < 20_000]


def _study_facts(content: bytes) -> None:
    facts = StorageArea(Path("/nowhere")).study_facts(io.BytesIO(content), hostile.EXPLICIT)
    if facts is not None:
        json.dumps(facts.patient_name).encode("ascii")


def _part10(content: bytes) -> None:
    with contextlib.suppress(BrokenFileError):
        examine_stream(io.BytesIO(content), len(content))


def _shape(content: bytes) -> None:
    told = fault(content)
    assert told is None or told.isascii()


def _pixels(content: bytes) -> None:
    found = pixels(content)
    assert found.frames >= 1
    assert found.frame_bytes >= 0


def _sop_instance(content: bytes) -> None:
    found = names(content)
    uid = None if found is None else found.sop_instance_uid
    assert uid is None or (0 < len(uid) <= 64 and uid.isascii() and uid.isprintable())


def _same_instance(content: bytes) -> None:
    assert not is_same_instance("0" * 44, "0" * 32, io.BytesIO(content))


def _manifest(content: bytes) -> None:
    try:
        manifest = manifest_from_json(content, MANIFEST_KEY)
    except ManifestError:
        return
    assert all(is_member_name(member.name) for member in manifest.members)


def _member_name(content: bytes) -> None:
    part = name_part(content.decode("utf-8", "surrogateescape"))
    assert is_member_name(f"{part}/{part}/{part}.dcm"), part


def _pack(content: bytes) -> None:
    with contextlib.suppress(RestoreError):
        for member, file in _unpack(io.BytesIO(content), {MEMBER.name: MEMBER}):
            assert member is MEMBER
            file.read(MEMBER.size)


def _pack_inside(content: bytes) -> None:
    """The tar itself: damaged zstd would keep nearly every change from it."""
    _pack(zstandard.ZstdCompressor(level=1).compress(content))


def _substitution(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    if "$" not in text:
        assert substitute(text, {}) == text
    substitute(text, {"NAME": "${NAME}"})


def _configuration(content: bytes) -> None:
    with contextlib.suppress(ValueError, ConfigurationError):
        parse(json.loads(content))


def _sections(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        json5.loads(content.decode("utf-8", "replace"))


def _identity(content: bytes) -> None:
    lines = content.decode("latin-1").split("\n")
    for value in (lines[0], "Basic " + base64.b64encode(content).decode()):
        names = ("authorization", "x-understudy-user", "x-understudy-role")
        identify(dict(zip(names, [value, *lines[1:]], strict=False)))


def _path(content: bytes) -> None:
    path = content.decode("utf-8", "surrogateescape")
    for method in Method:
        # Whoever may read may never delete or store, whatever the path looks like.
        if allowed(CallerRole.READER, method, path) and not path.startswith("/understudy/"):
            assert method is Method.GET or (method is Method.POST and path.startswith("/tools/")), path
        if allowed(CallerRole.ADMIN, method, path):
            assert PurePosixPath(path) != PurePosixPath("/tools/shutdown"), path


def _report(content: bytes) -> None:
    for seen in parse_reports([content]):
        assert len(seen.calling_ae_title) <= 16
        assert len(seen.address) <= 45
    for seen in parse_counts(content.decode("ascii", "replace").splitlines()):
        assert len(seen.calling_ae_title) <= 16
        assert len(seen.reason) <= 100


class _Wire:
    """A connection on which all that the peer will ever say is there already."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def recv(self, number: int) -> bytes:
        """Return some of it: what comes at a time is not for the peer to say."""
        return self._content.read(min(number, 1000))

    def sendall(self, content: bytes) -> None:
        """Take what is said to the peer."""
        assert content

    def settimeout(self, seconds: float) -> None:
        """Hear how long to wait."""
        assert seconds > 0

    def setsockopt(self, *_: int) -> None:
        """Hear of an option."""

    def close(self) -> None:
        """End it."""


_PROPOSED = Context("1.2.840.10008.5.1.4.1.2.2.1")


def _association(content: bytes) -> None:
    """All that a peer says over one association, from its answer to our request on."""
    association = Association(_Wire(content), 5.0)  # type: ignore[arg-type]
    with contextlib.suppress(AssociationLostError, AssociationRejectedError):
        association._negotiate("UNDERSTUDY", "ARCHIVE", [_PROPOSED], ["1.2"])
        accepted = association.answers[_PROPOSED]
        for message in dimse.ask(association, accepted, dimse.FIND, {dimse.SOP_CLASS: "1.2"}, patience=5.0):
            assert 0 <= message.status <= 0xFFFF
            assert len(message.data) <= len(content)


def _commitment(content: bytes) -> None:
    """The data set of a report of storage commitment."""
    with contextlib.suppress(*PARSE_ERRORS):
        report = commitment.read(decoded(content, IMPLICIT_LITTLE_ENDIAN), "ARCHIVE")
        for uid in (*report.committed, *report.failed):
            assert not (is_committed(report, uid) and denial(report, uid))


def _pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


ACCEPTANCE = _pdu(
    2,
    struct.pack(">Hxx", 1)
    + b" " * 64
    + _item(0x21, bytes([1, 0, 0, 0]) + _item(0x40, b"1.2.840.10008.1.2"))
    + _item(0x50, _item(0x51, struct.pack(">I", 16384))),
)
"""An A-ASSOCIATE-AC that takes the first context."""


def _answer(status: int, data: bytes = b"") -> bytes:
    """Return an answer to C-FIND."""
    elements = {0x100: 0x8020, 0x120: 1, 0x800: 1 if data else 0x101, 0x900: status}
    command = b"".join(struct.pack("<HHIH", 0, tag, 2, value) for tag, value in elements.items())
    values = [(command, 3), (data, 2)] if data else [(command, 3)]
    return b"".join(_pdu(4, struct.pack(">IBB", len(value) + 2, 1, kind) + value) for value, kind in values)


def _spoken() -> list[bytes]:
    """Return what peers say: answers to C-FIND, an abort in their middle, a rejection, a release."""
    answers = _answer(0xFF00, struct.pack("<HHI", 8, 0x18, 4) + b"1.2\0") + _answer(0)
    return [
        ACCEPTANCE + answers,
        ACCEPTANCE + answers[:40] + _pdu(7, bytes([0, 0, 2, 1])),
        _pdu(3, bytes([0, 1, 1, 7])),
        ACCEPTANCE + _pdu(5, bytes(4)),
    ]


def _reported() -> bytes:
    """Return the data set of a report that commits to one instance and fails another."""
    report = commitment.request("2.25.1", [(hostile.CT, SOP)])
    report.FailedSOPSequence = commitment.request("2.25.1", [(hostile.CT, "1.2.6")]).ReferencedSOPSequence
    report.FailedSOPSequence[0].FailureReason = 0x0112
    return encoded(report, IMPLICIT_LITTLE_ENDIAN)


def _users(content: bytes) -> None:
    with contextlib.suppress(KeysError):
        _parse_users(content.decode("ascii", "replace"))


def _tar() -> bytes:
    output = io.BytesIO()
    with tarfile.open(mode="w|", fileobj=output, format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(MEMBER.name)
        entry.size = MEMBER.size
        archive.addfile(entry, io.BytesIO(b"DICM"))
    return output.getvalue()


def _manifests() -> list[bytes]:
    study = StudyFacts(patient_name=hostile.CANARY_NAME)
    manifest = Manifest(FORMAT, "clinic", PACK_KEY, 0.0, ("age1x",), 4, "0" * 64, STUDY, study, (MEMBER,))
    return [manifest_to_json(manifest)]


_REPORT = {
    "event": "seen",
    "address": "192.0.2.1",
    "calling": "CT1",
    "called": "UNDERSTUDY",
    "outcome": "accepted",
    "tls": False,
}
_USERS = b"userlist understudy\n    group admin users admin\n    user admin password $6$abc$def\n"
_CONFIGURATION = {
    "Site": "a",
    "Primary": {"AeTitle": "PACS", "Host": "h"},
    "Vaults": [{"Name": "v", "Directory": "/v"}],
    "Modalities": [{"Name": "ct", "AeTitle": "CT", "Host": "192.0.2.1", "Addresses": ["192.0.2.0/28"]}],
}


def _broken(content: bytes) -> None:
    assert content != b"DICOM"


SELF_TEST = Target(_broken, [b"DICO"])
"""A parser with a fault, by which the fuzzer shows that it finds one."""


def targets() -> Mapping[str, Target]:
    """Return every parser by name."""
    files, tar = _files(), _tar()
    return {
        "part10": Target(_part10, files),
        "shape": Target(_shape, files),
        "pixels": Target(_pixels, [*files, *(bomb.content for bomb in bombs.corpus("fuzz"))]),
        "sop_instance": Target(_sop_instance, files),
        "study_facts": Target(_study_facts, files),
        "same_instance": Target(_same_instance, files),
        "manifest": Target(_manifest, _manifests()),
        "member_name": Target(_member_name, [b"1.2.3", b"../../etc/passwd", "é".encode()]),
        "pack": Target(_pack, [zstandard.ZstdCompressor(level=1).compress(tar)]),
        "pack_inside": Target(_pack_inside, [tar]),
        "substitution": Target(_substitution, [b"${NAME}", b'{"A": "${NAME:-x}"}']),
        "configuration": Target(_configuration, [json.dumps(_CONFIGURATION).encode()]),
        "sections": Target(_sections, [b"{// comment\n 'A': [1, 0x2, +.5, 'x'],}"]),
        "identity": Target(_identity, [b"Basic YWdlbnQ6eA==\nadmin\nadmin", b"edge:secret"]),
        "path": Target(_path, [b"/instances/a/file", b"/tools/shutdown", b"/studies/../tools/reset"]),
        "association": Target(_association, _spoken()),
        "commitment": Target(_commitment, [_reported()]),
        "edge_report": Target(_report, [json.dumps(_REPORT).encode()]),
        "users": Target(_users, [_USERS]),
    }
