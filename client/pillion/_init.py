"""Starting a run, and the module-level face: `log`, `finish` … of the run that was started last."""

import os
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from pillion import _exit
from pillion._artifact import Artifact
from pillion._artifacts import failed
from pillion._environment import environment
from pillion._link import Link
from pillion._logged import LoggedArtifact, UsedArtifact
from pillion._messages import Start
from pillion._notice import warn
from pillion._run import Run
from pillion.address import Address, default_address
from pillion.plain import to_plain_dict, to_text

LINE_CHARACTERS_MAX, NOTES_CHARACTERS_MAX = 256, 16_384
"""Longer names, tags and notes are cut: in UTF-8 the sidecar takes four times as many bytes."""

_current: Run | None = None
_has_warned = False
_has_joined = False
"""Whether an `init` of this process, or of one that it was forked from, asked for a run to join."""


def init(
    project: str | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    id: str | None = None,
    tags: list[str] | tuple[str, ...] | None = None,
    notes: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    use_case: str | None = None,
    resume: str = "allow",
    address: str | None = None,
    token: str | None = None,
    quiet: bool | None = None,
) -> Run:
    """Start a run at the sidecar, or go on with one.

    Waits up to 5 s for the sidecar. If none answers, training goes on: rows wait in the spool file,
    and are sent when one does. In a forked child of a process that logs they always take that way.

    Args:
        project: What it is filed under. Default: `uncategorized`.
        name: Its name for people. Default: `MODEL_USE-CASE_TIME` of those that are given, else its
            id.
        config: Hyperparameters; nested as you like.
        id: Its id. An id that exists is resumed, or joined while it has other writers. Default:
            in the first call of a process `$PILLION_RUN_ID`, which `pillion run` sets; else a new
            one.
        tags: Labels.
        notes: Free text.
        group: A name shared by runs that belong together.
        job_type: Its role in the group.
        model: What is trained: a hub id or a path.
        dataset: What it is trained on.
        use_case: What it is for: `chatbot`, `summaries` …
        resume: If the id exists: `allow` goes on with it, `never` refuses, `must` insists.
        address: `unix:PATH` or `HOST:PORT`. Default: `$PILLION_ADDRESS`, else the user's socket.
        token: What a TCP sidecar asks for. Default: `$PILLION_TOKEN`.
        quiet: Print nothing but warnings. Default: whether `$PILLION_QUIET` is set, and not to 0.

    Raises:
        RefusedError: The sidecar will never take this run, for example by `resume="never"`.
        ValueError: An argument is malformed.
    """
    if resume not in {"allow", "never", "must"}:
        raise ValueError(f"resume is {resume!r}; take 'allow', 'never' or 'must'.")
    address = address or os.environ.get("PILLION_ADDRESS") or str(default_address())
    Address.parse(address)
    joined_id = "" if id else _run_id_to_join()
    if joined_id:
        resume = "allow"  # whoever started the command has started the run
    run_id = to_text(id or joined_id or uuid.uuid4().hex[:8])
    start = Start(
        run_id=run_id,
        writer_id=uuid.uuid4().hex,
        resume=resume,
        fields={
            "project": _line(project or ""),
            "name": _line(name or ""),
            "group": _line(group or ""),
            "job_type": _line(job_type or ""),
            "model": _line(model or ""),
            "dataset": _line(dataset or ""),
            "use_case": _line(use_case or ""),
            "tags": [_line(tag) for tag in ([tags] if isinstance(tags, str) else tags or ())],
            "notes": to_text(notes or "")[:NOTES_CHARACTERS_MAX],
            "environment": environment(),
            "time_unix_nano": time.time_ns(),
        },
        config=to_plain_dict(config or {}),
    )
    is_quiet = os.environ.get("PILLION_QUIET", "0") != "0" if quiet is None else quiet
    global _current
    _exit.watch()
    link = Link(
        address,
        (token or os.environ.get("PILLION_TOKEN", "")).strip(),
        start,
        is_child=_exit.is_forked,
    )
    run = Run(link, start, is_quiet=is_quiet)
    run.open()
    _current = run
    return run


def log(data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:
    """Log one row to the current run; see `Run.log`."""
    if _current is None:
        _warn_once()
    else:
        _current.log(data, step, commit)


def define_metric(name: str, step_metric: str | None = None, **how: Any) -> None:
    """Say how a metric of the current run is to be read; see `Run.define_metric`."""
    if _current is None:
        _warn_once()
    else:
        _current.define_metric(name, step_metric, **how)


def alert(title: str, text: str = "", level: str = "INFO", **how: Any) -> None:
    """Tell people something of the current run; see `Run.alert`."""
    if _current is None:
        _warn_once()
    else:
        _current.alert(title, text, level, **how)


def finish(exit_code: int = 0) -> None:
    """End the current run; see `Run.finish`."""
    if _current is not None:
        _current.finish(exit_code)


def log_artifact(
    artifact_or_path: Artifact | str | os.PathLike[str],
    name: str | None = None,
    type: str | None = None,
    aliases: str | Iterable[str] | None = None,
    policy: str = "copy",
) -> LoggedArtifact:
    """Log an artifact of the current run; see `Run.log_artifact`."""
    if _current is None:
        return _not_logged(name or to_text(artifact_or_path))
    return _current.log_artifact(artifact_or_path, name, type, aliases, policy)


def use_artifact(artifact: str, type: str | None = None) -> UsedArtifact:
    """Say that the current run reads an artifact; see `Run.use_artifact`."""
    if _current is None:
        raise ValueError("An artifact is used by a run; call pillion.init() first.")
    return _current.use_artifact(artifact, type)


def save(path: str | os.PathLike[str], policy: str = "copy") -> LoggedArtifact:
    """Log a file of the current run; see `Run.save`."""
    if _current is None:
        return _not_logged(to_text(path))
    return _current.save(path, policy)


def of_current_run(name: str) -> object:
    """Return the current run's `config` or `summary`, or the run itself by the name `run`."""
    if name == "run":
        return _current
    if name in {"config", "summary"}:
        if _current is None:
            raise AttributeError(f"pillion.{name} belongs to a run; call pillion.init() first.")
        return getattr(_current, name)
    raise AttributeError(f"module 'pillion' has no attribute {name!r}")


def _not_logged(name: str) -> LoggedArtifact:
    return failed(LoggedArtifact(name, ""), "call pillion.init() first")


def _run_id_to_join() -> str:
    """Return the id that `pillion run` gave to this process, once."""
    global _has_joined
    is_first, _has_joined = not _has_joined, True
    return os.environ.get("PILLION_RUN_ID", "") if is_first else ""


def _line(text: Any) -> str:
    return to_text(text)[:LINE_CHARACTERS_MAX]


def _warn_once() -> None:
    global _has_warned
    if not _has_warned:
        _has_warned = True
        warn("pillion: nothing is logged: call pillion.init() first.")
