"""Config and summary values as they are read at the call: plain Python, cut loose from the caller.

Loads neither grpc nor protobuf nor any array library. `values.py` turns the result into messages.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, is_dataclass
from typing import Any, TypeAlias

Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | dict[str, Value] | None"
"""What a config or summary may hold."""

DEPTH_MAX = 32
"""How deep values may be nested; deeper ones are kept as text."""


def to_plain(value: Any, depth: int = DEPTH_MAX) -> Value:
    """Copy a value into plain Python. Never raises.

    Dataclasses and mappings become dicts, sets and sequences lists, one-element tensors and arrays
    numbers, and what nothing is known of its `str()`.
    """
    if value is None or type(value) in {bool, int, float, bytes}:
        plain: Value = value
        return plain
    try:
        match value:
            case str():
                return to_text(value)
            case bool() | int():
                return int(value)
            case float():
                return float(value)
        if depth > 0:
            if is_dataclass(value) and not isinstance(value, type):
                value = asdict(value)
            match value:
                case Mapping():
                    return to_plain_dict(value, depth - 1)
                case Sequence() | AbstractSet():
                    return [to_plain(element, depth - 1) for element in value]
        if (number := to_number(value)) is not None:
            return number
    except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
        return f"<{type(value).__name__}>"
    return to_text(value)


def to_plain_dict(values: Mapping[Any, Any], depth: int = DEPTH_MAX) -> dict[str, Value]:
    """Copy a mapping into plain Python; its keys become text."""
    return {to_text(key): to_plain(value, depth) for key, value in values.items()}


def to_number(value: Any) -> bool | int | float | None:
    """Read a number, or a tensor or array of one element; None if it is neither."""
    if isinstance(value, bool | int | float):
        return value
    item = getattr(value, "item", None)
    if item is None:
        return None
    try:
        number = item()
    except (TypeError, ValueError, RuntimeError):  # several elements, or none
        return None
    return number if isinstance(number, bool | int | float) else None


def to_text(value: Any) -> str:
    """Make text that UTF-8 takes: lone surrogates, as file names have them, are escaped."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
