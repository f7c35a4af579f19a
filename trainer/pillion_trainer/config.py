"""The configuration of a fine-tune: what can be set, and what a value may be.

`TrainingConfig` is the only list of options: flags, keys of files, checks and help come from its
fields. Nothing heavy is imported, so mistakes are told at once; what only the libraries or the
machine know (names of optimisers, whether fp16 works) is checked by `machine.py`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pillion_trainer.contradictions import TINY, contradictions
from pillion_trainer.options import (
    A_FILE,
    ABOVE_ZERO,
    ANY_NAMES,
    BELOW_ONE,
    NOT_EMPTY,
    NOT_NEGATIVE,
    SOME_NAMES,
    SOME_PAIRS,
    Rule,
    at_least,
    mistake_of,
    normal,
    one_of,
    option,
    plain_value,
)

METHODS = ("lora", "dora", "ia3")
QUANTIZATIONS = ("none", "8bit", "4bit")
PRECISIONS = ("fp32", "bf16", "fp16")
DATA_FORMATS = ("auto", "chat", "completion", "text")
LOG_MODEL = ("none", "end", "checkpoint", "best")
LATEST = "latest"

_ELSEWHERE = {
    "base_model": "model",
    "bf16": "precision",
    "dataset": "data",
    "eval_steps": "eval_interval_steps",
    "fp16": "precision",
    "load_in_4bit": "quantization",
    "load_in_8bit": "quantization",
    "logging_steps": "logging_interval_steps",
    "lr": "learning_rate",
    "lr_scheduler_type": "scheduler",
    "max_length": "sequence_length",
    "max_seq_length": "sequence_length",
    "model_name_or_path": "model",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "optim": "optimizer",
    "per_device_train_batch_size": "batch_size",
    "rank": "lora_r",
    "resume_from_checkpoint": "resume_from",
    "save_steps": "checkpoint_interval_steps",
    "save_total_limit": "checkpoints_kept",
    "train_file": "data",
}
"""What options of ours are called by transformers, peft and those who use them."""

_LOCAL = ("/", "./", "../", "~")


class ConfigurationError(ValueError):
    """The user's configuration: every mistake in it, each with its value and what to do."""

    def __init__(self, *mistakes: str) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(self.mistakes))


