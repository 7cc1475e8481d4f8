"""What a file names itself, from its first bytes: right, or left to Orthanc's parser, never wrong."""

import io
import struct
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from understudy.plugin.sop_instance import names

from tests import bombs, hostile

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
UID_TEXT = "1.2.826.0.1.3680043.8.498.1"


def part10(syntax: UID, uid: str = UID_TEXT) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(
        "",
        {},
        file_meta=meta,
        preamble=b"\0" * 128,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
    )
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = UID(uid)
    dataset.PatientID = "1"
    dataset.StudyInstanceUID = UID("1.2.3.5")
    dataset.SeriesInstanceUID = UID("1.2.3.6")
    output = io.BytesIO()
    dataset.save_as(output, enforce_file_format=True)
    return output.getvalue()


def sop_instance_uid(content: bytes) -> str | None:
    found = names(content)
    return None if found is None else found.sop_instance_uid


def explicit(*elements: tuple[int, int, bytes, bytes]) -> bytes:
    return b"".join(
        struct.pack("<HH2sH", group, number, vr, len(value)) + value for group, number, vr, value in elements
    )


def file_of(*elements: tuple[int, int, bytes, bytes], syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    return b"\0" * 128 + b"DICM" + explicit((2, 0x10, b"UI", syntax)) + explicit(*elements)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_uid_of_the_data_set_is_found_and_not_that_of_the_head(syntax: UID) -> None:
    assert sop_instance_uid(part10(syntax)) == UID_TEXT


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0", b"", b" \0"])
def test_padding_is_no_part_of_the_uid(padding: bytes) -> None:
    assert sop_instance_uid(file_of((8, 0x18, b"UI", b"1.2.3" + padding))) == "1.2.3"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 132,
        part10(ExplicitVRLittleEndian)[128:],
        part10(ExplicitVRLittleEndian)[:300],
        file_of((8, 0x18, b"UI", b"1.2."), syntax=b"1.2.3.4."),
        file_of(),
        file_of((8, 0x18, b"UI", b"")),
        file_of((8, 0x18, b"UI", b"\0\0")),
        file_of((8, 0x20, b"DA", b"20250102")),
        file_of((16, 0x10, b"PN", b"X ")),
        file_of((8, 0x18, b"UI", "1.2.é".encode("latin-1"))),
        file_of((8, 0x18, b"UI", b"1.2\n3.")),
        file_of((8, 0x18, b"UI", b"1" * 300)),
        file_of((8, 0x18, b"UI", b"1.2."), syntax=b"1.2.840.10008.1.2.1.99"),
        # What stands in a sequence is not the file's own.
        file_of() + struct.pack("<HH2sHI", 8, 6, b"SQ", 0, 0xFFFFFFFF) + explicit((8, 0x18, b"UI", b"1.2.")),
    ],
)
def test_what_is_not_plain_to_see_is_left_to_orthanc(content: bytes) -> None:
    assert sop_instance_uid(content) is None


@pytest.mark.parametrize("tag", [0x00080018, 0x0020000D, 0x0020000E])
@pytest.mark.parametrize("value", [None, b"", b"\0\0"])
def test_an_object_without_a_name_is_told(tag: int, value: bytes | None) -> None:
    found = names(bombs.uncompressed("nameless", change={tag: value}).content)
    assert found is not None
    assert not found.complete


@pytest.mark.parametrize("shape", bombs.HIDDEN)
def test_what_stands_before_the_uid_hides_nothing(shape: str) -> None:
    before = [whole for whole in bombs.HIDDEN[shape].values() if whole is not None]
    made = hostile.good("hidden")
    found = names(hostile.header(made.uid) + b"".join(before) + made.data_set)
    assert found is not None
    assert (found.complete, found.sop_instance_uid) == (True, made.uid)


def test_the_first_of_two_uids_counts() -> None:
    both = ((8, 0x18, b"UI", b"1.2."), (8, 0x18, b"UI", b"9.9."))
    assert sop_instance_uid(file_of(*both)) == "1.2."


def test_a_sequence_with_a_length_is_stepped_over() -> None:
    inner = explicit((8, 0x18, b"UI", b"9.9."))
    sequence = struct.pack("<HH2sHI", 8, 6, b"SQ", 0, len(inner)) + inner
    assert sop_instance_uid(file_of() + sequence + explicit((8, 0x18, b"UI", b"1.2."))) == "1.2."


def test_a_deflate_bomb_costs_nothing() -> None:
    import zlib

    bomb = zlib.compress(b"\0" * 2**26, wbits=-15)
    began = time.thread_time()
    assert sop_instance_uid(file_of(syntax=b"1.2.840.10008.1.2.1.99") + bomb) is None
    assert time.thread_time() - began < 0.1


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=20), st.integers(0, 700))
def test_damaged_files_never_raise(changes: Sequence[tuple[int, int]], length: int) -> None:
    content = bytearray(part10(ExplicitVRLittleEndian))
    for offset, value in changes:
        content[offset % len(content)] = value
    found = sop_instance_uid(bytes(content[:length]))
    assert found is None or found.isprintable()
