"""A run of W&B's SDK while the W&B sink writes it: what it is given, and how far that is confirmed.

What both kinds share; `wandb_offline.py` and `wandb_online.py` know when something is confirmed.
Imports no wandb: it is handed the SDK's run.
"""

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pillion.values import Value
from pillion_sidecar.alert_gate import AlertGate
from pillion_sidecar.records import (
    Alert,
    Frame,
    MetricDefinition,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    RunUpdate,
)
from pillion_sidecar.sinks.wandb_artifacts import ArtifactLane
from pillion_sidecar.sinks.wandb_marks import AlertMarks
from pillion_sidecar.sinks.wandb_summary import DefinedSummary
from pillion_sidecar.sinks.wandb_trainer import write_files
from pillion_sidecar.sinks.wandb_values import WandbValues
from pillion_sidecar.store_figures import definition_of

TAG_LENGTH_MAX, ALERT_TITLE_LENGTH_MAX = 64, 63
"""What W&B takes; more is cut off."""
ALERT_WAIT_S = 0.001
"""How long W&B's own limit on alerts lasts: ours has passed what comes here."""
GLOBAL_STEP = "global_step"
"""The metric that holds the user's step."""

_EXIT_CODES = {RunState.FINISHED: 0, RunState.STOPPED: 255}
"""What stands for an unknown exit code, else 1: W&B shows 255, its own for Ctrl-C, as killed."""
_ARTIFACT_SIGNS = ("wandb-artifact://", "artifactVersion")

log = logging.getLogger(__name__)


