"""A standby of dcmtk's dcmqrscp: what it says beside what is so, with as many associations as there are.

The primary runs in a container on this machine's network; the standby's parts run in this process
(tests/contract/truth.py).
"""

import os
import random
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from understudy.adapters.dicom import DicomPeer
from understudy.core.capabilities import Ability
from understudy.core.model import Outcome
from understudy.core.ports import FileToSend, HolderUnavailableError
from understudy.core.views import PrimaryCondition, Sign

from tests.contract.truth import LOOK, Standby, standing_by
from tests.peer.pacs import Kept
from tests.stack import LAB_IMAGE, TEST_PROJECT, wait_until

pytestmark = pytest.mark.needs("lab-image")

CONFIGURATION = """NetworkTCPPort  = {port}
MaxPDUSize      = 131072
MaxAssociations = {associations}
HostTable BEGIN
standby = (UNDERSTUDY, 127.0.0.1, {standby})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
PACS /primary/archive RW (500, 1024mb) ANY
AETable END
"""


CAN = {
    "association": Ability.WORKS,
    "services": Ability.WORKS,
    "list of studies": Ability.WORKS,
    "list of images": Ability.WORKS,
    "counts of images": Ability.MISSING,
    "character set": Ability.WORKS,
    "C-MOVE to this standby": Ability.WORKS,
    "C-GET": Ability.WORKS,
    "storage commitment": Ability.MISSING,
    "images that it takes": Ability.WORKS,
    "associations at a time": Ability.WORKS,
}
"""What dcmqrscp can do: it counts no images and has no storage commitment."""


@dataclass
class Dcmqrscp:
    """dcmqrscp, and what was stored there."""

    folder: Path
    port: int
    associations: int = 16
    ae_title: str = "PACS"
    destination: tuple[str, int] = ("", 0)
    kept: list[Kept] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{TEST_PROJECT}-dcmqrscp-{self.port}"

    def start(self) -> None:
        """Start it on its data."""
        (self.folder / "archive").mkdir(exist_ok=True)
        (self.folder / "dcmqrscp.cfg").write_text(
            CONFIGURATION.format(port=self.port, associations=self.associations, standby=self.destination[1])
        )
        subprocess.run(
            [
                *("docker", "run", "--rm", "--detach", "--name", self.name, "--network", "host"),
                *("--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{self.folder}:/primary"),
                *("--entrypoint", "dcmqrscp", LAB_IMAGE, "--config", "/primary/dcmqrscp.cfg"),
            ],
            check=True,
            capture_output=True,
        )
        wait_until(self._answers, bool, deadline=60, what="an answer of dcmqrscp")

    def stop(self) -> None:
        """End it at once."""
        subprocess.run(["docker", "rm", "--force", self.name], check=False, capture_output=True)

    def _peer(self) -> DicomPeer:
        return DicomPeer(
            "pacs", ae_title="PACS", host="127.0.0.1", port=self.port, calling_ae_title="CT1", timeout=10
        )

    def _answers(self) -> bool:
        try:
            self._peer().echo()
        except HolderUnavailableError:
            return False
        return True

    def store(self, *images: Kept) -> None:
        """Store images, as a modality does: again where there was no association free for it."""
        wait_until(lambda: self._stored(images), bool, deadline=30, what="a store at dcmqrscp")
        self.kept += images

    def _stored(self, images: Sequence[Kept]) -> bool:
        try:
            self._send(images)
        except HolderUnavailableError:
            return False
        return True

    def _send(self, images: Sequence[Kept]) -> None:
        with self._peer().storing([(CTImageStorage, ExplicitVRLittleEndian)]) as association:
            for image in images:
                content = _file(image)
                file = BytesIO(content)
                verdict = association.store(
                    FileToSend(
                        image.sop_instance_uid, CTImageStorage, ExplicitVRLittleEndian, file, len(content)
                    )
                )
                assert verdict.outcome is Outcome.DELIVERED, verdict


def free_port() -> int:
    """Return a port below those that the system gives to others until dcmqrscp listens there."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports are taken")


def _file(image: Kept) -> bytes:
    found = image.data_set
    found.StudyDate, found.PatientID, found.PatientName = image.date, "1", "A"
    found.file_meta = FileMetaDataset()
    found.file_meta.MediaStorageSOPClassUID = CTImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = UID(image.sop_instance_uid)
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = BytesIO()
    dcmwrite(file, found, enforce_file_format=True)
    return file.getvalue()


def images(study: str, *names: int) -> list[Kept]:
    return [Kept(study, f"{study}.1", f"{study}.1.{name}") for name in names]


@contextmanager
def standby_of(folder: Path, pacs: Dcmqrscp) -> Iterator[Standby]:
    (folder / "standby").mkdir()
    (folder / "pacs").mkdir()
    pacs.folder = folder / "pacs"
    with standing_by(folder / "standby", pacs) as standby:
        try:
            pacs.start()
            yield standby
        finally:
            pacs.stop()


@pytest.mark.parametrize("associations", [16, 1], ids=["room", "one association, others rejected"])
def test_standby_of_dcmqrscp_says_what_is_so(tmp_path: Path, associations: int) -> None:
    pacs = Dcmqrscp(tmp_path, free_port(), associations)
    with standby_of(tmp_path, pacs) as standby:
        pacs.store(*(image for number in range(1, 5) for image in images(f"1.2.{number}", 1, 2, 3)))
        standby.works(60)
        assert standby.missing == 0
        assert (standby.says_complete(), standby.health(), standby.alarms()) == (True, [], [])

        seen: set[PrimaryCondition] = set()

        def probe_meanwhile() -> None:
            standby.probe()
            seen.add(standby.parts.prober.health.condition)

        # A probe in the middle of our own pull gets no turn where there is one association.
        standby.receiver.during_a_store = probe_meanwhile
        pacs.store(*images("1.2.9", 1, 2, 3, 4))
        standby.works(2 * LOOK)
        assert seen == {PrimaryCondition.UP}
        assert standby.missing == 0
        assert {one.sign for one in standby.parts.prober.health.evidence} <= {Sign.ANSWERS, Sign.WORKS}

        standby.receiver.during_a_store = lambda: None
        standby.appliance.probe("ann")
        assert standby.parts.capabilities.step()
        found = standby.appliance.capabilities()
        assert found is not None
        assert {one.name: one.ability for one in found.capabilities} == CAN | (
            {} if associations > 1 else {"associations at a time": Ability.LIMITED}
        )
        assert found.suits

        pacs.stop()
        standby.works(60)
        status = standby.status()
        assert status.primary is not None
        assert status.primary.condition is PrimaryCondition.DOWN
        assert status.alarms[0].what.startswith("the primary is down")
        assert standby.promote() == [], "it is down, and nothing is missing"
