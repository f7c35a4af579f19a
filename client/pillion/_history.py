"""The rows of a run as `pillion.api` gives them: plain rows, or a DataFrame. Nothing is sampled.

numpy and pandas are loaded by `to_frame` alone.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from pillion._histogram import Histogram
from pillion.plain import EXACT_MAX
from pillion.values import from_key_values

AXES = frozenset({"_ordinal", "_step", "_time"})
"""What is told of each row. A metric of such a name is left out."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class History:
    """All that was read of a run's rows."""

    def __init__(self, answers: Iterable[Any]) -> None:
        """Read the `ReadMetricsResponse`s of one question to their end."""
        self._answers = list(answers)

    def rows(self) -> list[dict[str, Any]]:
        """Return a mapping per row, by ordinal: `_ordinal`, `_step`, `_time`, and what it holds."""
        rows: dict[int, dict[str, Any]] = {}
        for answer in self._answers:
            frame = answer.frame
            axes = zip(answer.ordinals, frame.steps, frame.times_unix_nano, strict=True)
            for ordinal, step, time_unix_nano in axes:
                time = _EPOCH + timedelta(microseconds=time_unix_nano // 1000)
                rows.setdefault(ordinal, {"_ordinal": ordinal, "_step": step, "_time": time})
            for column in frame.columns:
                if column.key in AXES:
                    continue
                for ordinal, value in zip(answer.ordinals, _values_of(column), strict=True):
                    rows[ordinal][column.key] = value
        return [rows[ordinal] for ordinal in sorted(rows)]

    def to_frame(self, by: str) -> Any:
        """Return a DataFrame with a column per metric, and a row per ordinal or step.

        Args:
            by: `ordinal`; or `step`: of each metric the last value of a step, by ordinal.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import numpy as np  # noqa: PLC0415
            import pandas as pd  # noqa: PLC0415
        except ImportError:
            raise ImportError(
                "history() makes a DataFrame and needs pandas. Run `pip install pandas`, or call "
                "rows(), which needs nothing."
            ) from None
        axes = [
            np.array([answer.ordinals, answer.frame.steps, answer.frame.times_unix_nano], np.int64)
            for answer in self._answers
        ]
        every = np.concatenate([np.empty((3, 0), np.int64), *axes], axis=1)
        ordinals, first = np.unique(every[0], return_index=True)
        steps, times = every[1, first], every[2, first]
        labels = ordinals if by == "ordinal" else np.unique(steps)
        columns: dict[str, Any] = {} if by == "step" else {"_step": steps}
        parts: dict[str, list[tuple[Any, Any]]] = {"_time": [(ordinals, times)]}
        for answer, (own, _, _) in zip(self._answers, axes, strict=True):
            for column in answer.frame.columns:
                if column.key not in AXES:
                    parts.setdefault(column.key, []).append((own, _array_of(np, column)))
        for key, pieces in parts.items():
            places = np.concatenate([own for own, _ in pieces])
            values = _joined(np, [array for _, array in pieces])
            order = np.argsort(places, kind="stable")
            places, values = places[order], values[order]
            if by == "step":
                places = steps[np.searchsorted(ordinals, places)]
            columns[key] = _column(np, pd, labels, places, values)
        columns["_time"] = pd.to_datetime(columns["_time"], unit="ns", utc=True)
        return pd.DataFrame(columns, index=pd.Index(labels, name=by))


def _column(np: Any, pd: Any, labels: Any, places: Any, values: Any) -> Any:
    """Put values where their labels are; of several at one label the last stands."""
    at = np.searchsorted(labels, places)
    is_missing = np.ones(len(labels), np.bool_)
    is_missing[at] = False
    kind = values.dtype.kind
    filled = np.full(
        len(labels), np.nan if kind == "f" else None if kind == "O" else 0, values.dtype
    )
    filled[at] = values  # numpy assigns in order
    if kind == "i" and is_missing.any():
        return pd.arrays.IntegerArray(filled, is_missing)
    if kind == "b" and is_missing.any():
        return pd.arrays.BooleanArray(filled, is_missing)
    return filled


def _joined(np: Any, arrays: list[Any]) -> Any:
    """Put arrays behind each other, in the narrowest type that holds all of them exactly."""
    kinds = {array.dtype.kind for array in arrays}
    whole = [array for array in arrays if array.dtype.kind == "i"]
    if "f" in kinds and any(((a > EXACT_MAX) | (a < -EXACT_MAX)).any() for a in whole):
        kinds.add("O")
    if "O" in kinds:
        arrays = [array.astype(object) for array in arrays]
    return np.concatenate(arrays)


def _array_of(np: Any, column: Any) -> Any:
    match column.WhichOneof("values"):
        case "doubles":
            return np.array(column.doubles.values, np.float64)
        case "int64s":
            return np.array(column.int64s.values, np.int64)
        case "bools":
            return np.array(column.bools.values, np.bool_)
    values = _values_of(column)
    array = np.empty(len(values), object)
    for index, value in enumerate(values):  # at once, numpy would take lists for rows
        array[index] = value
    return array


def _values_of(column: Any) -> list[Any]:
    """Return a column's values: numbers, texts, histograms, or lists of files as mappings."""
    match column.WhichOneof("values"):
        case "histograms":
            counted = column.histograms.values  # noqa: PD011 - a message's
            return [Histogram(np_histogram=(each.counts, each.edges)) for each in counted]
        case "media":
            groups = column.media.values  # noqa: PD011 - as above
            return [[_file_of(item) for item in group.items] for group in groups]
        case kind:
            return list(getattr(column, kind).values)


def _file_of(message: Any) -> dict[str, Any]:
    return {
        "media_type": message.media_type,
        "sha256": message.sha256.hex(),
        "size_bytes": message.size_bytes,
        **from_key_values(message.attributes),
    }
