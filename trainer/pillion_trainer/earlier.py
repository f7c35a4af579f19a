"""Where a training would write, and what an earlier one has left there: its steps, its folder.

Two trainings in one run or one folder would be neither the one nor the other, so the second goes on
from the first, or goes elsewhere.
"""

import tempfile
from pathlib import Path

from pillion_trainer.checkpoint import ADAPTER_FILE, latest_checkpoint
from pillion_trainer.config import ConfigurationError, TrainingConfig


def steps_of_run(run_id: str | None, address: str | None) -> int:
    """Return how many steps a run has, as the sidecar knows it; 0: none, or no sidecar answers."""
    from pillion.api import Client, QueryError  # noqa: PLC0415 - gRPC, when it is needed

    if not run_id:
        return 0
    try:
        with Client(address) as client:
            run = client.run(run_id)
    except (QueryError, ValueError):
        return 0
    return run.last_step or 0 if run.id == run_id else 0


def refuse_repeating(
    config: TrainingConfig, output_dir: Path | None, run_id: str | None, steps: int
) -> None:
    """Raise `ConfigurationError` where a training that begins anew would mix with an earlier one.

    Args:
        config: What is asked for; nothing is refused where it goes on from a checkpoint.
        output_dir: Where adapter and checkpoints go; None: not known yet.
        run_id: The run's id, if it is known.
        steps: How many steps the run has already.
    """
    if config.resume_from is not None:
        return
    checkpoint = latest_checkpoint(output_dir) if output_dir else None
    is_used = checkpoint or (output_dir and (output_dir / ADAPTER_FILE).is_file())
    if steps:
        told = f"Run {run_id} has {steps} steps already"
    elif is_used:
        what = checkpoint.folder.name if checkpoint else "the adapter"
        told = f"output_dir is {str(output_dir)!r}, which has {what} of an earlier training"
    else:
        return
    is_named = config.output_dir is not None
    others = ["--run-id"] if steps or not is_named else []
    others += ["output_dir"] if is_used and is_named else []
    remedy = f"take another {' and another '.join(others)}"
    if checkpoint:
        remedy = f"add --resume-from latest to go on, or {remedy}"
    raise ConfigurationError(f"{told}: {remedy}")


def refuse_unwritable(output_dir: Path) -> None:
    """Raise `ConfigurationError` where a folder cannot be made or written; leaves nothing there."""
    try:
        there = next(each for each in (output_dir, *output_dir.parents) if each.exists())
        with tempfile.TemporaryDirectory(prefix=".pillion-", dir=there):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"output_dir is {str(output_dir)!r}, which cannot be written: {error.strerror}; give "
            "another"
        ) from error
