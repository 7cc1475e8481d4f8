"""The meaning of every answer of a holder, or of a missing answer: one table with the standard's sections.

Rule 1: an instance counts as delivered only if the holder said so about this instance.
Rule 2: if the holder may have the instance, the outcome is unknown. A proof is asked for before the instance
is sent again.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

from understudy.core.model import Outcome

__all__ = ["TABLE", "Answer", "Loss", "Row", "Stow", "Verdict"]


class Answer(Enum):
    """The kind of answer from which an outcome is read."""

    STATUS = "status of C-STORE"
    CONTEXT = "presentation context"
    REJECTION = "rejected association"
    LOSS = "no answer"
    HTTP = "status of HTTP"
    STOW = "body of STOW-RS"


class Loss(IntEnum):
    """Why the answer for an instance did not come; the value is the code in the table."""

    TIMED_OUT = 1
    ABORTED_BY_USER = 2
    ABORTED_BY_PROVIDER = 3
    CLOSED = 4
    GARBLED = 5
    NOT_SENT = 6
    UNREACHABLE = 7
    UNTRUSTED = 8


class Stow(IntEnum):
    """What the body of a STOW-RS answer says about one instance; the value is the code in the table."""

    REFERENCED = 1
    WARNED = 2
    FAILED = 3
    NOT_MENTIONED = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one instance, with the reason in words and what a person can do about it."""

    outcome: Outcome
    reason: str
    hint: str = ""
    doubted: bool = False
    """Whether the outcome counts only after the instance was sent again, alone on an association."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the meaning of answers with a code from `low` to `high`.

    A `doubted` answer counts only if it is the same after the instance was sent alone on an association.
    """

    answer: Answer
    low: int
    high: int
    outcome: Outcome
    words: str
    section: str
    hint: str = ""
    doubted: bool = False


_DELIVERED, _ALTERED, _CONFLICT = Outcome.DELIVERED, Outcome.DELIVERED_ALTERED, Outcome.CONFLICT
_RETRY, _REFUSED, _UNKNOWN = Outcome.RETRY, Outcome.REFUSED, Outcome.UNKNOWN

_OBJECT = "look for this SOP Instance UID in the receiver's log, fix the cause, then replay"
_CLASS = "let the receiver accept this SOP class, then replay; or waive it"
_SYNTAX = "let the receiver accept this transfer syntax, or let the route transcode, then replay"
_RIGHTS = "let the receiver accept images from our AE title, then replay"
_TITLES = "compare our AE title, its AE title and our address with the configuration of that device"
_LOG = "look at the receiver's log"
_ADDRESS = "check that it runs and that its address and port are right"
_URL = "check the address and the credentials of this destination"

