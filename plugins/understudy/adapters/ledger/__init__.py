"""The ledger of custody in SQLite: the durable record of instances, obligations, proofs, modes, operations and events."""

from pathlib import Path

from understudy.adapters.ledger.custody import Custody, unsettled_to
from understudy.adapters.ledger.database import Database, LedgerVersionError
from understudy.adapters.ledger.findings import Finding, Findings
from understudy.adapters.ledger.journal import Journal, ModeRecord, Transaction
from understudy.adapters.ledger.packs import Packs

__all__ = ["Finding", "Ledger", "LedgerVersionError", "ModeRecord", "Transaction", "unsettled_to"]


class Ledger(Custody, Findings, Journal):
    """Custody, findings and journal on one file; `packs` is the vaults' book on the same file."""

    def __init__(self, path: Path) -> None:
        database = Database(path)
        super().__init__(database)
        self.packs = Packs(database)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
