"""A checkpoint to go on from: which one is meant, and whether its adapter is the one asked for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillion_trainer.config import LATEST, ConfigurationError, TrainingConfig

STATE_FILE = "trainer_state.json"
"""What the Trainer writes last, so that a checkpoint that was cut off has none."""

ADAPTER_FILE = "adapter_config.json"

_OPTIONS = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "bias": "lora_bias",
    "use_rslora": "use_rslora",
    "target_modules": "target_modules",
    "feedforward_modules": "feedforward_modules",
    "modules_to_save": "modules_to_save",
}
"""What decides an adapter's shape beside its method, by peft's names, and our option for each."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint: its folder, the steps behind it, and peft's config of its adapter."""

    folder: Path
    steps: int
    adapter: dict[str, Any]

    def refuse_another(self, adapter: Any) -> None:
        """Raise `ConfigurationError` where its adapter is not like another one.

        Args:
            adapter: peft's config, with None or one word for layers that are not yet known.
        """
        wanted = adapter.to_dict()
        pairs = [("method", _method(wanted), _method(self.adapter))]
        if _method(wanted) == _method(self.adapter):
            pairs = [
                (option, _in_words(wanted.get(name)), _in_words(self.adapter.get(name)))
                for name, option in _OPTIONS.items()
                if _is_known(name, wanted.get(name))
            ]
        mistakes = [
            f"{option} gives {mine}, but the adapter in {str(self.folder)!r} has {theirs}: give "
            "the same, or leave resume_from out"
            for option, mine, theirs in pairs
            if mine != theirs
        ]
        if mistakes:
            raise ConfigurationError(*mistakes)


def find_checkpoint(config: TrainingConfig, output_dir: Path | None) -> Checkpoint | None:
    """Return the checkpoint that `resume_from` means; None where it means none.

    Args:
        config: what is asked for.
        output_dir: where `latest` looks; None: not known.

    Raises:
        ConfigurationError: there is none, it is not whole, or it has all steps already.
    """
    if config.resume_from is None:
        return None
    if config.resume_from != LATEST:
        found = _read(Path(config.resume_from).expanduser().absolute())
        if found is None:
            raise ConfigurationError(
                f"resume_from is {config.resume_from!r}, which is no whole checkpoint of an "
                f"adapter: give a folder with {STATE_FILE} and {ADAPTER_FILE}"
            )
    elif output_dir is None:
        raise ConfigurationError("resume_from is 'latest': give output_dir or --run-id too")
    else:
        found = latest_checkpoint(output_dir)
        if found is None:
            raise ConfigurationError(
                f"resume_from is 'latest', but {str(output_dir)!r} has no checkpoint: leave it "
                "out, or give another output_dir"
            )
    if 0 < config.max_steps <= found.steps:
        raise ConfigurationError(
            f"max_steps is {config.max_steps}, but {found.folder} has {found.steps} steps "
            "behind it: give more"
        )
    return found


def latest_checkpoint(output_dir: Path) -> Checkpoint | None:
    """Return the whole checkpoint with the most steps in a folder; None where it has none."""
    return max(_checkpoints(output_dir), key=lambda each: each.steps, default=None)


def _checkpoints(output_dir: Path) -> Iterator[Checkpoint]:
    for folder in output_dir.glob("checkpoint-*"):
        if found := _read(folder):
            yield found


def _read(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder; None where it is not whole."""
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        adapter = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
        return Checkpoint(folder, int(state["global_step"]), {"peft_type": ""} | adapter)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_known(name: str, value: Any) -> bool:
    """Whether a config tells the layers; before there is a model it may say `all-linear`."""
    if name in ("target_modules", "feedforward_modules"):
        return isinstance(value, list | set | tuple)
    return True


def _method(adapter: dict[str, Any]) -> str:
    kind = str(getattr(adapter["peft_type"], "value", adapter["peft_type"])).lower()
    return "dora" if adapter.get("use_dora") else kind


def _in_words(value: Any) -> str:
    """Return a value for comparison and for people: names have no order, and none are none."""
    if isinstance(value, list | set | tuple):
        return ", ".join(sorted(value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value or "none")
