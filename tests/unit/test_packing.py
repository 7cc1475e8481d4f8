"""Packing: names, keys and manifests that nothing a DICOM object says can bend."""

import json
import re
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from understudy.core.model import (
    Instance,
    InstanceNumber,
    SeriesInstanceUid,
    SopInstanceUid,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.packing import (
    FORMAT,
    Manifest,
    ManifestError,
    Member,
    StudyFacts,
    digests,
    is_member_name,
    is_standard_uid,
    keys_for,
    manifest_from_json,
    manifest_to_json,
    member_names,
    name_part,
    pack_key_of,
)

from tests.vault_parts import NOW

TOKEN = "0123456789abcdef" * 2
KEY, MANIFEST_KEY = keys_for(NOW, TOKEN)
hostile = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        [
            "",
            ".",
            "..",
            "../../etc/passwd",
            "1.2/3",
            "1.2\n",
            "1.02",
            "0",
            "1..2",
            "1.2.",
            "١.٢",
            "1" * 65,
            "sha256-1",
        ]
    ),
    st.from_regex(r"[0-9.]{0,70}", fullmatch=True),
)


def instance(study: str, series: str, sop: str) -> Instance:
    return Instance(
        orthanc_id="",
        attachment_uuid="",
        sop_instance_uid=SopInstanceUid(sop),
        sop_class_uid="",
        series_instance_uid=SeriesInstanceUid(series),
        study_instance_uid=StudyInstanceUid(study),
        transfer_syntax_uid="",
        modality="",
        size=0,
        md5="",
        calling_ae_title="",
        called_ae_title="",
        remote_address="",
        received_at=Timestamp(0.0),
        number=InstanceNumber(1),
    )


def manifest(**changes: object) -> Manifest:
    member = Member("1.2/1.3/1.4.dcm", "1.4", "1.3", "1.2.840", "1.2.840.1", 3, "ab", "cd", 5.0)
    made = Manifest(
        FORMAT, "clinic", KEY, NOW, ("age1x",), 9, "ef", "1.2", StudyFacts(patient_name="Ä^Ö"), (member,)
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@given(hostile, hostile, hostile)
@example("../../etc/passwd", "..", "")
def test_member_names_any_uids_are_safe_relative_paths(study: str, series: str, sop: str) -> None:
    (name,) = member_names([instance(study, series, sop)])
    assert is_member_name(name)
    assert name.isascii()
    parts = PurePosixPath(name).parts
    assert len(parts) == 3
    assert not {"..", ".", "/"} & set(parts)
    assert len(name) <= 220


@given(st.lists(st.tuples(hostile, hostile, hostile), max_size=8))
def test_member_names_any_instances_are_distinct(uids: list[tuple[str, str, str]]) -> None:
    names = member_names([instance(*item) for item in (*uids, *uids)])
    assert len(set(names)) == len(names)
    assert all(map(is_member_name, names))


@given(hostile, hostile)
def test_name_part_different_uids_differ(first: str, second: str) -> None:
    assert (name_part(first) == name_part(second)) == (first == second)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6))
def test_is_standard_uid_components_without_leading_zeros_is_true(components: list[int]) -> None:
    uid = ".".join(map(str, components))
    assert is_standard_uid(uid)
    assert name_part(uid) == uid
    assert not is_standard_uid(uid + ".007")


def test_keys_for_a_moment_hold_its_date_and_the_token_alone() -> None:
    assert f"packs/2023/11/14/{TOKEN}.tar.zst.age" == KEY
    assert f"manifests/2023/11/14/{TOKEN}.json.age" == MANIFEST_KEY
    assert pack_key_of(MANIFEST_KEY) == KEY


@pytest.mark.parametrize("token", ["", "abc", "../" * 11, TOKEN.upper(), TOKEN + "\n"])
def test_keys_for_other_than_128_random_bits_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="32 lower-case hex digits"):
        keys_for(NOW, token)


@given(st.builds(StudyFacts, *[st.text(max_size=20)] * 7))
def test_manifest_any_patient_comes_back_equal(study: StudyFacts) -> None:
    written = manifest_to_json(manifest(study=study))
    assert manifest_from_json(written, MANIFEST_KEY) == manifest(study=study)
    assert re.search(r"[^\x09-\x7e]", written.decode("ascii")) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff", "no JSON"),
        (b"[]", "dictionary"),
        (b"{}", "required"),
        (manifest_to_json(manifest(format="understudy-pack-9")), "its format"),
        (manifest_to_json(manifest(pack_key=KEY.replace("0", "1"))), "another pack"),
        (manifest_to_json(manifest(members=manifest().members * 2)), "twice"),
        (
            manifest_to_json(manifest(members=(replace(manifest().members[0], name="../../etc/passwd"),))),
            "no name of a member",
        ),
    ],
)
def test_manifest_that_contradicts_itself_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        manifest_from_json(content, MANIFEST_KEY)


def test_manifest_with_more_than_this_version_knows_is_read() -> None:
    document = json.loads(manifest_to_json(manifest()))
    document["later"] = {"x": 1}
    assert manifest_from_json(json.dumps(document).encode(), MANIFEST_KEY) == manifest()


def test_digests_of_known_bytes_are_the_published_ones() -> None:
    found = digests(b"abc")
    assert found.size == 3
    assert found.md5 == "900150983cd24fb0d6963f7d28e17f72"
    assert found.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
