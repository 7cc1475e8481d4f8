"""Connects Orthanc to Understudy: durable acknowledgement, kept versions, roles, REST passthrough, wake-up.

This is the only module that imports `orthanc`. An exception at import stops Orthanc. This is intended:
Orthanc must not accept images without the durable acknowledgement.
"""

import ctypes
import hashlib
import json
import mmap
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orthanc
from understudy.plugin import lists, passthrough
from understudy.plugin.decoding import Budget, Decoding, DecodingRefusal, Image, Images
from understudy.plugin.durability import (
    DurableAcknowledgement,
    StoreStatus,
    one_folder_a_file_system,
    sync_log,
    write_ahead_log,
)
from understudy.plugin.elements import is_part10
from understudy.plugin.identity import Caller, identify
from understudy.plugin.memory import own_limit
from understudy.plugin.parking import PARKING, Parking, Suspect
from understudy.plugin.pixels import pixels
from understudy.plugin.probe import PROBED, is_probe, try_disk
from understudy.plugin.recovery import NotNowError, RecoveringOrthanc, Recovery, RefusedFileError
from understudy.plugin.roles import CallerRole, Method, allowed, canonical_path, stores
from understudy.plugin.shape import fault
from understudy.plugin.sop_instance import PADDING, NamedUids, names
from understudy.plugin.versions import Index, NotKeptError, StoredFile, Versions
from understudy.plugin.volumes import FLAG, IntakeGuard, Volume
from understudy.plugin.wake import Waker

SYNC_FAILED_STATUS = 70
"""Exit status after a failed sync; Orthanc itself does not use this status."""

WAKE_TIMEOUT_SECONDS = 2.0

KEEP_AS_IS = (orthanc.ReceivedInstanceAction.KEEP_AS_IS, b"")

REFUSE = (orthanc.ReceivedInstanceAction.MODIFY, b"")
"""Orthanc throws an exception for an empty modification (ServerContext::Store), so every kind of sender gets
a failure: C-STORE 0xA700, REST 500. With `DISCARD` Orthanc would answer success."""

NAMELESS = "it does not name its study, its series or itself"
"""Why an object without these UIDs is refused. Orthanc would refuse it as well, but would log its patient."""

_NAME_BYTES = 257
"""Size of the buffer that docker/reception/reception.cc fills for each UID, with the NUL at the end."""

SENDER_METADATA = ("RemoteAET", "CalledAET", "RemoteIP", "ReceptionDate", "TransferSyntax", "SopClassUid")


class NotLookedAtError(Exception):
    """Orthanc stored an instance without asking the plugin first."""


class Requests:
    """Calls the part of docker/reception that knows when each request begins and ends."""

    def __init__(self) -> None:
        # The library is preloaded into this process. Intake needs it, so a missing symbol stops Orthanc's
        # start.
        library = ctypes.CDLL(None)
        self._note = library.understudy_note
        self._answer = library.understudy_answer
        self._receive = library.understudy_receive
        self._received = library.understudy_received

    def note(self, text: str) -> None:
        """Note what this thread works on, until its request ends; an empty text removes the note now."""
        self._note(ctypes.c_char_p(text.encode("ascii")))

    def receive(self) -> None:
        """Give the request of this thread as much memory as the reception of an instance may take."""
        self._receive()

    def names(self) -> NamedUids | None:
        """Return the UIDs that Orthanc's parser read in the instance that this thread stores for a C-STORE.

        None if this thread serves no C-STORE.
        """
        uids = ((ctypes.c_char * _NAME_BYTES) * 3)()
        if not self._received(uids):
            return None
        read = [uid.value.decode("latin-1").strip(PADDING) for uid in uids]
        return NamedUids(complete=all(read), sop_instance_uid=read[0] or None)

    def answer(self, status: HTTPStatus, reason: str) -> None:
        """Set the answer to the request of this thread, for when the filter refuses it."""
        body = json.dumps({"HttpStatus": status.value, "Message": reason})
        self._answer(ctypes.c_int(status.value), ctypes.c_char_p(body.encode("ascii")))


