"""Connects Orthanc to Understudy: durable acknowledgement, kept versions, roles, REST passthrough, wake-up.

The only module that imports `orthanc`. An exception at import would stop Orthanc, which is wanted here: an
Orthanc without the durable acknowledgement must not accept images.
"""

import json
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orthanc
from understudy.plugin import passthrough
from understudy.plugin.durability import (
    DurableAcknowledgement,
    StoreStatus,
    one_folder_a_file_system,
    sync_log,
    write_ahead_log,
)
from understudy.plugin.identity import Identity, identify
from understudy.plugin.parking import PARKING, Parking
from understudy.plugin.recovery import NotNowError, Recovery, RefusedFileError
from understudy.plugin.recovery import Orthanc as RecoveringOrthanc
from understudy.plugin.roles import Method, Role, allowed, stores
from understudy.plugin.shape import fault
from understudy.plugin.sop_instance import sop_instance_uid
from understudy.plugin.versions import Index, NotKeptError, StoredFile, Versions
from understudy.plugin.volumes import FLAG_FILE, IntakeGuard, Volume
from understudy.plugin.wake import Waker

SYNC_FAILED_STATUS = 70
"""Exit status after a failed sync; Orthanc itself has no use for it."""

WAKE_TIMEOUT_SECONDS = 2.0

KEEP_AS_IS = (orthanc.ReceivedInstanceAction.KEEP_AS_IS, b"")

REFUSE = (orthanc.ReceivedInstanceAction.MODIFY, b"")
"""Orthanc throws at an empty modification (ServerContext::Store), so that every kind of sender is told of a
failure: C-STORE 0xA700, REST 500. `DISCARD` would answer success."""

SENDER_METADATA = ("RemoteAET", "CalledAET", "RemoteIP", "ReceptionDate", "TransferSyntax", "SopClassUid")


