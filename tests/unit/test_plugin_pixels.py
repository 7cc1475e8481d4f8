"""Pixels: what data sets and compressed frames claim, whichever of them lies."""

import struct
import time
import warnings
import zlib
from importlib import resources
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from understudy.plugin import shape
from understudy.plugin.decoding import Budget
from understudy.plugin.pixels import pixels

from tests import bombs, hostile

MIB = 2**20


@pytest.mark.parametrize("name", bombs.NAMES)
def test_a_bomb_claims_what_a_decoder_would_take(name: str) -> None:
    bomb = bombs.bomb(name, "pixels")
    assert len(bomb.content) < 10_000
    assert pixels(bomb.content).frame_bytes >= 3 * 2**30
    assert pixels(bomb.content).fault is None


def test_no_bomb_gets_by_however_its_claims_are_hidden() -> None:
    for item in bombs.corpus("hidden"):
        assert Budget.of(2 * 2**30).frame_refusal(pixels(item.content)) is not None, item.name


@pytest.mark.parametrize("shape", bombs.HIDDEN)
def test_claims_are_found_wherever_dcmtk_finds_them(shape: str) -> None:
    found = pixels(bombs.bomb("rle", "found", change=bombs.HIDDEN[shape]).content)
    if shape in ("without-rows", "described-behind"):
        assert found.fault is not None
    else:
        assert (found.fault, found.frame_bytes) == (None, 65535 * 65535)


@pytest.mark.parametrize(
    ("vr", "long"),
    [
        *((vr, True) for vr in (b"ZZ", b"OX", b"QQ", b"ox", b"px", b"lt")),
        *((vr, False) for vr in (b"zz", b"Z1", b"??", b"--", b"  ", b"up", b"xs")),
    ],
)
def test_an_unknown_vr_has_the_header_that_dcmtk_reads(vr: bytes, long: bool) -> None:
    """Each of them was stored by Orthanc 1.13 with DCMTK 3.7.0, and shown with its rows."""
    odd = struct.pack("<HH", 0x0021, 0x1011) + vr + (struct.pack("<HI", 0, 4) if long else b"\4\0") + b"abcd"
    found = pixels(bombs.bomb("rle", "vr", change={0x00211011: odd}).content)
    assert (found.fault, found.frame_bytes) == (None, 65535 * 65535)


LOST: dict[str, dict[int, bytes | None]] = {
    "a VR that DCMTK refuses": {0x00211011: struct.pack("<HH", 0x0021, 0x1011) + b"\0\0\4\0abcd"},
    "an end of an item outside": {0x00211011: struct.pack("<HHI", 0xFFFE, 0xE00D, 0)},
    "an end of a sequence outside": {0x00211011: struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)},
    "a sequence without an end": {0x7FE10010: hostile.element(0x7FE10010, "SQ", b"", 0xFFFFFFFF)},
    "an element without an end": {0x7FE10010: hostile.element(0x7FE10010, "OB", b"", 100)},
    "a text of undefined length": {0x00211011: hostile.element(0x00211011, "UT", b"", 0xFFFFFFFF)},
    "a byte behind the pixels": {0x7FE10010: b"\0"},
    "pixels without a delimiter": {0x7FE00010: hostile.element(0x7FE00010, "OB", b"", 0xFFFFFFFF)},
}


@pytest.mark.parametrize("what", LOST)
def test_an_image_that_cannot_be_followed_is_decoded_by_nobody(what: str) -> None:
    harmless = [bombs.frame("jpeg", 64)]
    assert pixels(bombs.bomb("jpeg", "ok", rows=64, columns=64, frames=harmless).content).fault is None
    lost = bombs.bomb("jpeg", "lost", rows=64, columns=64, frames=harmless, change=LOST[what])
    assert pixels(lost.content).fault is not None


@pytest.mark.parametrize("syntax", ["", "1.2.3", "1.2.840.10008.1.2.4.999"])
def test_an_image_in_an_unknown_syntax_is_decoded_by_nobody(syntax: str) -> None:
    """DCMTK guesses at its encoding."""
    content = hostile.header("1.2.3", syntax) + hostile.good("syntax").data_set
    assert pixels(content).fault is not None


