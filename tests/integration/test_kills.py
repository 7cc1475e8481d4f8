"""SIGKILL of agent and Orthanc in the middle of their work: the end is the same as without."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import data
from tests.lab import PRIMARY, STANDBY, Lab, Peer
from tests.stack import StackError, State, wait_until

pytestmark = pytest.mark.needs("image", "lab-image", "s3-image")

KILLED = ("agent", "orthanc")
VAULTS = ("local", "cloud")
PROVEN = 600
"""Seconds until all is proven: a report of the primary that met no Orthanc is awaited for five minutes."""
ATTEMPTS = 5


def series(lab: Lab, name: str, *, instances: int, size: int = 256) -> data.Series:
    return data.ct_series(lab.data / name, seed=name, instances=instances, rows=size, columns=size)


class Sender:
    """A modality that sends a folder and does not give up: what was not acknowledged is sent again."""

    def __init__(self, lab: Lab, folder: Path, to: Peer) -> None:
        self._lab = lab
        self._folder = folder
        self._to = to
        self._thread = threading.Thread(target=self._try_once, daemon=True)
        self._thread.start()

    def _try_once(self) -> None:
        try:
            self._lab.send(self._folder, calling="CT1", to=self._to)
        except StackError:
            # Its association was cut; `finish` sends again.
            return

    def finish(self, wanted: data.Series) -> None:
        self._thread.join()

        def sent_again() -> frozenset[str]:
            return self._lab.send(self._folder, calling="CT1", to=self._to).accepted

        wait_until(
            sent_again,
            lambda accepted: accepted == set(wanted.sop_instance_uids),
            deadline=180,
            what="the whole series accepted",
            pause=1,
        )


def kill_when(lab: Lab, moment: Callable[[State], bool], what: str) -> State:
    """Kill agent and Orthanc at a moment of their work, and return the state that was last seen."""
    state = wait_until(lab.status, moment, deadline=180, what=what, pause=0.02)
    lab.kill(*KILLED)
    return state


def in_the_middle(attempt: Callable[[int], bool]) -> None:
    """Try again where the kill came too late: a busy machine may not tell of a beginning before the end."""
    assert any(attempt(number) for number in range(ATTEMPTS)), "killed in the middle, not at the end"


def revive(lab: Lab) -> None:
    lab.start("orthanc", "agent")


def everywhere_once(lab: Lab, wanted: data.Series) -> None:
    """Wait until all is proven everywhere, then count at every holder: 0 missing, 0 duplicated."""
    # What came last may be stored and not noted yet: then nobody is owed it.
    held = lab.instances_at(STANDBY).total()
    wait_until(
        lab.status,
        lambda state: (
            state.instances >= held
            and state.gaps == 0
            and all(counts.unproven == 0 for counts in state.holders.values())
        ),
        deadline=PROVEN,
        what="all proven everywhere",
        pause=0.5,
    )
    uids = set(wanted.sop_instance_uids)
    identity = lab.first_start().identity
    vaults = {"local": lab.local_vault(identity), "cloud": lab.cloud_vault(identity)}
    found = {"primary": lab.instances_at(PRIMARY), "standby": lab.instances_at(STANDBY)} | {
        name: Counter(copy.sop_instance_uid for copy in vault.copies()) for name, vault in vaults.items()
    }
    for holder, instances in found.items():
        assert {uid: instances[uid] for uid in uids} == dict.fromkeys(uids, 1), holder
    assert found["primary"] == found["standby"]
    state = lab.status()
    assert state.instances == found["standby"].total()
    assert {vault: state.holders[vault].proven for vault in VAULTS} == dict.fromkeys(VAULTS, state.instances)
    # A whole file without a row is read back in, or removed where it was sent again.
    files = wait_until(
        lab.copies_at_standby,
        lambda copies: Counter(copy.sop_instance_uid for copy in copies) == found["standby"],
        deadline=120,
        what="one file for each instance",
    )
    # What a kill cut off while it was written is kept apart: the beginning of what was sent again.
    whole = {copy.sop_instance_uid: copy.content for copy in files}
    for cut in lab.quarantined_at_standby():
        assert len(cut.content) < len(whole[cut.sop_instance_uid])
        assert whole[cut.sop_instance_uid].startswith(cut.content)


@pytest.fixture(autouse=True)
def at_peace(lab: Lab) -> None:
    """Each test begins with a healthy primary and nothing owed."""
    wait_until(
        lab.status,
        lambda state: (
            state.condition == "up"
            and state.mode == "standby"
            and all(counts.unproven == 0 for counts in state.holders.values())
        ),
        deadline=PROVEN,
        what="peace before the test",
    )


def test_kill_in_the_middle_of_noting_loses_and_doubles_nothing(lab: Lab) -> None:
    def attempt(number: int) -> bool:
        wanted = series(lab, f"mid-note-{number}", instances=150)
        before = lab.status().instances
        sender = Sender(lab, wanted.paths[0].parent, STANDBY)
        state = kill_when(lab, lambda seen: seen.instances > before, "the first instances noted")
        revive(lab)
        sender.finish(wanted)
        everywhere_once(lab, wanted)
        return state.instances < before + len(wanted.paths)

    in_the_middle(attempt)


def test_kill_in_the_middle_of_vaulting_loses_and_doubles_nothing(lab: Lab) -> None:
    def attempt(number: int) -> bool:
        wanted = series(lab, f"mid-vault-{number}", instances=150, size=512)
        before = lab.status().holders
        sender = Sender(lab, wanted.paths[0].parent, STANDBY)
        state = kill_when(
            lab,
            lambda seen: any(seen.holders[vault].in_flight for vault in VAULTS),
            "a pack on its way to a vault",
        )
        revive(lab)
        sender.finish(wanted)
        everywhere_once(lab, wanted)
        return any(state.holders[vault].proven - before[vault].proven < len(wanted.paths) for vault in VAULTS)

    in_the_middle(attempt)


def test_kill_in_the_middle_of_failback_loses_and_doubles_nothing(lab: Lab) -> None:
    wanted = series(lab, "mid-failback", instances=150)
    epoch = lab.promote("a test of failback", force=True).epoch
    lab.send_all(wanted.paths[0].parent, calling="CT1", to=STANDBY)
    wait_until(
        lab.status,
        lambda seen: seen.holders["primary"].owed == len(wanted.paths),
        deadline=180,
        what="all owed to the primary",
    )
    before = lab.status().holders["primary"].proven
    number = lab.failback()
    state = kill_when(
        lab,
        lambda seen: seen.holders["primary"].sent + seen.holders["primary"].proven - before > 0,
        "the first instances given back",
    )
    # What is due at the same moment goes out together: then nothing is owed, and all is on its way.
    assert state.holders["primary"].unproven > 0, "killed in the middle, not at the end"
    revive(lab)
    assert (lab.status().mode, lab.status().epoch) == ("returning", epoch)
    lab.finished(number, deadline=PROVEN)
    assert lab.settled(deadline=PROVEN).mode == "standby"
    everywhere_once(lab, wanted)
