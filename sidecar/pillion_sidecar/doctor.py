"""Checks the set-up and says what to mend: `pillion doctor`. Needs no sidecar.

Each function looks at one thing and yields checks; none changes anything but a file of its own that
it writes to measure the disk, and removes.
"""

import os
import platform
import resource
import socket
import sqlite3
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pillion._version import __version__
from pillion.address import AddressError, is_of_one_user
from pillion.spool import SUFFIX, SUFFIX_DAMAGED, spool_directory
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.errors import PillionError
from pillion_sidecar.journal_tables import FORMAT
from pillion_sidecar.rendering import user_text
from pillion_sidecar.safety import bytes_text, count_text, people_name
from pillion_sidecar.settings import NETWORK_FILESYSTEMS, Settings, WandbMode, filesystem_of
from pillion_sidecar.store import Store
from pillion_sidecar.store_database import is_shared

PACKAGES = ("grpcio", "protobuf", "sqlalchemy", "wandb")
WANDB_SERIES = "0.31."
OPEN_FILES_MIN = 4096
"""As many streams as the sidecar takes."""
SYNCS, SYNC_BYTES = 20, 16 * 1024
SYNC_SLOW_S = 0.05
"""A disk that takes longer still works: batches grow meanwhile."""
ROOM_FACTOR = 4
"""Less than so many reserves left is worth a word."""
CLOCK_MIN_S = 1735689600.0
"""2025: before this program was made."""
VARIABLES_HELD = (
    *("PILLION_ALERT_COMMAND", "PILLION_ALERT_WEBHOOK"),
    *("PILLION_STORE", "PILLION_TOKEN", "WANDB_API_KEY"),
)
"""Those whose values are not shown."""


class Verdict(StrEnum):
    """What a check means."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found, and what to do about it."""

    verdict: Verdict
    what: str
    found: str
    next_step: str = ""


def examine(settings: Settings) -> Iterator[Check]:
    """Check everything."""
    yield from _packages(settings)
    yield from _data_dir(settings)
    yield from _journal(settings)
    yield from _store(settings)
    yield from _socket(settings)
    yield from _sidecar(settings)
    yield from _variables()
    yield from _spool()
    yield from _leftovers(settings)
    yield from _system()


