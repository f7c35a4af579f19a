"""Faults at random while 20 runs of 4 trainers go online: is all of them at W&B, each part once?

    make soak-online                                  3 minutes, and until all has arrived
    make soak-online ARGS='--minutes 60 --seed 7'     as long as you like, and the same again

W&B's server is the stand-in of the tests, for the real SDK. Its sidecar, workers and wandb-core are
killed, it answers wrong, and for a while it is away. Rows, config, summary, exit code and artifact
of each run are looked up at the server in the end, rows in the store too. Exits with 1 if something
is missing, doubled or not as it was logged.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from faults.oracle import read_store  # noqa: E402 - found by the above
from faults.scene import Scene, is_called  # noqa: E402
from online_trainer import CODE, check_arrived  # noqa: E402
from processes import environment, pids_below  # noqa: E402
from wandb_server import WandbServer  # noqa: E402

RUNS, TRAINERS = 20, 4
ROWS_PER_S = 5.0
PAUSE_S_MAX = 6.0
"""Between two faults, at random: time for a worker to begin, so that it is not always at that."""
AWAY_S = 60.0
"""How long the server is away, but no longer than a third of the time."""
HANG_S = 5.0
REFUSAL = 409
"""Ends an upload for good: W&B's SDK does not try again."""
SETTLE_S = 600.0


class Fleet:
    """The trainers: so many at a time, until all runs have been."""

    def __init__(self, scene: Scene, row_count: int) -> None:
        self._scene, self._row_count = scene, row_count
        self.names = [f"run-{number}" for number in range(RUNS)]
        self.problems: list[str] = []
        self._executor = ThreadPoolExecutor(TRAINERS)
        self._trainings = [self._executor.submit(self._train, name) for name in self.names]

    @property
    def is_done(self) -> bool:
        """Whether all have ended."""
        return all(training.done() for training in self._trainings)

    def close(self) -> None:
        """Start no more; those that run are waited for."""
        self._executor.shutdown(cancel_futures=True)

    def _train(self, name: str) -> None:
        arguments = [name, str(self._row_count), "0", str(1 / ROWS_PER_S)]
        address = self._scene.sidecar.address
        result = subprocess.run(
            [sys.executable, "-c", CODE, *arguments],
            cwd=self._scene.directory,
            env=environment(PILLION_ADDRESS=address, **self._scene.variables),
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            self.problems.append(f"{name} ended with {result.returncode}: {result.stderr}")


class OnlineFaults:
    """Does one fault after the other, as the seed has it."""

    def __init__(self, scene: Scene, server: WandbServer, seed: int) -> None:
        self._scene, self._server, self._random = scene, server, random.Random(seed)
        self.done: Counter[str] = Counter()

    def strike(self) -> None:
        """Do one, and pause."""
        faults = {self.kill_sidecar: 2, self.restart_sidecar: 1, self.kill_store_worker: 1}
        faults |= {self.kill_wandb_worker: 2, self.kill_wandb_core: 2, self.answer_wrong: 3}
        (fault,) = self._random.choices(list(faults), list(faults.values()))
        pause_s = self._random.uniform(0, PAUSE_S_MAX)
        self.done[fault.__name__] += 1
        fault()
        threading.Event().wait(pause_s)

    def kill_sidecar(self) -> None:
        """SIGKILL it, and start it again."""
        self._scene.sidecar.kill()
        start(self._scene, self._server)

    def restart_sidecar(self) -> None:
        """SIGTERM it, and start it again."""
        code, output = self._scene.sidecar.stop()
        if code:
            self._scene.problems.append(f"exit code {code} after SIGTERM: {output}")
        start(self._scene, self._server)

    def kill_store_worker(self) -> None:
        """SIGKILL the process that drives the store."""
        self._kill("store")

    def kill_wandb_worker(self) -> None:
        """SIGKILL the process that drives W&B's SDK."""
        self._kill("wandb")

    def kill_wandb_core(self) -> None:
        """SIGKILL W&B's own process."""
        assert self._scene.sidecar.process is not None
        for pid in pids_below(self._scene.sidecar.process.pid):
            if is_called(pid, "wandb-core"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def answer_wrong(self) -> None:
        """Have the server answer some requests as a server in trouble does, or not at all."""
        kind = self._random.choice((429, 500, 503, 409, "drop", "hang"))
        # Elsewhere 409 is no trouble that passes: it says that the run is refused.
        operation = "file_stream" if kind == REFUSAL else ""
        fault = self._server.fail(kind, operation=operation, times=self._random.randint(1, 4))
        if kind == "hang":
            threading.Timer(HANG_S, fault.clear).start()

    def _kill(self, sink: str) -> None:
        if pid := self._scene.processes().get(sink):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def main() -> int:
    """Soak; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    seconds = options.minutes * 60
    row_count = int(seconds * TRAINERS / RUNS * ROWS_PER_S)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pillion-soak-")))
        server = stack.enter_context(WandbServer())
        scene = Scene(directory, "--wandb-send-interval-s", "1")
        stack.callback(scene.close)
        start(scene, server)
        faults = OnlineFaults(scene, server, options.seed)
        fleet = Fleet(scene, row_count)
        stack.callback(fleet.close)
        away = threading.Thread(target=go_away, args=(server, seconds / 3))
        away.start()
        while not fleet.is_done:
            faults.strike()
        away.join()
        server.heal()
        began_s = time.monotonic()
        problems = [*fleet.problems, *scene.problems, *settle(scene)]
        settled_s = time.monotonic() - began_s
        for name in fleet.names:
            problems += judge(scene, server, name, row_count)
        problems += [f"the server does not know {each}" for each in server.unknown]
    outcome = {
        "seed": options.seed,
        "faults": dict(faults.done),
        "runs": RUNS,
        "rows_per_run": row_count,
        "settled_within_s": round(settled_s, 1),
        "problems": problems,
    }
    print(json.dumps(outcome, indent=2))
    return 1 if problems else 0


def start(scene: Scene, server: WandbServer) -> None:
    """Start the sidecar: it alone has the key."""
    scene.sidecar.start(WANDB_BASE_URL=server.base_url, WANDB_API_KEY=server.key, **scene.variables)


def go_away(server: WandbServer, third_s: float) -> None:
    """Have the server be away in the second third of the time."""
    threading.Event().wait(third_s)
    server.stop_listening()
    threading.Event().wait(min(AWAY_S, third_s))
    server.listen_again()


def settle(scene: Scene) -> list[str]:
    """Wait until everything is delivered; return what keeps it."""
    command = ["wait", "--timeout-s", str(SETTLE_S), "--address", scene.sidecar.address]
    result = subprocess.run(
        [sys.executable, "-m", "pillion_sidecar", *command],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return [result.stdout + result.stderr] if result.returncode else []


def judge(scene: Scene, server: WandbServer, name: str, row_count: int) -> list[str]:
    """Return what is wrong with a run."""
    rows, lost_count = read_store(f"sqlite:///{scene.sidecar.data_dir}/store.db", name)
    problems = []
    if [row.ordinal for row in rows] != list(range(row_count)) or lost_count:
        problems.append(f"the store has {len(rows)} rows of {name}, {lost_count} lost")
    try:
        check_arrived(server, name, row_count)
    except (AssertionError, KeyError, ValueError) as error:
        run = server.runs.get(name)
        there = f"{len(run.rows)} rows, exit code {run.exit_code}" if run else "nothing"
        problems.append(f"W&B has {there} of {name}: {error!r}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
