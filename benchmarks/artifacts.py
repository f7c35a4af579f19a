"""What an artifact costs: how long `log_artifact` keeps the training, and how fast files arrive.

    .venv/bin/python benchmarks/artifacts.py [MIB] [DIRECTORY]

Logs a directory of 8 files: by copy and by link, again with nothing changed, and with one file
changed. Where DIRECTORY's filesystem can share blocks a copy is one by reference. The log() calls
of a second thread tell whether metrics are kept waiting meanwhile.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from processes import SidecarProcess

import pillion

FILES = 8
PIECE = os.urandom(1024 * 1024)


def write(path: Path, mib: int, seed: int) -> None:
    """Write a file like no other."""
    with path.open("wb") as file:
        file.write(seed.to_bytes(8, "little"))
        for _ in range(mib):
            file.write(PIECE)


def measure(run: pillion.Run, directory: Path, what: str, policy: str) -> None:
    """Log the directory once and print what that took."""
    stop = threading.Event()
    slowest: list[float] = []

    def log() -> None:
        worst_s = 0.0
        while not stop.wait(0.001):
            began_s = time.perf_counter()
            run.log({"loss": 1.0})
            worst_s = max(worst_s, time.perf_counter() - began_s)
        slowest.append(worst_s)

    logger = threading.Thread(target=log)
    logger.start()
    began_s = time.perf_counter()
    logged = run.log_artifact(directory, name="weights", type="model", policy=policy)
    staged_s = time.perf_counter() - began_s
    version = logged.wait()
    total_s = time.perf_counter() - began_s
    stop.set()
    logger.join()
    sent_mb = logged.sent_bytes / 1e6
    print(
        f"{what:42} staged in {staged_s:6.2f} s  {version:>3}  sent {sent_mb:8,.1f} MB  "
        f"on disk after {total_s:6.2f} s ({sent_mb / total_s:4,.0f} MB/s)  "
        f"slowest log() {slowest[0] * 1000:.1f} ms",
        flush=True,
    )


def main() -> None:
    """Measure."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    base = sys.argv[2] if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory(dir=base) as name:
        root = Path(name)
        os.environ["PILLION_SPOOL_DIR"] = str(root / "spool")
        checkpoint = root / "checkpoint"
        checkpoint.mkdir()
        for number in range(FILES):
            write(checkpoint / f"shard-{number}.bin", mib // FILES, number)
        sidecar = SidecarProcess(root, "--wandb-mode", "disabled").start()
        try:
            run = pillion.init(project="bench", address=sidecar.address, quiet=True)
            measure(run, checkpoint, "the first time, by copy", "copy")
            measure(run, checkpoint, "again, nothing changed, by copy", "copy")
            write(checkpoint / "shard-3.bin", mib // FILES, 100)
            measure(run, checkpoint, "again, one file of 8 changed, by copy", "copy")
            for number in range(FILES):
                (checkpoint / f"shard-{number}.bin").unlink()
                write(checkpoint / f"shard-{number}.bin", mib // FILES, 200 + number)
            measure(run, checkpoint, "all files new, by link", "link")
            run.finish()
        finally:
            sidecar.close()


if __name__ == "__main__":
    main()
