"""Makes the golden frames of a release: what its client leaves in the spool, byte by byte.

    python tests/faults/make_golden.py

Run it once per release, by hand, and commit the file. `test_versions.py` sends what all releases
have left to today's sidecar: a client that is older than its sidecar goes on working.
"""

import math
import os
import tempfile
from pathlib import Path

from pillion._version import __version__
from pillion.spool import spool_files

FOLDER = Path(__file__).with_name("golden")
RUN_ID = "golden"
CONFIG = {"seed": 2**64 - 1, "lora": {"r": 16, "modules": ["q", "v"]}, "rate": 3e-4, "on": True}
ROWS: list[tuple[int, dict[str, float | int | bool]]] = [
    *(
        (step, {"loss": 1 / (step + 1), "count": 2**53 + step, "is_odd": step % 2 == 1})
        for step in range(5)
    ),
    (5, {"loss": math.nan, "eval/loss": math.inf}),
    (3, {"loss": -math.inf, "eval/loss": -0.0}),
]
SUMMARY = {"best": 0.25, "note": "as it was"}


def main() -> None:
    """Log a little without a sidecar, and keep the spool file."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        os.environ["PILLION_SPOOL_DIR"] = str(directory / "spool")
        import pillion  # noqa: PLC0415 - with the variable set

        run = pillion.init(
            id=RUN_ID,
            project="versions",
            name="golden frames",
            tags=["a", "b"],
            config=CONFIG,
            address=f"unix:{directory}/nobody",
            quiet=True,
        )
        for step, values in ROWS:
            run.log(values, step=step)
        run.summary.update(SUMMARY)
        run.finish(exit_code=0)
        (path,) = spool_files(directory / "spool")
        FOLDER.mkdir(exist_ok=True)
        target = FOLDER / f"{__version__}.spool"
        target.write_bytes(path.read_bytes())
        target.chmod(0o644)
        print(target)


if __name__ == "__main__":
    main()
