"""Properties of the trainer's configuration, over all of its options."""

import json
import string
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from pillion_trainer.config import ConfigurationError, TrainingConfig, find_mistakes
from pillion_trainer.config_file import load_config

OPTIONS = {each.name: each for each in fields(TrainingConfig)}
HERE = str(Path(__file__))
FOLDER = str(Path(__file__).parent)

words = st.text(string.ascii_letters + " äß水\"'\\#:-\n", min_size=1, max_size=12)
names = st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), min_size=1, max_size=3, unique=True)
counts = st.integers(1, 10**9)
shares = st.floats(0, 0.5)
positive = st.floats(1e-30, 1e30)

RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["tiny", "org/model", FOLDER]),
    "revision": words,
    "quantization": st.sampled_from(["none", "8bit", "4bit"]),
    "quantization_type": st.sampled_from(["nf4", "fp4"]),
    "quantization_double": st.booleans(),
    "method": st.sampled_from(["lora", "dora", "ia3"]),
    "lora_r": counts,
    "lora_alpha": positive,
    "lora_dropout": shares,
    "lora_bias": st.sampled_from(["none", "all", "lora_only"]),
    "use_rslora": st.booleans(),
    "target_modules": names,
    "feedforward_modules": names,
    "modules_to_save": names,
    "data": st.just(HERE),
    "data_format": st.sampled_from(["auto", "chat", "completion", "text"]),
    "sequence_length": st.integers(8, 10**6),
    "eval_data": st.just(HERE),
    "eval_share": shares,
    "dataloader_workers": st.integers(0, 64),
    "epochs": positive,
    "max_steps": st.integers(0, 10**9),
    "batch_size": counts,
    "eval_batch_size": counts,
    "gradient_accumulation_steps": counts,
    "gradient_checkpointing": st.booleans(),
    "precision": st.sampled_from(["fp32", "bf16", "fp16"]),
    "seed": st.integers(0, 2**32 - 1),
    "learning_rate": positive,
    "optimizer": words,
    "optimizer_options": st.just(["weight=2", "name=a"]),
    "scheduler_options": st.just(["min_lr_rate=0.1"]),
    "scheduler": words,
    "warmup_steps": st.integers(0, 10**6),
    "warmup_ratio": shares,
    "weight_decay": st.floats(0, 1e30),
    "adam_beta1": shares,
    "adam_beta2": shares,
    "adam_epsilon": positive,
    "max_grad_norm": positive,
    "logging_interval_steps": counts,
    "eval_interval_steps": st.integers(0, 100),
    "checkpoint_interval_steps": st.integers(0, 100),
    "checkpoints_kept": counts,
    "resume_from": st.sampled_from(["latest", FOLDER]),
    "log_model": st.sampled_from(["none", "end", "checkpoint", "best"]),
    "output_dir": words,
    "project": words,
    "name": words,
    "group": words,
    "tags": names,
}
"""For each option, values that are right by themselves."""

NEVER = st.sampled_from(
    [{"a": 1}, [1], [""], -1, -0.5, float("nan"), float("inf"), 10**400, "", [[]], [None]]
)
"""Values that no option takes."""

MAY_BE_EMPTY = ("tags", "modules_to_save", "optimizer_options", "scheduler_options")

values = st.fixed_dictionaries({}, optional=RIGHT)


def is_right(given_values: dict[str, Any]) -> bool:
    """Tell whether nothing contradicts anything."""
    return not find_mistakes(given_values)


