"""Reading `.wandb` files: what is complete is read once, what is torn waits, what is damaged stops.

The files here are laid down by a writer of our own, so that they can be cut and bent anywhere;
`tests/integration/test_wandb_sink.py` reads what the SDK writes.
"""

import math
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2 as pb

from pillion_sidecar.errors import DiskError
from pillion_sidecar.sinks import wandb_file
from pillion_sidecar.sinks.wandb_file import BLOCK_BYTES, RecordReader, read_wandb_file

HEADER = b":W&B\xe1\xbe\x00"


def record_of(number: int, length: int = 10) -> Any:
    """Make a record of about this length."""
    return pb.Record(num=number, output_raw=pb.OutputRawRecord(line="x" * length))


def log_of(records: Sequence[Any]) -> bytes:
    """Lay records down as wandb-core does."""
    log = bytearray(HEADER)
    for record in records:
        data, is_first = record.SerializeToString(), True
        while is_first or data:
            room = BLOCK_BYTES - len(log) % BLOCK_BYTES
            if room < 7:
                log += bytes(room)
                room = BLOCK_BYTES
            part, data = data[: room - 7], data[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[
                is_first, not data
            ]
            crc = zlib.crc32(part, zlib.crc32(bytes([kind])))
            log += struct.pack("<IHB", crc, len(part), kind) + part
            is_first = False
    return bytes(log)


def read(path: Path) -> tuple[list[Any], bool]:
    """Read what can be read; tell too whether it ended in damage."""
    records = []
    try:
        records.extend(RecordReader(path).read())
    except DiskError:
        return records, True
    return records, False


def test_the_example_in_the_module_is_right(tmp_path: Path) -> None:
    """The bytes that the docstring shows are a file with that one record."""
    assert wandb_file.__doc__ is not None
    lines = re.findall(r"^    ((?:[0-9a-f]{2} {1,2})+)", wandb_file.__doc__, re.MULTILINE)
    path = tmp_path / "example.wandb"
    path.write_bytes(bytes.fromhex("".join(lines)))
    assert list(RecordReader(path).read()) == [pb.Record(num=5)]


@pytest.mark.parametrize("length", [0, 1, 3_000, BLOCK_BYTES - 40, BLOCK_BYTES, 5 * BLOCK_BYTES])
def test_records_of_any_length_come_back(tmp_path: Path, length: int) -> None:
    """They may fill a block, cross several, or leave no room for the next one's header."""
    records = [record_of(number, length + number % 20) for number in range(1, 60)]
    path = tmp_path / "run.wandb"
    path.write_bytes(log_of(records))
    assert read(path) == (records, False)


def test_a_growing_file_yields_each_record_once_and_when_it_is_complete(tmp_path: Path) -> None:
    """However few bytes come at a time, nothing is yielded early, twice or never."""
    records = [record_of(number) for number in range(1, 5)]
    ends = [len(log_of(records[:count])) for count in range(5)]
    log = log_of(records)
    path = tmp_path / "run.wandb"
    reader = RecordReader(path)
    seen = []
    for size in range(len(log) + 1):
        path.write_bytes(log[:size])
        seen += reader.read()
        assert seen == records[: sum(end <= size for end in ends[1:])]


def test_a_tail_of_zeros_is_a_torn_end(tmp_path: Path) -> None:
    """So a file may end after a power loss: its length was kept, its content was not."""
    records = [record_of(1), record_of(2)]
    path = tmp_path / "run.wandb"
    path.write_bytes(log_of(records) + bytes(500))
    assert read(path) == (records, False)


def test_a_flipped_bit_never_yields_what_was_not_written(tmp_path: Path) -> None:
    """Whichever bit it is, at most the records before it are read; all but a torn end is named."""
    records = [record_of(number) for number in range(1, 4)]
    log = log_of(records)
    ends = [len(log_of(records[:count])) for count in range(4)]
    path = tmp_path / "run.wandb"
    for bit in range(8 * len(log)):
        flipped = bytearray(log)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        seen, is_damaged = read(path)
        assert seen == records[: sum(end <= bit // 8 for end in ends[1:])]
        # A length that now points beyond the end looks like a record that is being written.
        assert is_damaged or bit // 8 - ends[len(seen)] in (4, 5)


def test_chunks_out_of_order_are_damage(tmp_path: Path) -> None:
    """A record's end without its beginning is not taken for a record."""
    part = bytes([4]) + pb.Record(num=1).SerializeToString()
    path = tmp_path / "run.wandb"
    path.write_bytes(HEADER + struct.pack("<IHB", zlib.crc32(part), len(part) - 1, 4) + part[1:])
    assert read(path) == ([], True)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    """What does not begin as the format says is not read at all."""
    path = tmp_path / "run.wandb"
    path.write_bytes(b"{}\n")
    assert read(path) == ([], True)


def test_a_run_is_put_together_from_its_records(tmp_path: Path) -> None:
    """Later config and summary values replace earlier ones, nested keys and removals included."""

    def item(message: Any, value_json: str, *key: str) -> Any:
        return (
            message(key=key[0], value_json=value_json)
            if len(key) == 1
            else message(nested_key=key, value_json=value_json)
        )

    config, summary = pb.ConfigItem, pb.SummaryItem
    run = pb.RunRecord(run_id="r", project="p", display_name="n", run_group="g", job_type="j")
    run.tags.extend(["a", "b"])
    run.config.update.extend([item(config, "1", "lr"), item(config, '{"x": 1}', "deep")])
    changed = pb.ConfigRecord(update=[item(config, "2", "deep", "x"), item(config, "3", "new")])
    changed.remove.append(pb.ConfigItem(key="lr"))
    row = pb.HistoryRecord(
        item=[
            pb.HistoryItem(nested_key=["a", "b"], value_json="NaN"),
            pb.HistoryItem(key="c", value_json="-Infinity"),
        ]
    )
    path = tmp_path / "run.wandb"
    path.write_bytes(
        log_of(
            [
                pb.Record(run=run),
                pb.Record(config=changed),
                pb.Record(history=row),
                pb.Record(summary=pb.SummaryRecord(update=[item(summary, "1", "best")])),
                pb.Record(summary=pb.SummaryRecord(update=[item(summary, "Infinity", "best")])),
                pb.Record(exit=pb.RunExitRecord(exit_code=7)),
            ]
        )
    )
    file = read_wandb_file(path)
    assert (file.run_id, file.project, file.name) == ("r", "p", "n")
    assert (file.group, file.job_type, file.tags) == ("g", "j", ("a", "b"))
    assert file.config == {"deep": {"x": 2}, "new": 3}
    assert file.summary == {"best": math.inf}
    assert math.isnan(file.rows[0].pop("a.b"))
    assert file.rows == [{"c": -math.inf}]
    assert file.exit_code == 7