TABLE: tuple[Row, ...] = (
    # The first matching row counts.
    Row(Answer.STATUS, 0x0000, 0x0000, _DELIVERED, "stored", "PS3.4 B.2.3"),
    Row(Answer.STATUS, 0x0001, 0x0001, _ALTERED, "stored with a warning", "PS3.7 C.4"),
    Row(Answer.STATUS, 0x0107, 0x0107, _ALTERED, "stored, attributes left out", "PS3.7 C.4"),
    Row(Answer.STATUS, 0x0116, 0x0116, _ALTERED, "stored, a value out of range", "PS3.7 C.4"),
    Row(Answer.STATUS, 0xB000, 0xB000, _ALTERED, "stored, data elements coerced", "PS3.4 B.2.3"),
    Row(Answer.STATUS, 0xB006, 0xB006, _ALTERED, "stored, elements discarded", "PS3.4 B.2.3"),
    Row(Answer.STATUS, 0xB007, 0xB007, _ALTERED, "stored, does not match its SOP class", "PS3.4 B.2.3"),
    Row(Answer.STATUS, 0xB000, 0xBFFF, _ALTERED, "stored with a warning", "PS3.7 C.4"),
    Row(
        Answer.STATUS,
        0x0111,
        0x0111,
        _CONFLICT,
        "it has another object of this UID, or this one",
        "PS3.7 C.5",
        "compare the two; waive this one, or delete the other one there and replay",
    ),
    Row(Answer.STATUS, 0x0110, 0x0110, _RETRY, "processing failure", "PS3.7 C.5"),
    Row(Answer.STATUS, 0x0210, 0x0212, _RETRY, "the request was not understood", "PS3.7 C.5"),
    Row(Answer.STATUS, 0x0213, 0x0213, _RETRY, "resource limitation", "PS3.7 C.5"),
    Row(Answer.STATUS, 0xA700, 0xA7FF, _RETRY, "out of resources", "PS3.4 B.2.3"),
    Row(Answer.STATUS, 0x0112, 0x0112, _REFUSED, "no such SOP instance", "PS3.7 C.5", _OBJECT),
    Row(Answer.STATUS, 0x0117, 0x0117, _REFUSED, "invalid SOP instance", "PS3.7 C.5", _OBJECT),
    Row(Answer.STATUS, 0x0118, 0x0118, _REFUSED, "no such SOP class", "PS3.7 C.5", _CLASS),
    Row(Answer.STATUS, 0x0119, 0x0119, _REFUSED, "class and instance conflict", "PS3.7 C.5", _OBJECT),
    Row(Answer.STATUS, 0x0122, 0x0122, _REFUSED, "SOP class not supported", "PS3.7 C.5", _CLASS),
    Row(Answer.STATUS, 0x0124, 0x0124, _REFUSED, "not authorised", "PS3.7 C.5", _RIGHTS),
    Row(Answer.STATUS, 0xA800, 0xA8FF, _REFUSED, "SOP class not supported", "PS3.18 I.2", _CLASS),
    Row(Answer.STATUS, 0xA900, 0xA9FF, _REFUSED, "does not match its SOP class", "PS3.4 B.2.3", _OBJECT),
    Row(Answer.STATUS, 0xC122, 0xC122, _REFUSED, "transfer syntax not supported", "PS3.18 I.2", _SYNTAX),
    # A receiver with a fault of its own sends these too, and some repeat it until the association ends.
    Row(
        Answer.STATUS, 0xC000, 0xCFFF, _REFUSED, "cannot understand it", "PS3.4 B.2.3", _OBJECT, doubted=True
    ),
    Row(Answer.STATUS, 0x0000, 0xFFFF, _REFUSED, "a status that the standard does not know", "PS3.7 C", _LOG),
    # The result for one pair of SOP class and transfer syntax in an accepted association.
    Row(Answer.CONTEXT, 1, 1, _REFUSED, "rejected by the user", "PS3.8 9.3.3.2", _CLASS),
    Row(Answer.CONTEXT, 2, 2, _RETRY, "rejected by the provider", "PS3.8 9.3.3.2", _LOG),
    Row(Answer.CONTEXT, 3, 3, _REFUSED, "SOP class not supported", "PS3.8 9.3.3.2", _CLASS),
    Row(Answer.CONTEXT, 4, 4, _REFUSED, "transfer syntax not supported", "PS3.8 9.3.3.2", _SYNTAX),
    Row(Answer.CONTEXT, 0, 255, _RETRY, "not answered", "PS3.8 9.3.3.2", _LOG),
    # Source (first two digits) and reason (last two) in hexadecimal. No instance is to blame: the lane waits.
    Row(Answer.REJECTION, 0x0101, 0x0101, _RETRY, "no reason given", "PS3.8 9.3.4", _TITLES),
    Row(Answer.REJECTION, 0x0102, 0x0102, _RETRY, "application context unknown", "PS3.8 9.3.4", _LOG),
    Row(Answer.REJECTION, 0x0103, 0x0103, _RETRY, "calling AE title not recognised", "PS3.8 9.3.4", _TITLES),
    Row(Answer.REJECTION, 0x0107, 0x0107, _RETRY, "called AE title not recognised", "PS3.8 9.3.4", _TITLES),
    Row(Answer.REJECTION, 0x0201, 0x0201, _RETRY, "no reason given by ACSE", "PS3.8 9.3.4", _TITLES),
    Row(Answer.REJECTION, 0x0202, 0x0202, _RETRY, "protocol version not supported", "PS3.8 9.3.4", _LOG),
    Row(
        Answer.REJECTION,
        0x0301,
        0x0301,
        _RETRY,
        "temporary congestion",
        "PS3.8 9.3.4",
        "nothing to do: it is tried again by itself",
    ),
    Row(
        Answer.REJECTION,
        0x0302,
        0x0302,
        _RETRY,
        "local limit exceeded",
        "PS3.8 9.3.4",
        "allow more associations there, or configure fewer here",
    ),
    Row(Answer.REJECTION, 0x0000, 0xFFFF, _RETRY, "a reason that is reserved", "PS3.8 9.3.4", _LOG),
    Row(Answer.LOSS, Loss.TIMED_OUT, Loss.TIMED_OUT, _UNKNOWN, "no answer in time", "PS3.7 9.1.1", _LOG),
    Row(Answer.LOSS, Loss.ABORTED_BY_USER, Loss.ABORTED_BY_USER, _UNKNOWN, "it aborted", "PS3.8 9.3.8", _LOG),
    Row(
        Answer.LOSS,
        Loss.ABORTED_BY_PROVIDER,
        Loss.ABORTED_BY_PROVIDER,
        _UNKNOWN,
        "its network service aborted",
        "PS3.8 9.3.8",
        _LOG,
    ),
    Row(Answer.LOSS, Loss.CLOSED, Loss.CLOSED, _UNKNOWN, "the connection ended", "PS3.8 9.2", _LOG),
    Row(
        Answer.LOSS, Loss.GARBLED, Loss.GARBLED, _UNKNOWN, "its answer breaks the protocol", "PS3.8 9.3", _LOG
    ),
    Row(Answer.LOSS, Loss.NOT_SENT, Loss.NOT_SENT, _RETRY, "not sent: the association ended", "PS3.8 9.2"),
    Row(Answer.LOSS, Loss.UNREACHABLE, Loss.UNREACHABLE, _RETRY, "no connection", "PS3.8 9.1.1", _ADDRESS),
    Row(
        Answer.LOSS,
        Loss.UNTRUSTED,
        Loss.UNTRUSTED,
        _RETRY,
        "TLS failed",
        "PS3.15 B.12",
        "compare the certificates and authorities of both sides, and whether both speak TLS",
    ),
    # 200, 202 and 409 come with a body that has a result for each instance.
    Row(Answer.HTTP, 200, 202, _UNKNOWN, "its body says nothing of the instance", "PS3.18 10.5.3", _LOG),
    Row(Answer.HTTP, 300, 399, _RETRY, "it answers from another address", "PS3.18 8.5", _URL),
    Row(Answer.HTTP, 400, 400, _REFUSED, "bad request", "PS3.18 10.5.3", _OBJECT),
    Row(Answer.HTTP, 401, 407, _RETRY, "access or address is wrong", "PS3.18 8.5", _URL),
    Row(Answer.HTTP, 409, 409, _REFUSED, "it stored none of the request", "PS3.18 10.5.3", _OBJECT),
    Row(
        Answer.HTTP, 413, 413, _REFUSED, "larger than it takes", "PS3.18 8.5", "raise its limit, then replay"
    ),
    Row(Answer.HTTP, 415, 415, _REFUSED, "media type not supported", "PS3.18 10.5.3", _SYNTAX),
    Row(Answer.HTTP, 408, 499, _RETRY, "not now", "PS3.18 8.5", _LOG),
    Row(Answer.HTTP, 500, 599, _RETRY, "a fault or overload of the server", "PS3.18 8.5", _LOG),
    Row(Answer.HTTP, 0, 999, _RETRY, "no answer of STOW-RS", "PS3.18 8.5", _URL),
    Row(Answer.STOW, Stow.REFERENCED, Stow.REFERENCED, _DELIVERED, "stored", "PS3.18 I.2"),
    # A Warning Reason or Failure Reason is looked up among the statuses of C-STORE.
    Row(Answer.STOW, Stow.WARNED, Stow.WARNED, _ALTERED, "stored with a warning", "PS3.18 I.2"),
    Row(Answer.STOW, Stow.FAILED, Stow.FAILED, _UNKNOWN, "failed without a reason", "PS3.18 I.2", _LOG),
    Row(Answer.STOW, Stow.NOT_MENTIONED, Stow.NOT_MENTIONED, _UNKNOWN, "not mentioned", "PS3.18 I.2", _LOG),
)


