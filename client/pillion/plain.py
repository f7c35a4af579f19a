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

VALUES_MAX = 10_000
"""Values of one config, summary or row, nested ones included."""
DEPTH_MAX = 28
"""How deep values may be nested. Protobuf reads 31 levels of them."""
KEY_BYTES_MAX = 1024
"""Longer keys are cut, as the sidecar takes none of them."""
EXACT_MAX = 2**53
"""Integers up to here are exact as doubles."""
INTEGER_BITS_MAX = 12_000
"""Larger integers are kept as hexadecimal text: some 3,600 digits in decimal."""


def to_plain(value: Any) -> Value:
    """Copy a value into plain Python. Never raises, and takes bounded time.

    Dataclasses and mappings become dicts, sets and sequences lists, one-element tensors and arrays
    numbers, and what nothing is known of its `str()`. Of what is nested too deep, or too large,
    only the type is kept.
    """
    return _plain(value, DEPTH_MAX, [VALUES_MAX])


def to_plain_dict(values: Mapping[Any, Any]) -> dict[str, Value]:
    """Copy a mapping into plain Python; its keys become text."""
    return _plain_dict(values, DEPTH_MAX, [VALUES_MAX])


def _plain(value: Any, depth: int, room: list[int]) -> Value:
    """Copy a value; `room[0]` counts down the values that there is still room for."""
    room[0] -= 1
    if value is None or type(value) in {bool, float, bytes}:
        plain: Value = value
        return plain
    try:
        match value:
            case Enum():
                return _plain(value.value, depth - 1, room)
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
        if is_dataclass(value) and not isinstance(value, type):
            value = {each.name: getattr(value, each.name) for each in fields(value)}
        match value:
            case Mapping() | Sequence() | AbstractSet() if depth <= 0 or len(value) > room[0]:
                return f"<{type(value).__name__} of {len(value)} elements>"
            case Mapping():
                return _plain_dict(value, depth - 1, room)
            case Sequence() | AbstractSet():
                return [_plain(element, depth - 1, room) for element in value]
        if (number := to_number(value)) is not None:
            return number
    except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
        return f"<{type(value).__name__}>"
    return to_text(value)


def _plain_dict(values: Mapping[Any, Any], depth: int, room: list[int]) -> dict[str, Value]:
    return {_to_key(key): _plain(value, depth, room) for key, value in values.items()}


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
