"""What was printed."""

import sqlalchemy as sa
from alembic import op

from pillion_sidecar.store_migrations.types import TEXT, VALUE

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add console lines."""
    op.create_table(
        "console",
        sa.Column("run_id", TEXT, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("stream", sa.Integer, nullable=False),
        sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
        sa.Column("lines", VALUE, nullable=False),
        sqlite_with_rowid=False,
    )
