"""Alerts, files of rows, artifacts, figures of metrics, and where runs go at W&B."""

import sqlalchemy as sa
from alembic import op

from pillion_sidecar.store_migrations.types import ID, TEXT, VALUE

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables of rich runs, and columns to runs and signatures."""
    for name in ("model", "dataset", "use_case"):
        op.add_column("runs", sa.Column(name, TEXT, nullable=False, server_default=""))
    op.add_column("runs", sa.Column("definitions", VALUE, nullable=False, server_default="[]"))
    op.add_column("runs", sa.Column("wandb", VALUE, nullable=False, server_default="{}"))
    op.add_column("signatures", sa.Column("first_ordinal", sa.BigInteger))
    op.add_column("signatures", sa.Column("figures", sa.LargeBinary))
    op.create_table(
        "alerts",
        sa.Column("run_id", TEXT, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("title", TEXT, nullable=False),
        sa.Column("text", TEXT, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "chunks",
        sa.Column("chunk_id", ID, primary_key=True),
        sa.Column("run_id", TEXT, sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("offset_bytes", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Index("chunks_by_file", "run_id", "sha256", "offset_bytes"),
    )
    _make_artifacts()


def _make_artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("artifact_id", ID, primary_key=True),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("type", TEXT, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("metadata", VALUE, nullable=False),
        sa.Column("description", TEXT, nullable=False),
        sa.Column("registry_links", VALUE, nullable=False),
        sa.Column("run_id", TEXT, nullable=False),
        sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
        sa.Column("file_count", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("project", "name", "version"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "artifact_files",
        sa.Column("artifact_id", ID, sa.ForeignKey("artifacts.artifact_id"), primary_key=True),
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("reference_uri", TEXT, nullable=False),
        sqlite_with_rowid=False,
    )
    of_artifact = sa.ForeignKey("artifacts.artifact_id")
    op.create_table(
        "artifact_aliases",
        *(sa.Column(name, TEXT, primary_key=True) for name in ("project", "name", "alias")),
        sa.Column("artifact_id", ID, of_artifact, nullable=False, index=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "artifact_runs",
        sa.Column("run_id", TEXT, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("is_maker", sa.Boolean, primary_key=True),
        sa.Column("reference", TEXT, primary_key=True),
        sa.Column("artifact_id", ID, index=True),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
