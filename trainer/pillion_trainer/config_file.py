"""A configuration read from a file and from flags, with the lines of what is wrong in it."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pillion_trainer.config import ConfigurationError, TrainingConfig, find_mistakes, right_part
from pillion_trainer.options import from_text

YAML_SUFFIXES = (".yaml", ".yml")

_SHORT_FLOAT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
"""What people write as a learning rate, `2e-4`, and YAML 1.1 takes for a text."""


@dataclass(slots=True)
class _Table:
    """What stands in a file: values, the line of each, and what keeps it from being read."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """What file and flags say, and what is wrong with it."""

    config: TrainingConfig | None
    """Without what is wrong; None: the file cannot be read, so that nobody knows."""
    mistakes: list[str]
    wrong: set[str]
    """The names of the options that are wrong, or may be meant by names that are no options."""


def load_config(file: Path | None, flags: Mapping[str, str]) -> TrainingConfig:
    """Read a configuration from a file and from flags; a flag wins.

    Args:
        file: TOML, or YAML where its name ends so, with the fields of `TrainingConfig` as top-level
            keys; or None.
        flags: the text given for each field by its name.

    Raises:
        ConfigurationError: all mistakes of file and flags together; those of the file with lines.
    """
    found = read_config(file, flags)
    if found.mistakes:
        raise ConfigurationError(*found.mistakes)
    assert found.config is not None, "there are no mistakes"
    return found.config


def read_config(file: Path | None, flags: Mapping[str, str]) -> Found:
    """Read a configuration as `load_config` does, and return its mistakes beside what is right."""
    table = _read(file) if file else _Table()
    known = {each.name: each for each in fields(TrainingConfig)}
    typed = {
        name: from_text(known[name], text) if name in known else text
        for name, text in flags.items()
    }
    values = table.values | typed
    mistakes = list(table.mistakes)
    for name, sentence in find_mistakes(values):
        is_of_file = file is not None and name in table.lines and name not in flags
        place = f"{file}, line {table.lines[name]}: " if is_of_file else ""
        mistakes.append(place + sentence)
    config, wrong = right_part(values)
    return Found(None if table.mistakes else config, mistakes, wrong)


def _read(file: Path) -> _Table:
    try:
        text = file.expanduser().read_text(encoding="utf-8")
        if file.suffix.lower() in YAML_SUFFIXES:
            return _read_yaml(file, text)
        return _read_toml(text)
    except ConfigurationError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        kind = "YAML" if file.suffix.lower() in YAML_SUFFIXES else "TOML"
        told = " ".join(str(error).split())
        return _Table(mistakes=[f"config is {str(file)!r}: {told}; give a readable {kind} file"])


def _read_toml(text: str) -> _Table:
    values = tomllib.loads(text)
    lines = {}
    for name in values:
        start = re.search(rf"(?m)^[ \t\[]*[\"']?{re.escape(name)}[\"']?[ \t]*[=.\]]", text)
        lines[name] = text.count("\n", 0, start.start()) + 1 if start else 1
    return _Table(values, lines)


def _read_yaml(file: Path, text: str) -> _Table:
    """Read YAML without any objects of Python's; a key that stands twice is a mistake.

    Raises:
        ValueError: it is no YAML, or no mapping; the message tells where.
    """
    try:
        import yaml  # noqa: PLC0415 - comes with transformers
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"config is {str(file)!r}, and PyYAML is missing: pip install pyyaml, or give TOML"
        ) from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """That of plain data, with floats as people write them."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _SHORT_FLOAT, list("-+0123456789"))
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return _Table()
        if not isinstance(node, yaml.MappingNode):
            raise ValueError("it holds no options by their names")  # noqa: TRY004 - of the file
        lines: dict[str, int] = {}
        mistakes = []
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in lines:
                mistakes.append(
                    f"{file}, line {line}: {name} stands in line {lines[name]} too: give it once"
                )
            lines[name] = line
        values = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    finally:
        loader.dispose()
    return _Table({str(name): value for name, value in values.items()}, lines, mistakes)
