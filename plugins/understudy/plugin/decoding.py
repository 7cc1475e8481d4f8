"""Decides whether a REST call may make Orthanc decode or render an image, before Orthanc looks at it.

Orthanc decodes an image of any claimed size, renders at any size that a call asks for, and crashes at a frame
number that an image does not have. A call that is not in this table has only the memory limit of the process
(docker/reception/memory.cc).

Rule 1: the stored file is read, so that images stored by an earlier version of this program are judged, too.
Rule 2: a call that is not in the table decodes nothing, or goes through whole series.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock

from understudy.plugin.pixels import Pixels

MAX_SIDE = 8192
"""Largest side of a rendered image, in pixels; the largest screens for mammography have 4096."""
_FRAME_SHARE, _WHOLE_SHARE = 16, 8
"""One decoded frame, which is copied several times, may take 1/16 of the memory, and all frames 1/8."""
_REMEMBERED = 4096

_SIZES = ("width", "height", "viewport", "rows", "columns")
"""Query arguments that set the size of the answered image (Orthanc's REST, PS3.18 8.3.5.1.3 and 9.5.1)."""
_WHOLE_AT_ONCE = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 92, 93))
"""Transfer syntaxes for which GDCM decodes all frames, even if only one is asked for."""
_RENDERED = "preview|rendered|image-uint8|image-uint16|image-int16|matlab|numpy"
_CORE = re.compile(rf"/instances/([^/]+)/(?:frames/([^/]*)/)?({_RENDERED}|raw|raw\.gz|file|modify|anonymize)")
_WEB = re.compile(
    r"/dicom-web/studies/[^/]*/series/[^/]*/instances/([^/]*)(?:/frames(?:/([^/]*))?)?(/rendered|/thumbnail)?"
)
_WADO = "/wado"
_SYNTAX = re.compile(r'transfer-syntax\s*=\s*"?([^\s";,]*)')


