"""Run by Alembic: takes the steps on the connection, and in the transaction, of its caller."""

from alembic import context

from pillion_sidecar.store_tables import store_version

context.configure(
    connection=context.config.attributes["connection"], version_table=store_version.name
)
context.run_migrations()
