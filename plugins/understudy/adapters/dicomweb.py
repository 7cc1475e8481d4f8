"""A client for one DICOMweb server: STOW-RS with each instance's outcome, QIDO-RS, WADO-RS (DICOM PS3.18).

Each instance is stored by its own request, so that the answer is about this instance only.
"""

import base64
import json
import ssl
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from understudy.adapters.part10 import BrokenFileError, head_length
from understudy.adapters.pieces import pieces
from understudy.adapters.tls import ClientTls, TlsSettingsError, tls_words
from understudy.core.model import Instance, SopInstanceUid, StudyInstanceUid
from understudy.core.outcomes import Loss, Stow, Verdict, of_http, of_loss, of_stow
from understudy.core.pace import Arrival
from understudy.core.packing import is_standard_uid
from understudy.core.ports import FileToSend, HolderUnavailableError, UnansweredError

_JSON = "application/dicom+json"
_MAX_ANSWER = 2**24
"""Largest answer that is read, in bytes."""
_PAGE = 1000
"""Instances that one QIDO-RS request asks for."""
_MOST_OF_STUDY = 200_000
"""Maximum number of instances of a study; a longer list counts as endless. Large studies have some 20,000."""

_SOP_INSTANCE_UID = "00080018"
_REFERENCED, _FAILED = "00081199", "00081198"
_REFERENCED_UID, _WARNING_REASON, _FAILURE_REASON = "00081155", "00081196", "00081197"

_HEARD = (200, 202, 400, 409)
"""Statuses whose body may tell the instance's outcome (DICOM PS3.18 table 10.5.3-1)."""
_OF_THE_INSTANCE = frozenset({400, 409, 413, 415, 500, *range(200, 300)})
"""Statuses that the instance may have caused; any other status is about the server."""

_REFUSALS = frozenset({401, 403, 404, 405, 406, 410, 501})
"""Statuses that refuse a question for good; other errors may be temporary (RFC 9110 15)."""

_FILES_HINT = "fix the files that the configuration names for it"


