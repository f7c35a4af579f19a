"""The configuration of a fine-tune: what can be set, what a value may be, where it is read from.

`TrainingConfig` is the only list of options: flags, TOML keys, checks and help come from its
fields. Nothing heavy is imported, so mistakes are told at once; what only the libraries or the
machine know (names of optimisers, whether fp16 works) is checked by `machine.py`.
"""

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "bf16", "fp16")
TINY = "tiny"


class ConfigurationError(ValueError):
    """The user's configuration: every mistake in it, each with its value and what to do."""

    def __init__(self, *mistakes: str) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(self.mistakes))


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a value must satisfy; `remedy` goes on after "give"."""

    holds: Callable[[Any], bool]
    remedy: str


def _option(default: Any, meaning: str, rule: _Rule | None = None, *, flag: str = "") -> Any:
    """Declare a field with its help, its rule and a second, shorter flag."""
    return field(default=default, metadata={"help": meaning, "rule": rule, "flag": flag})


def _at_least(least: int) -> _Rule:
    return _Rule(lambda value: value >= least, f"a whole number of at least {least}")


def _exists_if_local(model: str) -> bool:
    return bool(model) and (not model.startswith(("/", "./", "../", "~")) or _is_folder(model))


def _is_folder(path: str) -> bool:
    return Path(path).expanduser().is_dir()


def _is_file(path: str | None) -> bool:
    return path is None or Path(path).expanduser().is_file()


_NOT_EMPTY = _Rule(lambda value: value is None or value != "", "a text that is not empty")
_ABOVE_ZERO = _Rule(lambda value: math.isfinite(value) and value > 0, "a number above 0")
_NOT_NEGATIVE = _Rule(lambda value: math.isfinite(value) and value >= 0, "0 or a number above it")
_NAMES = _Rule(lambda value: value and all(value), "one or more names, joined by commas")


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """All that decides a fine-tune. Raises `ConfigurationError` with every mistake at once."""

    model: str = _option(
        TINY,
        "the built-in small model (tiny), a folder, or a hub id",
        _Rule(_exists_if_local, "tiny, a folder that exists, or a hub id"),
    )
    data: str | None = _option(
        None,
        'a .txt file, or .jsonl of {"text": ...}; else the built-in logbook',
        _Rule(_is_file, "a file that exists"),
    )
    output_dir: str | None = _option(
        None, "where adapter and checkpoints go; else outputs/RUN_ID", _NOT_EMPTY
    )
    project: str | None = _option(None, "the project of the run", _NOT_EMPTY)
    name: str | None = _option(None, "the name of the run", _NOT_EMPTY)
    group: str | None = _option(None, "the group of the run", _NOT_EMPTY)
    tags: tuple[str, ...] = _option(
        (), "tags of the run", _Rule(all, "names joined by commas, none of them empty")
    )

    lora_r: int = _option(8, "the rank of the LoRA matrices", _at_least(1), flag="r")
    lora_alpha: float = _option(
        16.0, "the LoRA scale; alpha / r multiplies the update", _ABOVE_ZERO, flag="alpha"
    )
    lora_dropout: float = _option(
        0.0,
        "the share of LoRA inputs dropped in training",
        _Rule(lambda value: 0 <= value < 1, "a number from 0 to below 1"),
        flag="dropout",
    )
    target_modules: tuple[str, ...] = _option(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "the layers that get LoRA matrices, by the end of their names",
        _NAMES,
    )

    learning_rate: float = _option(5e-3, "the highest learning rate", _ABOVE_ZERO)
    optimizer: str = _option("adamw_torch", "the optimiser, as transformers names it", _NOT_EMPTY)
    scheduler: str = _option("cosine", "the schedule, as transformers names it", _NOT_EMPTY)
    warmup_steps: int = _option(5, "steps until the learning rate is at its highest", _at_least(0))
    weight_decay: float = _option(0.0, "the weight decay", _NOT_NEGATIVE)
    max_grad_norm: float = _option(1.0, "gradients are clipped to this norm", _ABOVE_ZERO)
    precision: str = _option(
        "fp32",
        "fp32, bf16 or fp16",
        _Rule(PRECISIONS.__contains__, "one of " + ", ".join(PRECISIONS)),
    )
    batch_size: int = _option(8, "blocks per device and forward pass", _at_least(1))
    gradient_accumulation_steps: int = _option(1, "forward passes per step", _at_least(1))
    epochs: float = _option(3.0, "passes over the data, where max_steps is 0", _ABOVE_ZERO)
    max_steps: int = _option(
        120, "steps; 0 goes by epochs, as with --epochs or --data", _at_least(0)
    )
    sequence_length: int = _option(128, "tokens per block", _at_least(8))
    seed: int = _option(
        42,
        "the seed of everything random",
        _Rule(lambda value: 0 <= value < 2**32, "a whole number from 0 to below 2**32"),
    )

    eval_share: float = _option(
        0.1,
        "the share of blocks kept for evaluation; 0 evaluates nothing",
        _Rule(lambda value: 0 <= value <= 0.5, "a number from 0 to 0.5"),  # noqa: PLR2004
    )
    logging_interval_steps: int = _option(1, "steps between logged rows", _at_least(1))
    eval_interval_steps: int = _option(
        20, "steps between evaluations; 0 evaluates at the end only", _at_least(0)
    )
    checkpoint_interval_steps: int = _option(0, "steps between checkpoints; 0 none", _at_least(0))

    def __post_init__(self) -> None:
        """Check every field, then tell all mistakes."""
        mistakes = [
            mistake
            for each in fields(self)
            for mistake in _mistakes(each, getattr(self, each.name))
        ]
        if mistakes:
            raise ConfigurationError(*mistakes)

    def as_dict(self) -> dict[str, Any]:
        """Return every option by its name, sequences as lists."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def load_config(file: Path | None, flags: Mapping[str, str]) -> TrainingConfig:
    """Read a configuration from a TOML file and from flags; a flag wins.

    Args:
        file: TOML with the fields of `TrainingConfig` as top-level keys, or None.
        flags: the text given for each field by its name.

    Raises:
        ConfigurationError: all mistakes of file and flags together.
    """
    known = {each.name: each for each in fields(TrainingConfig)}
    table, mistakes = _read_toml(file) if file else ({}, [])
    values: dict[str, Any] = {}
    for name, value in {**table, **{name: _Text(text) for name, text in flags.items()}}.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see --help for the options"
            mistakes.append(f"{name} is no option: {hint}")
            continue
        read = _from_text(known[name], value) if isinstance(value, _Text) else _from_toml(value)
        found = _mistakes(known[name], read)
        mistakes += found
        if not found:
            values[name] = read
    if mistakes:
        raise ConfigurationError(*mistakes)
    if values.keys() & {"epochs", "data"}:
        values.setdefault("max_steps", 0)  # the number of steps is made for the built-in text
    return TrainingConfig(**values)


