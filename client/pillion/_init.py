"""Starting a run, and the module-level face: `log`, `finish` … of the run that was started last."""

import importlib.util
import os
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn

from pillion import _exit
from pillion._artifact import Artifact
from pillion._artifacts import failed
from pillion._config import mapping_of
from pillion._environment import environment
from pillion._link import Link
from pillion._logged import LoggedArtifact, UsedArtifact
from pillion._messages import Start
from pillion._notice import warn
from pillion._run import Run, open_runs
from pillion._soft import missing
from pillion._variables import is_quiet, resume_policy, variable, wandb_mode
from pillion.address import Address, default_address
from pillion.plain import to_plain_dict, to_text

LINE_CHARACTERS_MAX, NOTES_CHARACTERS_MAX = 256, 16_384
"""Longer names, tags and notes are cut: in UTF-8 the sidecar takes four times as many bytes."""

_NEEDLESS = {"allow_val_change", "force", "anonymous"}
"""Of W&B's arguments: what they ask for is so anyway."""

_current: Run | None = None
_has_warned = False
_told: set[str] = set()
"""What `init` was given and has no use for, as far as people were told."""
_has_joined = False
"""Whether an `init` of this process, or of one that it was forked from, asked for a run to join."""


def init(
    project: str | None = None,
    name: str | None = None,
    config: Any = None,
    *,
    id: str | None = None,
    tags: str | Sequence[str] | None = None,
    notes: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    use_case: str | None = None,
    resume: str | bool | None = None,
    mode: str | None = None,
    reinit: bool | str | None = None,
    config_include_keys: Sequence[str] | None = None,
    config_exclude_keys: Sequence[str] | None = None,
    address: str | None = None,
    token: str | None = None,
    quiet: bool | None = None,
    **others: Any,
) -> Run:
    """Start a run at the sidecar, or go on with one.

    Waits up to 5 s for the sidecar. If none answers, training goes on: rows wait in the spool file,
    and are sent when one does. In a forked child of a process that logs they always take that way.

    What is not given is taken from Pillion's variables, else from W&B's: `PILLION_PROJECT`,
    `WANDB_PROJECT` …; `docs/settings.md` lists them.

    Args:
        project: What it is filed under. Default: `uncategorized`.
        name: Its name for people. Default: `MODEL_USE-CASE_TIME` of those that are given, else its
            id.
        config: Hyperparameters, nested as you like: a mapping, or what argparse returns.
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
        resume: If the id exists: `allow` goes on with it, `never` refuses, `must` insists. Default:
            `allow`.
        mode: How far it may go to W&B: `online`, `offline`, or `disabled`: the sidecar alone keeps
            it. Default, and at most: as the sidecar is set.
        reinit: What becomes of a run of this process that has not ended. `finish_previous`, or
            True, ends it; `return_previous` returns it. Default: it goes on beside the new one.
        config_include_keys: Only these of the config.
        config_exclude_keys: All but these of the config.
        address: `unix:PATH` or `HOST:PORT`. Default: `$PILLION_ADDRESS`, else the user's socket.
        token: What a TCP sidecar asks for. Default: `$PILLION_TOKEN`.
        quiet: Print nothing but warnings. Default: whether `$PILLION_QUIET` is set, and not to 0.
        others: What W&B's `init` takes beside these is told once, and has no effect.

    Raises:
        RefusedError: The sidecar will never take this run, for example by `resume="never"`.
        ValueError: An argument is malformed.
    """
    global _current
    _tell_unused(others)
    resume = resume_policy(resume)
    target = wandb_mode(mode)
    address = address or os.environ.get("PILLION_ADDRESS") or str(default_address())
    Address.parse(address)
    if _current in open_runs and reinit in {True, "finish_previous", "return_previous"}:
        assert _current is not None
        if reinit == "return_previous":
            return _current
        _current.finish()
    joined_id = "" if id else _run_id_to_join()
    if joined_id and joined_id == os.environ.get("PILLION_RUN_ID"):
        resume = "allow"  # whoever started the command has started the run
    run_id = to_text(id or joined_id or uuid.uuid4().hex[:8])
    if tags is None:
        tags = [tag for each in variable("tags").split(",") if (tag := each.strip())]
    start = Start(
        run_id=run_id,
        writer_id=uuid.uuid4().hex,
        resume=resume,
        fields={
            "project": _line(project or variable("project")),
            "name": _line(name or variable("name")),
            "group": _line(group or variable("group")),
            "job_type": _line(job_type or variable("job_type")),
            "model": _line(model or ""),
            "dataset": _line(dataset or ""),
            "use_case": _line(use_case or ""),
            "tags": [_line(tag) for tag in ([tags] if isinstance(tags, str) else tags)],
            "notes": to_text(notes or variable("notes"))[:NOTES_CHARACTERS_MAX],
            "wandb_mode": target,
            "environment": environment(),
            "time_unix_nano": time.time_ns(),
        },
        config={
            key: value
            for key, value in to_plain_dict(mapping_of(config)).items()
            if not config_include_keys or key in config_include_keys
            if not config_exclude_keys or key not in config_exclude_keys
        },
    )
    _exit.watch()
    link = Link(
        address,
        (token or os.environ.get("PILLION_TOKEN", "")).strip(),
        start,
        is_child=_exit.is_forked,
    )
    run = Run(link, start, is_quiet=is_quiet() if quiet is None else quiet)
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


