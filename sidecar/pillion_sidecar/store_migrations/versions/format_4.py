"""Several sidecars may share a store: runs and artifacts have an owner. And events of runs.

Only stores in SQLite's files can be of an older format; a new one takes the same way in tests.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateSequence

from pillion_sidecar.store_migrations.types import ID, TEXT, VALUE

revision = "0004"
down_revision = "0003"

_ALIASES = ("project", "name", "alias", "artifact_id")
_ARTIFACTS = (
    *("artifact_id", "project", "name", "version", "type", "sha256", "metadata", "description"),
    *("registry_links", "run_id", "time_unix_nano", "file_count", "size_bytes"),
)


def upgrade() -> None:
    """Add owners, events, and what has several writers number segments."""
    op.add_column("runs", _owner())
    op.create_table(
        "events",
        sa.Column("run_id", TEXT, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("text", TEXT, nullable=False),
        sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "sqlite":  # which cannot alter what a table is unique by
        _replace_artifacts()
        _replace_aliases()
        # What a Pillion that knows no steps looks at, to leave this store alone.
        op.execute("UPDATE meta SET value = '4' WHERE key = 'store_format'")
    else:
        op.execute(CreateSequence(sa.Sequence("segment_ids", increment=1_024)))
        op.add_column("artifacts", _owner())
        op.drop_constraint("artifacts_project_name_version_key", "artifacts")
        unique = ["owner", "project", "name", "version"]
        op.create_unique_constraint("artifacts_owner_project_name_version_key", "artifacts", unique)
        op.add_column("artifact_aliases", _owner())
        op.drop_constraint("artifact_aliases_pkey", "artifact_aliases")
        key = ["owner", "project", "name", "alias"]
        op.create_primary_key("artifact_aliases_pkey", "artifact_aliases", key)


def _owner() -> sa.Column[str]:
    return sa.Column("owner", TEXT, nullable=False, server_default="")


def _replace_artifacts() -> None:
    op.create_table(
        "artifacts_4",
        sa.Column("artifact_id", ID, primary_key=True),
        *(sa.Column(name, TEXT, nullable=False) for name in ("project", "name")),
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
        _owner(),
        sa.UniqueConstraint("owner", "project", "name", "version"),
        sqlite_autoincrement=True,
    )
    _replace("artifacts", _ARTIFACTS)


def _replace_aliases() -> None:
    op.create_table(
        "artifact_aliases_4",
        sa.Column("owner", TEXT, primary_key=True, server_default=""),
        *(sa.Column(name, TEXT, primary_key=True) for name in ("project", "name", "alias")),
        sa.Column("artifact_id", ID, sa.ForeignKey("artifacts.artifact_id"), nullable=False),
        sqlite_with_rowid=False,
    )
    _replace("artifact_aliases", _ALIASES)
    op.create_index("ix_artifact_aliases_artifact_id", "artifact_aliases", ["artifact_id"])


def _replace(table: str, columns: tuple[str, ...]) -> None:
    """Put `TABLE_4` in the place of a table."""
    names = ", ".join(columns)
    op.execute(f"INSERT INTO {table}_4 ({names}) SELECT {names} FROM {table}")
    op.drop_table(table)
    op.rename_table(f"{table}_4", table)
