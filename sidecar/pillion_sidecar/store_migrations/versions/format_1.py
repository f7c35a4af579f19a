"""Runs, and their rows in segments."""

import sqlalchemy as sa
from alembic import op

from pillion_sidecar.store_migrations.types import ID, TEXT, VALUE

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "meta",
        sa.Column("key", TEXT, primary_key=True),
        sa.Column("value", TEXT, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("run_id", TEXT, primary_key=True),
        *(sa.Column(name, TEXT, nullable=False) for name in ("project", "name", "group")),
        sa.Column("job_type", TEXT, nullable=False),
        sa.Column("tags", VALUE, nullable=False),
        sa.Column("notes", TEXT, nullable=False),
        *(sa.Column(name, VALUE, nullable=False) for name in ("config", "summary", "environment")),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("start_time_unix_nano", sa.BigInteger, nullable=False),
        sa.Column("end_time_unix_nano", sa.BigInteger),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("last_step", sa.BigInteger),
        sa.Column("lost_row_count", sa.BigInteger, nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Index("runs_by_time", "start_time_unix_nano", "run_id"),
        sa.Index("runs_by_project", "project", "start_time_unix_nano", "run_id"),
    )
    op.create_table(
        "signatures",
        sa.Column("signature_id", ID, primary_key=True),
        sa.Column("run_id", TEXT, sa.ForeignKey("runs.run_id"), nullable=False, index=True),
        sa.Column("metrics", VALUE, nullable=False),
        sa.Column("last_ordinal", sa.BigInteger, nullable=False),
        sa.Column("last_values", VALUE, nullable=False),
    )
    op.create_table(
        "segments",
        sa.Column("segment_id", ID, primary_key=True, autoincrement=False),
        sa.Column("signature_id", ID, sa.ForeignKey("signatures.signature_id"), nullable=False),
        sa.Column("first_ordinal", sa.BigInteger, nullable=False),
        sa.Column("last_ordinal", sa.BigInteger, nullable=False),
        sa.Column("row_count", sa.Integer, nullable=False),
        sa.Column("ordinals", sa.LargeBinary, nullable=False),
        sa.Column("steps", sa.LargeBinary, nullable=False),
        sa.Column("times_unix_nano", sa.LargeBinary, nullable=False),
        sa.Index("segments_by_signature", "signature_id", "segment_id"),
    )
    op.create_table(
        "columns",
        sa.Column("segment_id", ID, sa.ForeignKey("segments.segment_id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("minimum", sa.Double),
        sa.Column("maximum", sa.Double),
        sa.Column("nan_count", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