class Plugin:
    """Implements the callbacks of Orthanc and holds their shared state."""

    def __init__(
        self, configuration: Mapping[str, object], agent_socket: Path, requests: Requests, memory: int
    ) -> None:
        self._agent_socket = agent_socket
        self._requests = requests
        self._storage = storage = Path(str(configuration["StorageDirectory"]))
        log = write_ahead_log(configuration)
        self._sync = partial(sync_log, log, one_folder_a_file_system([log.parent, storage]))
        self._versions = Versions(
            storage, Index(_instances, _stored_file, _identity, _metadata), orthanc.LogWarning
        )
        self._parking = Parking(storage / "understudy" / PARKING, requests.note)
        self._decoding = Decoding(Budget.of(memory), Images(_instances, self._image))
        # Threads whose store `on_received` has checked; `on_stored_instance` removes them.
        self._looked_at: set[int] = set()
        self._durability = DurableAcknowledgement(
            sync=self._sync,
            monotonic=time.monotonic,
            log_error=orthanc.LogError,
            end_process=self._end_process,
        )
        self._guard = IntakeGuard(_volumes(configuration), FLAG, orthanc.LogWarning)
        # This has to come before Orthanc opens its index: on a full disk, opening needs the ballast's space.
        self._guard.look()
        self._waker = Waker(self._wake)
        self._recovery = Recovery(
            storage / "understudy",
            RecoveringOrthanc(
                _held_md5s, self._store, self._sync, lambda uid: self._parking.parked(uid) is not None
            ),
            orthanc.LogWarning,
        )

    def on_change(self, change: int, _level: int, _resource: str) -> None:
        """Start and stop with Orthanc, and notice new instances."""
        if change == orthanc.ChangeType.NEW_INSTANCE:
            self._waker.notice()
        elif change == orthanc.ChangeType.ORTHANC_STARTED:
            self._waker.start()
            self._waker.notice()
            self._recovery.start()
            self._guard.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self._guard.stop()
            self._recovery.stop()
            self._waker.stop()
            self._parking.stop()

    def on_received(self, content: bytes, origin: int) -> tuple[int, bytes]:
        """Keep the version that this store would replace, or refuse the store if that fails.

        Orthanc calls this for every kind of store, before it looks at the content. It would take an exception
        from here for consent (ReceivedInstanceCallback.cpp).
        """
        try:
            return self._received(content, by_rest=origin != orthanc.InstanceOrigin.DICOM_PROTOCOL)
        except BaseException as error:  # noqa: BLE001 - the boundary to Orthanc: nothing may escape
            # If the note stayed, this instance would be blamed for a later end of Orthanc.
            for forget in (self._parking.end, self._versions.abandon):
                with suppress(BaseException):
                    forget()
            return self._refused(f"unforeseen_{type(error).__name__}")

    def _received(self, content: bytes, *, by_rest: bool) -> tuple[int, bytes]:
        self._looked_at.discard(threading.get_ident())
        if not is_part10(content):
            return self._refused("it does not begin as DICOM Part 10 files do")
        found = names(content) if by_rest else self._requests.names() or names(content)
        if found is not None and not found.complete:
            return self._refused(NAMELESS)
        # docker/reception has already parsed an instance that comes by C-STORE.
        if by_rest and (reason := fault(content)) is not None:
            return self._refused(reason)
        uid = None if found is None else found.sop_instance_uid
        # A file whose UID cannot be read may crash Orthanc's parser each time, so it is noted before the
        # parser runs.
        if (parked := self._parking.begin(uid or _content_key(content), by_rest=by_rest)) is not None:
            return self._refused_as_parked(parked)
        try:
            if uid is None and (found := _parsed_names(content)) is not None:
                uid = found.sop_instance_uid
                parked = None if uid is None else self._parking.parked(uid)
                if parked is not None or not found.complete:
                    self._parking.end()
                    return self._refused(NAMELESS) if parked is None else self._refused_as_parked(parked)
            if uid is None:
                self._versions.abandon()
            elif self._versions.before_store(uid, content):
                # Orthanc answers an identical copy from its index, so the index has to be on the disk before.
                self._sync()
        except (NotKeptError, OSError) as error:
            self._parking.end()
            return self._refused(f"earlier_version_not_kept: {error}")
        self._looked_at.add(threading.get_ident())
        return KEEP_AS_IS

    @staticmethod
    def _refused_as_parked(parked: Suspect) -> tuple[int, bytes]:
        _log_error(f"store refused instance={parked.sop_instance_uid} because=parked")
        return REFUSE

    @staticmethod
    def _refused(because: str) -> tuple[int, bytes]:
        _log_error(f"store refused because={because}")
        return REFUSE

    def on_stored_instance(self, instance: Any, orthanc_id: str) -> None:
        """Make the store durable before it is answered, and keep its version if it met another store."""
        try:
            self._stored(instance, orthanc_id)
        except BaseException as error:  # noqa: BLE001 - Orthanc would answer success whatever escapes
            _log_error(f"store not finished instance={orthanc_id} because={type(error).__name__}")
            self._end_process("store_not_finished")

    def _stored(self, instance: Any, orthanc_id: str) -> None:
        if threading.get_ident() not in self._looked_at:
            # Orthanc had too little memory to call `on_received`, and took that for consent.
            raise NotLookedAtError
        self._looked_at.discard(threading.get_ident())
        self._durability.after_store()
        self._decoding.forget(orthanc_id)
        try:
            self._parking.stored()
            self._versions.after_store(orthanc_id, instance.GetInstanceData, partial(_own_metadata, instance))
        except (NotKeptError, OSError, orthanc.OrthancException) as error:
            self._durability.refuse()
            orthanc.LogError(
                f"version not kept instance={orthanc_id} because={error}: stores are refused, so that none "
                "replaces it; check the disk under StorageDirectory"
            )

    def filter_c_store(self, instance: Any) -> int:
        """Return the DIMSE status; 0 accepts the store."""
        try:
            status = self._c_store_status()
            if status is StoreStatus.ACCEPT and is_probe(
                instance.GetInstanceRemoteAet(), lambda: _text(_tags(instance), "SOPInstanceUID")
            ):
                self._sync()
                try_disk(self._storage)
                return PROBED
            return int(status)
        except BaseException as error:  # noqa: BLE001 - the boundary to Orthanc: nothing may escape
            _log_error(f"c_store refused status=0xA700 because=unforeseen_{type(error).__name__}")
            return int(StoreStatus.OUT_OF_RESOURCES)

    def _c_store_status(self) -> StoreStatus:
        if self._guard.full:
            # The guard logs this once; each sender learns it from the status.
            return StoreStatus.OUT_OF_RESOURCES
        status = self._durability.before_store()
        if status is not StoreStatus.ACCEPT:
            orthanc.LogError("c_store refused status=0xA700 because=index_sync_failed")
            # The agent learns of this from the counters.
            self._waker.notice()
        return status

    def filter_http(self, uri: str, **request: Any) -> bool:
        """Return whether the call is allowed; False gives 403, or the answer set by `Requests.answer`."""
        try:
            return self._http_allowed(uri, request)
        except BaseException as error:  # noqa: BLE001 - the boundary to Orthanc: nothing may escape
            _log_error(f"call refused because=unforeseen_{type(error).__name__}")
            return False

    def _http_allowed(self, uri: str, request: Mapping[str, Any]) -> bool:
        caller = identify(request["headers"])
        if caller is None:
            return False
        method = Method(request["method"])
        if not allowed(caller.role, method, uri):
            orthanc.LogWarning(f"call refused role={caller.role.value} method={method.name}")
            return False
        if stores(method, uri) and self._durability.before_store() is not StoreStatus.ACCEPT:
            orthanc.LogError("store refused because=index_sync_failed")
            return False
        if stores(method, uri):
            self._requests.receive()
            return not self._guard.full
        if method is Method.GET and caller.role is not CallerRole.AGENT:
            reason = lists.refusal(uri, request.get("get", {}), _held)
            if reason is not None:
                orthanc.LogWarning(f"call refused role={caller.role.value} because=list_too_long")
                self._requests.answer(HTTPStatus.BAD_REQUEST, reason)
                return False
        return self._may_decode(caller, uri, request)

    def _may_decode(self, caller: Caller, uri: str, request: Mapping[str, Any]) -> bool:
        """Return whether Orthanc may make the images that a call asks for; note each image to be decoded."""
        path = canonical_path(uri) or ""
        try:
            judged = self._decoding.judge(path, request.get("get", {}), request["headers"])
        except (OSError, NotKeptError) as error:
            orthanc.LogError(f"call refused because=image_not_judged: {error}")
            self._requests.answer(HTTPStatus.SERVICE_UNAVAILABLE, "the stored image cannot be read now")
            return False
        if isinstance(judged, DecodingRefusal):
            orthanc.LogWarning(f"call refused instance={judged.orthanc_id or '-'} because={judged.reason}")
            self._requests.answer(judged.status, judged.reason)
            return False
        for uid in judged:
            if self._parking.begin_decoding(uid, caller.user) is not None:
                orthanc.LogWarning(f"call refused instance={uid} because=parked")
                reason = "Orthanc ended twice while it decoded this image: `understudy quarantine` lists it"
                self._requests.answer(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
                return False
        return True

    def _image(self, orthanc_id: str) -> Image | None:
        """Return what a stored file says about its image, None if there is no such file.

        Raises OSError or NotKeptError.
        """
        file = _stored_file(orthanc_id)
        if file is None or file.size == 0:
            return None
        path = self._storage / file.uuid[0:2] / file.uuid[2:4] / file.uuid
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = names(content)
            uid = None if found is None else found.sop_instance_uid
            return Image(uid or orthanc_id, pixels(content))

    def _store(self, content: bytes) -> None:
        """Store a file that lay in the storage area. The callbacks of a store run for it as for any other."""
        self._requests.receive()
        try:
            orthanc.RestApiPost("/instances", content)
        except orthanc.OrthancException as error:
            if error.args and error.args[0] == orthanc.ErrorCode.BAD_FILE_FORMAT:
                raise RefusedFileError(str(error)) from error
            raise NotNowError(str(error)) from error
        finally:
            # This thread serves no request, so no end of a request removes its note.
            self._parking.end()

    def pass_to_agent(self, output: Any, _uri: str, **request: Any) -> None:
        """Pass the request to the agent and answer with the agent's answer."""
        answer = passthrough.call(
            self._agent_socket,
            passthrough.Request(
                method=request["method"],
                path=request["groups"][0],
                query=request.get("get", {}),
                headers=request["headers"],
                body=request.get("body", b""),
            ),
        )
        if answer.status == 200:
            output.AnswerBuffer(answer.body, answer.content_type)
        else:
            # Orthanc itself sends Content-Type text/plain here; setting ours would send a second one.
            output.SendHttpStatus(answer.status, answer.body)

    def _end_process(self, why: str = "index_sync_failed") -> None:
        """End Orthanc at once; a clean stop would wait for the store under way and answer it."""
        try:
            self._parking.disown(why)
        finally:
            os._exit(SYNC_FAILED_STATUS)

    def _wake(self) -> None:
        """Publish the counters and wake the agent; runs in the waker's thread."""
        counts = self._durability.counts()
        versions = self._versions.counts()
        for name, value in (
            ("understudy_index_syncs", counts.synced),
            ("understudy_index_sync_failures", counts.failed),
            ("understudy_stores_refused", counts.refused),
            ("understudy_refusing_stores", int(counts.refusing)),
            ("understudy_volumes_full", len(self._guard.full)),
            ("understudy_versions_kept", versions.kept),
            ("understudy_files_healed", versions.healed),
            ("understudy_versions_not_kept", versions.refused),
        ):
            orthanc.SetMetricsIntegerValue(name, value, orthanc.MetricsType.DEFAULT)
        # The answer does not matter, nor whether one comes: the agent polls the changes feed as well.
        passthrough.call(
            self._agent_socket,
            passthrough.Request(method="POST", path="wake", query={}, headers={}, body=b""),
            timeout=WAKE_TIMEOUT_SECONDS,
        )


def _log_error(line: str) -> None:
    """Log a refusal; if the line cannot be written, the refusal still holds."""
    with suppress(BaseException):
        orthanc.LogError(line)


def _volumes(configuration: Mapping[str, Any]) -> dict[str, Volume]:
    """Return the volumes that intake writes to. Only the index needs ballast: deletions write there."""
    limits = configuration["UnderstudyPlugin"]
    refuse_at = limits["RefusePercent"] / 100
    return {
        "storage": Volume(Path(configuration["StorageDirectory"]), 0, refuse_at),
        "index": Volume(Path(configuration["IndexDirectory"]), limits["BallastBytes"], refuse_at),
    }


def _read(path: str) -> Any:
    """Return the JSON that Orthanc's REST answers, None if the resource does not exist."""
    try:
        return json.loads(orthanc.RestApiGet(path))
    except orthanc.OrthancException as error:
        if error.args and error.args[0] == orthanc.ErrorCode.UNKNOWN_RESOURCE:
            return None
        raise NotKeptError(f"Orthanc's index does not answer: {error}") from error


def _instances(sop_instance_uid: str) -> list[str]:
    # Takes 0.05 ms with 250,000 instances. LookupInstance is slower, and gives the same answer for none as
    # for two.
    try:
        found = json.loads(orthanc.RestApiPost("/tools/lookup", sop_instance_uid.encode()))
    except orthanc.OrthancException as error:
        raise NotKeptError(f"Orthanc's index does not answer: {error}") from error
    return [item["ID"] for item in found if item["Type"] == "Instance"]


def _held(resources: str) -> int:
    """Return how many patients, studies, series or instances Orthanc has."""
    return int(json.loads(orthanc.RestApiGet("/statistics"))[f"Count{resources.capitalize()}"])


def _stored_file(orthanc_id: str) -> StoredFile | None:
    info = _read(f"/instances/{orthanc_id}/attachments/dicom/info")
    return (
        None if info is None else StoredFile(info["Uuid"], info["UncompressedMD5"], info["UncompressedSize"])
    )


def _identity(orthanc_id: str) -> dict[str, str]:
    """Return the UIDs and modality of an instance by the ledger's names; empty texts if it is gone."""
    levels = [_read(f"/instances/{orthanc_id}{path}") for path in ("", "/series", "/study")]
    tags: dict[str, str] = {}
    for level in levels:
        tags |= {} if level is None else level["MainDicomTags"]
    names = {
        "sop_instance_uid": "SOPInstanceUID",
        "series_instance_uid": "SeriesInstanceUID",
        "study_instance_uid": "StudyInstanceUID",
        "modality": "Modality",
    }
    return {name: tags.get(tag, "") for name, tag in names.items()}


def _metadata(orthanc_id: str) -> dict[str, str]:
    found = _read(f"/instances/{orthanc_id}/metadata?expand") or {}
    return {name: found[name] for name in SENDER_METADATA if name in found}


def _own_metadata(instance: Any) -> dict[str, str]:
    return {
        name: instance.GetInstanceMetadata(name)
        for name in SENDER_METADATA
        if instance.HasInstanceMetadata(name)
    }


def _content_key(content: bytes) -> str:
    """Return a name for a file whose SOP Instance UID cannot be read; it is as long as a UID may be."""
    return f"content-{hashlib.sha224(content).hexdigest()}"


def _parsed_names(content: bytes) -> NamedUids | None:
    """Return the UIDs that Orthanc's parser reads; None if it cannot read the file, and will not store it."""
    try:
        tags = _tags(orthanc.CreateDicomInstance(content))
    except orthanc.OrthancException:
        return None
    uids = [_text(tags, name) for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")]
    return NamedUids(complete=all(uids), sop_instance_uid=uids[0] or None)


def _tags(instance: Any) -> dict[str, object]:
    tags: dict[str, object] = json.loads(instance.GetInstanceSimplifiedJson())
    return tags


def _text(tags: Mapping[str, object], name: str) -> str:
    value = tags.get(name)
    return value.strip() if isinstance(value, str) else ""


def _held_md5s(sop_instance_uid: str) -> frozenset[str]:
    """Return the MD5 of every instance that Orthanc has under the SOP Instance UID."""
    try:
        found = json.loads(orthanc.RestApiPost("/tools/lookup", sop_instance_uid.encode()))
        return frozenset(
            orthanc.RestApiGet(f"/instances/{item['ID']}/attachments/dicom/md5").decode("ascii")
            for item in found
            if item["Type"] == "Instance"
        )
    except orthanc.OrthancException as error:
        raise NotNowError(str(error)) from error


def _register() -> object:
    """Wire the plugin to Orthanc, once, and return the object to be referenced as long as Orthanc runs.

    When it ends, the Python plugin drops its reference to a REST callback without a thread state
    (orthanc-python RestCallbacks.cpp, FinalizeRestCallbacks). If that is the last reference, a segmentation
    fault follows.
    """
    plugin = Plugin(
        configuration=json.loads(orthanc.GetConfiguration()),
        agent_socket=Path(os.environ.get("UNDERSTUDY_AGENT_SOCKET", "/run/understudy/agent.sock")),
        requests=Requests(),
        memory=own_limit(),
    )
    orthanc.RegisterOnChangeCallback(plugin.on_change)
    orthanc.RegisterReceivedInstanceCallback(plugin.on_received)
    orthanc.RegisterOnStoredInstanceCallback(plugin.on_stored_instance)
    orthanc.RegisterIncomingCStoreInstanceFilter(plugin.filter_c_store)
    orthanc.RegisterIncomingHttpRequestFilter(plugin.filter_http)
    pass_to_agent = plugin.pass_to_agent
    orthanc.RegisterRestCallback("/understudy/(.*)", pass_to_agent)
    return pass_to_agent


_KEPT = _register()
