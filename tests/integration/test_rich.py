"""What a run says beyond plain numbers, from the trainer to the answers."""

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.columns import Histogram, Media
from pillion_sidecar.store import Store

SECRET = "hf_" + "s3cret" * 6

TRAINING = """
import sys, pillion
run = pillion.init(id="rich", project="p", model="org/Model-7b", use_case="chat", dataset="d",
                   config={"lr": 0.1, "hf_token": sys.argv[2]}, quiet=True)
pillion.define_metric("loss", step_metric="epoch", summary="min,mean")
with open("page.html", "w") as page:
    page.write("<b>" + "x" * 1_500_000)
table = pillion.Table(["step", "text"])
for step in range(3):
    table.add_data(step, "µ" * step)
    run.log({"loss": 3.0 - step, "epoch": step, "sample": f"text {step}", "table": table})
import os
page = pillion.Html("page.html")
os.remove("page.html")
run.log({"page": page, "images": [pillion.Image(b"GIF89a"), pillion.Image(b"GIF87a")],
         "weights": pillion.Histogram([1, 2, 3], num_bins=2)})
pillion.alert("loss is NaN", "all of it", "ERROR")
pillion.alert("loss is NaN")
pillion.finish()
print(run.name)
"""


def stored(sidecar: Any, run_id: str) -> list[dict[str, Any]]:
    """Return the values of the run's rows."""
    with closing(Store(f"sqlite:///{sidecar.data_dir}/store.db")) as store:
        return [values for *_, values in store.rows(run_id)]  # type: ignore[arg-type]


def bytes_in(sidecar: Any, media: Media) -> bytes:
    """Return what is in a file, which is what its digest says."""
    blobs = Blobs(Path(sidecar.data_dir) / "blobs")
    data = blobs.path(bytes.fromhex(media.sha256)).read_bytes()
    assert hashlib.sha256(data).hexdigest() == media.sha256
    return data


@pytest.mark.parametrize("is_late", [False, True], ids=["with a sidecar", "through the spool"])
def test_what_a_trainer_says_beside_numbers_is_kept(
    make_sidecar: Callable[..., Any],
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
    is_late: bool,
) -> None:
    """Rows with texts, files and histograms, definitions, alerts, labels; and no secret."""
    sidecar = make_sidecar("--wandb-mode", "disabled")
    if is_late:
        sidecar.stop()
    arguments = ("--api-key", SECRET)
    trainer = run_python(TRAINING, *arguments, PILLION_ADDRESS=sidecar.address)
    output, errors = trainer.communicate(timeout=300)
    assert trainer.returncode == 0, errors
    if is_late:
        sidecar = make_sidecar("--wandb-mode", "disabled", listen=sidecar.address)
        wait_until(lambda: not list((Path(sidecar.data_dir).parent / "spool").glob("*.spool")))
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="rich")).run
    name, _, stamp = run.name.rpartition("_")
    assert (name, len(stamp)) == ("Model-7b_chat", 15)
    assert is_late or output.strip() == run.name
    assert (run.model, run.dataset, run.use_case) == ("org/Model-7b", "d", "chat")
    summary = from_key_values(run.summary)
    assert (summary["loss"], summary["sample"]) == ({"min": 1.0, "mean": 2.0}, "text 2")
    assert [d.step_metric for d in run.definitions] == ["epoch"]
    (alert,) = run.alerts
    assert (alert.title, alert.text) == ("loss is NaN", "all of it")
    assert alert.level == record_pb2.Alert.LEVEL_ERROR
    rows = stored(sidecar, "rich")
    assert [(row["loss"], row["sample"]) for row in rows[:3]] == [
        *((3.0, "text 0"), (2.0, "text 1"), (1.0, "text 2"))
    ]
    tables = [json.loads(bytes_in(sidecar, row["table"][0]))["data"] for row in rows[:3]]
    assert tables == [[[n, "µ" * n] for n in range(m)] for m in (1, 2, 3)]
    assert rows[3]["weights"] == Histogram((1, 2, 3), (1, 2))
    assert bytes_in(sidecar, rows[3]["page"][0]) == b"<b>" + b"x" * 1_500_000
    images = [(media.media_type, bytes_in(sidecar, media)) for media in rows[3]["images"]]
    assert images == [("image/gif", b"GIF89a"), ("image/gif", b"GIF87a")]