def _is_folder(path: str) -> bool:
    return bool(path) and Path(path).expanduser().is_dir()


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """All that decides a fine-tune. Raises `ConfigurationError` with every mistake at once.

    Lists may be given for tuples and paths for texts. A default that depends on other options is
    None in their place and is filled in, so that every value is there afterwards; see `_filled_in`.
    """

    model: str = option(
        TINY,
        "the built-in small model (tiny), a folder, or a hub id",
        Rule(
            lambda model: model and (not model.startswith(_LOCAL) or _is_folder(model)),
            "tiny, a folder that exists, or a hub id",
        ),
        group="the base model",
    )
    revision: str | None = option(None, "the commit, tag or branch of a hub id", NOT_EMPTY)
    quantization: str = option(
        "none", "load the base in none, 8bit or 4bit; needs a CUDA GPU", one_of(*QUANTIZATIONS)
    )
    quantization_type: str = option("nf4", "of 4bit: nf4 or fp4", one_of("nf4", "fp4"))
    quantization_double: bool = option(True, "of 4bit: quantise the scales too")

    method: str = option(
        "lora", "lora, dora or ia3; QLoRA is lora on a base in 4bit", one_of(*METHODS), group="PEFT"
    )
    lora_r: int = option(8, "the rank of the LoRA matrices", at_least(1), flag="r")
    lora_alpha: float = option(
        16.0, "the LoRA scale; alpha / r multiplies the update", ABOVE_ZERO, flag="alpha"
    )
    lora_dropout: float = option(
        0.0, "the share of LoRA inputs dropped in training", BELOW_ONE, flag="dropout"
    )
    lora_bias: str = option(
        "none",
        "biases that are trained: none, all or lora_only",
        one_of("none", "all", "lora_only"),
    )
    use_rslora: bool = option(False, "alpha / sqrt(r) multiplies the update instead")
    target_modules: tuple[str, ...] | None = option(
        None,
        "the layers that are adapted, by the end of their names, or all-linear; else all-linear "
        "for LoRA and DoRA, and what PEFT knows of the architecture for IA3",
        SOME_NAMES,
    )
    feedforward_modules: tuple[str, ...] | None = option(
        None, "of IA3: which of them are scaled at their input; else PEFT's choice", SOME_NAMES
    )
    modules_to_save: tuple[str, ...] = option(
        (), "layers that are trained whole, and saved with the adapter", ANY_NAMES
    )

    data: str | None = option(
        None,
        "a .jsonl, .json, .csv, .parquet or text file; else the built-in logbook",
        A_FILE,
        group="the data",
    )
    data_format: str = option(
        "auto", "auto (by the columns), chat, completion or text", one_of(*DATA_FORMATS)
    )
    sequence_length: int = option(
        None,
        "tokens per sample at most, or per block of text (128 for tiny, else 1024)",
        at_least(8),
    )
    eval_data: str | None = option(None, "a file to evaluate on, as data", A_FILE)
    eval_share: float = option(
        None,
        "the share of data kept for evaluation (0.1; 0 with eval_data)",
        Rule(lambda value: 0 <= value <= 0.5, "a number from 0 to 0.5"),  # noqa: PLR2004
    )
    dataloader_workers: int = option(0, "processes that prepare batches; 0: none", at_least(0))

    epochs: float = option(
        None, "passes over the data, where max_steps is 0 (3)", ABOVE_ZERO, group="the training"
    )
    max_steps: int = option(
        None, "steps; 0 goes by epochs (0; 120 where neither epochs nor data is given)", at_least(0)
    )
    batch_size: int = option(8, "samples per device and forward pass", at_least(1))
    eval_batch_size: int | None = option(
        None, "the same in evaluations; else batch_size", at_least(1)
    )
    gradient_accumulation_steps: int = option(1, "forward passes per step", at_least(1))
    gradient_checkpointing: bool = option(False, "compute activations twice, to save memory")
    precision: str = option("fp32", "fp32, bf16 or fp16", one_of(*PRECISIONS))
    seed: int = option(
        42,
        "the seed of everything random",
        Rule(lambda value: 0 <= value < 2**32, "a whole number from 0 to below 2**32"),
    )

    learning_rate: float = option(
        None,
        "the highest learning rate (5e-3 for tiny, else 2e-4)",
        ABOVE_ZERO,
        group="the optimiser",
    )
    optimizer: str = option("adamw_torch", "the optimiser, as transformers names it", NOT_EMPTY)
    optimizer_options: tuple[str, ...] = option((), "what else it takes, as name=value", SOME_PAIRS)
    scheduler: str = option("cosine", "the schedule, as transformers names it", NOT_EMPTY)
    scheduler_options: tuple[str, ...] = option((), "what else it takes, as name=value", SOME_PAIRS)
    warmup_steps: int = option(
        None,
        "steps until the learning rate is at its highest (5; 0 with warmup_ratio)",
        at_least(0),
    )
    warmup_ratio: float = option(0.0, "the same as a share of all steps", BELOW_ONE)
    weight_decay: float = option(0.0, "the weight decay", NOT_NEGATIVE)
    adam_beta1: float = option(0.9, "Adam's decay of the mean", BELOW_ONE)
    adam_beta2: float = option(0.999, "Adam's decay of the variance", BELOW_ONE)
    adam_epsilon: float = option(1e-8, "Adam's smallest divisor", ABOVE_ZERO)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", ABOVE_ZERO)

    logging_interval_steps: int = option(
        1, "steps between logged rows", at_least(1), group="what is logged and kept"
    )
    eval_interval_steps: int = option(
        20, "steps between evaluations; 0 evaluates at the end only", at_least(0)
    )
    checkpoint_interval_steps: int = option(0, "steps between checkpoints; 0 none", at_least(0))
    checkpoints_kept: int = option(2, "so many checkpoints are kept, the latest", at_least(1))
    resume_from: str | None = option(
        None,
        "go on from a checkpoint's folder, or from the latest in output_dir",
        Rule(lambda value: value == LATEST or _is_folder(value), "latest, or a folder that exists"),
    )
    log_model: str = option(
        "end", "what becomes an artifact: none, end, checkpoint or best", one_of(*LOG_MODEL)
    )
    output_dir: str | None = option(
        None, "where adapter and checkpoints go; else outputs/RUN_ID", NOT_EMPTY
    )

    project: str | None = option(None, "the project of the run", NOT_EMPTY, group="the run")
    name: str | None = option(None, "the name of the run", NOT_EMPTY)
    group: str | None = option(None, "the group of the run", NOT_EMPTY)
    tags: tuple[str, ...] = option((), "tags of the run", ANY_NAMES)

    def __post_init__(self) -> None:
        """Fill in what depends on other options, check everything, then tell all mistakes."""
        values = _filled_in({each.name: getattr(self, each.name) for each in fields(self)})
        if mistakes := find_mistakes(values):
            raise ConfigurationError(*(sentence for _, sentence in mistakes))
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """Return the configuration that `as_dict` gave, or any other by the options' names.

        Raises:
            ConfigurationError: every mistake, names that are no options included.
        """
        mistakes = find_mistakes(values)
        if mistakes:
            raise ConfigurationError(*(sentence for _, sentence in mistakes))
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Return every option by its name, sequences as lists."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def options_of_scheduler(self) -> dict[str, Any]:
        """Return the schedule's own options by their names: numbers, booleans or texts."""
        pairs = (each.split("=", 1) for each in self.scheduler_options)
        return {name: plain_value(text) for name, text in pairs}


