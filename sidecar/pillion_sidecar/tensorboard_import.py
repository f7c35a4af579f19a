"""Reads TensorBoard's event files, to import them. A directory that holds some is one run.

What TensorBoard's own reader makes of them is read: it brings older forms into today's. Scalars of
one step that were written one after another are one row.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pillion._batch import Logged, Row, Update
from pillion._counts import Refused
from pillion._histogram import Histogram
from pillion._media import Audio, Image
from pillion._row import read_row
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.errors import DiskError, SettingsError

PATTERN = "*tfevents*"

_KNOWN = frozenset({"scalars", "text", "histograms", "images", "audio"})
_DIMENSIONS = 2
"""Of the tensor that holds encoded images: width and height come before them."""


class TensorboardRun:
    """The event files of one directory. See `Source`."""

    def __init__(self, directory: Path, root: Path) -> None:
        """Take a directory, and the one that was asked for, below which it has its name.

        Raises:
            SettingsError: TensorBoard's package, which reads them, is not installed.
        """
        try:
            from tensorboard.backend.event_processing import event_file_loader  # noqa: PLC0415
            from tensorboard.util import tensor_util  # noqa: PLC0415
        except ImportError:
            raise SettingsError(
                f"{directory}: event files are read by the tensorboard package, which is not "
                "installed here. Run `pip install tensorboard`."
            ) from None
        self._load, self._array = event_file_loader.EventFileLoader, tensor_util.make_ndarray
        self.path = directory
        self.left_out: Counter[str] = Counter()
        below = directory.relative_to(root).as_posix()
        self._name = directory.resolve().name if below == "." else f"{root.resolve().name}/{below}"
        self._last_time_unix_nano = 0

    def start(self) -> pb2.StartRunRequest:
        paths = self._paths()
        first = next(self._events(), None)
        if first is None:
            raise DiskError(f"{paths[0]}: there is no event in it.")
        # However the directory is reached, it is the same run.
        told = f"{self.path.resolve().name}/{paths[0].name}/{first.wall_time!r}"
        named = hashlib.sha256(told.encode()).hexdigest()[:8]
        request = pb2.StartRunRequest(run_id=f"tb-{named}", name=self._name)
        request.start_time.FromNanoseconds(round(first.wall_time * 1e9))
        return request

    def items(self) -> Iterator[Row | Update]:
        self.left_out.clear()
        row: dict[str, Any] = {}
        step = 0
        for event in self._events():
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                if plugin == "hparams":
                    yield from self._config(value)
                    continue
                if plugin not in _KNOWN or not value.HasField("tensor"):
                    self.left_out[f"values of {plugin or 'an unknown plugin'}"] += 1
                    continue
                if row and (event.step != step or value.tag in row):
                    yield from self._row(step, row)
                    row = {}
                step, row[value.tag] = event.step, self._value(plugin, value.tensor)
                self._last_time_unix_nano = round(event.wall_time * 1e9)
            if event.WhichOneof("what") in ("graph_def", "meta_graph_def"):
                self.left_out["graphs"] += 1
        if row:
            yield from self._row(step, row)

    def finish(self) -> pb2.FinishRunRequest:
        finish = pb2.FinishRunRequest(
            state=record_pb2.RUN_STATE_FINISHED, reason="Event files do not say how a run ended."
        )
        finish.end_time.FromNanoseconds(self._last_time_unix_nano)
        return finish

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.path.glob(PATTERN) if path.is_file())

    def _events(self) -> Iterator[Any]:
        for path in self._paths():
            try:
                yield from self._load(str(path)).Load()
            except (OSError, ValueError) as error:
                self.left_out[f"the rest of {path.name} ({error})"] += 1

    def _row(self, step: int, values: dict[str, Any]) -> Iterator[Row]:
        refused = Refused()
        read: dict[str, Logged] = read_row(values, refused)  # type: ignore[assignment]
        if refused.values:
            self.left_out["values that are no numbers, texts or known files"] += refused.values
        if read:
            yield Row(step, self._last_time_unix_nano, read)

    def _value(self, plugin: str, tensor: Any) -> Any:
        """Return what `log` takes for a tensor."""
        array = self._array(tensor)
        match plugin:
            case "scalars":
                return array.item() if array.size == 1 else None
            case "histograms":  # of shape (bins, 3): left edge, right edge, count
                edges = [*array[:, 0], array[-1, 1]] if len(array) else []
                return Histogram(np_histogram=(array[:, 2] if len(array) else [], edges))
            case "images":
                return [Image(each) for each in array.flat[_DIMENSIONS:]]
            case "audio":
                return [Audio(each) for each in np.atleast_2d(array)[:, 0]]
        return "\n".join(each.decode(errors="replace") for each in array.flat)

    def _config(self, value: Any) -> Iterator[Update]:
        from tensorboard.plugins.hparams import plugin_data_pb2  # noqa: PLC0415

        content = value.metadata.plugin_data.content
        data = plugin_data_pb2.HParamsPluginData.FromString(content)
        given = data.session_start_info.hparams
        if given:
            config = {name: getattr(given[name], given[name].WhichOneof("kind")) for name in given}
            yield Update("config_update", config)
