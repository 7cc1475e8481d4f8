"""A storm of `kill -9` while instances flow to a route and a vault: none lost, none unproven, no riddles.

The receiver of the route is the peer of `tests.peer` in this process, whose record has every delivery.
"""

import itertools
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.drills.checker import RestArchive, check
from tests.drills.faults import Fault, count, storm
from tests.drills.ports import lasting_port
from tests.drills.results import Results
from tests.drills.sender import FORGOTTEN_SOCKETS, Answer, Instance, Sender, instances
from tests.lab import Lab
from tests.peer.archive import Archive
from tests.stack import REPOSITORY, TEST_PROJECT, State, wait_until

pytestmark = [FORGOTTEN_SOCKETS, pytest.mark.needs("image")]

PORTION = 100
"""Instances that begin to flow before each kill."""
EVENTS = 2 * PORTION
"""Of a portion: each instance is acknowledged here and arrives at the receiver."""
TARGETS = ("agent", "orthanc", "agent orthanc")
FLOW_DEADLINE, TAKEN_DEADLINE, PROVEN_DEADLINE = 300.0, 300.0, 600.0


class Clinic(Lab):
    """The appliance, with a vault on its own volume and a route to a receiver on this machine."""

    def __init__(self, folder: Path, receiver: Archive) -> None:
        super().__init__(
            f"{TEST_PROJECT}-storm",
            environment={
                "UNDERSTUDY_DICOM_PORT": f"127.0.0.1:{lasting_port()}",
                "UNDERSTUDY_CONFIG": str(_configuration(folder / "config", receiver)),
            },
        )
        self._override = folder / "receiver.yml"
        hosts = {"services": {"agent": {"extra_hosts": ["receiver:host-gateway"]}}}
        self._override.write_text(json.dumps(hosts), encoding="utf-8")

    @property
    def files(self) -> list[str]:
        return [str(REPOSITORY / "docker/compose.yml"), str(self._override)]


def _configuration(folder: Path, receiver: Archive) -> Path:
    shutil.copytree(REPOSITORY / "orthanc-config", folder)
    section = {
        "Destinations": [
            {"Name": "archive", "AeTitle": receiver.ae_title, "Host": "receiver", "Port": receiver.port}
        ],
        "Routes": [{"Name": "all", "To": ["archive"]}],
        "Vaults": [{"Name": "local", "Directory": "/var/lib/understudy-vault"}],
        "Policy": {
            "PackLinger": 1,
            "RetryBase": 0.5,
            "RetryCap": 5,
            "NetworkTimeout": 10,
            "CommitmentPatience": 20,
        },
    }
    (folder / "understudy.json").write_text(json.dumps({"Understudy": section}), encoding="utf-8")
    return folder


@pytest.fixture
def receiver() -> Iterator[Archive]:
    """The faultless archive that the route leads to, on every address of this machine."""
    with Archive(host="0.0.0.0") as archive:
        yield archive


@pytest.fixture
def stormy(tmp_path: Path, receiver: Archive) -> Iterator[Clinic]:
    """The appliance, to be killed."""
    clinic = Clinic(tmp_path, receiver)
    clinic.down()
    try:
        clinic.up()
        yield clinic
    finally:
        clinic.down()


@dataclass(frozen=True, slots=True)
class Killed:
    """One kill, and how far its portion had come."""

    target: str
    acknowledged: int
    arrived: int
    """At the receiver of the route."""

    @property
    def events(self) -> int:
        """How much had happened."""
        return self.acknowledged + self.arrived

    @property
    def in_delivery(self) -> bool:
        """Whether the receiver had a part of the portion."""
        return 0 < self.arrived < PORTION


