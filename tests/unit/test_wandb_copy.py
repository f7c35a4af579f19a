"""Copies of `.wandb` files: what the server has is left out, and the rest can be read."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wandb.proto import wandb_internal_pb2 as pb

from pillion_sidecar.sinks.wandb_copy import write_record, write_rest
from pillion_sidecar.sinks.wandb_file import BLOCK_BYTES, FILE_HEADER, RecordReader

EDGE = BLOCK_BYTES - len(FILE_HEADER)


@given(
    st.lists(
        st.one_of(
            st.integers(0, 100),
            st.integers(EDGE - 40, EDGE + 10),
            st.integers(2 * BLOCK_BYTES - 40, 2 * BLOCK_BYTES + 40),
        ),
        max_size=6,
    )
)
def test_records_of_any_length_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, lengths: Sequence[int]
) -> None:
    """Those that fill a block to its last bytes, and those that cross several, too."""
    records = [
        pb.Record(num=number, output_raw=pb.OutputRawRecord(line="x" * length))
        for number, length in enumerate(lengths, start=1)
    ]
    file = io.BytesIO()
    file.write(FILE_HEADER)
    for record in records:
        write_record(file, record.SerializeToString())
    path = tmp_path_factory.mktemp("copy") / "run.wandb"
    path.write_bytes(file.getvalue())
    assert list(RecordReader(path).read()) == records


@pytest.mark.parametrize(("with_alerts", "alert_count"), [(True, 1), (False, 0)])
def test_rows_that_are_there_and_alerts_that_were_raised_are_left_out(
    tmp_path: Path, with_alerts: bool, alert_count: int
) -> None:
    """The summary of a row that is there stays, of one that is not wanted it does not."""
    records = [
        pb.Record(run=pb.RunRecord(run_id="run-1")),
        pb.Record(alert=pb.AlertRecord(title="t")),
        *(record for step in (1, 5, 9) for record in (summary_of(step), row_of(step))),
        pb.Record(artifact=pb.ArtifactRecord(name="adapter")),
        pb.Record(exit=pb.RunExitRecord(exit_code=3)),
    ]
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.write(FILE_HEADER)
        for record in records:
            write_record(file, record.SerializeToString())
    write_rest(
        *(source, target),
        entity="crew",
        after_step=1,
        wants_row=lambda step: step != 5,
        with_alerts=with_alerts,
    )
    copied = list(RecordReader(target).read())
    alerts = [record for record in records if record.WhichOneof("record_type") == "alert"]
    records[-2].artifact.entity = "crew"
    assert copied == [
        *(records[0], *alerts[:alert_count]),
        *(summary_of(1), summary_of(9), row_of(9)),
        *records[-2:],
    ]


def row_of(step: int) -> Any:
    """Make a row."""
    return pb.Record(history=pb.HistoryRecord(step=pb.HistoryStep(num=step)))


def summary_of(step: int) -> Any:
    """Make the summary that the SDK writes with a row."""
    item = pb.SummaryItem(nested_key=["_step"], value_json=str(step))
    return pb.Record(summary=pb.SummaryRecord(update=[item]))
