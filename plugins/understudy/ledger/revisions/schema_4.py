"""How often each obligation was acknowledged and not shown: nobody gets copies of one instance for ever."""

import sqlalchemy
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    """Add the count."""
    losses = sqlalchemy.Column("losses", sqlalchemy.Integer, nullable=False, server_default="0")
    op.add_column("obligations", losses)