class WandbRun(ABC):
    """One run; `confirmed` is up to which entry all is where it belongs."""

    sdk_run: Any
    """The SDK's run, as soon as it is open."""

    def __init__(
        self,
        earlier_end: Offset,
        values: WandbValues,
        artifacts: ArtifactLane,
        marks: AlertMarks | None = None,
    ) -> None:
        """Begin without rows; `marks` are of alerts that must not be sent twice."""
        self._values, self._marks = values, marks
        self.artifacts = artifacts
        self._alert_gate = AlertGate()
        self.defined = DefinedSummary()
        self._keys: set[str] = set()
        """Metrics for which definitions were looked up."""
        self.earlier_end = earlier_end
        """Up to here all was delivered once before; an end in there is not the run's."""
        self.last_ordinal = -1
        self.row_count = 0
        self.print_count = 0
        self.summary: dict[str, Value] = {}
        """What was set explicitly."""
        self.confirmed = Offset(0)
        self._entries: deque[tuple[Offset, int, int, int]] = deque()
        """Entries that are not confirmed; with each, how many rows, texts and artifacts there are
        up to it."""

    @property
    @abstractmethod
    def confirmed_row_count(self) -> int:
        """How many rows are confirmed."""

    def begin(self, start: RunStart) -> None:
        """Take what the first writer says.

        W&B draws everything over the user's step; its own is the row's ordinal.
        """
        self.sdk_run.define_metric(GLOBAL_STEP)
        self.sdk_run.define_metric("*", step_metric=GLOBAL_STEP)
        write_files(self.sdk_run, start)
        self.join(start)

    def join(self, start: RunStart) -> None:
        """Take what another writer adds."""
        labels = {"model_name": start.model, "dataset_name": start.dataset}
        labels["use_case"] = start.use_case
        known = self.sdk_run.config.keys()
        new = {name: label for name, label in labels.items() if label and name not in known}
        self.update_config({**new, **start.config})
        self._set_tags([*(self.sdk_run.tags or ()), *start.tags])

    def update(self, update: RunUpdate) -> None:
        """Take a change from outside. A run's project and page are where they are."""
        if update.name is not None:
            self.sdk_run.name = update.name
        if update.notes is not None:
            self.sdk_run.notes = update.notes
        self._set_tags(update.tags(self.sdk_run.tags or ()))
        if update.config:
            self.update_config(update.config)

    def define(self, definition: MetricDefinition) -> None:
        """Take how a metric is to be read.

        Of several that end in `*` W&B takes any that fits. So it is told of each metric by itself.
        """
        self.defined.define(definition)
        self._keys.clear()
        if definition.step_metric and "*" not in definition.step_metric:
            self._define(definition.step_metric)
        if "*" not in definition.name:
            self._define(definition.name, definition)

    def _define(self, name: str, definition: MetricDefinition | None = None) -> None:
        how: dict[str, Any] = {"step_sync": False}  # else rows are given values of other rows
        if definition is not None:
            how["overwrite"] = True  # each is whole, and may say less than the one before
            how["step_metric"] = definition.step_metric or GLOBAL_STEP
            how["summary"] = ",".join(kind.name.lower() for kind in definition.summaries) or None
        try:
            self.sdk_run.define_metric(name, **how)
        except Exception as error:  # noqa: BLE001 - it is the SDK's to say what it takes
            where = {"run_id": self.sdk_run.id, "error": error}
            log.warning("W&B does not take a definition", extra=where)

    def _define_new(self, keys: Iterable[str]) -> None:
        """Define metrics that are logged for the first time, as far as definitions fit them."""
        for key in keys:
            if key not in self._keys:
                self._keys.add(key)
                definition = definition_of(self.defined.definitions, key)
                if definition is not None and definition.name != key:
                    self._define(key, definition)

    def alert(self, run_id: RunId, alert: Alert) -> None:
        """Pass an alert on, unless there are too many or it was sent before."""
        if self._alert_gate.admit(run_id, alert.time_unix_nano) and (
            self._marks is None or self._marks.mark(alert)
        ):
            title = alert.title[:ALERT_TITLE_LENGTH_MAX]
            self.sdk_run.alert(title, alert.text, alert.level.name, wait_duration=ALERT_WAIT_S)

    def update_config(self, values: Mapping[str, Value]) -> None:
        """Merge config values."""
        self.sdk_run.config.update(inert(values), allow_val_change=True)

    def update_summary(self, values: Mapping[str, Value]) -> None:
        """Set summary values."""
        self.summary.update(values)
        self.sdk_run.summary.update(inert(values))

    def log(self, frame: Frame) -> None:
        """Take rows; those that were handed over before are passed by."""
        first_new = max(0, self.last_ordinal + 1 - frame.first_ordinal)
        if first_new < len(frame) and self.defined.definitions:
            self._define_new(frame.columns)
            self.defined.add(frame, first_new)
        for ordinal, step, time_unix_nano, values in frame.rows():
            if ordinal <= self.last_ordinal:
                continue  # handed over again, after another entry had failed
            row = {GLOBAL_STEP: step, **values, "_timestamp": time_unix_nano / 1e9}
            self.last_ordinal = ordinal
            self.row_count += 1
            self._log_row(ordinal, row)

    def print(self, lines: Sequence[str]) -> None:
        """Take console lines."""
        self.print_count += 1
        self._print_lines(lines)

    def cover(self, offset: Offset) -> None:
        """Take it that all up to this entry was handed over."""
        self._entries.append((offset, self.row_count, self.print_count, self.artifacts.put_count))

    def _give_row(self, ordinal: int, row: dict[str, Any]) -> None:
        """Give a row to the SDK."""
        values = self._values.of_row(self.sdk_run, ordinal, row)
        self.sdk_run.log(values, step=ordinal, commit=True)

    def _give_files(self, ordinal: int, row: Mapping[str, Any]) -> None:
        """Give the SDK a row's files, under the names that they have had, but not the row."""
        files = {key: value for key, value in row.items() if isinstance(value, tuple)}
        self._values.of_row(self.sdk_run, ordinal, files)

    def _set_tags(self, tags: Iterable[str]) -> None:
        known = tuple(self.sdk_run.tags or ())
        new = tuple(dict.fromkeys(tag[:TAG_LENGTH_MAX] for tag in tags if tag))
        if new != known:
            self.sdk_run.tags = new

    def _summary_at_end(self, last_values: Mapping[str, Value]) -> dict[str, Value]:
        """Return what the summary is to say when the run ends, over what W&B has computed."""
        kept, none = self.defined.values()
        left = {key: value for key, value in last_values.items() if key not in none}
        return {**left, **kept, **self.summary}

    @abstractmethod
    def _log_row(self, ordinal: int, row: dict[str, Any]) -> None: ...

    @abstractmethod
    def _print_lines(self, lines: Sequence[str]) -> None: ...

    def _confirm_up_to(self, row_count: int, print_count: int, artifact_count: int) -> None:
        """Move the cursor: so many rows, texts and artifacts are where they belong."""
        while self._entries:
            offset, rows_before, prints_before, artifacts_before = self._entries[0]
            if (
                rows_before > row_count
                or prints_before > print_count
                or artifacts_before > artifact_count
            ):
                break
            self.confirmed = offset
            self._entries.popleft()


def exit_code_of(finish: RunFinish) -> int:
    """Return the exit code to give to W&B."""
    return finish.exit_code or _EXIT_CODES.get(finish.state, 1)


def text_of(lines: Sequence[str]) -> str:
    """Return lines as the SDK takes them."""
    return "".join(f"{line}\n" for line in lines)


def inert(value: Any) -> Any:
    """Return config or summary values so that the SDK takes them as they are.

    It refuses bytes, and looks up what reads like an artifact on its server, in the very call.
    """
    match value:
        case bytes():
            return value.decode(errors="backslashreplace")
        case str() if value.startswith(_ARTIFACT_SIGNS):
            return f" {value}"
        case list():
            return [inert(element) for element in value]
        case Mapping():
            return {key: inert(element) for key, element in value.items()}
    return value
