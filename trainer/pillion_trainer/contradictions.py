"""Options of a fine-tune that are right by themselves and wrong beside each other."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

ALL_LINEAR = "all-linear"
TINY = "tiny"

_OF_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_bias", "use_rslora")
_OF_4BIT = ("quantization_type", "quantization_double")


class Contradiction(NamedTuple):
    """An option that does not go with another one; `remedy` says what to do."""

    name: str
    other: str
    remedy: str

    def in_words(self, values: Mapping[str, Any]) -> str:
        """Return a sentence that shows both values."""
        mine, theirs = values[self.name], values[self.other]
        return f"{self.name} is {mine!r}, but {self.other} is {theirs!r}: {self.remedy}"


def contradictions(values: Mapping[str, Any], changed: AbstractSet[str]) -> Iterator[Contradiction]:
    """Yield those among values that are right by themselves.

    Args:
        values: every option.
        changed: those that are not at their defaults.
    """
    yield from _of_methods(values, changed)
    yield from _of_modules(values)
    if values["revision"] is not None and is_on_this_machine(values["model"]):
        yield Contradiction("revision", "model", "leave it out, or give a hub id as model")
    if values["data_format"] not in ("auto", "text") and values["data"] is None:
        yield Contradiction("data_format", "data", "give a file that has this form")
    if values["eval_share"] > 0 and values["eval_data"] is not None:
        yield Contradiction("eval_share", "eval_data", "give one of them")
    if values["warmup_ratio"] > 0 and values["warmup_steps"] > 0:
        yield Contradiction("warmup_ratio", "warmup_steps", "give one of them")
    if values["scheduler"] == "reduce_lr_on_plateau" and values["eval_interval_steps"] == 0:
        yield Contradiction("scheduler", "eval_interval_steps", "give steps, after which it looks")
    if values["scheduler"] == "reduce_lr_on_plateau" and not _evaluates(values):
        yield Contradiction("scheduler", "eval_share", "give a share, or eval_data")
    yield from _of_checkpoints(values)


def _of_methods(values: Mapping[str, Any], changed: AbstractSet[str]) -> Iterator[Contradiction]:
    if values["method"] == "ia3":
        for name in _OF_LORA:
            if name in changed:
                yield Contradiction(name, "method", "leave it out, or give lora or dora as method")
        if ALL_LINEAR in (values["target_modules"] or ()):
            yield Contradiction("target_modules", "method", "name the layers, or leave it out")
    elif values["feedforward_modules"] is not None:
        yield Contradiction("feedforward_modules", "method", "leave it out, or give ia3 as method")
    if values["quantization"] != "4bit":
        for name in _OF_4BIT:
            if name in changed:
                yield Contradiction(
                    name, "quantization", "leave it out, or give 4bit as quantization"
                )


def _of_modules(values: Mapping[str, Any]) -> Iterator[Contradiction]:
    targets = values["target_modules"] or ()
    if set(targets) & set(values["modules_to_save"]):
        yield Contradiction(
            "modules_to_save", "target_modules", "name each layer in one of them only"
        )
    feedforward = set(values["feedforward_modules"] or ())
    if targets and not feedforward <= set(targets):
        yield Contradiction(
            "feedforward_modules", "target_modules", "name only layers that are in both"
        )


def _of_checkpoints(values: Mapping[str, Any]) -> Iterator[Contradiction]:
    """What is logged of a model must be there; the best is known only of what was evaluated."""
    log_model, interval = values["log_model"], values["checkpoint_interval_steps"]
    if log_model not in ("checkpoint", "best"):
        return
    if interval == 0:
        yield Contradiction(
            "log_model", "checkpoint_interval_steps", "give the steps between checkpoints"
        )
    if log_model == "checkpoint":
        return
    if not _evaluates(values):
        yield Contradiction("log_model", "eval_share", "give a share, or eval_data")
    every = values["eval_interval_steps"]
    if every == 0:
        yield Contradiction(
            "log_model", "eval_interval_steps", "give the steps between evaluations"
        )
    elif interval % every:
        yield Contradiction(
            "checkpoint_interval_steps",
            "eval_interval_steps",
            "give a multiple of it, so that each checkpoint is evaluated for log_model 'best'",
        )


def _evaluates(values: Mapping[str, Any]) -> bool:
    return values["eval_data"] is not None or values["eval_share"] > 0


def is_on_this_machine(model: str) -> bool:
    """Whether a model is the built-in one or in a folder; else it comes from the hub."""
    return model == TINY or Path(model).expanduser().is_dir()
