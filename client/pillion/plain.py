"""Config and summary values as they are read at the call: plain Python, cut loose from the caller.

Loads neither grpc nor protobuf nor any array library. `values.py` turns the result into messages.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeAlias

Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | dict[str, Value] | None"
"""What a config or summary may hold."""

DEPTH_MAX = 28
"""How deep values may be nested; deeper ones are kept as text. Protobuf reads 31 levels of them."""
KEY_BYTES_MAX = 1024
"""Longer keys are cut, as the sidecar takes none of them."""
ELEMENTS_MAX = 10_000
"""Longer lists are not kept, only that they were there."""
INTEGER_BITS_MAX = 12_000
"""Larger integers are kept as hexadecimal text: some 3,600 digits in decimal."""


def to_plain(value: Any, depth: int = DEPTH_MAX) -> Value:
    """Copy a value into plain Python. Never raises.

    Dataclasses and mappings become dicts, sets and sequences lists, one-element tensors and arrays
    numbers, and what nothing is known of its `str()`.
    """
    if value is None or type(value) in {bool, float, bytes}:
        plain: Value = value
        return plain
    try:
        match value:
            case Enum():
                return to_plain(value.value, depth)
            case str():
                return to_text(value)
            case bool():
                return value
            case int():
                return int(value) if value.bit_length() <= INTEGER_BITS_MAX else hex(value)
            case float():
                return float(value)
            case bytearray():
                return bytes(value)
        if depth > 0:
            if is_dataclass(value) and not isinstance(value, type):
                value = {each.name: getattr(value, each.name) for each in fields(value)}
            match value:
                case Mapping():
                    return to_plain_dict(value, depth - 1)
                case Sequence() | AbstractSet():
                    if len(value) > ELEMENTS_MAX:
                        return f"<{type(value).__name__} of {len(value)} elements>"
                    return [to_plain(element, depth - 1) for element in value]
        if (number := to_number(value)) is not None:
            return number
    except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
        return f"<{type(value).__name__}>"
    return to_text(value)


def to_plain_dict(values: Mapping[Any, Any], depth: int = DEPTH_MAX) -> dict[str, Value]:
    """Copy a mapping into plain Python; its keys become text."""
    return {_to_key(key): to_plain(value, depth) for key, value in values.items()}


def to_number(value: Any) -> bool | int | float | None:
    """Read a number, or a tensor or array of one element; None if it is neither. Never raises."""
    try:
        number = value if isinstance(value, bool | int | float) else value.item()
        match number:
            case bool():
                return bool(number)
            case int():
                return int(number)
            case float():
                return float(number)  # of a subclass too, as numpy's float64
    except Exception:  # noqa: BLE001 - several elements, none, or a stranger's method
        return None
    return None


def to_text(value: Any) -> str:
    """Make text that UTF-8 takes: lone surrogates, as file names have them, are escaped."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _to_key(key: Any) -> str:
    """Make a key that the sidecar takes: neither empty nor too long."""
    encoded = to_text(key).encode()[:KEY_BYTES_MAX]
    return encoded.decode("utf-8", "ignore") or "(empty)"
