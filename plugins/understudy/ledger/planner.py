"""What SQLite's planner is told of the tables: else it reads all that a holder is owed to find one study.

SQLite can count by itself (ANALYZE): it reads everything, and plans for the file as it was then. These are
the proportions of a large ledger, where plans matter: some hundred instances a study, three holders.
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
"""Table, index, and numbers of rows: all, and with equal values in the first column, the first two ..."""


@event.listens_for(metadata, "after_create")
def _tell(_metadata: MetaData, connection: Connection, **_: object) -> None:
    # Makes the table of statistics, and reads nothing else.
    connection.exec_driver_sql("ANALYZE sqlite_schema")
    connection.exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", list(STATISTICS))
