"""A trainer for tests of W&B online: what it logs is told by its run's name and length alone.

So whether a run has arrived, all of it and each part once, is seen at the server without an account
of what was logged.
"""

from wandb_server import WandbServer

CODE = """
import sys, threading, pillion
name, count, extra, pause_s = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
run = pillion.init(id=name, project="demo", name=f"name of {name}", config={"of": name}, quiet=True)
for number in range(count):
    poison = {"poison": extra} if number == count // 2 else {}  # so it stays in the summary
    run.log({"loss": number / 8, **poison}, step=3 * number)
    if number == count // 2:
        run.config.update({"half": number})
    threading.Event().wait(pause_s)
open(name, "w").write(name * 1000)
run.log_artifact(name, name=f"of-{name}", type="model")
run.summary["best"] = name
run.finish(exit_code=len(name) % 3)
"""
"""Run as `python -c CODE NAME COUNT EXTRA PAUSE_S`; ends with code 0."""


def check_arrived(server: WandbServer, name: str, count: int, *, without: int = -1) -> None:
    """Check that a run has arrived, all of it but one row and each part once."""
    run = server.run("demo", name)
    steps = [row["_step"] for row in run.rows]
    assert steps == [number for number in range(count) if number != without]
    assert all(row["loss"] == row["_step"] / 8 for row in run.rows)
    assert all(row["global_step"] == row["_step"] * 3 for row in run.rows)
    assert run.rewritten == []
    assert (run.name, run.summary["best"]) == (f"name of {name}", name)
    assert (run.config["of"], run.config["half"]) == (name, count // 2)
    assert run.summary["loss"] == (count - 1) / 8
    assert run.exit_code == len(name) % 3
    (artifact,) = server.artifacts.named(f"of-{name}")
    assert server.artifacts.files(artifact) == {name: name.encode() * 1000}
