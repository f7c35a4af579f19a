"""What the environment says of a run: Pillion's variables, and after them W&B's for the same."""

import os
from collections.abc import Container
from typing import Any

from pillion._notice import warn

_VARIABLES = {
    "project": ("PILLION_PROJECT", "WANDB_PROJECT"),
    "name": ("PILLION_NAME", "WANDB_NAME"),
    "notes": ("PILLION_NOTES", "WANDB_NOTES"),
    "tags": ("PILLION_TAGS", "WANDB_TAGS"),
    "group": ("PILLION_GROUP", "WANDB_RUN_GROUP"),
    "job_type": ("PILLION_JOB_TYPE", "WANDB_JOB_TYPE"),
    "id": ("PILLION_RUN_ID", "WANDB_RUN_ID"),
    "resume": ("PILLION_RESUME", "WANDB_RESUME"),
    "log_model": ("PILLION_LOG_MODEL", "WANDB_LOG_MODEL"),
    "mode": ("PILLION_MODE", "WANDB_MODE"),
}
_MODES = {
    "online": "MODE_ONLINE",
    "run": "MODE_ONLINE",
    "shared": "MODE_ONLINE",
    "offline": "MODE_OFFLINE",
    "dryrun": "MODE_OFFLINE",
    "disabled": "MODE_DISABLED",
}
_POLICIES = {
    "allow": "allow",
    "auto": "allow",
    "true": "allow",
    "false": "allow",
    "never": "never",
    "must": "must",
}


def variable(name: str) -> str:
    """Return what the environment says of an argument; empty: nothing."""
    found = (os.environ.get(each, "").strip() for each in _VARIABLES[name])
    return next(filter(None, found), "")


def known(name: str, words: Container[str], shown: str) -> str:
    """Return the word that a variable says; empty, and told, if it is none of those there are.

    Only arguments are refused: a script that runs must not end for what is set around it.
    """
    said = variable(name).lower()
    if not said or said in words:
        return said
    names = " or ".join(_VARIABLES[name])
    warn("pillion: %s is %r, which has no effect; take %s.", names, said, shown)
    return ""


def wandb_mode(mode: str | None) -> str | None:
    """Return the contract's name of a mode; None: as the sidecar is set. Raises ValueError."""
    said = mode or known("mode", _MODES, "'online', 'offline' or 'disabled'")
    if said and said not in _MODES:
        raise ValueError(f"mode is {said!r}; take 'online', 'offline' or 'disabled'.")
    return _MODES.get(said)


def resume_policy(resume: Any) -> str:
    """Return `allow`, `never` or `must`; True and `auto` are W&B's. Raises ValueError."""
    if resume is None or resume is False:
        resume = known("resume", _POLICIES, "'allow', 'never' or 'must'") or "allow"
    policy = _POLICIES.get("true" if resume is True else resume)
    if policy is None:
        raise ValueError(f"resume is {resume!r}; take 'allow', 'never' or 'must'.")
    return policy


def is_quiet() -> bool:
    """Tell whether only warnings are to be printed."""
    said = os.environ.get("PILLION_QUIET", "")
    return said != "0" if said else os.environ.get("WANDB_SILENT", "").lower() in {"1", "true"}
