"""What logging adds to a step of Hugging Face's Trainer: by Pillion, by wandb offline, by nobody.

    make bench-trainer                 about three minutes; prints Markdown
    make bench-trainer ARGS=--quick    fewer rounds

A tiny model is trained on the CPU with `logging_steps=1`, in one process, where the loggers take
turns of 200 steps: two processes alike differ by more than what is measured. A step is what lies
between the begins of two, without a turn's first. Three figures of what is added, since a shared
machine disturbs each in another way: the time in the logger's callback, measured around its
methods; what the fastest tenth of the steps take, and the main thread's CPU time per step, both
less what they are where nobody logs. At the end every row is found again.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine, place, sidecar, wait_for_delivery

from pillion_sidecar.settings import load
from pillion_sidecar.sinks.wandb_file import read_wandb_file
from pillion_sidecar.store import Store

LOGGERS = ("none", "pillion", "wandb")
STEPS, STEPS_LEFT_OUT = 200, 20
THREADS = "1"

WORKER = """
import json, os, sys, time
steps = int(sys.argv[1])
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainerCallback
from transformers import TrainingArguments
import pillion
import pillion.integrations.transformers
import wandb
pillion.init(project="bench", id="bench", quiet=True)
transformers.utils.logging.set_verbosity_error()

class Blocks(torch.utils.data.Dataset):
    def __len__(self):
        return 4096
    def __getitem__(self, index):
        tokens = (torch.arange(32) + index) % 64
        return {"input_ids": tokens, "labels": tokens}

inside_s = 0.0

class Begins(TrainerCallback):
    def on_train_begin(self, *_, **__):
        self.begins_s = []
    def on_step_begin(self, *_, **__):
        self.begins_s.append((time.perf_counter(), time.thread_time(), inside_s))

def measured(method):
    def timed(*arguments, **more):
        global inside_s
        began_s = time.perf_counter()
        try:
            return method(*arguments, **more)
        finally:
            inside_s += time.perf_counter() - began_s
    return timed

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64))
print("ready", flush=True)
for line in sys.stdin:
    report_to = line.strip()
    arguments = TrainingArguments(
        output_dir="out", report_to=report_to, max_steps=steps, logging_steps=1, use_cpu=True,
        per_device_train_batch_size=4, save_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False)
    begins = Begins()
    trainer = Trainer(model=model, args=arguments, train_dataset=Blocks(), callbacks=[begins])
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__name__ in ("PillionCallback", "WandbCallback"):
            for name in ("log", "step_begin", "pre_optimizer_step", "optimizer_step", "step_end"):
                method = getattr(callback, f"on_{name}")
                setattr(callback, f"on_{name}", measured(method))
    trainer.train()
    print("=" + json.dumps(begins.begins_s), flush=True)
assert pillion.run.flush(60)
pillion.finish()
wandb.finish()
"""


class Step(NamedTuple):
    """What a step took."""

    wall_ms: float
    cpu_ms: float
    """Of the main thread."""
    inside_ms: float
    """In the logger's callback."""


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 3 if parser.parse_args().quick else 15
    with place() as directory, ExitStack() as stack:
        os.environ["PILLION_SPOOL_DIR"] = str(directory / "spool")
        settings = load(
            data_dir=directory / "data", listen=f"unix:{directory}/s.sock", wandb_mode="offline"
        )
        ask = stack.enter_context(sidecar(settings))
        worker = start(directory, settings.listen)
        hear(worker, "ready")
        steps: dict[str, list[Step]] = {name: [] for name in LOGGERS}
        for turn in range(rounds + 1):
            for name in LOGGERS[turn % 3 :] + LOGGERS[: turn % 3]:
                taken = train(worker, name)
                steps[name] += taken if turn else []  # the first warms up
        worker.communicate()
        assert worker.returncode == 0
        wait_for_delivery(ask)
        found = check(directory, settings, (rounds + 1) * STEPS)
    print(report(steps, rounds, found))


def start(directory: Path, address: str) -> Any:
    """Start the process that trains."""
    settings = {"PILLION_ADDRESS": address, "WANDB_DIR": str(directory), "OMP_NUM_THREADS": THREADS}
    settings |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WORKER, str(STEPS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=os.environ | settings,
    )


def train(worker: Any, name: str) -> list[Step]:
    """Have it train with a logger; return what the steps took."""
    worker.stdin.write(f"{name}\n")
    worker.stdin.flush()
    begins_s = json.loads(hear(worker, "=")[1:])[STEPS_LEFT_OUT:]
    return [
        Step(*((after - before) * 1e3 for before, after in zip(*pair, strict=True)))
        for pair in itertools.pairwise(begins_s)
    ]


def hear(worker: Any, begin: str) -> str:
    """Return the next line that begins so; libraries print too."""
    line: str = next(line for line in worker.stdout if line.startswith(begin))
    return line


def check(directory: Path, settings: Any, row_count: int) -> str:
    """Find every row again, in our store and in W&B's file."""
    store = Store(settings.store_url)
    ordinals = store.series("bench", "train/loss").ordinals  # type: ignore[arg-type]
    store.close()
    (path,) = directory.glob("wandb/offline-run-*/*.wandb")
    theirs = [row for row in read_wandb_file(path).rows if "train/loss" in row]
    assert len(ordinals) == len(theirs) == row_count
    return f"{row_count:,}"


def report(steps: dict[str, list[Step]], rounds: int, found: str) -> str:
    """Return the table as Markdown, with date and machine."""
    lines = [
        f"`make bench-trainer`, {time.strftime('%Y-%m-%d')}: {machine()}.",
        f"Load {os.getloadavg()[0]:.0f}; {rounds} turns of {STEPS} steps each; {found} rows found.",
        "",
        "| | in the callback, median | mean | a step's fastest tenth, added | CPU, added |",
        "|---|---|---|---|---|",
    ]
    fastest = {name: tenth(step.wall_ms for step in steps[name]) for name in LOGGERS}
    cpu = {name: statistics.median(step.cpu_ms for step in steps[name]) for name in LOGGERS}
    for name in LOGGERS:
        inside_ms = [step.inside_ms for step in steps[name]]
        cells = [statistics.median(inside_ms), statistics.mean(inside_ms)]
        cells += [fastest[name] - fastest["none"], cpu[name] - cpu["none"]]
        if name == "none":
            lines.append(f"| none | | | of {fastest[name]:.2f} ms | of {cpu[name]:.2f} ms |")
        else:
            lines.append(f"| {name} | {' | '.join(f'{cell:.3f} ms' for cell in cells)} |")
    return "\n".join([*lines, ""])


def tenth(values: Iterable[float]) -> float:
    """Return what a tenth of the values is below."""
    ordered = sorted(values)
    return ordered[len(ordered) // 10]


if __name__ == "__main__":
    main()
