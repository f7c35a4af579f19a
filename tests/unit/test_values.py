"""Config and summary values as messages: they come back exactly."""

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.v1 import record_pb2
from pillion.values import Value, from_any_value, from_key_values, to_any_value, to_key_values

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63 - 2, 2**63 + 2)
    | st.integers(-(2**63) - 2, -(2**63) + 2)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


def exactly(value: Value) -> object:
    """Return something that is equal for the same value of the same type only."""
    if isinstance(value, float):
        return struct.pack("<d", value) if not math.isnan(value) else "nan"
    if isinstance(value, list):
        return [exactly(element) for element in value]
    if isinstance(value, dict):
        return [(key, exactly(element)) for key, element in value.items()]
    return type(value), value


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_values_come_back_exactly(values: dict[str, Value]) -> None:
    """Through bytes and back: type, sign of zero, size of integers and order of keys are kept."""
    raw = to_key_values(values).SerializeToString()
    back = from_key_values(record_pb2.KeyValueList.FromString(raw))
    assert exactly(back) == exactly(values)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, None),
        (True, "bool_value"),
        (1, "int_value"),
        (2**63 - 1, "int_value"),
        (-(2**63), "int_value"),
        (2**63, "big_int_value"),
        (-(2**63) - 1, "big_int_value"),
        (1.0, "double_value"),
        ("", "string_value"),
        (b"", "bytes_value"),
        ([], "array_value"),
        ((), "array_value"),
        ({}, "kvlist_value"),
    ],
    ids=repr,
)
def test_value_has_a_field_of_its_own(value: Any, field: str | None) -> None:
    """A boolean is no integer, an empty list is not nothing, and only null is unset."""
    assert to_any_value(value).WhichOneof("value") == field


def test_last_of_repeated_keys_stands() -> None:
    """As in every mapping that is written twice."""
    values = to_key_values({"a": 1})
    values.MergeFrom(to_key_values({"a": 2}))
    assert from_key_values(values) == {"a": 2}


@pytest.mark.parametrize("value", [object(), {1}, 1j, {"a": [object()]}])
def test_value_that_is_not_plain_is_refused(value: Any) -> None:
    """Whoever encodes has made it plain before."""
    with pytest.raises(TypeError, match="is not plain"):
        to_any_value(value)


def test_big_integer_that_is_none_is_refused() -> None:
    """What stands in the field for it must be one."""
    with pytest.raises(ValueError, match="invalid literal"):
        from_any_value(record_pb2.AnyValue(big_int_value="many"))
