"""Requests for storage commitment: their transactions outlive the process that asked."""

import sqlalchemy
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "commitments",
        sqlalchemy.Column("transaction_uid", sqlalchemy.String, primary_key=True),
        sqlalchemy.Column("holder", sqlalchemy.String, nullable=False),
        sqlalchemy.Column("requested", sqlalchemy.Float, nullable=False),
    )
    op.create_table(
        "commitment_members",
        sqlalchemy.Column("instance", sqlalchemy.Integer, primary_key=True),
        sqlalchemy.Column(
            "transaction_uid",
            sqlalchemy.String,
            sqlalchemy.ForeignKey("commitments.transaction_uid"),
            primary_key=True,
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("commitment_members_by_transaction", "commitment_members", ["transaction_uid"])
