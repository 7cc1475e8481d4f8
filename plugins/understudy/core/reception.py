"""The refusals by Orthanc's reception in words: by device, with a hint, and as alarms.

Rule 1: a peer controls its AE title, its UIDs and the number of its refusals. So every shown text is escaped
by `visible`, and the number of alarms and of devices that an alarm names is bounded.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from understudy.core.intake import MIB
from understudy.core.model import Timestamp
from understudy.core.text import visible
from understudy.core.views import Alarm, ModalityView, RefusalView, iso

BY_HTTP = "by HTTP, without AE title"
OTHERS = "others, no longer told apart"
"""Stands for an AE title, and is longer than an AE title can be."""

OTHER = "other"
"""Stands for a reason that is not in the table."""

_HOUR = 3600.0
_NAMED = 3
"""Number of devices that an alarm names."""
_LATEST = 253_402_300_799
"""The last second that Python's datetime can represent."""
_DIGITS = 19
_ESCAPED = re.compile("%([0-9A-F]{2})")
"""A byte as docker/reception escapes it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The refusals of one caller for one reason and one SOP class; every text is one printable word."""

    count: int
    last: int
    """In seconds since 1970."""
    calling_ae_title: str
    """A minus sign for HTTP, an asterisk for devices that are no longer counted separately."""
    reason: str
    details: Mapping[str, str]
    """Value by name (class, syntax, instance, bytes). A value may contain commas."""


@dataclass(frozen=True, slots=True)
class _Reason:
    what: str
    hint: str
    keeps_images_out: bool = True


_REASONS = {
    "class": _Reason(
        "a kind of object that is not accepted here",
        "ask the device's vendor for a standard kind of image, and set the device to send that",
    ),
    "syntax": _Reason(
        "images in an encoding that is not accepted here",
        "set the device to send this kind of image as Explicit VR Little Endian, JPEG or JPEG 2000",
    ),
    "alternative": _Reason(
        "one of several encodings that the device offers",
        "do nothing as long as its images arrive: another encoding of the same kind of image was accepted",
        keeps_images_out=False,
    ),
    "uid": _Reason(
        "an image without a valid SOP Instance UID",
        "the device is faulty, tell its vendor: a UID has 1 to 64 characters",
    ),
    "shape": _Reason(
        "an image that cannot be read to its end",
        "send it again; if it is refused again, tell the device's vendor",
    ),
    "large": _Reason(
        "an image larger than the limit",
        "raise UNDERSTUDY_ORTHANC_MEMORY, which the limit follows from, then send the image again",
    ),
    "memory": _Reason(
        "an image for which other large images left no memory",
        "the device sends it again; if this comes often, raise UNDERSTUDY_ORTHANC_MEMORY",
    ),
    "slow": _Reason(
        "an image that arrived too slowly",
        "check the network between the device and the appliance, then send the image again",
    ),
    "parked": _Reason(
        "an image that ended Orthanc twice",
        "`understudy quarantine` lists it, and `understudy quarantine --release UID` lets it in again",
    ),
    "orthanc": _Reason(
        "an image that Orthanc did not store",
        "`docker compose logs orthanc` says why; then send the image again",
    ),
    "message": _Reason(
        "a command or a query that is larger than any real one",
        "do nothing as long as its images arrive; if the device is yours, it is faulty: tell its vendor",
        keeps_images_out=False,
    ),
    "query": _Reason(
        "a query from a device that is not listed as a reader",
        "if the device may read images here, set its `Reads` to true in the configuration",
        keeps_images_out=False,
    ),
}
_SERVICE = _Reason(
    "a service that is not offered here",
    "do nothing as long as its images arrive; or turn the service off at the device",
    keeps_images_out=False,
)
_UNKNOWN = _Reason("an object, for an unknown reason", "`docker compose logs orthanc` may say more")

_STANDARD, _IMAGES = "1.2.840.10008.", "1.2.840.10008.5.1.4.1.1."
"""Prefixes of all UIDs of the standard, and of its SOP classes for C-STORE (PS3.6 annex A)."""


def refusals(lines: Iterable[str]) -> list[Refusal]:
    """Return the refusals in the reception's file (docker/reception/refusals.cc), without damaged lines."""
    found = []
    for line in lines:
        words = line.split()
        if len(words) == 5 and _is_number(words[0]) and _is_number(words[1]) and int(words[1]) <= _LATEST:
            count, last, calling, reason, details = words
            found.append(Refusal(int(count), int(last), calling, reason, _details(details)))
    return found


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= _DIGITS


def _details(text: str) -> dict[str, str]:
    details: dict[str, str] = {}
    name = ""
    for part in text.split(","):
        if "=" in part:
            name, _, details[name] = part.partition("=")
        elif name:
            details[name] += f",{part}"
    return details


def counts(found: Iterable[Refusal]) -> dict[str, int]:
    """Return the number of refusals by reason."""
    total: Counter[str] = Counter()
    for refusal in found:
        total[refusal.reason if refusal.reason in _REASONS else OTHER] += refusal.count
    return dict(total)


