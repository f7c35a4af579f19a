"""All that can be told to be wrong before a model is loaded, at once."""

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pillion_trainer.checkpoint import Checkpoint, find_checkpoint
from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.contradictions import is_on_this_machine
from pillion_trainer.dataset import Sources, read_sources
from pillion_trainer.earlier import refuse_repeating, refuse_unwritable
from pillion_trainer.machine import refuse_the_impossible
from pillion_trainer.models import adapter_config
from pillion_trainer.rows import in_rows

OUTPUTS = "outputs"
"""Where runs have their folders, unless `output_dir` is given."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was read on the way: the data, and the checkpoint to go on from, if any."""

    sources: Sources
    checkpoint: Checkpoint | None

    def plan(self, config: TrainingConfig) -> list[str]:
        """Return a few lines for people on what a training would do."""
        files = [self.sources.data, *([self.sources.eval_data] if self.sources.eval_data else [])]
        bits = "" if config.quantization == "none" else f" in {config.quantization}"
        length = f"{config.max_steps} steps" if config.max_steps else f"{config.epochs:g} epochs"
        lines = [f"{config.model}{bits}: {method_in_words(config)}, {config.precision}"]
        if not is_on_this_machine(config.model):
            lines.append(
                f"{config.model} is no folder here: it would come from the hub, not asked yet"
            )
        lines += [
            f"{each.file.option} {each.file.name}: {each.form}, {in_rows(len(each.file.rows))}, "
            f"{each.file.size_bytes:,} bytes"
            for each in files
        ]
        samples = config.batch_size * config.gradient_accumulation_steps
        lines.append(
            f"{length}, {samples} samples of {config.sequence_length} tokens at most each step"
        )
        if self.checkpoint:
            lines.append(f"from {self.checkpoint.folder}, after {self.checkpoint.steps} steps")
        return lines


def check(
    config: TrainingConfig,
    run_id: str | None = None,
    steps: int = 0,
    wrong: AbstractSet[str] = frozenset(),
) -> Checked:
    """Check machine, libraries, data, checkpoint, and where it is to be written.

    Args:
        config: what is asked for.
        run_id: the id that the run will have, if that is known.
        steps: how many steps that run has already.
        wrong: options that are known to be wrong, and are at their defaults here: what depends on
            them is not looked at.

    Raises:
        ConfigurationError: every mistake.
    """
    mistakes: list[str] = []

    def tried(what: Callable[[], Any], *needed: str) -> Any:
        if wrong & set(needed):
            return None
        try:
            return what()
        except ConfigurationError as error:
            words = (
                set(re.findall(r"\w+", mistake.partition(": ")[0])) for mistake in error.mistakes
            )
            told = zip(error.mistakes, words, strict=True)
            mistakes.extend(mistake for mistake, named in told if not named & wrong)
            return None

    tried(lambda: refuse_the_impossible(config))
    sources = tried(lambda: read_sources(config), "data_format")
    output_dir = output_dir_of(config, run_id)
    is_bounded = not wrong & {"data", "epochs", "max_steps"}
    wanted = config if is_bounded else replace(config, max_steps=0)
    checkpoint = tried(lambda: find_checkpoint(wanted, output_dir), "resume_from", "output_dir")
    if checkpoint and not wrong:
        tried(lambda: checkpoint.refuse_another(adapter_config(config)))
    tried(lambda: refuse_repeating(config, output_dir, run_id, steps), "resume_from", "output_dir")
    tried(lambda: refuse_unwritable(output_dir or Path(OUTPUTS).absolute()), "output_dir")
    if mistakes:
        raise ConfigurationError(*mistakes)
    return Checked(sources, checkpoint)


def output_dir_of(config: TrainingConfig, run_id: str | None) -> Path | None:
    """Return where adapter and checkpoints go; None where that is not known yet."""
    name = config.output_dir or (f"{OUTPUTS}/{run_id}" if run_id else None)
    return Path(name).expanduser().absolute() if name else None


def method_in_words(config: TrainingConfig) -> str:
    """Return the method, with the numbers that make it."""
    if config.method == "ia3":
        return "IA3"
    name = {"lora": "LoRA", "dora": "DoRA"}[config.method]
    return f"{name}, r {config.lora_r}, alpha {config.lora_alpha:g}"
