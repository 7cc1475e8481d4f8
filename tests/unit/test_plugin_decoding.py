"""Decoding: which calls may make Orthanc decode or render, for every route and every spelling."""

from http import HTTPStatus

import pytest
from understudy.plugin.decoding import MAX_SIDE, Budget, Decoding, DecodingRefusal, Image, Images
from understudy.plugin.pixels import Pixels

GIB = 2**30
BUDGET = Budget.of(2 * GIB)
EXPLICIT, RLE, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
WEB = "/dicom-web/studies/1/series/2/instances/{}"
ANY = {"accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}

STORED = {
    "good": Pixels(RLE, 1, 2**20),
    "ten": Pixels(RLE, 10, 2**20),
    "bomb": Pixels(RLE, 1, 4 * GIB),
    "cine": Pixels(RLE, 600, 2**20),
    "tomo": Pixels(J2K, 60, 27 * 2**20),
    "raw": Pixels(EXPLICIT, 600, 2**20),
}


class Index:
    """Orthanc's index; the SOP Instance UID of an instance is its identifier."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def instances(self, uid: str) -> list[str]:
        return [uid] if uid in STORED else []

    def image(self, orthanc_id: str) -> Image | None:
        self.read.append(orthanc_id)
        return Image(f"uid-{orthanc_id}", STORED[orthanc_id]) if orthanc_id in STORED else None


def decoding(index: Index | None = None) -> Decoding:
    index = index or Index()
    return Decoding(BUDGET, Images(index.instances, index.image))


def judged(path: str, accept: str | None = None, **arguments: str) -> int | tuple[str, ...]:
    """Return the status that a call is refused with, or what it decodes."""
    found = decoding().judge(path, arguments, {} if accept is None else {"accept": accept})
    return int(found.status) if isinstance(found, DecodingRefusal) else found


RENDERERS = ("preview", "rendered", "image-uint8", "image-uint16", "image-int16", "matlab", "numpy")
DECODING_ROUTES = [
    *(f"/instances/{{}}/{verb}" for verb in RENDERERS),
    *(f"/instances/{{}}/frames/0/{verb}" for verb in RENDERERS),
    f"{WEB}/rendered",
    f"{WEB}/thumbnail",
    f"{WEB}/frames/1/rendered",
    f"{WEB}/frames/1/thumbnail",
    f"{WEB}/frames/1",
    f"{WEB}/frames",
    WEB,
]


@pytest.mark.parametrize("route", DECODING_ROUTES)
def test_a_bomb_is_refused_and_a_good_image_is_decoded(route: str) -> None:
    assert judged(route.format("bomb")) == HTTPStatus.UNPROCESSABLE_ENTITY
    assert judged(route.format("good")) == ("uid-good",)
    assert judged(route.format("nobody")) == ()


@pytest.mark.parametrize(
    "verb", ["", "/tags", "/file", "/simplified-tags", "/frames", "/frames/0/raw", "/metadata"]
)
def test_what_decodes_nothing_is_open_for_a_bomb(verb: str) -> None:
    assert judged(f"/instances/bomb{verb}") == ()
    assert judged("/dicom-web/studies/1/series/2/instances/bomb/metadata") == ()


def test_a_bomb_is_not_transcoded_and_given_as_it_is() -> None:
    assert judged("/instances/bomb/file", transcode=EXPLICIT) == HTTPStatus.UNPROCESSABLE_ENTITY
    assert judged("/instances/bomb/file", transcode=RLE) == ()
    assert judged("/instances/good/file", transcode=EXPLICIT) == ("uid-good",)
    assert (
        judged(WEB.format("bomb"), accept='multipart/related; type="application/dicom"; transfer-syntax=*')
        == ()
    )


def test_frames_for_a_viewer_are_given_as_far_as_a_browser_can_decode_one() -> None:
    for name in ("cine", "tomo", "raw", "good"):
        assert judged(WEB.format(name) + "/frames/1", accept=ANY["accept"]) == (), name
    assert judged(WEB.format("bomb") + "/frames/1", accept=ANY["accept"]) == HTTPStatus.UNPROCESSABLE_ENTITY


def test_all_frames_together_count_where_all_are_decoded() -> None:
    assert judged("/instances/cine/preview") == ("uid-cine",), "one frame is decoded"
    assert judged("/instances/tomo/preview") == HTTPStatus.UNPROCESSABLE_ENTITY, "GDCM decodes all"
    assert judged("/instances/cine/file", transcode=EXPLICIT) == HTTPStatus.UNPROCESSABLE_ENTITY
    assert judged(WEB.format("cine") + "/frames/1") == HTTPStatus.UNPROCESSABLE_ENTITY, "transcoded whole"
    assert judged(WEB.format("raw") + "/frames/1") == ()


@pytest.mark.parametrize(
    "accept",
    [
        'multipart/related; type="application/octet-stream"',
        "multipart/related;type=application/octet-stream;transfer-syntax=1.2.840.10008.1.2.1",
        'Multipart/Related; Transfer-Syntax="1.2.840.10008.1.2.1"',
        "multipart/related; transfer-syntax=*, multipart/related; transfer-syntax=1.2.840.10008.1.2.1",
        "*/*",
    ],
)
def test_whatever_makes_it_transcode_is_seen(accept: str) -> None:
    assert judged(WEB.format("cine"), accept=accept) == HTTPStatus.UNPROCESSABLE_ENTITY


@pytest.mark.parametrize(
    "frame", ["1", "10", "-1", "x", "", "999999999999999999999", "4294967296", "0x0", "+0", " 0", "1e0"]
)
@pytest.mark.parametrize("verb", [*RENDERERS, "raw", "raw.gz"])
def test_a_frame_that_is_not_there_is_not_found(frame: str, verb: str) -> None:
    assert judged(f"/instances/good/frames/{frame}/{verb}") == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("frames", ["0", "2", "-1", "1,2", "1,,1", "x", "1%2C2", "1%2c2", "4294967297", ""])
@pytest.mark.parametrize("verb", ["", "/rendered", "/thumbnail"])
def test_a_dicomweb_frame_that_is_not_there_is_not_found(frames: str, verb: str) -> None:
    assert judged(WEB.format("good") + f"/frames/{frames}{verb}") == HTTPStatus.NOT_FOUND


def test_every_frame_that_is_there_is_found() -> None:
    for frame in range(10):
        assert judged(f"/instances/ten/frames/{frame}/preview") == ("uid-ten",)
        assert judged(WEB.format("ten") + f"/frames/{frame + 1}/rendered") == ("uid-ten",)
    assert judged(WEB.format("ten") + "/frames/1,10/rendered") == ("uid-ten",)


def test_wado_uri_is_judged_as_the_others() -> None:
    assert judged("/wado", objectUID="bomb") == HTTPStatus.UNPROCESSABLE_ENTITY
    assert judged("/wado", objectUID="bomb", contentType="application/dicom") == ()
    assert (
        judged("/wado", objectUID="bomb", contentType="application/dicom", transferSyntax=EXPLICIT)
        == HTTPStatus.UNPROCESSABLE_ENTITY
    )
    assert judged("/wado", objectUID="good", frameNumber="2") == HTTPStatus.NOT_FOUND
    assert judged("/wado", objectUID="good", frameNumber="1") == ("uid-good",)


@pytest.mark.parametrize(
    "path", ["/instances/good/rendered", "/instances/good/frames/0/rendered", "/wado", "/studies/x"]
)
@pytest.mark.parametrize("name", ["width", "height", "viewport", "rows", "columns"])
@pytest.mark.parametrize(
    "value",
    [
        str(MAX_SIDE + 1),
        "40000",
        "-40000",
        "1e9",
        "inf",
        "nan",
        "x",
        "512,40000",
        "1,1,0,0,1,99999",
        "0x7fffffff",
    ],
)
def test_an_answer_of_any_size_is_not_made(path: str, name: str, value: str) -> None:
    assert judged(path, **{name: value}) == HTTPStatus.BAD_REQUEST


def test_a_reasonable_size_is_made() -> None:
    assert judged("/instances/good/rendered", width="4096", height="3328") == ("uid-good",)
    assert judged(WEB.format("good") + "/rendered", viewport="512,512,,,64.5,-64") == ("uid-good",)


def test_a_file_is_read_once_until_another_is_stored() -> None:
    index = Index()
    judge = decoding(index)
    for _ in range(3):
        judge.judge("/instances/good/preview", {}, {})
    assert index.read == ["good"]
    judge.forget("good")
    judge.judge("/instances/good/preview", {}, {})
    assert index.read == ["good", "good"]


def test_a_reason_names_numbers_alone() -> None:
    found = decoding().judge("/instances/bomb/preview", {}, {})
    assert found == DecodingRefusal(
        "bomb",
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "a decoded frame has 4294967296 bytes, more than 134217728",
    )


def test_the_budget_follows_the_memory() -> None:
    assert Budget.of(2 * GIB) == Budget(128 * 2**20, 256 * 2**20)
