"""A table that is logged in a row beside its numbers."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pillion._file import File, NotTakenError
from pillion.plain import Value, to_plain, to_text

CELLS_MAX = 1_000_000
MEDIA_TYPE = "application/vnd.pillion.table+json"

_BYTES_PER_CELL = 64
"""About what a cell holds in memory."""


class Table:
    """Rows of cells under named columns; it may grow, and is logged as it is at the call.

    Cells are numbers, texts, None and what is nested of them; of all else its `str()`.
    """

    def __init__(
        self,
        columns: Sequence[Any] | None = None,
        data: Iterable[Sequence[Any]] | None = None,
        rows: Iterable[Sequence[Any]] | None = None,
        dataframe: Any = None,
        **_more: Any,
    ) -> None:
        """Begin with some rows.

        Args:
            columns: The columns' names. Default: those of the dataframe, else `Input`, `Output` and
                `Expected`.
            data: Rows: sequences of cells, or an array.
            rows: The same.
            dataframe: A DataFrame of pandas' or the like, in place of both.
        """
        self.problem = ""
        self.columns: list[str] = []
        self.data: list[list[Value]] = []
        try:
            if dataframe is not None:
                columns = list(dataframe.columns)
                data = dataframe.itertuples(index=False, name=None)
            self.columns = [to_text(name) for name in columns or ("Input", "Output", "Expected")]
            found: Any = data if data is not None else rows if rows is not None else ()
            for row in found.tolist() if hasattr(found, "tolist") else found:
                self.add_data(*row)
        except Exception as error:  # noqa: BLE001 - a stranger's methods may raise anything
            self.problem = f"it cannot be read: {to_text(error)}"

    def add_data(self, *cells: Any) -> None:
        """Add a row. One of another length than there are columns spoils the table."""
        if len(cells) != len(self.columns):
            self.problem = f"a row has {len(cells)} cells for {len(self.columns)} columns"
        elif (len(self.data) + 1) * len(cells) > CELLS_MAX:
            self.problem = f"it has more than {CELLS_MAX:,} cells; log it as an artifact"
        else:
            self.data.append([to_plain(cell) for cell in cells])

    def snapshot(self) -> File:
        """Return it as a file, as it is now."""
        file = File(self._capture)
        file.describe(row_count=len(self.data), column_count=len(self.columns))
        return file

    def _capture(self) -> tuple[str, int, Callable[[], bytes]]:
        if self.problem:
            raise NotTakenError(self.problem)
        table = {"columns": list(self.columns), "data": list(self.data)}
        size_bytes = len(self.data) * len(self.columns) * _BYTES_PER_CELL
        return MEDIA_TYPE, size_bytes, lambda: json.dumps(table, default=to_text).encode()
