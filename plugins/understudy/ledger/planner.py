"""Table statistics for SQLite's planner. Without them it reads all obligations of a holder to find one study.

SQLite's own ANALYZE would read everything, and fix the plans for the file as it is then. These statistics
have the proportions of a large ledger, where plans matter: some hundred instances in a study, three holders.
"""

from sqlalchemy import Connection, MetaData, event

from understudy.ledger.schema import metadata

STATISTICS = (
    ("instances", "instances_by_study", "1000000 400"),
    ("instances", "instances_by_sop", "1000000 1"),
    ("instances", "sqlite_autoindex_instances_1", "1000000 1 1"),
    ("obligations", "obligations", "3000000 3 1"),
    ("obligations", "obligations_by_state", "3000000 1000000 300000 500"),
    ("proofs", "proofs_by_obligation", "3000000 3 1"),
)
"""Table, index, and numbers of rows: all, then those with equal values in the first column, first two, ..."""


@event.listens_for(metadata, "after_create")
def _tell(_metadata: MetaData, connection: Connection, **_: object) -> None:
    # This only makes the table of statistics.
    connection.exec_driver_sql("ANALYZE sqlite_schema")
    connection.exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", list(STATISTICS))
