"""An attacker in the agent's container, and one who may write into the vault: both are seen, neither wins."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import data
from tests.ansible import clients
from tests.stack import TEST_PROJECT, Stack, StackError, wait_until

pytestmark = pytest.mark.needs("image")

KEYS = "/var/lib/understudy-keys"
FORGE = """
import io, sys, threading, time
from contextlib import nullcontext
from pathlib import Path
from dataclasses import replace
from understudy.adapters.directory import DirectoryStore
from understudy.adapters.encryption import AgeSealer
from understudy.system.spool import Spool
from understudy.core.packing import Digests, PackIntent
from understudy.core.model import Instance, InstanceNumber
from understudy.core.ports import Clock
from understudy.holders.vault import Vault, VaultSettings

class Book:
    def plan(self, holder, intent): pass
    def open(self, holder, numbers): return []
    def close(self, holder, key): pass

class Files:
    def open(self, instance): return nullcontext(io.BytesIO(b"forged"))
    def study_facts(self, file, syntax): return None

study, series, sop = sys.argv[1:]
instance = Instance(
    orthanc_id="x", attachment_uuid="x", sop_instance_uid=sop, sop_class_uid="1.2.3",
    series_instance_uid=series, study_instance_uid=study, transfer_syntax_uid="1.2.840.10008.1.2.1",
    modality="CT", size=6, md5="", calling_ae_title="", called_ae_title="", remote_address="",
    received_at=time.time() + 10**6, number=InstanceNumber(1),
)
recipient = Path("/var/lib/understudy-keys/vault-recipient").read_text().strip()
store = DirectoryStore("local", Path("/var/lib/understudy-vault"))
spool = Spool(Path("/tmp"), 2**20)
sealer = AgeSealer([recipient])
clock = Clock(time.time, time.monotonic, threading.Lock())
vault = Vault(VaultSettings("local", "clinic", None), Files(), store, sealer, Book(), clock, spool)
assert all(item.proof for item in vault.deliver([instance]))
"""


@pytest.fixture(scope="module")
def appliance() -> Iterator[Stack]:
    stack = Stack(f"{TEST_PROJECT}-attacked", lab=False)
    stack.down()
    try:
        stack.up()
        yield stack
    except StackError:
        print(stack.logs())
        raise
    finally:
        stack.down()


def send(appliance: Stack, folder: Path, seed: str, count: int) -> data.Series:
    """Store a series as a modality would."""
    made = data.ct_series(folder / seed, seed=seed, instances=count, rows=32, columns=32)
    host, port = appliance.dicom
    assert clients.store(host, port, made.paths, calling="CT1", called="UNDERSTUDY") == [0] * count
    return made


def vaulted(appliance: Stack, number: int) -> None:
    """Wait until the vault is proven to have so many instances.

    What failed several times is tried again after a minute and more.
    """
    wait_until(
        lambda: appliance.status().holders["local"].proven,
        lambda proven: proven == number,
        deadline=600,
        what=f"{number} in the vault",
    )


def packs(appliance: Stack) -> int:
    return int(appliance.shell("agent", "find /var/lib/understudy-vault/packs -type f | wc -l"))


def test_replaced_recipient_is_an_alarm_nothing_is_packed_and_intake_goes_on(
    appliance: Stack, tmp_path: Path
) -> None:
    send(appliance, tmp_path, "before", 2)
    vaulted(appliance, 2)
    before = packs(appliance)
    thief = "age1" + "q" * 58
    replace = 'cp "$1/vault-recipient" "$1/kept"; echo "$2" > "$1/vault-recipient"'
    appliance.shell("agent", replace, KEYS, thief)
    appliance.restart("agent")
    appliance.healthy("agent", deadline=60)
    send(appliance, tmp_path, "meanwhile", 3)
    seen = wait_until(
        appliance.status,
        lambda state: (
            any("recipients of vault local were changed" in alarm for alarm in state.alarms)
            and state.holders["local"].owed == 3
        ),
        deadline=120,
        what="an alarm, and the vault is owed",
    )
    assert (seen.instances, packs(appliance)) == (5, before)
    # What is no recipient at all cannot be accepted by a slip.
    with pytest.raises(StackError, match="not valid"):
        appliance.execute(
            "agent", "understudy", "accept-recipients", "--vault", "local", "--reason", "a slip"
        )
    appliance.shell("agent", f"mv {KEYS}/kept {KEYS}/vault-recipient")
    vaulted(appliance, 5)
    wait_until(
        lambda: appliance.status().alarms,
        lambda alarms: not any("recipients" in alarm for alarm in alarms),
        deadline=60,
        what="no alarm any more",
    )


def test_forged_pack_is_named_and_what_the_appliance_wrote_comes_back(
    appliance: Stack, tmp_path: Path
) -> None:
    before = appliance.status().instances
    made = send(appliance, tmp_path, "true", 2)
    vaulted(appliance, before + 2)
    sop = made.sop_instance_uids[0]
    uids = (made.study_instance_uid, "1.2.3", sop)
    appliance.execute("agent", "python", "-c", FORGE, *uids)
    identity = appliance.first_start().identity.encode()
    words = ("restore", "--vault", "local", "--identity-file", "-", "--to", "/tmp/back")
    with pytest.raises(StackError, match="may be forged"):
        appliance.execute("agent", "understudy", *words, stdin=identity)
    count = "find /tmp/back -name '*.dcm' | wc -l; { grep -rl forged /tmp/back || true; } | wc -l"
    assert appliance.shell("agent", count).split() == [str(before + 2), "0"]
