"""Two sidecars, as processes, on one PostgreSQL: what trainers log to either is in one place."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from postgresql import PASSWORD, PostgresqlServer, postgresql_server
from processes import SidecarProcess, StartError, environment

from pillion_sidecar.records import RunId
from pillion_sidecar.store import Store

TRAINER = """
import sys, pillion
run = pillion.init(project="shared", id=sys.argv[1], resume=sys.argv[2])
for step in range(int(sys.argv[3]), int(sys.argv[4])):
    run.log({"loss": float(step)}, step=step)
run.finish()
print(run.counts.acked)
"""


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    """Run a server that this test may stop."""
    with postgresql_server() as server:
        yield server


def pillion(sidecar: SidecarProcess, url: str, *arguments: str) -> Any:
    """Run a command that prints JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "pillion_sidecar", *arguments, "--json"],
        env=environment(PILLION_STORE=url, PILLION_ADDRESS=sidecar.address)
        | {"PILLION_DATA_DIR": str(sidecar.data_dir)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert PASSWORD not in done.stdout
    return json.loads(done.stdout)


def steps_of(store: Store, run_id: str) -> list[int]:
    """Read the steps of a run."""
    return [step for _, step, _, _ in store.rows(RunId(run_id))]


def test_two_sidecars_share_a_database_that_goes_away_meanwhile(
    server: PostgresqlServer,
    tmp_path: Path,
    run_python: Callable[..., subprocess.Popen[str]],
    wait_until: Callable[[Callable[[], Any]], Any],
) -> None:
    """Each takes in all the while; each run is there once, is told by both, and stays its own."""
    url = server.new_url()
    flags = ("--wandb-mode", "disabled", "--log-format", "json")
    first, second = (SidecarProcess(tmp_path / name, *flags) for name in ("a", "b"))
    with closing(first), closing(second):
        for sidecar in (first, second):
            sidecar.start(PILLION_STORE=url)

        def train(sidecar: SidecarProcess, *arguments: str) -> tuple[str, str]:
            trainer = run_python(TRAINER, *arguments, PILLION_ADDRESS=sidecar.address)
            return trainer.communicate()

        assert train(first, "run-a", "allow", "0", "50")[0] == "50\n"
        assert train(second, "run-b", "allow", "0", "40")[0] == "40\n"
        with closing(Store(url)) as store:
            wait_until(lambda: len(steps_of(store, "run-a") + steps_of(store, "run-b")) == 90)
            listed = pillion(first, url, "runs")["runs"]
            assert {run["run_id"] for run in listed} == {"run-a", "run-b"}
            assert "another sidecar" in train(second, "run-a", "allow", "50", "60")[1]
            server.stop()
            assert train(first, "run-a", "allow", "50", "60")[0] == "10\n"
            first.kill()
            with pytest.raises(StartError, match="cannot be reached") as refused:
                first.start(PILLION_STORE=url)
            assert not any(word in str(refused.value) for word in (PASSWORD, quote(PASSWORD)))
            server.start()
            first.start(PILLION_STORE=url)
            wait_until(lambda: len(steps_of(store, "run-a")) == 60)
            assert steps_of(store, "run-a") == list(range(60))
            assert store.run(RunId("run-a")).owner != store.run(RunId("run-b")).owner  # type: ignore[union-attr]
        # The second's worker may just be finding the database again.
        wait_until(lambda: pillion(second, url, "status")["is_safe"])
        for sidecar in (first, second):
            logs = [sidecar.output(), *map(Path.read_text, sidecar.data_dir.glob("logs/*"))]
            assert not any(PASSWORD in text or quote(PASSWORD, "") in text for text in logs)