class _Text(str):
    """A value as it was typed, to be read as the field's kind."""

    __slots__ = ()


_KIND_REMEDIES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    str | None: "a text",
    tuple[str, ...]: "a list of texts",
}


def _read_toml(file: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        return tomllib.loads(file.expanduser().read_text(encoding="utf-8")), []
    except (OSError, ValueError) as error:
        return {}, [f"config is {str(file)!r}: {error}; give a readable TOML file"]


def _from_toml(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _from_text(option: Field[Any], text: str) -> Any:
    """Return what the text says, or the text itself where it cannot be read as the field's kind."""
    if option.type == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",")) if text else ()
    if option.type not in (int, float):
        return str(text)
    try:
        return int(text) if option.type is int else float(text)
    except ValueError:
        return str(text)


def _mistakes(option: Field[Any], value: Any) -> list[str]:
    """Return what is wrong with one value: nothing, or one sentence."""
    rule: _Rule | None = option.metadata["rule"]
    remedy = None
    if not _is_of_kind(option.type, value):
        remedy = _KIND_REMEDIES[option.type]
    elif rule and not rule.holds(value):
        remedy = rule.remedy
    return [f"{option.name} is {value!r}: give {remedy}"] if remedy else []


def _is_of_kind(kind: Any, value: Any) -> bool:
    if kind == tuple[str, ...]:
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not isinstance(value, bool)