@dataclass(frozen=True, slots=True)
class Budget:
    """How large decoded images may be, in bytes."""

    frame: int
    whole: int

    @classmethod
    def of(cls, memory: int) -> "Budget":
        """Return the budget of a service with `memory` bytes of memory."""
        return cls(memory // _FRAME_SHARE, memory // _WHOLE_SHARE)

    def frame_refusal(self, image: Pixels) -> str | None:
        """Return why no program should decode a frame of this image, None if it may be decoded."""
        if image.fault is not None:
            return image.fault
        if image.frame_bytes <= self.frame:
            return None
        return f"a decoded frame has {image.frame_bytes} bytes, more than {self.frame}"

    def refusal(self, image: Pixels) -> str | None:
        """Return why Orthanc must not decode one frame of this image, None if it may."""
        if image.transfer_syntax_uid in _WHOLE_AT_ONCE:
            return self.whole_refusal(image)
        return self.frame_refusal(image)

    def whole_refusal(self, image: Pixels) -> str | None:
        """Return why Orthanc must not decode all frames, as transcoding does, None if it may."""
        if (reason := self.frame_refusal(image)) is not None:
            return reason
        if image.total_bytes <= self.whole:
            return None
        return f"its {image.frames} decoded frames have {image.total_bytes} bytes, more than {self.whole}"


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a call asks for, of one instance or of each instance that has a SOP Instance UID."""

    orthanc_id: str = ""
    sop_instance_uid: str = ""
    frames: Sequence[int] = ()
    """Counted from 0; -1 stands for a number that no image has."""
    decodes: bool = False
    shows: bool = False
    """Whether a frame is sent as it is stored, and the reader's program decodes it."""
    transcodes_to: str | None = None
    """The transfer syntax, `*` for any, None if the file is sent as it is stored."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a stored file says about its image."""

    sop_instance_uid: str
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class DecodingRefusal:
    """Why a call is refused, and the HTTP status of the answer."""

    orthanc_id: str
    """Empty if the refusal does not depend on an instance."""
    status: HTTPStatus
    reason: str


@dataclass(frozen=True, slots=True)
class Images:
    """The questions to Orthanc; each may raise OSError."""

    instances: Callable[[str], Sequence[str]]
    """Orthanc's identifiers of every instance that has the SOP Instance UID."""
    image: Callable[[str], Image | None]
    """What the stored file of an instance says, None if there is no such instance."""


class Decoding:
    """Judges calls, and caches what files claim."""

    def __init__(self, budget: Budget, images: Images) -> None:
        self._budget = budget
        self._images = images
        self._known: OrderedDict[str, Image] = OrderedDict()
        self._lock = Lock()

    def forget(self, orthanc_id: str) -> None:
        """Drop the cached claims of an instance; its file may have been replaced by a store."""
        with self._lock:
            self._known.pop(orthanc_id, None)

    def judge(
        self, path: str, arguments: Mapping[str, str], headers: Mapping[str, str]
    ) -> DecodingRefusal | tuple[str, ...]:
        """Return why a call is refused, or the SOP Instance UIDs of the images that Orthanc decodes for it.

        `path` is decoded and canonical. Raises OSError if a stored file cannot be read.
        """
        if (reason := _oversized(arguments)) is not None:
            return DecodingRefusal("", HTTPStatus.BAD_REQUEST, reason)
        wish = _wish(path, arguments, headers)
        if wish is None:
            return ()
        known = [wish.orthanc_id] if wish.orthanc_id else self._images.instances(wish.sop_instance_uid)
        decoded: list[str] = []
        for orthanc_id in known:
            image = self._image(orthanc_id)
            if image is None:
                continue
            if any(not 0 <= frame < image.pixels.frames for frame in wish.frames):
                reason = f"it has {image.pixels.frames} frames, and the request names another one"
                return DecodingRefusal(orthanc_id, HTTPStatus.NOT_FOUND, reason)
            if (found := self._too_large(wish, image.pixels)) is not None:
                return DecodingRefusal(orthanc_id, HTTPStatus.UNPROCESSABLE_ENTITY, found)
            if wish.decodes or _transcodes(wish, image.pixels):
                decoded.append(image.sop_instance_uid)
        return tuple(decoded)

    def _too_large(self, wish: _Wish, pixels: Pixels) -> str | None:
        if _transcodes(wish, pixels):
            return self._budget.whole_refusal(pixels)
        if wish.decodes:
            return self._budget.refusal(pixels)
        return self._budget.frame_refusal(pixels) if wish.shows else None

    def _image(self, orthanc_id: str) -> Image | None:
        with self._lock:
            if (known := self._known.get(orthanc_id)) is not None:
                self._known.move_to_end(orthanc_id)
                return known
        found = self._images.image(orthanc_id)
        if found is not None:
            with self._lock:
                self._known[orthanc_id] = found
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return found


def _transcodes(wish: _Wish, pixels: Pixels) -> bool:
    return wish.transcodes_to is not None and wish.transcodes_to != pixels.transfer_syntax_uid


def _oversized(arguments: Mapping[str, str]) -> str | None:
    for name in _SIZES:
        # A viewport has up to six numbers, all in pixels; any of them may be left out.
        for number in arguments.get(name, "").split(","):
            if number.strip() and not _reasonable(number):
                return f"{name} is not a number up to {MAX_SIDE}"
    return None


def _reasonable(number: str) -> bool:
    try:
        return abs(float(number)) <= MAX_SIDE
    except ValueError:
        return False


def _wish(path: str, arguments: Mapping[str, str], headers: Mapping[str, str]) -> _Wish | None:
    if (found := _CORE.fullmatch(path)) is not None:
        orthanc_id, frame, verb = found.groups()
        return _Wish(
            orthanc_id=orthanc_id,
            frames=() if frame is None else (_frame(frame),),
            decodes=re.fullmatch(_RENDERED, verb) is not None,
            transcodes_to=arguments.get("transcode") or None,
        )
    if (found := _WEB.fullmatch(path)) is not None:
        uid, listed, rendered = found.groups()
        by_frame = "/frames" in path[path.index("/instances/") :]
        wanted = re.split(r",|%2[cC]", listed) if listed is not None else ()
        return _Wish(
            sop_instance_uid=uid,
            frames=tuple(_frame(number, first=1) for number in wanted),
            decodes=rendered is not None,
            shows=by_frame,
            transcodes_to=None if rendered is not None else _accepted(headers),
        )
    if path == _WADO:
        first = arguments.get("frameNumber")
        as_file = arguments.get("contentType", "").strip().lower() == "application/dicom"
        return _Wish(
            sop_instance_uid=arguments.get("objectUID", ""),
            frames=() if first is None else (_frame(first, first=1),),
            decodes=not as_file,
            transcodes_to=(arguments.get("transferSyntax") or None) if as_file else None,
        )
    return None


def _accepted(headers: Mapping[str, str]) -> str | None:
    """Return the transfer syntax that a DICOMweb client accepts, None for any (PS3.18 8.7.3.5.2)."""
    accept = next((value for name, value in headers.items() if name.lower() == "accept"), "")
    named = _SYNTAX.findall(accept.lower())
    if named == ["*"]:
        return None
    return named[0] if len(named) == 1 and named[0] else "1.2.840.10008.1.2.1"


def _frame(number: str, first: int = 0) -> int:
    """Return the frame, counted from 0; -1 if the text is no number."""
    return int(number) - first if re.fullmatch(r"\d{1,9}", number) else -1
