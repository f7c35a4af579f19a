"""The store's values: what is kept comes back exactly, in both databases."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from pillion_sidecar.store_tables import ValueText, runs

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("$bytes"), inner),
    max_leaves=20,
)


@settings(max_examples=100)
@given(config=st.dictionaries(st.text() | st.just("$bytes"), VALUES))
def test_config_values_come_back_exactly(config: dict[str, Any]) -> None:
    """NaN, infinities, integers of any size, bytes, and keys that look like the store's own."""
    column = ValueText()
    text = column.process_bind_param(config, None)  # type: ignore[arg-type]
    assert repr(column.process_result_value(text, None)) == repr(config)  # type: ignore[arg-type]


@given(text=st.text(st.sampled_from("\0\\0an\n")))
def test_texts_come_back_exactly_from_postgresql(text: str) -> None:
    """Which takes no NUL: it is escaped there."""
    dialect = postgresql.dialect()
    column = runs.c.notes.type.dialect_impl(dialect)
    bound = column.bind_processor(dialect)(text)
    assert "\0" not in bound
    assert column.result_processor(dialect, None)(bound) == text