def checks_view(checks: Sequence[Check]) -> RenderableType:
    """Show checks, one per line, each with what to do about it below."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for one in checks:
        verdict = Text(one.verdict.value, style=_STYLES[one.verdict])
        table.add_row(verdict, user_text(one.what), user_text(one.found))
        if one.next_step:
            table.add_row("", "", user_text(f"→ {one.next_step}"))
    counts = Counter(one.verdict for one in checks)
    summary = f"{counts[Verdict.FAIL]} to mend, {counts[Verdict.WARN]} to look at."
    if not counts[Verdict.FAIL] + counts[Verdict.WARN]:
        summary = "All is well."
    return Group(table, "", summary)


def _ok(what: str, found: str) -> Check:
    return Check(Verdict.OK, what, found)


def _warn(what: str, found: str, next_step: str) -> Check:
    return Check(Verdict.WARN, what, found, next_step)


def _fail(what: str, found: str, next_step: str) -> Check:
    return Check(Verdict.FAIL, what, found, next_step)


def _packages(settings: Settings) -> Iterator[Check]:
    yield _ok("pillion", f"{__version__} on Python {platform.python_version()}")
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name == "wandb" and settings.wandb_mode is WandbMode.DISABLED:
                continue
            yield _fail(name, "not installed", "pip install -e '.[sidecar]'")
            continue
        if name == "wandb" and not version.startswith(WANDB_SERIES):
            step = f"pip install 'wandb>={WANDB_SERIES}0,<0.32': its files are read back"
            yield _fail(name, f"{version}, not {WANDB_SERIES}x", step)
        else:
            yield _ok(name, version)


def _data_dir(settings: Settings) -> Iterator[Check]:
    what, directory = "data directory", settings.data_dir
    if not directory.exists():
        yield _ok(what, f"{directory} is made at the first start")
        directory = next(parent for parent in directory.parents if parent.exists())
    else:
        status = directory.stat()
        if status.st_uid != os.getuid():
            yield _fail(what, f"{directory} belongs to user {status.st_uid}", "choose --data-dir")
        elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            step = _closing_step(directory, "--data-dir")
            yield _fail(what, f"others can write to {directory}", step)
        else:
            yield _ok(what, str(directory))
    kind = filesystem_of(directory)
    if kind in NETWORK_FILESYSTEMS:
        step = "choose --data-dir on a local disk: locks and SQLite's log do not hold here"
        yield _fail("filesystem", f"{kind}, on a network", step)
    else:
        yield _ok("filesystem", kind or "unknown")
    if not os.access(directory, os.W_OK):
        yield _fail("disk", f"{directory} cannot be written", "choose --data-dir")
        return
    yield _room(directory, settings.disk_reserve_bytes)
    yield _sync_time(directory)


def _room(directory: Path, reserve_bytes: int) -> Check:
    disk = os.statvfs(directory)
    free_bytes = disk.f_bavail * disk.f_frsize
    found = f"{bytes_text(free_bytes)} left, {bytes_text(reserve_bytes)} kept free"
    if free_bytes < reserve_bytes:
        return _fail("disk room", found, "make room: nothing new is taken in")
    if free_bytes < ROOM_FACTOR * reserve_bytes:
        return _warn("disk room", found, "make room soon")
    return _ok("disk room", found)


def _sync_time(directory: Path) -> Check:
    """Measure what every ack waits for."""
    took_s = []
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            for _ in range(SYNCS):
                file.write(bytes(SYNC_BYTES))
                file.flush()
                began_s = time.perf_counter()
                os.fdatasync(file.fileno())
                took_s.append(time.perf_counter() - began_s)
    except OSError as error:
        return _fail("disk sync", f"failed: {error.strerror}", "check the disk, or --data-dir")
    found = f"{sorted(took_s)[SYNCS // 2] * 1000:.1f} ms at the median, {max(took_s) * 1000:.1f} ms"
    if max(took_s) > SYNC_SLOW_S:
        step = "a local disk acks faster; nothing is lost, batches grow meanwhile"
        return _warn("disk sync", found + " at most", step)
    return _ok("disk sync", found + " at most")


def _journal(settings: Settings) -> Iterator[Check]:
    path = settings.journal_path
    if not path.exists():
        return
    try:
        db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)
        try:
            (found,) = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        finally:
            db.close()
    except (sqlite3.Error, TypeError) as error:
        step = "start the sidecar: it salvages what can be read, or says what to do"
        yield _fail("journal", f"{path} cannot be read: {error}", step)
        return
    if int(found) > FORMAT:
        yield _fail("journal", f"format {found}, this version knows {FORMAT}", "use the newer one")
    else:
        yield _ok("journal", f"format {found}, {bytes_text(path.stat().st_size)}")


def _store(settings: Settings) -> Iterator[Check]:
    what = "store"
    try:
        with closing(Store(settings.store_url)) as store:
            kind = "in PostgreSQL" if is_shared(settings.store_url) else "a file"
            yield _ok(what, f"{kind}, format {store.format}")
    except PillionError as error:
        if error.reason == "STORE_MISSING":
            yield _ok(what, "made at the first start")
        else:
            step = "what a running sidecar takes in waits in its journal meanwhile"
            yield _fail(what, str(error), step)


def _socket(settings: Settings) -> Iterator[Check]:
    path = settings.address.path
    if path is None:
        yield _ok("address", settings.listen)
        return
    if not path.parent.exists():
        yield _ok("address", f"{settings.listen}; its directory is made at the first start")
        return
    try:
        settings.address.check_directory()
    except AddressError as error:
        yield _fail("address", str(error), _closing_step(path.parent, "--listen"))
    else:
        yield _ok("address", settings.listen)


def _sidecar(settings: Settings) -> Iterator[Check]:
    what = "sidecar"
    try:
        with Asker(settings) as ask:
            if not ask.is_sidecar:
                yield _warn(what, f"none answers at {settings.listen}", "pillion serve")
                return
            status = ask.status(pb2.GetStatusRequest())
    except PillionError as error:
        yield _fail(what, str(error), "see docs/settings.md on addresses and tokens")
        return
    if status.version != __version__:
        step = "restart it: what was acked is on disk"
        yield _warn(what, f"version {status.version}, this command is {__version__}", step)
    else:
        yield _ok(what, f"version {status.version} at {settings.listen}")
    if Path(status.data_dir) != settings.data_dir:
        step = "give both the same --data-dir"
        yield _warn(what, f"it keeps its data in {status.data_dir}, not {settings.data_dir}", step)
    if status.is_safe:
        yield _ok("data", status.sentence)
    else:
        yield _warn("data", status.sentence, "pillion status")
    if status.wandb.enabled and status.wandb.problem:
        yield _warn("W&B", status.wandb.problem, "pillion configure")
    for credential in status.wandb.credentials:
        if credential.problem and credential.name != status.wandb.credential:
            yield _warn(
                f"W&B ({credential.name or 'default'})", credential.problem, "pillion status"
            )
    for worker in status.workers:
        if worker.last_error:
            name = f"worker of {people_name(worker.sink)}"
            step = f"see {status.data_dir}/logs/sink-{worker.sink}.log; it is tried again"
            yield _fail(name, worker.last_error, step)


def _variables() -> Iterator[Check]:
    for name in sorted(os.environ):
        if name.startswith(("PILLION_", "WANDB_")):
            yield _ok(name, "set" if name in VARIABLES_HELD else repr(os.environ[name]))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        if os.environ.get(name):
            yield _ok(name, "set; calls to the sidecar do not go through it")


def _closing_step(directory: Path, option: str) -> str:
    """Say how a directory is closed to others, if it is not one that others need."""
    return (
        f"chmod 0700 {directory}" if is_of_one_user(directory) else f"choose another with {option}"
    )


def _spool() -> Iterator[Check]:
    what, directory = "spool", spool_directory()
    if not directory.exists():
        yield _ok(what, f"{directory} is made when it is needed")
        return
    try:
        status, names = directory.stat(), [path.name for path in directory.iterdir()]
    except OSError as error:
        yield _fail(what, f"{directory}: {error.strerror}", f"chmod 0700 {directory}")
        return
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        step = _closing_step(directory, "PILLION_SPOOL_DIR")
        yield _fail(what, f"others can look into {directory}", step)
    waiting = [name for name in names if name.endswith(SUFFIX)]
    damaged = [name for name in names if name.endswith(SUFFIX_DAMAGED)]
    if waiting:
        step = "a sidecar takes those whose trainer has ended; `pillion serve`"
        yield _warn(what, f"{count_text(len(waiting), 'file')} in {directory}", step)
    if damaged:
        step = "what could be read of them was taken; delete them when nobody needs the rest"
        yield _warn(what, f"{count_text(len(damaged), 'damaged file')} in {directory}", step)
    if not (waiting or damaged):
        yield _ok(what, f"nothing waits in {directory}")


def _leftovers(settings: Settings) -> Iterator[Check]:
    for partial in (directory / "partial" for directory in settings.wandb_dirs):
        if settings.wandb_mode is not WandbMode.DISABLED or not partial.exists():
            continue
        if found := len([*partial.iterdir()]):
            step = "they are of no use while W&B is disabled; journal or store have their rows"
            count = count_text(found, "unfinished folder")
            yield _warn("leftovers", f"{count} of W&B in {partial}", step)
    damaged = sorted(settings.data_dir.glob("*damaged*"))
    if damaged:
        step = "`pillion status` tells what was dropped; delete them when nobody needs them"
        yield _warn("leftovers", f"damaged: {', '.join(path.name for path in damaged)}", step)


def _system() -> Iterator[Check]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES_MIN:
        step = f"ulimit -n {OPEN_FILES_MIN}, if many trainers share this sidecar"
        yield _warn("open files", f"{soft:,} at most (up to {hard:,})", step)
    else:
        yield _ok("open files", f"{soft:,} at most")
    if time.time() < CLOCK_MIN_S:
        yield _fail("clock", time.strftime("%Y-%m-%d %H:%M"), "set it: runs are dated by it")
    else:
        yield _ok("clock", time.strftime("%Y-%m-%d %H:%M %Z"))
    yield _ok("host", f"{socket.gethostname()}, {os.cpu_count()} CPUs, Linux {platform.release()}")