def find_mistakes(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return every mistake in the options that were given, as their name and a sentence.

    Names that are no options come first, then values that are wrong by themselves, then those that
    contradict each other; what is wrong by itself is not told again as a contradiction.
    """
    known = {each.name: each for each in fields(TrainingConfig)}
    found = [(name, _unknown(name)) for name in given if name not in known]
    values = _filled_in({name: value for name, value in given.items() if name in known})
    wrong = {name: told for name in known if (told := mistake_of(known[name], values[name]))}
    right = _filled_in({name: given[name] for name in given if name in known.keys() - wrong.keys()})
    changed = {name for name in known if right[name] != known[name].default}
    return [
        *found,
        *wrong.items(),
        *(
            (each.name, each.in_words(right))
            for each in contradictions(right, changed)
            if not {each.name, each.other} & wrong.keys()
        ),
    ]


def right_part(given: Mapping[str, Any]) -> tuple[TrainingConfig, set[str]]:
    """Return the configuration without options that are wrong, and the names of those.

    To these belongs what an unknown name was perhaps meant to be.
    """
    kept = dict(given)
    wrong: set[str] = set()
    while names := {name for name, _ in find_mistakes(kept)}:
        wrong |= names | {near for name in names - _names() if (near := nearest(name))}
        kept = {name: value for name, value in kept.items() if name not in names}
    return TrainingConfig(**kept), wrong


def nearest(name: str, others: Iterable[str] = ()) -> str:
    """Return the option that a name was perhaps meant to be, or one of others; empty: none."""
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    near = difflib.get_close_matches(str(name), sorted({*_names(), *others}), n=1)
    return near[0] if near else ""


def _unknown(name: str) -> str:
    near = nearest(name)
    hint = f"did you mean {near}?" if near else "see --help for the options"
    return f"{name} is no option: {hint}"


def _names() -> set[str]:
    return {each.name for each in fields(TrainingConfig)}


def _filled_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options in their normal form, with the defaults that depend on other options."""
    values = {
        each.name: normal(each, given.get(each.name, each.default))
        for each in fields(TrainingConfig)
    }
    is_tiny = values["model"] == TINY
    is_for_built_in_text = values["data"] is None and values["epochs"] is None
    dependent = {
        "learning_rate": 5e-3 if is_tiny else 2e-4,
        "sequence_length": 128 if is_tiny else 1024,
        "max_steps": 120 if is_for_built_in_text else 0,
        "epochs": 3.0,
        "eval_share": 0.1 if values["eval_data"] is None else 0.0,
        "warmup_steps": 5 if values["warmup_ratio"] == 0 else 0,
    }
    for name, default in dependent.items():
        if values[name] is None:
            values[name] = default
    return values
