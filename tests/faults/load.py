"""A writer for fault tests: logs numbered rows at a steady rate and keeps an account of it.

    python load.py LIBRARY RUN_ID WRITER ACCOUNT ROWS_PER_S

LIBRARY is `pillion` or `wandb`. It prints `ready` once it logs, and reads on its standard input how
it is to end: `finish`, `return`, `exit`, `os._exit` or `raise`. The account (see `oracle.py`) is
written with one `write` per line and so outlives SIGKILL: each row before it is logged, and how
many are acked whenever that was 5 ms ago.
"""

import atexit
import hashlib
import json
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

COUNT_INTERVAL_S = 0.005
RICH_INTERVAL, RICH_INDEX = 50, 10
"""So seldom a row has more than numbers: files are slow to keep."""


def row(writer: int, index: int, *, is_rich: bool = True) -> tuple[int, dict[str, Any]]:
    """Return the step and the values of a row: every kind of value, now and then other keys.

    A histogram, and a file by its digest, are as the oracle compares them; see `as_logged`.
    """
    values: dict[str, Any] = {"writer": writer, "index": index}
    if index % 7:
        values |= {"loss": writer + 1 / (index + 1), "big": 2**53 + index, "is_odd": index % 2 == 1}
    else:
        values |= {"eval/loss": (math.nan, math.inf, -math.inf, -0.0, 1e-300)[index // 7 % 5]}
    if index % RICH_INTERVAL == RICH_INDEX:
        values |= {"note": f"row {index}\n\u2028"}
        if is_rich:
            values |= {"shape": {"counts": [1.0, index], "edges": [-0.5, 0.5, index + 1.0]}}
            values |= {"page": {"sha256": hashlib.sha256(page(writer, index)).hexdigest()}}
    return index // 3 - index % 3, values  # steps repeat and go back


def page(writer: int, index: int) -> bytes:
    """Return the file of a row that has one."""
    return f"<p>{writer} {index}".encode()


def as_logged(values: dict[str, Any]) -> dict[str, Any]:
    """Return a row's values as they are given to the client."""
    if "page" not in values:
        return values
    import pillion  # noqa: PLC0415 - as below

    shape = values["shape"]
    return values | {
        "shape": pillion.Histogram(np_histogram=(shape["counts"], shape["edges"])),
        "page": pillion.Html(page(values["writer"], values["index"])),
    }


class Notebook:
    """The account, as it is written."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._counted_s = 0.0
        self._refused = 0

    def note(self, kind: str, *values: Any) -> None:
        """Write one line, at once."""
        line = json.dumps([kind, time.monotonic(), *values]) + "\n"
        os.write(self._descriptor, line.encode())

    def count(self, run: Any, *, is_due: bool = False) -> None:
        """Note how many rows are where, if it is time, or if a row was refused."""
        if not hasattr(run, "counts"):
            return  # wandb acks nothing
        counts = run.counts
        refused = counts.refused + counts.dropped
        now_s = time.monotonic()
        if is_due or refused != self._refused or now_s - self._counted_s > COUNT_INTERVAL_S:
            self._counted_s, self._refused = now_s, refused
            self.note("counts", counts.acked, refused, counts.spooled)


def main() -> None:
    """Log until told to end."""
    library, run_id, writer, account, rate = sys.argv[1:]
    notebook = Notebook(Path(account))
    # Before the library comes, so that this runs after its own handler: the end's counts.
    atexit.register(lambda: notebook.count(run, is_due=True))
    run = _start(library, run_id)
    notebook.note("start", run_id, int(writer))
    print("ready", flush=True)
    ending: list[str] = []
    threading.Thread(target=lambda: ending.append(sys.stdin.readline()), daemon=True).start()
    index, due_s = 0, time.monotonic()
    while not ending:
        step, values = row(int(writer), index, is_rich=library == "pillion")
        notebook.note("row", step, values)
        if library == "pillion":
            run.log(as_logged(values), step=step)
        else:
            run.log(values)  # its steps must not repeat
        notebook.count(run)
        index += 1
        # What was missed, as while it was stopped, is not caught up with.
        due_s = max(due_s + 1 / float(rate), time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))
    match ending[0].strip():
        case "finish":
            run.finish()
        case "exit":
            sys.exit(3)
        case "os._exit":
            os._exit(3)
        case "raise":
            raise RuntimeError("the load was told to raise")


def _start(library: str, run_id: str) -> Any:
    if library == "wandb":
        import wandb  # noqa: PLC0415 - only one of the two is loaded

        settings = wandb.Settings(silent=True, console="off", disable_git=True)
        return wandb.init(mode="offline", project="faults", id=run_id, settings=settings)
    import pillion  # noqa: PLC0415

    return pillion.init(project="faults", id=run_id, config={"seed": 2**64 - 1}, quiet=True)


if __name__ == "__main__":
    main()
