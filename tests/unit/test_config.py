"""Config and summary: mappings that tell of each change."""

from typing import Any

import numpy as np
import pytest

from pillion._config import Config, Summary

Told = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def told() -> Told:
    """Collect what is told."""
    return []


@pytest.fixture
def config(told: Told) -> Config:
    """Make a config that begins with a value."""
    return Config(lambda kind, values: told.append((kind, values)), {"seed": 1})


def test_first_values_are_not_told_again(config: Config, told: Told) -> None:
    """They went with the start of the run."""
    assert dict(config) == {"seed": 1}
    assert told == []


def test_each_change_is_told_at_once(config: Config, told: Told) -> None:
    """By key, by `update` in all its forms, one record per call."""
    config["lr"] = 0.1
    config.update({"a": 1}, b=2)
    config.update([("c", 3)])
    config.setdefault("d", 4)
    config.setdefault("seed", 5)
    assert told == [
        *(("config_update", values) for values in ({"lr": 0.1}, {"a": 1, "b": 2}, {"c": 3})),
        ("config_update", {"d": 4}),
    ]
    assert dict(config) == {"seed": 1, "lr": 0.1, "a": 1, "b": 2, "c": 3, "d": 4}


def test_wandbs_argument_is_taken_and_ignored(config: Config, told: Told) -> None:
    """Code that was written for W&B runs; the name is no hyperparameter."""
    config.update({"seed": 2}, allow_val_change=True)
    assert told == [("config_update", {"seed": 2})]


def test_nothing_tells_nothing(config: Config, told: Told) -> None:
    """An empty update is no record."""
    config.update()
    config.update({})
    assert told == []


def test_values_are_made_plain_at_the_call(config: Config, told: Told) -> None:
    """What the caller changes afterwards changes nothing; keys become text."""
    layers = [1, 2]
    config.update({"layers": layers, "lr": np.float32(0.5), 3: (4,)})
    layers.append(3)
    assert told == [("config_update", {"layers": [1, 2], "lr": 0.5, "3": [4]})]
    assert config["layers"] == [1, 2]
    assert config["3"] == [4]


def test_value_that_was_told_cannot_be_taken_back(config: Config, told: Told) -> None:
    """The refusal says what to do."""
    with pytest.raises(TypeError, match="set it to None"):
        del config["seed"]
    assert dict(config) == {"seed": 1}
    assert told == []


def test_config_reads_like_a_mapping(config: Config) -> None:
    """Length, membership, keys, and a look at it."""
    assert len(config) == 1
    assert "seed" in config
    assert config.get("lr") is None
    assert repr(config) == "{'seed': 1}"
    with pytest.raises(KeyError):
        config["lr"]


def test_change_of_its_source_does_not_change_it(told: Told) -> None:
    """A config is a copy of what it was made from."""
    source: dict[str, Any] = {"seed": 1}
    config = Config(lambda kind, values: told.append((kind, values)), source)
    source["seed"] = 2
    assert config["seed"] == 1


def test_summary_is_told_as_such(told: Told) -> None:
    """It begins empty, and its changes are of its own kind."""
    summary = Summary(lambda kind, values: told.append((kind, values)))
    assert dict(summary) == {}
    summary["best"] = 1
    assert told == [("summary_update", {"best": 1})]