def test_the_first_transfer_syntax_counts() -> None:
    meta = hostile.text(0x00020010, "UI", bombs.EXPLICIT) + hostile.text(0x00020010, "UI", bombs.IMPLICIT)
    content = bytes(128) + b"DICM" + meta + hostile.good("two syntaxes").data_set
    assert pixels(content).transfer_syntax_uid == bombs.EXPLICIT
    assert pixels(content).fault is None


def test_the_head_ends_where_its_length_says() -> None:
    """An element of group 2 behind it belongs to the data set, and may name no syntax."""
    implicit = hostile.text(0x00020010, "UI", bombs.IMPLICIT)
    meta = hostile.element(0x00020000, "UL", struct.pack("<I", len(implicit))) + implicit
    behind = struct.pack("<HHI", 0x0002, 0x0012, 4) + b"1.2\0"
    data_set = bombs.uncompressed("group 2", implicit=True).data_set
    assert pixels(bytes(128) + b"DICM" + meta + behind + data_set).fault is None


def test_a_deflated_image_is_followed_to_its_end() -> None:
    data_set = bombs.uncompressed("deflated", rows=1000, columns=1000, pixels=bytes(2_000_000)).data_set
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(data_set) + packer.flush()
    found = pixels(hostile.header("1.2.3", hostile.DEFLATED) + packed)
    assert (found.fault, found.frame_bytes) == (None, 2_000_000)
    assert pixels(hostile.header("1.2.3", hostile.DEFLATED) + packed[:-9]).fault is not None


@pytest.mark.parametrize("name", ["jpeg", "jpeg-ls", "jpeg2000", "htj2k"])
def test_a_frame_that_claims_more_than_its_data_set_is_believed(name: str) -> None:
    assert pixels(bombs.bomb(name, "lying", rows=64, columns=64).content).frame_bytes >= 3 * 2**30


@pytest.mark.parametrize("name", ["jpeg", "jpeg-ls", "jpeg2000"])
def test_the_worst_of_several_frames_counts(name: str) -> None:
    harmless = bombs.frame(name, 64)
    made = bombs.bomb(
        name, "last", rows=64, columns=64, frames=[harmless, harmless, bombs.frame(name, 60000)]
    )
    found = pixels(made.content)
    assert found.frames == 3
    assert found.frame_bytes >= 3 * 2**30


def test_a_jpeg_2000_stream_in_a_jp2_file_is_found() -> None:
    boxes = bytes.fromhex("0000000c6a5020200d0a870a") + bytes.fromhex("000000006a703263")
    made = bombs.bomb(
        "jpeg2000", "boxes", rows=64, columns=64, frames=[boxes + bombs.frame("jpeg2000", 60000)]
    )
    assert pixels(made.content).frame_bytes >= 3 * 2**30


def test_frames_are_counted_from_what_is_there() -> None:
    frame = bombs.frame("jpeg", 64)
    made = bombs.bomb("jpeg", "frames", rows=64, columns=64, frames=[frame, frame], number_of_frames=1000)
    assert pixels(made.content).frames == 2
    assert pixels(hostile.good("one frame").content).frames == 1


@pytest.mark.parametrize("implicit", [False, True])
def test_a_nested_image_is_not_the_image(implicit: bool) -> None:
    """An icon has rows and columns of its own, and may stand in items of any form."""
    made = bombs.uncompressed("icon", rows=64, columns=64, icon=60000, implicit=implicit)
    assert pixels(made.content).frame_bytes == 64 * 64 * 2


@pytest.mark.parametrize("vr", ["US", "UL", "IS"])
def test_rows_in_any_representation_count(vr: str) -> None:
    value = {"US": struct.pack("<H", 60000), "UL": struct.pack("<I", 60000), "IS": b"60000 "}[vr]
    content = hostile.header("1.2.3") + b"".join(
        [
            hostile.element(0x00280010, vr, value),
            hostile.element(0x00280011, "US", struct.pack("<H", 60000)),
            hostile.element(0x00280100, "US", struct.pack("<H", 16)),
        ]
    )
    assert pixels(content).frame_bytes == 60000 * 60000 * 2