_ROWS = {answer: tuple(row for row in TABLE if row.answer is answer) for answer in Answer}


_HINTS = {row.words: row.hint for row in TABLE if row.hint}


def hint_of(reason: str) -> str:
    """Return what a person can do about the reason of a Verdict, empty if the table has no hint."""
    return _HINTS.get(reason.partition(" (")[0], "")


def of_status(status: int) -> Verdict:
    """Return the meaning of a DIMSE status of C-STORE, with the status in hexadecimal."""
    return _verdict(Answer.STATUS, status, f"DIMSE status 0x{status:04X}")


def of_context(result: int, sop_class_uid: str, transfer_syntax_uid: str) -> Verdict:
    """Return the meaning of a presentation context that was not accepted."""
    return _verdict(
        Answer.CONTEXT,
        result,
        f"presentation context for SOP class {sop_class_uid} in transfer syntax {transfer_syntax_uid}, "
        f"result {result}",
    )


def of_rejection(result: int, source: int, reason: int) -> Verdict:
    """Return the meaning of a rejected association, with its three numbers (A-ASSOCIATE-RJ)."""
    lasting = {1: "for good", 2: "for now"}.get(result, f"with result {result}")
    return _verdict(
        Answer.REJECTION,
        min(source, 0xFF) << 8 | min(reason, 0xFF),
        f"association rejected {lasting}, source {source}, reason {reason}",
    )