def save(path: str | os.PathLike[str], policy: str = "copy", **more: Any) -> LoggedArtifact:
    """Log a file of the current run; see `Run.save`."""
    if _current is None:
        return _not_logged(to_text(path))
    return _current.save(path, policy, **more)


def watch(
    models: Any,
    criterion: Any = None,
    log: Literal["gradients", "parameters", "all"] | None = "gradients",
    log_freq: int = 1000,
    **more: Any,
) -> None:
    """Log histograms of a model's gradients or weights to the current run; see `Run.watch`."""
    if _current is None:
        _warn_once()
    else:
        _current.watch(models, criterion, log, log_freq, **more)


def unwatch(models: Any = None) -> None:
    """End what `watch` does; see `Run.unwatch`."""
    if _current is not None:
        _current.unwatch(models)


def agent(*_: Any, **__: Any) -> NoReturn:
    """Refuse: Pillion has no sweeps, and one that trains nothing must not end as if it had.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError(
        "Pillion has no sweeps: agent() would call nothing. Call the training function yourself, "
        "once for each choice of hyperparameters, with pillion.init(config=...)."
    )


def login(*_: Any, **__: Any) -> bool:
    """Return True: only the sidecar needs W&B's key, see `pillion configure`."""
    return True


def install_as_wandb() -> None:
    """Have whatever imports wandb from now on get Pillion, whether wandb is installed or not.

    `importlib.util.find_spec` and `importlib.metadata` find it too, so that libraries which ask
    whether wandb is there, as transformers and accelerate do, use it. What Pillion has not does
    nothing, with a warning; so does all of `wandb.sdk` and other modules of it.

    Raises:
        RuntimeError: wandb itself is imported already: whoever has it would go on with it.
    """
    from pillion._as_wandb import install  # noqa: PLC0415 - loads what most need not

    install()


def of_current_run(name: str) -> Any:
    """Return the current run's `config` or `summary`, or the run itself by the name `run`.

    What else W&B's module may have does nothing, after a warning.
    """
    if name == "run":
        return _current if _current in open_runs else None
    if name in {"config", "summary"}:
        if _current is None:
            raise AttributeError(f"pillion.{name} belongs to a run; call pillion.init() first.")
        return getattr(_current, name)
    if not name.startswith("_") and importlib.util.find_spec(f"pillion.{name}"):
        raise AttributeError(f"import pillion.{name} first")  # `from pillion import` does so then
    return missing("pillion", name)


def _not_logged(name: str) -> LoggedArtifact:
    return failed(LoggedArtifact(name, ""), "call pillion.init() first")


def _run_id_to_join() -> str:
    """Return the id that this process was given, by `pillion run` or W&B's variable, once."""
    global _has_joined
    is_first, _has_joined = not _has_joined, True
    return variable("id") if is_first else ""


def _tell_unused(others: Mapping[str, Any]) -> None:
    """Warn of arguments, and of W&B's team, that have no effect; of each once."""
    unused = {name for name, value in others.items() if value and name not in _NEEDLESS}
    if os.environ.get("WANDB_ENTITY"):
        unused.add("entity")
    if unused := unused - _told:
        _told.update(unused)
        warn(
            "pillion: init goes on without %s.%s",
            ", ".join(sorted(unused)),
            " The team is chosen at the sidecar: `pillion configure --entity NAME`."
            if "entity" in unused
            else "",
        )


def _line(text: Any) -> str:
    return to_text(text)[:LINE_CHARACTERS_MAX]


def _warn_once() -> None:
    global _has_warned
    if not _has_warned:
        _has_warned = True
        warn("pillion: nothing is logged: call pillion.init() first.")
