"""Config and summary values as messages: to `AnyValue` and back.

Used by the client's threads and by the sidecar. Importing this loads protobuf, so nothing that
`import pillion` reaches may import it. Form: OpenTelemetry's AnyValue, see `record.proto`.
"""

from collections.abc import Mapping

from pillion.plain import Value as Value  # noqa: PLC0414 - the type of what is encoded here
from pillion.v1 import record_pb2

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def to_key_values(values: Mapping[str, Value]) -> record_pb2.KeyValueList:
    """Encode a mapping."""
    return record_pb2.KeyValueList(
        values=[
            record_pb2.KeyValue(key=key, value=to_any_value(value)) for key, value in values.items()
        ]
    )


def from_key_values(values: record_pb2.KeyValueList) -> dict[str, Value]:
    """Decode a mapping; of a repeated key the last value stands."""
    return {entry.key: from_any_value(entry.value) for entry in values.values}


def to_any_value(value: Value) -> record_pb2.AnyValue:
    """Encode one value. Raises TypeError for what is not plain; see `plain.to_plain`."""
    match value:
        case None:
            return record_pb2.AnyValue()
        case bool():
            return record_pb2.AnyValue(bool_value=value)
        case int() if _INT64_MIN <= value <= _INT64_MAX:
            return record_pb2.AnyValue(int_value=value)
        case int():
            return record_pb2.AnyValue(big_int_value=str(value))
        case float():
            return record_pb2.AnyValue(double_value=value)
        case str():
            return record_pb2.AnyValue(string_value=value)
        case bytes():
            return record_pb2.AnyValue(bytes_value=value)
        case dict():
            return record_pb2.AnyValue(kvlist_value=to_key_values(value))
        case list() | tuple():
            elements = [to_any_value(element) for element in value]
            return record_pb2.AnyValue(array_value=record_pb2.ArrayValue(values=elements))
    raise TypeError(f"a {type(value).__name__} is not plain")


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