def test_digits_in_a_binary_number_are_no_text() -> None:
    content = hostile.header("1.2.3") + hostile.element(0x00280010, "US", b"99")
    content += hostile.element(0x00280011, "US", struct.pack("<H", 2))
    assert pixels(content).frame_bytes == 0x3939 * 2


def test_the_largest_of_several_claims_counts() -> None:
    rows = hostile.element(0x00280010, "US", struct.pack("<H", 65535))
    twice = bombs.bomb("rle", "twice", rows=64, columns=64, change={0x00280012: rows})
    assert pixels(twice.content).frame_bytes == 65535 * 64


@pytest.mark.parametrize("samples", [0, 2, 5, 65535])
def test_impossible_samples_are_decoded_by_nobody(samples: int) -> None:
    """An assertion of GDCM ends the process."""
    change: dict[int, bytes | None] = {
        0x00280002: hostile.element(0x00280002, "US", struct.pack("<H", samples))
    }
    made = bombs.bomb("jpeg2000", "samples", rows=64, columns=64, frames=[b"x"], change=change)
    assert pixels(made.content).fault == f"it has {samples} samples a pixel"


def test_real_files_claim_what_pydicom_reads() -> None:
    looked_at = 0
    folder = Path(str(resources.files("pydicom"))) / "data" / "test_files"
    for path in sorted(folder.glob("*.dcm")):
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                one = pydicom.dcmread(path)
            except Exception:  # noqa: BLE001 - what pydicom cannot read is no valid file
                continue
        # One has a code stream whose header was overwritten on purpose: it does claim terabytes.
        if path.name == "JPEG2000-embedded-sequence-delimiter.dcm":
            continue
        # Its data set is written in Implicit VR, and its head says Explicit VR: Orthanc answers 400.
        if path.name == "SC_rgb_jpeg.dcm":
            assert pixels(content).fault is not None
            continue
        # Others end within an element, and are refused.
        if (
            shape.fault(content) is not None
            or "BitsAllocated" not in one
            or one.file_meta.get("TransferSyntaxUID") is None
        ):
            continue
        found = pixels(content)
        assert found.fault is None, path.name
        bits = max(8, one.BitsAllocated)
        expected = one.Rows * one.Columns * one.SamplesPerPixel * bits // 8
        assert found.frame_bytes >= expected, path.name
        assert found.frame_bytes <= max(expected * 4, 4096), path.name
        looked_at += 1
    assert looked_at > 40


def test_whatever_the_hostile_corpus_has_is_survived_at_once() -> None:
    for item in hostile.corpus("pixels", 4 * MIB):
        began = time.process_time()
        pixels(item.content)
        assert time.process_time() - began < 1, item.name


def test_a_large_image_costs_no_more_than_a_small_one() -> None:
    """The look stands on the way of every store: it may read headers alone."""
    large = hostile.good("large", 64 * MIB).content
    began = time.process_time()
    for _ in range(20):
        pixels(large)
    assert (time.process_time() - began) / 20 < 0.005


def test_fill_bytes_of_any_number_cost_next_to_nothing_and_hide_no_claim() -> None:
    start, header = b"\xff\xd8", bytes.fromhex("c0 0011 08 0fa0 0fa0 03 011100 021100 031100")
    fill = b"\xff" * (50 * MIB)
    for frame, expected in ((start + fill + header, 4000 * 4000 * 3), (start + fill, 64 * 64)):
        content = bombs.bomb("jpeg", "fill", rows=64, columns=64, frames=[frame]).content
        began = time.process_time()
        assert pixels(content).frame_bytes == expected
        assert time.process_time() - began < 1


def test_fragments_are_looked_at_within_a_limit() -> None:
    content = bombs.bomb("rle", "many", rows=64, columns=64, frames=[b"\0\0"] * 1000).content
    assert pixels(content).frames == 1000
    assert encapsulate([b"\0\0"]) in content or len(content) > 8000
