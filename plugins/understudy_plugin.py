"""Connects Orthanc to Understudy: durable acknowledgement, roles, `/understudy/...` and the agent's wake-up.

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
from understudy.plugin.durability import DurableAcknowledgement, StoreStatus, sync_file, write_ahead_log
from understudy.plugin.identity import Identity, identify
from understudy.plugin.recovery import NotNowError, Recovery, RefusedFileError
from understudy.plugin.recovery import Orthanc as RecoveringOrthanc
from understudy.plugin.roles import Method, Role, allowed, stores
from understudy.plugin.wake import Waker

WAKE_TIMEOUT_SECONDS = 2.0


class Plugin:
    """Holds what the callbacks share and answers each of them."""

    def __init__(self, configuration: Mapping[str, object], agent_socket: Path) -> None:
        self._agent_socket = agent_socket
        self._durability = DurableAcknowledgement(
            sync=partial(sync_file, write_ahead_log(configuration)),
            monotonic=time.monotonic,
            log_error=orthanc.LogError,
        )
        self._waker = Waker(self._wake)
        self._recovery = Recovery(
            Path(str(configuration["StorageDirectory"])) / "understudy",
            RecoveringOrthanc(_held_md5s, _store, partial(sync_file, write_ahead_log(configuration))),
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
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self._recovery.stop()
            self._waker.stop()

    def on_stored_instance(self, _instance: object, _orthanc_id: str) -> None:
        """Make the store durable before it is answered."""
        self._durability.after_store()

    def filter_c_store(self, _instance: object) -> int:
        """Return the DIMSE status: 0 to store."""
        status = self._durability.before_store()
        if status is not StoreStatus.ACCEPT:
            orthanc.LogError("c_store refused status=0xA700 because=index_sync_failed")
        return int(status)

    def filter_http(self, uri: str, **request: Any) -> bool:
        """Return whether the call is allowed; False answers 403."""
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
        return True

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

    def _wake(self) -> None:
        """Publish the counters and wake the agent; runs in the waker's thread."""
        counts = self._durability.counts()
        for name, value in (
            ("understudy_index_syncs", counts.synced),
            ("understudy_index_sync_failures", counts.failed),
            ("understudy_stores_refused", counts.refused),
            ("understudy_refusing_stores", int(counts.refusing)),
        ):
            orthanc.SetMetricsIntegerValue(name, value, orthanc.MetricsType.DEFAULT)
        # An answer of any kind, or none, changes nothing: the agent polls the changes feed as well.
        passthrough.call(
            self._agent_socket,
            Identity("orthanc", Role.AGENT),
            passthrough.Request(method="POST", path="wake", query={}, headers={}, body=b""),
            timeout=WAKE_TIMEOUT_SECONDS,
        )


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
    orthanc.RegisterOnStoredInstanceCallback(plugin.on_stored_instance)
    orthanc.RegisterIncomingCStoreInstanceFilter(plugin.filter_c_store)
    orthanc.RegisterIncomingHttpRequestFilter(plugin.filter_http)
    orthanc.RegisterRestCallback("/understudy/(.*)", plugin.pass_to_agent)


_register()
