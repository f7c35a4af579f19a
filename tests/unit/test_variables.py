"""What `init` takes from the environment, and what it makes of W&B's arguments."""

import argparse
import logging
from typing import Any

import pytest

import pillion
from pillion import _init

WANDB = {
    "WANDB_PROJECT": "wp",
    "WANDB_NAME": "wn",
    "WANDB_NOTES": "w notes",
    "WANDB_TAGS": "a, b,",
    "WANDB_RUN_GROUP": "wg",
    "WANDB_JOB_TYPE": "wj",
    "WANDB_RUN_ID": "wid",
    "WANDB_RESUME": "must",
    "WANDB_MODE": "offline",
}
OURS = {
    "PILLION_PROJECT": "pp",
    "PILLION_NAME": "pn",
    "PILLION_NOTES": "p notes",
    "PILLION_TAGS": "c",
    "PILLION_GROUP": "pg",
    "PILLION_JOB_TYPE": "pj",
    "PILLION_RUN_ID": "pid",
    "PILLION_RESUME": "must",
    "PILLION_MODE": "disabled",
}


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs wait for no sidecar, as in a forked process; and nothing be told before."""
    monkeypatch.setattr("pillion._exit.is_forked", True)
    monkeypatch.setattr(_init, "_has_joined", False)
    monkeypatch.setattr(_init, "_told", set())
    monkeypatch.setattr(_init, "_current", None)


def started(**arguments: Any) -> dict[str, Any]:
    """Return what a run is started with."""
    run = pillion.init(quiet=True, **arguments)
    start = run._start
    run.finish()
    fields = ("project", "name", "notes", "tags", "group", "job_type", "wandb_mode")
    said = {name: start.fields[name] for name in fields}
    return said | {"id": start.run_id, "resume": start.resume, "config": start.config}


def test_wandbs_variables_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither an argument nor a variable of Pillion's says else."""
    for name, value in WANDB.items():
        monkeypatch.setenv(name, value)
    assert started() == {
        "project": "wp",
        "name": "wn",
        "notes": "w notes",
        "tags": ["a", "b"],
        "group": "wg",
        "job_type": "wj",
        "wandb_mode": "MODE_OFFLINE",
        "id": "wid",
        "resume": "must",
        "config": {},
    }


def test_pillions_variables_count_before_wandbs_and_arguments_before_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run that `pillion run` has started may always be joined."""
    for name, value in {**WANDB, **OURS}.items():
        monkeypatch.setenv(name, value)
    ours = {
        "project": "pp",
        "name": "pn",
        "notes": "p notes",
        "tags": ["c"],
        "group": "pg",
        "job_type": "pj",
        "wandb_mode": "MODE_DISABLED",
        "id": "pid",
        "resume": "allow",
        "config": {},
    }
    assert started() == ours
    given = {"project": "x", "name": "x", "notes": "x", "group": "x", "job_type": "x", "id": "x"}
    assert started(**given, tags=["x"], mode="online", resume="never") == {
        **given,
        "tags": ["x"],
        "wandb_mode": "MODE_ONLINE",
        "resume": "never",
        "config": {},
    }


@pytest.mark.parametrize(
    ("resume", "policy"), [(True, "allow"), ("auto", "allow"), (False, "allow")]
)
def test_wandbs_words_for_resuming_are_taken(resume: Any, policy: str) -> None:
    """Going on with what exists is what they mean."""
    assert started(resume=resume)["resume"] == policy


@pytest.mark.parametrize("given", [{"mode": "on"}, {"resume": "often"}])
def test_a_word_that_is_none_is_refused(given: dict[str, str]) -> None:
    """Saying which there are."""
    with pytest.raises(ValueError, match="take '"):
        pillion.init(**given)


@pytest.mark.parametrize(
    ("variables", "mode", "resume"),
    [
        ({"WANDB_MODE": "run", "WANDB_RESUME": "false"}, "MODE_ONLINE", "allow"),
        ({"WANDB_MODE": "on", "PILLION_RESUME": "often"}, None, "allow"),
    ],
)
def test_a_variable_never_ends_a_script(
    variables: dict[str, str],
    mode: str | None,
    resume: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All words of W&B's are known; one that is none is told and has no effect."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run = started()
    assert (run["wandb_mode"], run["resume"]) == (mode, resume)
    told = [each.getMessage() for each in caplog.records if "no effect" in each.getMessage()]
    assert len(told) == (0 if mode else 2)


def test_what_has_no_effect_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments of W&B's that ask for nothing are no trouble; the team is the sidecar's."""
    monkeypatch.setenv("WANDB_ENTITY", "team")
    with caplog.at_level(logging.WARNING, logger="pillion"):
        for _ in range(2):
            started(dir="/x", save_code=True, settings=None, force=True, allow_val_change=True)
    told = [record.getMessage() for record in caplog.records]
    (message,) = (each for each in told if each.startswith("pillion: init goes on without"))
    assert " dir, entity, save_code. The team is chosen at the sidecar" in message


def test_config_is_a_mapping_or_what_argparse_returns() -> None:
    """Some of it may be left out."""
    config = argparse.Namespace(lr=0.1, seed=1, out="x")
    assert started(config=config)["config"] == {"lr": 0.1, "seed": 1, "out": "x"}
    assert started(config=config, config_exclude_keys=["out"])["config"] == {"lr": 0.1, "seed": 1}
    assert started(config=config, config_include_keys=["lr"])["config"] == {"lr": 0.1}


def test_a_run_that_goes_on_is_ended_or_returned_on_request() -> None:
    """By default both go on; what has ended is no current run."""
    first = pillion.init(quiet=True)
    assert pillion.init(quiet=True, reinit="return_previous") is first
    second = pillion.init(quiet=True)
    first.log({"x": 1})
    third = pillion.init(quiet=True, reinit="finish_previous")
    second.log({"x": 1})
    assert [run.counts.refused for run in (first, second)] == [0, 1]
    assert pillion.run is third
    third.finish()
    assert pillion.run is None
    first.finish()


@pytest.mark.parametrize(
    ("variables", "is_quiet"),
    [
        ({}, False),
        ({"PILLION_QUIET": "1"}, True),
        ({"WANDB_SILENT": "true"}, True),
        ({"PILLION_QUIET": "0", "WANDB_SILENT": "true"}, False),
    ],
)
def test_silence_is_asked_for_by_either_variable(
    variables: dict[str, str], is_quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours counts before W&B's."""
    for name in ("PILLION_QUIET", "WANDB_SILENT"):  # a sink in this process may have set the latter
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _init.is_quiet() is is_quiet