class DicomWebServer:
    """One server; each call raises HolderUnavailableError if the server does not do its part."""

    def __init__(
        self,
        name: str,
        url: str,
        *,
        timeout: float,
        tls: ClientTls | None = None,
        credentials: Path | None = None,
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._tls = tls
        self._credentials = credentials

    @property
    def ae_title(self) -> str:
        """The name of this server in proofs: its URL."""
        return self.url

    def instances(self, study: StudyInstanceUid) -> set[SopInstanceUid]:
        """Return the SOP Instance UIDs of a study, asked page by page (QIDO-RS, DICOM PS3.18 10.6)."""
        found: set[SopInstanceUid] = set()
        with self._client() as client:
            while True:
                page = self._page(client, study, len(found))
                if not page - found:
                    return found
                found |= page
                if len(found) > _MOST_OF_STUDY:
                    words = f"it lists {len(found)} images of a study by QIDO-RS, and no end of them"
                    raise UnansweredError(
                        self.name, words, "look at the log of that system: a whole list has an end"
                    )

    def fetch(self, instance: Instance) -> bytes | None:
        """Return the data set as stored there, None if the server does not give it (WADO-RS, PS3.18 10.4)."""
        uids = (instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)
        if not all(is_standard_uid(uid) for uid in uids):
            # The UIDs are put into the path, where a non-standard UID could lead to another resource.
            return None
        path = "/studies/{}/series/{}/instances/{}".format(*uids)
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        most = 2 * instance.size + _MAX_ANSWER
        try:
            with self._client() as client:
                status, body = _exchange(
                    client, self._timeout, "GET", path, most=most, headers={"Accept": accept}
                )
        except httpx.HTTPError as error:
            verdict = _lost(error)
            raise self.unavailable(f"WADO-RS: {verdict.reason}", verdict.hint) from error
        if status in (404, 410):
            return None
        if status != 200:
            verdict = of_http(status)
            raise self.unavailable(f"WADO-RS: {verdict.reason}", verdict.hint)
        return _first_data_set(body)

    @contextmanager
    def storing(self, pairs: Collection[tuple[str, str]]) -> Iterator["StowConnection"]:
        """Give a connection for STOW-RS; nothing is negotiated, so `pairs` is not used."""
        with self._client() as client:
            yield StowConnection(self, client, self._timeout)

    def unavailable(self, reason: str, hint: str) -> HolderUnavailableError:
        """Return a HolderUnavailableError for this server."""
        return HolderUnavailableError(self.name, reason, hint)

    def _page(self, client: httpx.Client, study: StudyInstanceUid, offset: int) -> set[SopInstanceUid]:
        # The UID is in the query: in the path, a non-standard UID could lead to another resource.
        query = {
            "StudyInstanceUID": study,
            "includefield": _SOP_INSTANCE_UID,
            "limit": _PAGE,
            "offset": offset,
        }
        try:
            status, body = _exchange(client, self._timeout, "GET", "/instances", params=query)
        except httpx.HTTPError as error:
            verdict = _lost(error)
            raise self.unavailable(f"QIDO-RS: {verdict.reason}", verdict.hint) from error
        if status == 204:
            return set()
        if status != 200:
            verdict = of_http(status)
            kind = UnansweredError if status in _REFUSALS else HolderUnavailableError
            raise kind(self.name, f"QIDO-RS: {verdict.reason}", verdict.hint)
        uids = [_value(item, _SOP_INSTANCE_UID) for item in _items(body)]
        if not all(uids) or (not uids and body.strip() != b"[]"):
            words = "it sent an answer to QIDO-RS that cannot be read"
            raise UnansweredError(self.name, words, "look at the log of that system")
        return {SopInstanceUid(str(uid)) for uid in uids}

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        headers = {"Accept": _JSON}
        try:
            verify: ssl.SSLContext | bool = True if self._tls is None else self._tls.context()
            if self._credentials is not None:
                headers["Authorization"] = _authorization(self._credentials)
        except TlsSettingsError as error:
            raise self.unavailable(str(error), _FILES_HINT) from error
        except (OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or str(error)
            raise self.unavailable(f"the credentials cannot be used: {words}", _FILES_HINT) from error
        with httpx.Client(
            base_url=self.url,
            verify=verify,
            timeout=self._timeout,
            headers=headers,
            follow_redirects=False,
            trust_env=False,
        ) as client:
            yield client


class StowConnection:
    """A connection over which instances are stored, one request each."""

    def __init__(self, server: DicomWebServer, client: httpx.Client, timeout: float) -> None:
        self._server = server
        self._client = client
        self._timeout = timeout
        self.is_open = True
        """Whether more files can be sent over it."""

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Return True: only the server's answer tells what it accepts."""
        return True

    def store(self, file: FileToSend) -> Verdict:
        """Send one file unchanged and return the outcome.

        Raises HolderUnavailableError if the answer is about the server and not about the instance.
        """
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(head) + file.size + len(tail)),
        }
        try:
            status, body = _exchange(
                self._client,
                self._timeout,
                "POST",
                "/studies",
                content=_in_pieces(head, file.content, tail),
                headers=headers,
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            verdict = _lost(error)
            raise self._server.unavailable(f"STOW-RS: {verdict.reason}", verdict.hint) from error
        except httpx.HTTPError as error:
            self.is_open = False
            return _lost(error)
        if status not in _OF_THE_INSTANCE:
            verdict = of_http(status)
            raise self._server.unavailable(f"STOW-RS: {verdict.reason}", verdict.hint)
        heard = _heard(body, file.sop_instance_uid) if status in _HEARD else None
        return heard or (of_stow(Stow.NOT_MENTIONED, None) if _items(body) else of_http(status))


def _exchange(
    client: httpx.Client, timeout: float, method: str, path: str, *, most: int = _MAX_ANSWER, **request: Any
) -> tuple[int, bytes]:
    """Return status and body; the time-out limits silence, and an answer that arrives too slowly."""
    body = bytearray()
    with client.stream(method, path, **request) as response:
        progress = Arrival(timeout, time.monotonic())
        for part in response.iter_bytes():
            body += part
            now = time.monotonic()
            progress.took(len(part), now)
            if len(body) > most or progress.left(now) <= 0:
                raise httpx.ReadTimeout("an answer without an end")
        return response.status_code, bytes(body)


def _in_pieces(head: bytes, file: BinaryIO, tail: bytes) -> Iterator[bytes]:
    yield head
    yield from pieces(file)
    yield tail


def _first_data_set(body: bytes) -> bytes | None:
    """Return the data set in the first part of a multipart answer, None if that is no DICOM file."""
    boundary, _, rest = body.lstrip(b"\r\n").partition(b"\r\n")
    _, _, part = rest.partition(b"\r\n\r\n")
    file, ending, _ = part.rpartition(b"\r\n" + boundary)
    try:
        start = head_length(BytesIO(file), len(file))
        return file[start:] if boundary.startswith(b"--") and ending else None
    except BrokenFileError:
        return None


def _heard(body: bytes, sop_instance_uid: str) -> Verdict | None:
    """Return the instance's outcome by the body, None if it is not mentioned; a failure takes precedence."""
    for document in _items(body):
        for item in _sequence(document, _FAILED):
            if _value(item, _REFERENCED_UID) == sop_instance_uid:
                return of_stow(Stow.FAILED, _number(item, _FAILURE_REASON))
    for document in _items(body):
        for item in _sequence(document, _REFERENCED):
            if _value(item, _REFERENCED_UID) == sop_instance_uid:
                reason = _number(item, _WARNING_REASON)
                return of_stow(Stow.REFERENCED if reason is None else Stow.WARNED, reason)
    return None


def _items(body: bytes) -> Sequence[Mapping[str, Any]]:
    """Return the data sets of a DICOM JSON document, none if it is not one (DICOM PS3.18 F.2)."""
    try:
        document = json.loads(body)
    except ValueError:
        return ()
    items = document if isinstance(document, list) else [document]
    return items if all(isinstance(item, dict) for item in items) else ()


def _sequence(item: Mapping[str, Any], tag: str) -> Sequence[Mapping[str, Any]]:
    values = _values(item, tag)
    return [value for value in values if isinstance(value, dict)]


def _values(item: Mapping[str, Any], tag: str) -> Sequence[Any]:
    attribute = item.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else ()


def _value(item: Mapping[str, Any], tag: str) -> object:
    values = _values(item, tag)
    return values[0] if values else None


def _number(item: Mapping[str, Any], tag: str) -> int | None:
    value = _value(item, tag)
    return value if isinstance(value, int) and 0 <= value <= 0xFFFF else None


def _lost(error: httpx.HTTPError) -> Verdict:
    """Return the outcome of a request that got no answer."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return of_loss(Loss.UNTRUSTED, tls_words(cause))
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return of_loss(Loss.UNREACHABLE, str(error) or "it does not answer")
    if isinstance(error, httpx.TimeoutException):
        return of_loss(Loss.TIMED_OUT)
    if isinstance(error, httpx.RemoteProtocolError):
        return of_loss(Loss.GARBLED)
    return of_loss(Loss.CLOSED)


def _authorization(path: Path) -> str:
    """Return the Authorization header for the account in a JSON file {"username", "password"} or {"token"}.

    Raises OSError, and ValueError without any text of the file.
    """
    try:
        account = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        # The parser's message could quote a secret.
        raise ValueError("it is no JSON") from None
    if isinstance(account, dict) and set(account) == {"token"}:
        return f"Bearer {account['token']}"
    if isinstance(account, dict) and set(account) == {"username", "password"}:
        pair = f"{account['username']}:{account['password']}"
        return "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    raise ValueError("it holds neither username and password nor a token")
