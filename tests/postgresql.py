"""A PostgreSQL server for tests, from Debian's package: on a socket of its own, gone at the end."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg

USER, PASSWORD = "pillion", "a secret/of @tests"
WAIT_S = "120"

_SETTINGS = (
    *("fsync=off", "full_page_writes=off", "autovacuum=off", "max_connections=40"),
    *("listen_addresses=", "shared_buffers=32MB", "log_min_messages=fatal"),
)


class PostgresqlServer:
    """One server. Every test gets a schema of its own in its one database."""

    def __init__(self, *settings: str) -> None:
        """Make its files; it is not started yet. Settings count before those for tests."""
        self._settings = (*_SETTINGS, *settings)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        assert found, "PostgreSQL is missing: apt-get install postgresql"
        self._commands = found[-1].parent
        self._directory = Path(tempfile.mkdtemp(prefix="pillion-pg-"))
        # It does not run as root, as CI does.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self._directory, self._user)
        password = self._directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            "initdb",
            "--no-sync",
            "--auth=scram-sha-256",
            f"--username={USER}",
            f"--pwfile={password}",
            "--encoding=UTF8",
            "--locale=C",
        )
        self._names = count()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = " ".join(f"-c {each}" for each in self._settings)
        self._run(
            "pg_ctl",
            "start",
            "--wait",
            f"--timeout={WAIT_S}",
            "--silent",
            f"--log={self._directory}/log",
            f"--options={settings} -k {self._directory}",
        )

    def stop(self) -> None:
        """Stop it at once, as a crash does."""
        self._run("pg_ctl", "stop", "--mode=immediate", "--wait", f"--timeout={WAIT_S}", "--silent")

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """Connect beside what is tested."""
        with psycopg.connect(
            host=str(self._directory),
            user=USER,
            password=PASSWORD,
            dbname="postgres",
            autocommit=True,
        ) as connection:
            yield connection

    def new_url(self, *, password: str = PASSWORD) -> str:
        """Return the URL of a schema that was made just now."""
        name = f"test_{next(self._names)}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return (
            f"postgresql+psycopg://{USER}:{quote(password, safe='')}@/postgres"
            f"?host={self._directory}&options=-csearch_path%3D{name}"
        )

    def remove(self) -> None:
        """Delete its files."""
        shutil.rmtree(self._directory)

    def _run(self, command: str, *arguments: str) -> None:
        subprocess.run(
            [self._commands / command, f"--pgdata={self._directory}/data", *arguments],
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd="/",
            check=True,
        )


@contextmanager
def postgresql_server(*settings: str) -> Iterator[PostgresqlServer]:
    """Run a server, with settings such as `fsync=on`."""
    server = PostgresqlServer(*settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.remove()