class Plugin:
    """Holds what the callbacks share and answers each of them."""

    def __init__(self, configuration: Mapping[str, object], agent_socket: Path) -> None:
        self._agent_socket = agent_socket
        storage = Path(str(configuration["StorageDirectory"]))
        log = write_ahead_log(configuration)
        self._sync = partial(sync_log, log, one_folder_a_file_system([log.parent, storage]))
        self._versions = Versions(
            storage, Index(_instances, _stored_file, _identity, _metadata), orthanc.LogWarning
        )
        self._parking = Parking(storage / "understudy" / PARKING)
        self._durability = DurableAcknowledgement(
            sync=self._sync,
            monotonic=time.monotonic,
            log_error=orthanc.LogError,
            end_process=self._end_process,
        )
        self._guard = IntakeGuard(
            _volumes(configuration), agent_socket.with_name(FLAG_FILE), orthanc.LogWarning
        )
        # Before Orthanc opens its index: on a full disk that needs the ballast's room.
        self._guard.look()
        self._waker = Waker(self._wake)
        self._recovery = Recovery(
            storage / "understudy",
            RecoveringOrthanc(
                _held_md5s, _store, self._sync, lambda uid: self._parking.parked(uid) is not None
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

    def on_received(self, content: bytes, origin: int) -> tuple[int, bytes]:
        """Keep what this store would replace; refuse it where that cannot be done.

        Called for every kind of store, before Orthanc looks at it. What escapes from here would be taken for
        consent (ReceivedInstanceCallback.cpp).
        """
        # What comes by C-STORE was parsed by now (docker/reception).
        by_rest = origin != orthanc.InstanceOrigin.DICOM_PROTOCOL
        if by_rest and (found := fault(content)) is not None:
            orthanc.LogError(f"store refused because={found}")
            return REFUSE
        uid = sop_instance_uid(content)
        if uid is not None and (parked := self._parking.begin(uid, by_rest=by_rest)) is not None:
            orthanc.LogError(f"store refused instance={parked.sop_instance_uid} because=parked")
            return REFUSE
        try:
            uid = uid or _parsed_sop_instance_uid(content)
            if uid is None:
                self._versions.abandon()
            elif self._versions.before_store(uid, content):
                # Orthanc answers an identical copy from its index, which has to be on the disk by then.
                self._sync()
        except (NotKeptError, OSError) as error:
            self._parking.end()
            orthanc.LogError(f"store refused because=earlier_version_not_kept: {error}")
            return REFUSE
        return KEEP_AS_IS

    def on_stored_instance(self, instance: Any, orthanc_id: str) -> None:
        """Make the store durable before it is answered, and keep it where another one is on its way."""
        self._durability.after_store()
        try:
            self._parking.stored()
            self._versions.after_store(orthanc_id, instance.GetInstanceData, partial(_own_metadata, instance))
        except (NotKeptError, OSError, orthanc.OrthancException) as error:
            self._durability.refuse()
            orthanc.LogError(
                f"version not kept instance={orthanc_id} because={error}: stores are refused, so that none "
                "replaces it; check the disk under StorageDirectory"
            )

    def filter_c_store(self, _instance: object) -> int:
        """Return the DIMSE status: 0 to store."""
        if self._guard.full:
            # The guard says so once in the log; each sender hears it from the status.
            return int(StoreStatus.OUT_OF_RESOURCES)
        status = self._durability.before_store()
        if status is not StoreStatus.ACCEPT:
            orthanc.LogError("c_store refused status=0xA700 because=index_sync_failed")
        return int(status)

    def filter_http(self, uri: str, **request: Any) -> bool:
        """Return whether the call is allowed; False answers 403."""
        # What this thread was storing before has come to its end, however that was answered.
        self._parking.end()
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
        return not (stores(method, uri) and self._guard.full)

    def pass_to_agent(self, output: Any, _uri: str, **request: Any) -> None:
        """Answer with what the agent answers."""
        caller = identify(request["headers"])
        # The filter has refused such a caller already; this never relies on it.
        if caller is None:
            output.SendHttpStatusCode(403)
            return
        answer = passthrough.call(
            self._agent_socket,
            caller,
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
            # Orthanc itself says text/plain here; a Content-Type of ours would be a second one.
            output.SendHttpStatus(answer.status, answer.body)

    def _end_process(self) -> None:
        """End Orthanc without a clean stop, which would wait for the store under way and answer it."""
        try:
            self._parking.disown()
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
        # An answer of any kind, or none, changes nothing: the agent polls the changes feed as well.
        passthrough.call(
            self._agent_socket,
            Identity("orthanc", Role.AGENT),
            passthrough.Request(method="POST", path="wake", query={}, headers={}, body=b""),
            timeout=WAKE_TIMEOUT_SECONDS,
        )


def _volumes(configuration: Mapping[str, Any]) -> dict[str, Volume]:
    """Return the volumes that intake writes to; only the index needs ballast, for deletions write there."""
    limits = configuration["UnderstudyPlugin"]
    refuse_at = limits["RefusePercent"] / 100
    return {
        "storage": Volume(Path(configuration["StorageDirectory"]), 0, refuse_at),
        "index": Volume(Path(configuration["IndexDirectory"]), limits["BallastBytes"], refuse_at),
    }


def _read(path: str) -> Any:
    """Return the JSON that Orthanc's REST answers, None where the resource is not there."""
    try:
        return json.loads(orthanc.RestApiGet(path))
    except orthanc.OrthancException as error:
        if error.args and error.args[0] == orthanc.ErrorCode.UNKNOWN_RESOURCE:
            return None
        raise NotKeptError(f"Orthanc's index does not answer: {error}") from error


def _instances(sop_instance_uid: str) -> list[str]:
    # 0.05 ms with 250,000 instances. LookupInstance tells nobody from two, and takes longer to do so.
    try:
        found = json.loads(orthanc.RestApiPost("/tools/lookup", sop_instance_uid.encode()))
    except orthanc.OrthancException as error:
        raise NotKeptError(f"Orthanc's index does not answer: {error}") from error
    return [item["ID"] for item in found if item["Type"] == "Instance"]


def _stored_file(orthanc_id: str) -> StoredFile | None:
    info = _read(f"/instances/{orthanc_id}/attachments/dicom/info")
    return (
        None if info is None else StoredFile(info["Uuid"], info["UncompressedMD5"], info["UncompressedSize"])
    )


def _identity(orthanc_id: str) -> dict[str, str]:
    """Return the UIDs of an instance and its modality by the ledger's names; empty where it is gone."""
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


def _parsed_sop_instance_uid(content: bytes) -> str | None:
    """Return what Orthanc's parser reads, None where it cannot read the file: then it will not store it."""
    try:
        tags = json.loads(orthanc.CreateDicomInstance(content).GetInstanceSimplifiedJson())
    except orthanc.OrthancException:
        return None
    uid = tags.get("SOPInstanceUID")
    return uid.strip() if isinstance(uid, str) else None


def _held_md5s(sop_instance_uid: str) -> frozenset[str]:
    """Return the MD5 of every instance that Orthanc holds under the SOP Instance UID."""
    try:
        found = json.loads(orthanc.RestApiPost("/tools/lookup", sop_instance_uid.encode()))
        return frozenset(
            orthanc.RestApiGet(f"/instances/{item['ID']}/attachments/dicom/md5").decode("ascii")
            for item in found
            if item["Type"] == "Instance"
        )
    except orthanc.OrthancException as error:
        raise NotNowError(str(error)) from error


def _store(content: bytes) -> None:
    """Store a file that lay in the storage area, as any other: the stored-instance callback runs for it."""
    try:
        orthanc.RestApiPost("/instances", content)
    except orthanc.OrthancException as error:
        if error.args and error.args[0] == orthanc.ErrorCode.BAD_FILE_FORMAT:
            raise RefusedFileError(str(error)) from error
        raise NotNowError(str(error)) from error


def _register() -> None:
    """Wire the plugin to Orthanc, once."""
    plugin = Plugin(
        configuration=json.loads(orthanc.GetConfiguration()),
        agent_socket=Path(os.environ.get("UNDERSTUDY_AGENT_SOCKET", "/run/understudy/agent.sock")),
    )
    orthanc.RegisterOnChangeCallback(plugin.on_change)
    orthanc.RegisterReceivedInstanceCallback(plugin.on_received)
    orthanc.RegisterOnStoredInstanceCallback(plugin.on_stored_instance)
    orthanc.RegisterIncomingCStoreInstanceFilter(plugin.filter_c_store)
    orthanc.RegisterIncomingHttpRequestFilter(plugin.filter_http)
    orthanc.RegisterRestCallback("/understudy/(.*)", plugin.pass_to_agent)


_register()
