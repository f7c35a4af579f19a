"""Config and summary values: what they are, and how they become `AnyValue` and come back.

Used by the client's sender thread and by the sidecar. Importing this loads protobuf, so nothing that
`import pillion` reaches may import it. Form: OpenTelemetry's AnyValue, see `record.proto`.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, is_dataclass
from typing import Any, TypeAlias

from pillion.v1 import record_pb2

Value: TypeAlias = "None | bool | int | float | str | bytes | list[Value] | dict[str, Value]"
"""What a config or summary may hold."""

DEPTH_MAX = 32
"""How deep values may be nested; deeper ones are kept as text."""

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def to_key_values(values: Mapping[str, Any]) -> record_pb2.KeyValueList:
    """Encode a mapping; keys become text, and values of other types the nearest that can be kept.

    Dataclasses become mappings, sets and tuples lists, one-element tensors and arrays numbers, and
    what nothing is known of its `str()`. Never raises for odd values.
    """
    return _key_values(values, DEPTH_MAX)


def from_key_values(values: record_pb2.KeyValueList) -> dict[str, Value]:
    """Decode a mapping; of a repeated key the last value stands."""
    return {entry.key: from_any_value(entry.value) for entry in values.values}


def to_any_value(value: Any) -> record_pb2.AnyValue:
    """Encode one value, by the rules of `to_key_values`."""
    return _any_value(value, DEPTH_MAX)


def from_any_value(value: record_pb2.AnyValue) -> Value:
    """Decode one value. Raises ValueError if a big integer is not decimal text."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [from_any_value(element) for element in value.array_value.values]
    if kind == "kvlist_value":
        return from_key_values(value.kvlist_value)
    if kind == "big_int_value":
        return int(value.big_int_value)
    plain: Value = getattr(value, kind)
    return plain


def _key_values(values: Mapping[str, Any], depth: int) -> record_pb2.KeyValueList:
    return record_pb2.KeyValueList(
        values=[
            record_pb2.KeyValue(key=_text(key), value=_any_value(value, depth))
            for key, value in values.items()
        ]
    )


def _any_value(value: Any, depth: int) -> record_pb2.AnyValue:
    match value:
        case None:
            return record_pb2.AnyValue()
        case bool():
            return record_pb2.AnyValue(bool_value=value)
        case int() if _INT64_MIN <= value <= _INT64_MAX:
            return record_pb2.AnyValue(int_value=int(value))
        case int():
            return record_pb2.AnyValue(big_int_value=str(int(value)))
        case float():
            return record_pb2.AnyValue(double_value=value)
        case str():
            return record_pb2.AnyValue(string_value=_text(value))
        case bytes():
            return record_pb2.AnyValue(bytes_value=value)
    if depth > 0:
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        match value:
            case Mapping():
                return record_pb2.AnyValue(kvlist_value=_key_values(value, depth - 1))
            case Sequence() | Set():
                return record_pb2.AnyValue(array_value=_array(value, depth - 1))
        if (item := _item(value)) is not None:
            return _any_value(item, 0)
    return record_pb2.AnyValue(string_value=_text(value))


def _array(values: Iterable[Any], depth: int) -> record_pb2.ArrayValue:
    return record_pb2.ArrayValue(values=[_any_value(value, depth) for value in values])


def _item(value: Any) -> bool | int | float | None:
    """Read a one-element tensor or array; None if it is none."""
    try:
        item = value.item()
    except Exception:  # noqa: BLE001 - a stranger's method may raise anything
        return None
    return item if isinstance(item, bool | int | float) else None


def _text(value: Any) -> str:
    """Make text that protobuf takes: lone surrogates, as file names have them, are escaped."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a stranger's method may raise anything
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