def as_toml(table: dict[str, Any]) -> str:
    """Write flat TOML, whose texts, numbers and lists are those of JSON."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())


def test_there_are_values_for_every_option() -> None:
    """A new option joins these tests."""
    assert set(RIGHT) == set(OPTIONS)


@pytest.mark.parametrize("write", [as_toml, yaml.safe_dump], ids=["toml", "yaml"])
@given(values.filter(is_right))
def test_a_configuration_comes_back_from_a_file(
    tmp_path_factory: pytest.TempPathFactory, write: Callable[[Any], str], table: dict[str, Any]
) -> None:
    """What `as_dict` gives can be written as TOML and as YAML, and read as the same."""
    config = TrainingConfig.from_dict(table)
    file = tmp_path_factory.getbasetemp() / f"tune.{'toml' if write is as_toml else 'yaml'}"
    told = {name: value for name, value in config.as_dict().items() if value is not None}
    file.write_text(write(told), encoding="utf-8")
    assert load_config(file, {}) == config
    assert TrainingConfig.from_dict(config.as_dict()) == config


@given(values, st.dictionaries(st.sampled_from(sorted(OPTIONS)), NEVER, min_size=1))
def test_exactly_the_wrong_options_are_told(right: dict[str, Any], wrong: dict[str, Any]) -> None:
    """Each once, with its name in front; what is right beside them is told at most as contrary."""
    assume("" not in [wrong.get(name) for name in MAY_BE_EMPTY])
    told = find_mistakes(right | wrong)
    assert all(sentence.startswith(f"{name} is ") for name, sentence in told)
    by_themselves = [name for name, sentence in told if ", but " not in sentence]
    assert sorted(by_themselves) == sorted(wrong)
    contrary = [sentence for _, sentence in told if ", but " in sentence]
    assert not [name for name in wrong for sentence in contrary if f"but {name} is" in sentence]


CONTRARY = [
    ({"method": "ia3", "lora_r": 4, "use_rslora": True}, ["lora_r", "use_rslora"]),
    ({"feedforward_modules": ["down_proj"]}, ["feedforward_modules"]),
    (
        {"quantization_type": "fp4", "quantization_double": False},
        ["quantization_type", "quantization_double"],
    ),
    ({"quantization": "8bit", "quantization_type": "fp4"}, ["quantization_type"]),
    ({"revision": "main"}, ["revision"]),
    ({"model": FOLDER, "revision": "main"}, ["revision"]),
    ({"data_format": "chat"}, ["data_format"]),
    ({"eval_data": HERE, "eval_share": 0.1}, ["eval_share"]),
    ({"warmup_steps": 3, "warmup_ratio": 0.1}, ["warmup_ratio"]),
    ({"target_modules": ["a", "b"], "modules_to_save": ["b"]}, ["modules_to_save"]),
    (
        {"method": "ia3", "target_modules": ["a"], "feedforward_modules": ["b"]},
        ["feedforward_modules"],
    ),
    ({"scheduler": "reduce_lr_on_plateau", "eval_share": 0}, ["scheduler"]),
    ({"scheduler": "reduce_lr_on_plateau", "eval_interval_steps": 0}, ["scheduler"]),
    ({"scheduler": "reduce_lr_on_plateau"}, []),
    ({"log_model": "checkpoint"}, ["log_model"]),
    ({"log_model": "best", "checkpoint_interval_steps": 20, "eval_share": 0}, ["log_model"]),
    (
        {"log_model": "best", "checkpoint_interval_steps": 20, "eval_interval_steps": 0},
        ["log_model"],
    ),
    ({"log_model": "best", "checkpoint_interval_steps": 30}, ["checkpoint_interval_steps"]),
    ({"log_model": "best", "checkpoint_interval_steps": 40}, []),
    ({"model": "org/model", "revision": "main"}, []),
    ({"method": "ia3", "target_modules": "all-linear"}, ["target_modules"]),
    ({"method": "ia3", "target_modules": "a,b", "feedforward_modules": ["b"]}, []),
    ({"quantization": "4bit", "quantization_type": "fp4"}, []),
    ({"warmup_ratio": 0.1}, []),
]


@pytest.mark.parametrize(("table", "told"), CONTRARY)
def test_options_that_contradict_each_other_are_told(
    table: dict[str, Any], told: list[str]
) -> None:
    """Each with both values and what to do."""
    assert [name for name, _ in find_mistakes(table)] == told
    assert all(", but " in sentence for _, sentence in find_mistakes(table))


def test_yaml_is_read_as_people_write_it(tmp_path: Path) -> None:
    """A rate such as 2e-4 is a number, and the one name of a list may stand alone."""
    file = tmp_path / "tune.yml"
    file.write_text(
        "learning_rate: 2e-4\nadam_epsilon: 1E-8\ntarget_modules: all-linear\nname: 2e-4 first\n"
        "tags: [a, b]\nmodules_to_save:\n  - lm_head\n"
    )
    config = load_config(file, {})
    assert (config.learning_rate, config.adam_epsilon) == (2e-4, 1e-8)
    assert (config.target_modules, config.name) == (("all-linear",), "2e-4 first")
    assert (config.tags, config.modules_to_save) == (("a", "b"), ("lm_head",))
    file.write_text("# nothing yet\n")
    assert load_config(file, {}) == TrainingConfig()


def test_mistakes_in_yaml_are_told_with_their_lines(tmp_path: Path) -> None:
    """Of values, of names, of names that stand twice; those of a flag have none."""
    file = tmp_path / "tune.yaml"
    file.write_text("lora_r: 0\n\nmethd: lora\nseed: 1\nseed: 2\nbatch_size: 0\n")
    with pytest.raises(ConfigurationError) as caught:
        load_config(file, {"batch_size": "many"})
    assert caught.value.mistakes == (
        f"{file}, line 5: seed stands in line 4 too: give it once",
        f"{file}, line 3: methd is no option: did you mean method?",
        f"{file}, line 1: lora_r is 0: give a whole number of at least 1",
        "batch_size is 'many': give a whole number",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lora_r: [4", "line 1"),
        ("a: b\n c: d", "line 2"),
        ("just words", "no options by their names"),
        ("- 1", "no options by their names"),
        ("lora_r: !!python/object/apply:os.getcwd []", "line 1"),
    ],
)
def test_what_is_no_yaml_of_options_is_a_mistake_with_its_place(
    tmp_path: Path, text: str, told: str
) -> None:
    """Python's own objects are never made."""
    file = tmp_path / "tune.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="give a readable YAML file") as caught:
        load_config(file, {})
    assert told in str(caught.value)
    assert len(caught.value.mistakes) == 1