def beside(
    views: Sequence[ModalityView],
    found: Iterable[Refusal],
    listed: Collection[str],
    name_of: Callable[[str], str],
) -> list[ModalityView]:
    """Return the devices with their refusals; a device that the edge does not know gets a row.

    Orthanc does not see the device's address. So if several rows have the AE title, the row seen last gets
    the refusals, and rows with accepted associations come before others. `listed` are the AE titles of the
    allow-list; `name_of` returns the name of a UID.
    """
    by_title: dict[str, list[Refusal]] = {}
    for refusal in found:
        by_title.setdefault(_device(refusal), []).append(refusal)
    shown = list(views)
    for title, refused in by_title.items():
        refused.sort(key=lambda refusal: (_reason(refusal).keeps_images_out, refusal.last), reverse=True)
        told = [_view(refusal, name_of) for refusal in refused]
        rows = [at for at, view in enumerate(views) if view.calling_ae_title == title]
        if rows:
            at = max(rows, key=lambda row: (views[row].associations > 0, views[row].last_seen))
            shown[at] = replace(shown[at], refusals=told)
        else:
            seen = [refusal.last for refusal in refused]
            shown.append(
                ModalityView(
                    calling_ae_title=title,
                    called_ae_title="",
                    remote_address="",
                    instances=0,
                    first_seen=Timestamp(min(seen)),
                    last_seen=Timestamp(max(seen)),
                    known=title in listed or title == BY_HTTP,
                    refusals=told,
                )
            )
    return sorted(shown, key=lambda view: view.last_seen, reverse=True)


def alarms(
    found: Iterable[Refusal], listed: Collection[str], waited: Callable[[Timestamp], float]
) -> list[Alarm]:
    """Return one alarm for each reason for which images were refused within the last hour.

    `waited` returns the seconds since a timestamp.
    """
    by_phrase: dict[tuple[str, str], list[Refusal]] = {}
    for refusal in found:
        reason = _reason(refusal)
        if reason.keeps_images_out and waited(Timestamp(refusal.last)) < _HOUR:
            by_phrase.setdefault((reason.what, reason.hint), []).append(refusal)
    return [
        Alarm(
            iso(Timestamp(max(refusal.last for refusal in refused))),
            f"refused within the last hour: {what}, from {_devices(refused, listed)}",
            hint,
        )
        for (what, hint), refused in sorted(by_phrase.items())
    ]


def _devices(refused: Iterable[Refusal], listed: Collection[str]) -> str:
    """Return the names of the first devices: listed ones before others, then the latest first."""
    times: Counter[str] = Counter()
    last: dict[str, int] = {}
    for refusal in refused:
        device = _device(refusal)
        times[device] += refusal.count
        last[device] = max(last.get(device, 0), refusal.last)
    order = sorted(times, key=lambda device: (device not in listed, -last[device]))
    named = [f"{device} ({times[device]} in all)" for device in order[:_NAMED]]
    more = len(order) - len(named)
    return ", ".join(named) + (f" and {more} more: see `understudy modalities`" if more else "")


def _view(refusal: Refusal, name_of: Callable[[str], str]) -> RefusalView:
    reason = _reason(refusal)
    what = reason.what
    size = refusal.details.get("bytes", "")
    if refusal.reason == "large" and _is_number(size):
        # The reception stops at the limit, so the size is the number of bytes that had arrived.
        what = f"an image larger than {int(size) // MIB} MiB"
    sop_class = _uid(refusal, "class")
    about = name_of(sop_class) if sop_class else ""
    if syntaxes := [name_of(one) for one in _uid(refusal, "syntax").split(",") if one]:
        # If the class is not accepted, the encodings do not matter.
        about += f" as {', '.join(syntaxes)}" if refusal.reason != "class" else ""
    return RefusalView(
        reason=refusal.reason if refusal.reason in _REASONS else OTHER,
        what=visible(f"{what}: {about}" if about else what),
        hint=reason.hint,
        count=refusal.count,
        last=iso(Timestamp(refusal.last)),
        sop_class_uid=visible(sop_class),
        keeps_images_out=reason.keeps_images_out,
    )


def _reason(refusal: Refusal) -> _Reason:
    # The class is not known for devices that are no longer counted separately. It then counts as a service,
    # so that a printer causes no alarm.
    sop_class = _uid(refusal, "class") or _STANDARD
    is_service = sop_class.startswith(_STANDARD) and not sop_class.startswith(_IMAGES)
    return _SERVICE if refusal.reason == "class" and is_service else _REASONS.get(refusal.reason, _UNKNOWN)


def _text(word: str) -> str:
    """Return the peer's text from its escaped form of one printable word."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), word)


def _uid(refusal: Refusal, name: str) -> str:
    word = refusal.details.get(name, "-")
    return "" if word == "-" else _text(word)


def _device(refusal: Refusal) -> str:
    word = refusal.calling_ae_title
    if word == "-":
        return BY_HTTP
    return OTHERS if word == "*" else visible(_text(word))
