"""An index of what is not settled, by age: the oldest is asked for with every status."""

from alembic import op
from sqlalchemy import text

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Make the index."""
    unsettled = text("state IN ('owed', 'in_flight', 'sent', 'refused')")
    op.create_index("obligations_unsettled", "obligations", ["holder", "since"], sqlite_where=unsettled)