def test_without_pyyaml_it_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence; TOML needs nothing."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    file = tmp_path / "tune.yaml"
    file.touch()
    with pytest.raises(ConfigurationError) as caught:
        load_config(file, {})
    assert caught.value.mistakes == (
        f"config is {str(file)!r}, and PyYAML is missing: pip install pyyaml, or give TOML",
    )


def test_a_flag_without_a_value_is_true() -> None:
    """Flags that are on or off need no word."""
    config = load_config(None, {"use_rslora": "true", "quantization_double": "True"})
    assert config.use_rslora
    with pytest.raises(ConfigurationError, match="use_rslora is 'maybe': give true or false"):
        load_config(None, {"use_rslora": "maybe"})


def test_options_of_a_schedule_are_read_as_what_they_say() -> None:
    """Numbers and booleans are no texts; what is no pair is a mistake."""
    given_ones = ["min_lr_rate=0.1", "num_cycles=3", "decay_type=linear", "is_on=true"]
    assert TrainingConfig.from_dict({"scheduler_options": given_ones}).options_of_scheduler() == {
        "min_lr_rate": 0.1,
        "num_cycles": 3,
        "decay_type": "linear",
        "is_on": True,
    }
    with pytest.raises(ConfigurationError, match="give name=value"):
        load_config(None, {"scheduler_options": "cycles 3"})


def test_defaults_follow_the_model_and_the_data() -> None:
    """Those of the tiny model are no good for others; those that are given stay."""
    tiny, other = TrainingConfig(), TrainingConfig(model="org/model", data=HERE)
    assert (tiny.learning_rate, tiny.sequence_length, tiny.max_steps) == (5e-3, 128, 120)
    assert (other.learning_rate, other.sequence_length) == (2e-4, 1024)
    assert (other.max_steps, other.epochs) == (0, 3.0)
    assert TrainingConfig(warmup_ratio=0.1).warmup_steps == 0
    assert TrainingConfig(eval_data=Path(HERE)).eval_share == 0
