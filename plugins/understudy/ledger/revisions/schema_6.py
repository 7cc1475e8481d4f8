"""Claims have no time of their own: a lane takes up what it finds in flight, and a restart all of it."""

from alembic import op

revision = "6"
down_revision = "5"


def upgrade() -> None:
    """Drop the column that nobody reads."""
    op.drop_column("obligations", "lease_until")
