"""A route that hangs for the whole test: what the lanes to another route and to a vault need for equal work.

Counted is what a lane can take from another: its statements at the ledger, and its transactions, of which one
at a time can write. Seconds would count what else the machine does.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event
from understudy.adapters.directory import DirectoryStore
from understudy.adapters.encryption import AgeSealer, new_key_pair
from understudy.adapters.storage import StorageArea
from understudy.core.model import HolderName
from understudy.core.obligations import ObligationState
from understudy.holders.vault import Vault, VaultSettings
from understudy.ledger import Ledger
from understudy.system.spool import Spool

from tests.contract.route import destination, lane_to
from tests.peer.archive import Archive
from tests.peer.record import Moment
from tests.peer.script import Hang, Listing, Script
from tests.unit.fakes import NOW, ROUTE, VAULT, Clock, note, unproven
from tests.vault_parts import Storage

HANGING = HolderName("hanging")
OTHERS = (ROUTE, VAULT)
INSTANCES = 60
SHARE = 0.10


@contextmanager
def counted(ledger: Ledger) -> Iterator[Counter[str]]:
    """Count statements and transactions at the ledger, by the name of the thread."""
    counts: Counter[str] = Counter()

    def count(*_: object) -> None:
        counts[threading.current_thread().name] += 1

    for what in ("after_cursor_execute", "begin"):
        event.listen(ledger.database.engine, what, count)
    try:
        yield counts
    finally:
        for what in ("after_cursor_execute", "begin"):
            event.remove(ledger.database.engine, what, count)


def deliver(folder: Path, hanging: Script | None) -> Counter[str]:
    """Deliver equal work to a route and a vault, alone or beside a route that hangs; return the counts."""
    (folder / "storage").mkdir(parents=True)
    (folder / "vault").mkdir()
    storage, clock = Storage(folder / "storage"), Clock()
    ledger = Ledger(folder / "ledger.sqlite")
    with ExitStack() as stack:
        stack.callback(ledger.close)
        ledger.modes.start(NOW)
        note(ledger, *storage.series("equal work", INSTANCES), owed=[HANGING, *OTHERS])
        vault = Vault(
            VaultSettings(VAULT, "clinic", None),
            StorageArea(storage.root),
            DirectoryStore(VAULT, folder / "vault"),
            AgeSealer([new_key_pair().recipient]),
            ledger.packs,
            clock,
            Spool(folder, 2**20),
        )
        archive = stack.enter_context(Archive())
        lanes = [lane_to(holder, ledger, clock) for holder in (destination(archive, storage, clock), vault)]
        if hanging is not None:
            hung = stack.enter_context(Archive(hanging))
            lost = lane_to(destination(hung, storage, clock, name=HANGING), ledger, clock)
            thread = threading.Thread(target=lost.step, name="hanging")
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, hung, "script", Script())
            hung.record.wait_for(Moment.HANGING)
        counts = stack.enter_context(counted(ledger))
        for lane in lanes:
            while lane.step():
                pass
        for holder in OTHERS:
            states = [view.state for view in ledger.obligations.listed(holder, None, INSTANCES)]
            assert states == [ObligationState.PROVEN] * INSTANCES, holder
        assert unproven(ledger) == []
        if hanging is not None:
            assert thread.is_alive(), "it did not hang for the whole time"
            assert hung.record.kept == {}
        return Counter(counts)


@pytest.mark.parametrize(
    "hanging",
    [
        Script(deaf=True),
        Script(listing=Listing.SILENT),
        Script(act=Hang()),
        Script(act=Hang(after_bytes=1000)),
    ],
    ids=["no association", "no listing", "no answer", "in mid data set"],
)
def test_route_that_hangs_costs_the_others_less_than_a_tenth(tmp_path: Path, hanging: Script) -> None:
    alone = deliver(tmp_path / "alone", None)
    beside = deliver(tmp_path / "beside", hanging)
    assert alone.total() > INSTANCES, "hardly anything was counted"
    assert beside.total() < (1 + SHARE) * alone.total()
