"""An appliance's own parts, wired as in the agent, over a storage area that holds given files."""

import hashlib
import json
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from understudy import config
from understudy.adapters.keys import initialise
from understudy.core.model import (
    HolderName,
    NewInstance,
    SeriesInstanceUid,
    SopInstanceUid,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.obligations import ObligationState
from understudy.core.rules import Debt
from understudy.engine.workers import Workers
from understudy.flow.appliance import Appliance
from understudy.flow.courier import Lane
from understudy.wiring import Places, wire

DATA = Path("/bench")
STATE = Path("/var/lib/understudy")
VAULT = Path("/var/lib/understudy-vault")
STORAGE = Path("/var/lib/orthanc/storage")


def arguments() -> Mapping[str, Any]:
    """Return what the bench asks for, from standard input."""
    logging.basicConfig(level=logging.ERROR)
    read: Mapping[str, Any] = json.load(sys.stdin)
    return read


def wired(section: Mapping[str, object], name: str) -> tuple[Appliance, Workers]:
    """Return an appliance with an empty ledger, and its workers, which are not started."""
    state, keys = STATE / name, STATE / f"{name}-keys"
    state.mkdir(mode=0o700)
    keys.mkdir(mode=0o700)
    configuration = config.parse(section)
    initialise(keys, state, configuration, os.environ)
    return wire(configuration, Places(state=state, keys=keys, storage=STORAGE))


def stored(files: Sequence[Path]) -> list[NewInstance]:
    """Put files where Orthanc would keep them and return what its changes feed would tell of them."""
    return [_stored(file) for file in files]


def _stored(file: Path) -> NewInstance:
    name = str(uuid.uuid4())
    path = STORAGE / name[0:2] / name[2:4] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, path)
    content = path.read_bytes()
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    return NewInstance(
        orthanc_id=hashlib.sha1(content, usedforsecurity=False).hexdigest(),
        attachment_uuid=name,
        sop_instance_uid=SopInstanceUid(str(dataset.SOPInstanceUID)),
        sop_class_uid=str(dataset.SOPClassUID),
        series_instance_uid=SeriesInstanceUid(str(dataset.SeriesInstanceUID)),
        study_instance_uid=StudyInstanceUid(str(dataset.StudyInstanceUID)),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        modality="CT",
        size=len(content),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        calling_ae_title="CT1",
        called_ae_title="UNDERSTUDY",
        remote_address="192.0.2.1",
        received_at=Timestamp(time.time()),
    )


def note(appliance: Appliance, instances: Sequence[NewInstance], holders: Sequence[str], cursor: int) -> None:
    """Note instances as owed to the holders, for long enough that no pack waits for more."""
    debts = [Debt(HolderName(holder)) for holder in holders]
    appliance.ledger.intake.note(
        [(instance, debts, None) for instance in instances],
        primary=None,
        primary_grace=0,
        vaults=[],
        cursor=cursor,
        now=Timestamp(time.time() - 3600),
    )


def proven(appliance: Appliance, holder: str) -> int:
    """Return how many instances the holder is proven to have."""
    return appliance.ledger.obligations.tally().get(HolderName(holder), {}).get(ObligationState.PROVEN, 0)


def lane_of(appliance: Appliance, holder: str) -> Lane:
    """Return the lane to a holder."""
    return next(lane for lane in appliance.lanes if lane.holder.name == holder)


def delivered(
    appliance: Appliance, workers: Workers, holder: str, instances: int, *, deadline: float
) -> float:
    """Let the holder's lane work in its own loop and return the seconds until all instances are proven."""
    lane = lane_of(appliance, holder)
    began = time.monotonic()
    with _running(workers, holder):
        while proven(appliance, holder) < instances:
            if time.monotonic() - began > deadline:
                number = proven(appliance, holder)
                raise TimeoutError(f"{number} of {instances} proven at {holder}; its lane: {lane.view}")
            time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def _running(workers: Workers, holder: str) -> Iterator[None]:
    """Let this lane's worker alone work: the others ask for neighbours that are not here."""
    loop = next(loop for loop in workers._loops if loop.name == f"lane-{holder}")
    loop.start()
    try:
        yield
    finally:
        workers._stop.set()
        loop.wake()
        loop.join(60)


def answer(values: Mapping[str, object]) -> None:
    """Print the result as the last line."""
    print(json.dumps(dict(values)))


def files_of(folder: Path) -> list[Path]:
    """Return the DICOM files below a folder in order."""
    return sorted(folder.rglob("*.dcm"))
