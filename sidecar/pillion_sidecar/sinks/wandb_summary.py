"""What a run's summary at W&B says by the metrics' definitions, computed here.

W&B's own figures are those since a resume only. Imports no wandb.
"""

from typing import Any

import numpy as np

from pillion.values import Value
from pillion_sidecar.columns import NUMBER_KINDS, kind_of
from pillion_sidecar.records import Frame, MetricDefinition
from pillion_sidecar.store_figures import (
    Figures,
    definition_of,
    figures_of,
    merged,
    no_figures,
    summary_of,
)


class DefinedSummary:
    """The figures of one run's metrics, as far as a definition asks for them."""

    def __init__(self) -> None:
        self.definitions: dict[str, MetricDefinition] = {}
        self._figures: dict[str, Figures] = {}
        self._last: dict[str, tuple[str, Value]] = {}
        """Of each such metric its kind and its last value."""

    def define(self, definition: MetricDefinition) -> None:
        """Take a definition; of a name the last stands."""
        self.definitions[definition.name] = definition

    def add(self, frame: Frame, first: int) -> None:
        """Take a frame's rows from this index on."""
        for key, column in frame.columns.items():
            definition = definition_of(self.definitions, key)
            if definition is None or not definition.summaries:
                continue
            kind = kind_of(column)
            new = np.array([figures_of(column[first:], kind)])
            self._figures[key] = merged(self._figures.get(key, no_figures(1)), new)
            last: Any = column[-1]
            self._last[key] = (kind, last.item() if kind in NUMBER_KINDS else str(last))

    def values(self) -> tuple[dict[str, Value], set[str]]:
        """Return what the summary keeps of these metrics, and of which it keeps nothing."""
        kept: dict[str, Value] = {}
        none: set[str] = set()
        for key, (kind, last) in self._last.items():
            definition = definition_of(self.definitions, key)
            assert definition is not None
            figures = self._figures[key][0].tolist()
            summary = summary_of(definition, last, figures, is_integer=kind == "q")
            if summary is None:
                none.add(key)
            else:
                kept[key] = summary
        return kept, none
