"""The edge counts associations, and keeps its counts until the ledger has their batch's number."""

import sqlalchemy as sa
from alembic import op

revision = "7"
down_revision = "6"


def upgrade() -> None:
    """Add the table of one row."""
    op.create_table("edge_batch", sa.Column("number", sa.Integer, primary_key=True))