def of_loss(loss: Loss, detail: str = "") -> Verdict:
    """Return the meaning of a missing answer; `detail` is added to the reason."""
    return _verdict(Answer.LOSS, loss, detail)


def of_http(status: int) -> Verdict:
    """Return the meaning of an HTTP status for an instance that the body does not mention."""
    return _verdict(Answer.HTTP, status, f"HTTP status {status}")


def of_stow(answer: Stow, reason: int | None) -> Verdict:
    """Return the meaning of a STOW-RS body; `reason` is its Warning Reason or Failure Reason, if any."""
    if answer is Stow.FAILED and reason is not None:
        found = _row(Answer.STATUS, reason)
        # A failure never counts as stored, whatever number it carries.
        outcome = _UNKNOWN if found.outcome in (_DELIVERED, _ALTERED) else found.outcome
        return Verdict(outcome, f"{found.words} (Failure Reason 0x{reason:04X})", found.hint or _LOG)
    if answer is Stow.WARNED and reason is not None:
        words = _row(Answer.STATUS, reason).words if _is_warning(reason) else "stored with a warning"
        return Verdict(_ALTERED, f"{words} (Warning Reason 0x{reason:04X})")
    return _verdict(Answer.STOW, answer, "STOW-RS")


def _is_warning(status: int) -> bool:
    return _row(Answer.STATUS, status).outcome is _ALTERED


def _row(answer: Answer, code: int) -> Row:
    return next(row for row in _ROWS[answer] if row.low <= code <= row.high)


def _verdict(answer: Answer, code: int, detail: str) -> Verdict:
    row = _row(answer, code)
    words = f"{row.words} ({detail})" if detail else row.words
    return Verdict(row.outcome, words, row.hint, row.doubted)
