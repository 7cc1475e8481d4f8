"""The ledger in SQLite: a durable record of instances, obligations, proofs, modes, operations and events."""

from pathlib import Path

from understudy.ledger.anchor import Anchor
from understudy.ledger.commitments import CommitmentBook
from understudy.ledger.conflicts import ConflictBook
from understudy.ledger.copying import copy_ledger
from understudy.ledger.custody import CustodyBook
from understudy.ledger.database import Database
from understudy.ledger.dead_letters import DeadLetterBook
from understudy.ledger.deletions import DeletionBook
from understudy.ledger.devices import DeviceBook
from understudy.ledger.events import EventBook
from understudy.ledger.facts import FactBook
from understudy.ledger.files import FileBook, OpenDamage
from understudy.ledger.gaps import Finding, GapBook, GapsTally
from understudy.ledger.instances import InstanceBook
from understudy.ledger.intake import IntakeBook
from understudy.ledger.integrity import DamagedLedgerError
from understudy.ledger.migration import LedgerVersionError, MigrationError
from understudy.ledger.modes import ModeBook, ModeRecord, Transaction
from understudy.ledger.obligations import ObligationBook, unsettled_to
from understudy.ledger.operations import RESCAN, OperationBook, is_running
from understudy.ledger.packs import PackBook
from understudy.ledger.queue import QueueBook
from understudy.ledger.transitions import IllegalTransitionError

__all__ = [
    "RESCAN",
    "CommitmentBook",
    "ConflictBook",
    "CustodyBook",
    "DamagedLedgerError",
    "DeadLetterBook",
    "DeletionBook",
    "DeviceBook",
    "EventBook",
    "FactBook",
    "FileBook",
    "Finding",
    "GapBook",
    "GapsTally",
    "IllegalTransitionError",
    "InstanceBook",
    "IntakeBook",
    "Ledger",
    "LedgerVersionError",
    "MigrationError",
    "ModeBook",
    "ModeRecord",
    "ObligationBook",
    "OpenDamage",
    "OperationBook",
    "PackBook",
    "QueueBook",
    "Transaction",
    "is_running",
    "unsettled_to",
]


class Ledger:
    """All books of one ledger file. Each part of the flow takes only the books that it uses."""

    def __init__(self, path: Path, anchor: Path | None = None) -> None:
        """Open the ledger. `anchor` is the file that repeats the last event, by default beside the ledger.

        Raises DamagedLedgerError, LedgerVersionError or MigrationError, each with a hint.
        """
        self.database = database = Database(path)
        """The file itself, for maintenance and tests."""
        self.modes = ModeBook(database)
        self.facts = FactBook(database)
        self.operations = OperationBook(database)
        self.intake = IntakeBook(database)
        self.instances = InstanceBook(database)
        self.obligations = ObligationBook(database)
        self.queue = QueueBook(database)
        self.custody = CustodyBook(database)
        self.commitments = CommitmentBook(database)
        self.packs = PackBook(database)
        self.dead_letters = DeadLetterBook(database)
        self.conflicts = ConflictBook(database)
        self.gaps = GapBook(database)
        self.files = FileBook(database)
        self.deletions = DeletionBook(database)
        self.devices = DeviceBook(database)
        # Created last, so it is told of a commit last: it waits for a disk, and must not delay the others.
        self.events = EventBook(database, Anchor(anchor or path.with_name(f"{path.name}.anchor")))

    def back_up(self, path: Path) -> None:
        """Write a consistent, checked copy while others use the ledger. Raises as `copy_ledger` does."""
        copy_ledger(self.database.path, path)

    def close(self) -> None:
        """Close the file."""
        self.database.close()
