"""A large index: ours against ours when empty, and against stock Orthanc on a copy of the same index.

Stock cannot be filled so far in useful time: each store costs it a look at every instance it has. So one
index is filled with the planner's statistics in force; the appliance gets a copy, and stock opens the
original with the statistics removed, which is what Orthanc itself would have made.
"""

import io
import shutil
import statistics
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pydicom
from pydicom.uid import UID

from tests.bench.intake import Appliance, configured, ready
from tests.bench.measured import Figure, label, medians
from tests.bench.parts import (
    FOLDER,
    INDEX_FOLDER,
    Sender,
    Stock,
    network,
    paused,
    sender,
    settle_disk,
    stock,
    timed,
    volume,
)
from tests.data import ct_series
from tests.stack import IMAGE, StackError, run

_STUDY = 100
"""Instances of a study of the fill."""
_ASSOCIATIONS = 4
_OURS, _STOCK = 250, 25
"""Instances an association and round."""
_LOOKS = 11
_ROWS = 24
"""Pixels: with its header an instance is about 2 KB."""


def scale(fill: int, rounds: int) -> list[Figure]:
    """Measure intake and search with `fill` instances in the index, small ones, over four associations."""
    folder = FOLDER / "scale"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir()
        maker = Maker(folder)
        filled = stack.enter_context(volume("filled"))
        _seed(filled)
        attached = stack.enter_context(network())
        studies = _fill(filled, attached, maker, fill)
        reader = {"Name": "ct1", "AeTitle": "CT1", "Host": "192.0.2.1", "Reads": True}
        full = Appliance("full", configured(folder, {"Modalities": [reader]}))
        stack.callback(full.stack.down)
        _copy(filled, full)
        _on(filled, _FORGET)
        full.stack.up(timeout=600)
        # One that grew so large has noted and vaulted them long ago; here its agent sees them first now.
        full.proven(len(studies) * _STUDY, deadline=30 + fill / 50)
        empty = Appliance("empty")
        stack.callback(empty.stack.down)
        empty.stack.up()
        figures: list[Figure] = []
        with (
            sender(attached, full.network, empty.network) as party,
            stock("full-stock", attached, keeps=filled) as peer,
        ):
            figures += _intake(maker, party, empty, full, peer, fill, rounds)
        with paused(empty.containers), sender(attached, full.network) as party:
            web = '[ "/usr/share/orthanc/plugins/libOrthancDicomWeb.so" ]'
            # The lab's image has no DICOMweb: the same Orthanc from the appliance's.
            with stock("full-web", attached, keeps=filled, image=IMAGE, changes={"Plugins": web}) as peer:
                figures += _find(party, full, peer, studies[len(studies) // 2], label(fill))
    return figures


class Maker:
    """Makes small CT instances fast: one made with care, and its identifiers replaced in the bytes."""

    def __init__(self, folder: Path) -> None:
        (made,) = ct_series(folder / "template", seed="scale", instances=1, rows=_ROWS, columns=_ROWS).paths
        dataset = pydicom.dcmread(made)
        # Of one length, so that replacing changes no length in the file.
        self._study, self._series, self._instance = (
            f"1.2.826.0.1.3680043.8.498.{part}" + "7" * 29 for part in "123"
        )
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self._study, self._series
        dataset.SOPInstanceUID = self._instance
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(self._instance)
        dataset.PatientID, dataset.InstanceNumber = "P" * 12, "9" * 8
        dataset.save_as(made, enforce_file_format=True)
        self._content = made.read_bytes()

    def study(self, number: int, instances: int = _STUDY) -> tuple[str, list[bytes]]:
        """Return the UID of study `number` and its files."""
        study, series = _numbered(self._study, number), _numbered(self._series, number)
        shared = self._content.replace(self._study.encode(), study.encode())
        shared = shared.replace(self._series.encode(), series.encode())
        shared = shared.replace(b"P" * 12, f"P{number:011d}".encode())
        files = []
        for place in range(instances):
            whole = number * 100_000 + place
            content = shared.replace(self._instance.encode(), _numbered(self._instance, whole).encode())
            files.append(content.replace(b"9" * 8, f"{place:08d}".encode()))
        return study, files


def _numbered(uid: str, number: int) -> str:
    return f"{uid[:-20]}{10**19 + number}"


def _seed(filled: str) -> None:
    """Let Orthanc make an index and write the statistics that the appliance writes at its start."""
    _on(filled, _SEED)


_SEED = f"""
from pathlib import Path
from understudy.adapters.orthanc_index import make, seed_statistics
make(Path("{INDEX_FOLDER}/index"))
assert seed_statistics(Path("{INDEX_FOLDER}/index"))
"""

_FORGET = f"""
import sqlite3
from pathlib import Path
from understudy.adapters.orthanc_index import statistics_in_force
connection = sqlite3.connect("{INDEX_FOLDER}/index")
connection.execute("DELETE FROM sqlite_stat1")
connection.commit()
connection.close()
assert not statistics_in_force(Path("{INDEX_FOLDER}/index"))
"""


def _on(filled: str, script: str) -> None:
    mounted = ["--volume", f"{filled}:{INDEX_FOLDER}", "--user", "0:0"]
    run(["docker", "run", "--rm", *mounted, "--entrypoint", "python", IMAGE, "-c", script])


def _fill(filled: str, attached: str, maker: Maker, fill: int) -> list[str]:
    """Store so many instances by REST, a study a call, and return the UIDs of the studies.

    No disk is waited for: how fast this is, is no figure of ours.
    """
    numbers = range(fill // _STUDY)
    with stock("filler", attached, keeps=filled, changes={"SyncStorageArea": "false"}) as filler:

        def store(number: int) -> str:
            study, files = maker.study(number)
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for place, content in enumerate(files):
                    archive.writestr(f"{place}.dcm", content)
            answer = filler.client.post("/instances", content=packed.getvalue()).raise_for_status().json()
            if [item["Status"] for item in answer] != ["Success"] * len(files):
                raise StackError(f"the fill's study {number} was not stored whole")
            if number and number % 250 == 0:
                print(f"      filled {number * _STUDY} of {fill}", flush=True)
            return study

        with ThreadPoolExecutor(4) as pool:
            studies = list(pool.map(store, numbers))
        if filler.count() != len(numbers) * _STUDY:
            raise StackError(f"the fill has {filler.count()} instances")
        run(["docker", "stop", "--time", "60", filler.container])
    return studies


def _copy(filled: str, full: Appliance) -> None:
    """Give the appliance, not yet started, the index and the files."""
    full.stack.compose("create")
    project = full.stack.project
    mounted = ["--volume", f"{filled}:/from:ro", "--volume", f"{project}_index:/index"]
    mounted += ["--volume", f"{project}_storage:/storage", "--user", "0:0", "--entrypoint", "bash"]
    script = "cp -a /from/index* /index/; cp -a /from/?? /storage/; chown -R 10001:10001 /index /storage"
    run(["docker", "run", "--rm", *mounted, IMAGE, "-euo", "pipefail", "-c", script], timeout=3600)


def _intake(
    maker: Maker, party: Sender, empty: Appliance, full: Appliance, peer: Stock, fill: int, rounds: int
) -> list[Figure]:
    """Send to all three in turn; the others are paused meanwhile. The first round is not counted."""
    sizes = {"empty": _OURS, "full": _OURS, "stock": _STOCK}
    addresses = {"empty": empty.address, "full": full.address, "stock": peer.address}
    containers = {"empty": empty.containers, "full": full.containers, "stock": [peer.container]}
    rates: dict[str, list[float]] = {name: [] for name in sizes}
    number = fill
    for turn in range(rounds + 1):
        for name, instances in sizes.items():
            parts = []
            for _ in range(_ASSOCIATIONS):
                number += 1
                parts.append(
                    _written(FOLDER / "scale" / "sent" / str(number), maker.study(number, instances)[1])
                )
            others = [container for other in sizes if other != name for container in containers[other]]
            with paused(others):
                ready(party, addresses[name])
                settle_disk()
                seconds = party.send(addresses[name], 4242, parts)
            if turn:
                rates[name].append(_ASSOCIATIONS * instances / seconds)
    sent = {name: (rounds + 1) * _ASSOCIATIONS * instances for name, instances in sizes.items()}
    counted = {"empty": empty.count(), "full": full.count() - fill, "stock": peer.count() - fill}
    if counted != sent:
        raise StackError(f"sent {sent}, counted {counted}")
    size = label(fill)
    stock_there = "stock Orthanc, the same index as it makes it"
    return [
        medians(
            f"intake_{size}", rates["full"], rates["empty"], "instances/s", "ours, empty index", goal=0.8
        ),
        medians(f"intake_{size}_stock", rates["full"], rates["stock"], "instances/s", stock_there, goal=12),
    ]


def _written(folder: Path, files: Sequence[bytes]) -> Path:
    folder.mkdir(parents=True)
    for place, content in enumerate(files):
        (folder / f"{place:05d}.dcm").write_bytes(content)
    return folder


def _find(party: Sender, full: Appliance, peer: Stock, study: str, size: str) -> list[Figure]:
    """Ask for the instances of one study by C-FIND, QIDO-RS and /tools/find."""
    client = full.stack.client()
    question = {"Level": "Instance", "Query": {"StudyInstanceUID": study}}
    qido = f"/dicom-web/studies/{study}/instances"

    def c_find(address: str) -> float:
        number, milliseconds, *last = party.shell(_C_FIND, address, study).split(maxsplit=2)
        if int(number) != _STUDY:
            raise StackError(f"C-FIND at {address} names {number} of {_STUDY} instances: {last}")
        return float(milliseconds)

    def asked(call: Callable[[], list[object]]) -> float:
        answers: list[list[object]] = []
        seconds = timed(lambda: answers.append(call()))
        if len(answers[0]) != _STUDY:
            raise StackError(f"{len(answers[0])} of {_STUDY} instances were found")
        return 1000 * seconds

    ways: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "cfind": (lambda: c_find(full.address), lambda: c_find(peer.address)),
        "qido": (
            lambda: asked(lambda: client.get(qido).raise_for_status().json()),
            lambda: asked(lambda: peer.get(qido)),
        ),
        "tools_find": (
            lambda: asked(lambda: client.post("/tools/find", json=question).raise_for_status().json()),
            lambda: asked(lambda: peer.post("/tools/find", question)),
        ),
    }
    ready(party, full.address)
    ready(party, peer.address)
    figures = []
    for name, (ask_ours, ask_peer) in ways.items():
        pairs = [(ask_ours(), ask_peer()) for _ in range(_LOOKS)]
        ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
        against = "stock Orthanc and DICOMweb, the same index as it makes it"
        figures.append(Figure(f"find_{size}_{name}", ours, theirs, "ms", against, True, goal=1))
    return figures


_C_FIND = """
keys=(-k QueryRetrieveLevel=IMAGE -k "StudyInstanceUID=$2" -k SOPInstanceUID)
began=$(date +%s%N)
findscu --study --aetitle CT1 --call ORTHANC "${keys[@]}" "$1" 4242 >/tmp/found 2>&1
took=$(($(date +%s%N) - began))
printf '%d %d.%06d\\n' "$(grep -c SOPInstanceUID /tmp/found)" $((took / 1000000)) $((took % 1000000))
tail -n 1 /tmp/found
"""