def _runs(process: int) -> bool:
    """Say whether a process is there and has not ended."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def _portion(
    clinic: Clinic, receiver: Archive, supply: Iterator[Instance], fault: Fault
) -> tuple[Killed, list[Answer]]:
    """Send a portion, kill in the middle of its flow, and let it be sent again until all is taken."""
    targets = fault.target.split()
    address = clinic.dicom
    # For a moment Docker tells the number of a process that was killed before.
    processes = wait_until(
        lambda: [clinic.pid(service) for service in targets],
        lambda found: all(map(_runs, found)),
        deadline=60,
        what=f"{fault.target} running",
    )
    with Sender(lambda: address, itertools.islice(supply, PORTION)) as sender:

        def flow() -> Killed:
            uids = {answer.sop_instance_uid for answer in sender.answers if answer.stored}
            return Killed(fault.target, len(uids), len(uids & receiver.record.kept.keys()))

        seen = wait_until(
            flow,
            lambda killed: killed.events >= fault.after_events,
            deadline=FLOW_DEADLINE,
            what=f"{fault.after_events} events before the kill",
            pause=0.01,
        )
        for process in processes:
            os.kill(process, signal.SIGKILL)
        assert sender.all_taken(TAKEN_DEADLINE), f"not all was taken after a kill of {fault.target}"
    return seen, sender.answers


def _attempts(clinic: Clinic, holder: str) -> Mapping[str, int]:
    """Return what the ledger counts of failed and unknown attempts, by SOP Instance UID."""
    owed = clinic.get(f"/understudy/obligations?holder={holder}&limit=10000")
    return {one["sop_instance_uid"]: one["attempts"] for one in owed}


def test_storm_of_kills_loses_nothing_and_every_copy_is_explained(
    stormy: Clinic, receiver: Archive, tmp_path: Path, results: Results, seed: int
) -> None:
    script = storm(seed, count("DRILL_STORM", 3), TARGETS, events=EVENTS)
    kills: list[Killed] = []
    answers: list[Answer] = []
    for number, fault in enumerate(script.faults):
        # A study of its own, as each proof lists a whole study; the end tells 1 and 11 from 11 and 1.
        supply = instances(tmp_path, f"storm {seed} portion {number} of it ")
        killed, answered = _portion(stormy, receiver, supply, fault)
        kills.append(killed)
        answers += answered
    stormy.healthy("orthanc", "agent", "edge", deadline=TAKEN_DEADLINE)
    stormy.close()
    uids = {answer.sop_instance_uid for answer in answers if answer.stored}

    def proven(state: State) -> bool:
        return all(holder.proven == len(uids) and not holder.unproven for holder in state.holders.values())

    state = wait_until(
        stormy.status, proven, deadline=PROVEN_DEADLINE, what=f"{len(uids)} proven at every holder", pause=1
    )
    verdict = check(answers, RestArchive(stormy.client()))
    vault = stormy.local_vault(stormy.first_start().identity)
    delivered = {
        "archive": Counter(arrival.sop_instance_uid for arrival in receiver.record.arrivals),
        "local": Counter(copy.sop_instance_uid for copy in vault.copies()),
    }
    again = {holder: copies.total() - len(copies) for holder, copies in delivered.items()}
    unexplained = {
        holder: [uid for uid in uids if copies[uid] - 1 > attempts.get(uid, 0)]
        for holder, copies in delivered.items()
        for attempts in [_attempts(stormy, holder)]
    }
    results.add(
        "storm",
        [
            {
                "kills": len(kills),
                "in delivery": sum(kill.in_delivery for kill in kills),
                "acknowledged": verdict.acknowledged,
                "lost": len(verdict.lost),
                "damaged": len(verdict.damaged),
                "unproven": sum(holder.unproven for holder in state.holders.values()),
                **{f"twice at {holder}": number for holder, number in again.items()},
                "unexplained": sum(map(len, unexplained.values())),
            }
        ],
        script=script,
        runs=[*(asdict(kill) for kill in kills), asdict(verdict)],
    )
    assert any(kill.events < EVENTS for kill in kills), "all kills came when nothing was on its way"
    assert verdict.acknowledged == PORTION * len(kills)
    assert verdict.kept, verdict
    sent = {answer.sop_instance_uid: answer.dataset_sha256 for answer in answers}
    assert set(state.holders) == set(delivered)
    for holder, copies in delivered.items():
        assert copies.keys() == uids, holder
        assert not unexplained[holder], holder
    arrivals = receiver.record.arrivals
    assert {(arrival.sop_instance_uid, arrival.dataset_sha256) for arrival in arrivals} == set(sent.items())
    assert {(copy.sop_instance_uid, copy.dataset_sha256) for copy in vault.copies()} == set(sent.items())
