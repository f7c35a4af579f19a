"""F20: every number that a training loop comes up with is kept exactly, up to both sinks.

One sidecar for all: hypothesis makes runs, the client logs them as it does anywhere, and what is in
the store is compared with what was logged, type and sign included. W&B's file has the same numbers
in W&B's own form: its JSON tells neither 1.0 from 1 nor -0.0 from 0.
"""

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from processes import SidecarProcess

import pillion
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.records import RunId
from pillion_sidecar.sinks.wandb_file import read_wandb_file
from pillion_sidecar.store import Store

RUNS = 25

Plain = float | int | bool
Logged = tuple[Any, Plain]
"""What is logged, and what must be found."""

doubles = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
whole = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1])
)
beyond = st.integers(2**63, 2**1030).map(lambda value: (value, to_double(value)))
odd = st.one_of(
    st.floats(width=16).map(lambda value: (np.float16(value), float(np.float16(value)))),
    st.floats(width=32).map(lambda value: (np.float32(value), float(np.float32(value)))),
    doubles.map(lambda value: (np.float64(value), value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: (np.int64(value), value)),
    st.integers(0, 255).map(lambda value: (np.uint8(value), value)),
    st.booleans().map(lambda value: (np.bool_(value), value)),
    doubles.map(lambda value: (np.array(value), value)),
    st.floats(width=32).map(lambda value: (torch.tensor(value), float(np.float32(value)))),
    doubles.map(lambda value: (torch.tensor(value, dtype=torch.float64), value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: (torch.tensor(value), value)),
    st.booleans().map(lambda value: (torch.tensor(value), value)),
    st.floats(-1e30, 1e30).map(
        lambda value: (
            torch.tensor(value, dtype=torch.bfloat16),
            torch.tensor(value, dtype=torch.bfloat16).item(),
        )
    ),
)
same = st.one_of(doubles, whole, st.booleans()).map(lambda value: (value, value))
rows = st.lists(
    st.dictionaries(
        st.sampled_from(["a", "b", "loss", "eval/loss", "ü"]),
        st.one_of(same, beyond, odd),
        min_size=1,
    ),
    min_size=1,
    max_size=20,
)
texts = st.one_of(
    st.text(max_size=200),
    st.sampled_from(["x" * 100_000, "ü" * 60_000, "\x00", "\U0001f600" * 1000, "a\nb\r\n\x1b"]),
)


def to_double(value: int) -> float:
    """Return the nearest double; beyond all of them, infinity."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def exactly(value: Plain) -> tuple[str, Any]:
    """Return what equals only if type, value and sign do; any NaN is as good as another."""
    if isinstance(value, float):
        return "float", "nan" if math.isnan(value) else struct.pack("<d", value)
    return type(value).__name__, value


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    """Return a sidecar with W&B, for the whole module."""
    sidecar = SidecarProcess(tmp_path_factory.mktemp("values"))
    yield sidecar.start()
    sidecar.close()


class Values:
    """Logs runs and finds them again."""

    def __init__(self, sidecar: SidecarProcess) -> None:
        self._sidecar = sidecar
        self.runs: dict[str, list[dict[str, Plain]]] = {}

    def log(self, rows: list[dict[str, Logged]], text: str) -> None:
        """Log a run, and check that it is in the store exactly."""
        run_id = f"values-{len(self.runs)}"
        logged = [{key: value for key, (value, _) in row.items()} for row in rows]
        expected = [{key: value for key, (_, value) in row.items()} for row in rows]
        with pillion.init(
            id=run_id, address=self._sidecar.address, config={"text": text}, quiet=True
        ) as run:
            for row in logged:
                run.log(row)
            run.summary["text"] = text
        self.runs[run_id] = expected
        assert run.counts.refused == 0
        self._sidecar.call("GetRun", pb2.GetRunRequest(run_id=run_id))  # waits for the store
        store = Store(f"sqlite:///{self._sidecar.data_dir}/store.db")
        stored = store.run(RunId(run_id))
        found = [values for _, _, _, values in store.rows(RunId(run_id))]
        store.close()
        assert exact(found) == exact(expected)
        assert stored is not None
        assert (stored.config["text"], stored.summary["text"]) == (text, text)

    def is_in_wandb(self) -> bool:
        """Tell whether W&B's files are done."""
        status = self._sidecar.call("GetStatus", pb2.GetStatusRequest())
        return not any(sink.undelivered_run_count for sink in status.totals.sinks)

    def wandb_file(self, run_id: str) -> Path:
        """Return W&B's file of a run."""
        folder = self._sidecar.data_dir / "wandb" / "wandb"
        (path,) = folder.glob(f"offline-run-*-{run_id}/run-{run_id}.wandb")
        return path


def exact(rows: list[dict[str, Plain]]) -> list[dict[str, tuple[str, Any]]]:
    """Return rows in a form that equals only if they are the same."""
    return [{key: exactly(value) for key, value in sorted(row.items())} for row in rows]


def as_in_json(rows: list[dict[str, Plain]]) -> list[dict[str, Any]]:
    """Return rows in a form that equals if their numbers do; booleans are none."""
    return [
        {
            key: (type(value) is bool, "nan" if math.isnan(value) else value)
            for key, value in sorted(row.items())
        }
        for row in rows
    ]


def test_every_number_is_kept_exactly(
    sidecar: SidecarProcess, wait_until: Callable[..., Any]
) -> None:
    """NaN, infinities, -0.0, whole numbers beyond 2^53, booleans, numpy's and torch's; texts."""
    values = Values(sidecar)

    @example(
        rows=[
            {"a": (math.nan, math.nan), "b": (-0.0, -0.0), "loss": (2**53 + 1, 2**53 + 1)},
            {"a": (math.inf, math.inf), "b": (True, True), "loss": (2.0**53, 2.0**53)},
            {"a": (-math.inf, -math.inf), "b": (0.0, 0.0), "loss": (False, False)},
            {"a": (5e-324, 5e-324), "b": (-(2**63), -(2**63)), "loss": (10**400, math.inf)},
        ],
        text="x" * 600_000,
    )
    @given(rows=rows, text=texts)
    @settings(max_examples=RUNS, deadline=None, suppress_health_check=list(HealthCheck))
    def each_run_is_in_the_store(rows: list[dict[str, Logged]], text: str) -> None:
        values.log(rows, text)

    each_run_is_in_the_store()
    wait_until(values.is_in_wandb)
    for run_id, expected in values.runs.items():
        found = [
            {key: value for key, value in row.items() if key[0] != "_" and key != "global_step"}
            for row in read_wandb_file(values.wandb_file(run_id)).rows
        ]
        assert as_in_json(found) == as_in_json(expected)
