"""The ledger of custody in SQLite: instances, obligations, proofs, modes, operations and events, durably."""

from pathlib import Path

from understudy.adapters.ledger.anchor import Anchor
from understudy.adapters.ledger.commitments import Commitments
from understudy.adapters.ledger.conflicts import Conflicts
from understudy.adapters.ledger.copying import copy_ledger
from understudy.adapters.ledger.custody import Custody
from understudy.adapters.ledger.database import Database
from understudy.adapters.ledger.devices import Devices
from understudy.adapters.ledger.files import Files
from understudy.adapters.ledger.findings import Finding, Findings, GapsTally
from understudy.adapters.ledger.intake import Intake
from understudy.adapters.ledger.integrity import DamagedLedgerError
from understudy.adapters.ledger.journal import RESCAN, Journal, ModeRecord, Transaction
from understudy.adapters.ledger.letters import Letters
from understudy.adapters.ledger.migration import LedgerVersionError, MigrationError
from understudy.adapters.ledger.packs import Packs
from understudy.adapters.ledger.questions import Questions, unsettled_to
from understudy.adapters.ledger.transitions import IllegalTransitionError

__all__ = [
    "RESCAN",
    "DamagedLedgerError",
    "Finding",
    "GapsTally",
    "IllegalTransitionError",
    "Ledger",
    "LedgerVersionError",
    "MigrationError",
    "ModeRecord",
    "Transaction",
    "unsettled_to",
]


class Ledger(Intake, Custody, Commitments, Letters, Conflicts, Questions, Findings, Files, Devices, Journal):
    """Everything the ledger is asked and told, on one file; `packs` is the vaults' book on the same file."""

    def __init__(self, path: Path, anchor: Path | None = None) -> None:
        """Open the file; `anchor` is where the last event is kept a second time, beside it if absent.

        Raises DamagedLedgerError, LedgerVersionError and MigrationError, each with a hint.
        """
        self.database = Database(path)
        """The file itself, for maintenance and tests."""
        super().__init__(self.database, Anchor(anchor or path.with_name(f"{path.name}.anchor")))
        self.packs = Packs(self.database)

    def back_up(self, path: Path) -> None:
        """Write a copy of one moment, checked whole, while others go on; or raise as `copy_ledger`."""
        copy_ledger(self.database.path, path)

    def close(self) -> None:
        """Close the file."""
        self.database.close()
