"""The parsers, each as a function of bytes that raises only where it breaks its promise, with examples."""

import base64
import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import json5
import zstandard
from understudy.adapters.edge import parse_reports
from understudy.adapters.healing import is_same_instance
from understudy.adapters.keys import KeysError, _parse_users
from understudy.adapters.part10 import BrokenFileError, examine_stream
from understudy.adapters.storage import StorageArea
from understudy.config import ConfigurationError, parse, substitute
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
from understudy.flow.restore import RestoreError, _unpack
from understudy.plugin.identity import identify
from understudy.plugin.roles import Method, Role, allowed
from understudy.plugin.shape import fault
from understudy.plugin.sop_instance import sop_instance_uid

from tests import hostile

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
    facts = StorageArea(Path("/nowhere")).study_facts(content, hostile.EXPLICIT)
    if facts is not None:
        json.dumps(facts.patient_name).encode("ascii")


def _part10(content: bytes) -> None:
    with contextlib.suppress(BrokenFileError):
        examine_stream(io.BytesIO(content), len(content))


def _shape(content: bytes) -> None:
    told = fault(content)
    assert told is None or told.isascii()


def _sop_instance(content: bytes) -> None:
    uid = sop_instance_uid(content)
    assert uid is None or (uid.isascii() and uid.isprintable())


def _same_instance(content: bytes) -> None:
    assert not is_same_instance("0" * 44, "0" * 32, content)


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
        for member, _ in _unpack(content, {MEMBER.name: MEMBER}):
            assert member is MEMBER


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
        if allowed(Role.READER, method, path) and not path.startswith("/understudy/"):
            assert method is Method.GET or (method is Method.POST and path.startswith("/tools/")), path
        if allowed(Role.ADMIN, method, path):
            assert PurePosixPath(path) != PurePosixPath("/tools/shutdown"), path


def _report(content: bytes) -> None:
    for seen in parse_reports([content]):
        assert len(seen.calling_ae_title) <= 16
        assert len(seen.address) <= 45


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
        "edge_report": Target(_report, [json.dumps(_REPORT).encode()]),
        "users": Target(_users, [_USERS]),
    }
