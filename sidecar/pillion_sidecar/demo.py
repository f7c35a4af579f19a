"""`pillion demo`: three LoRA fine-tunes at once, logged by one sidecar, then compared.

Everything is real: a sidecar process as `pillion serve` starts it, three trainer processes as
`pillion train` starts them, and the questions that `pillion runs` and `pillion compare` ask.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar.asking import Asker
from pillion_sidecar.errors import SettingsError
from pillion_sidecar.rendering import number_text, sparkline, state_text
from pillion_sidecar.rendering_comparison import ComparisonView, best_sentence
from pillion_sidecar.settings import Settings
from pillion_sidecar.sidecar_process import log_path_of, start_sidecar

PROJECT = "pillion-demo"
REFRESH_S = 0.5
STOP_TIMEOUT_S = 40.0
"""How long trainers and sidecar may take to end cleanly before they are killed; longer than a
sidecar takes by default to deliver what is left."""

_INTERRUPTED = 130
_SPARKLINE_WIDTH = 12
"""So that the table fits into 80 columns."""


@dataclass(slots=True)
class _Trainer:
    """One fine-tune."""

    run_id: str
    name: str
    flags: Sequence[str]
    losses: list[float] = field(default_factory=list)
    last_step: int = -1
    process: subprocess.Popen[bytes] | None = None
    is_told_to_end: bool = False


def run_demo(settings: Settings, console: Console, *, sync: bool) -> int:
    """Run the demo; return the exit code.

    Args:
        settings: Where the sidecar listens and keeps its data.
        console: Where it is shown.
        sync: Upload the runs to W&B at the end.

    Raises:
        SettingsError: The trainer's packages are missing, the sidecar does not start, or the one
            that is here keeps its data elsewhere than was asked for.
    """
    stamp = time.strftime("%m%d-%H%M%S")
    trainers = [
        _Trainer(f"{name.partition('-')[0]}-{stamp}", name, flags)
        for name, flags in _VARIANTS.items()
    ]
    with _signals_as_interrupt(), ExitStack() as stack:
        try:
            settings = stack.enter_context(_sidecar(settings, console))
            _prepare(console)
            logs = settings.data_dir / "logs"
            for trainer in trainers:
                stack.enter_context(_running(trainer, settings, logs, group=f"demo-{stamp}"))
            with Asker(settings) as ask:
                code = _watch(trainers, ask, console)
                code |= _show_comparison(trainers, ask, console, settings)
        except KeyboardInterrupt:
            _stop(trainers)  # first of all: the terminal may be gone
            _say(console, "\nStopping: each trainer saves its adapter and ends its run ...")
            code = _INTERRUPTED
    if sync and code == 0:
        code = _sync(settings, trainers)
    _show_where(settings, trainers, console)
    return code


_VARIANTS: Mapping[str, Sequence[str]] = {
    "r16-lr1e-2": ("--r", "16", "--alpha", "32", "--learning-rate", "1e-2"),
    "r8-lr5e-3": ("--r", "8", "--alpha", "16", "--learning-rate", "5e-3"),
    "r4-lr5e-4": ("--r", "4", "--alpha", "8", "--learning-rate", "5e-4"),
}
"""What the three have of their own; the last one learns too slowly, to have something to see."""


def _prepare(console: Console) -> None:
    """Have the small base model made, which takes a while the first time only."""
    console.print("The base model: made and trained here the first time, then kept.")
    command = [sys.executable, "-m", "pillion_trainer", "--prepare"]
    if subprocess.call(command) != 0:
        raise SettingsError("The base model could not be made; the lines above say why.")


def _check_is_meant(settings: Settings, data_dir: Path) -> None:
    """Raise `SettingsError` if the data was to be kept elsewhere than the sidecar here does."""
    is_given = "data_dir" in settings.model_fields_set
    if is_given and settings.data_dir.resolve() != data_dir.resolve():
        raise SettingsError(
            f"The sidecar at {settings.listen} keeps its data in {data_dir}, not in "
            f"{settings.data_dir}. Leave out --data-dir to use it, or have the demo start one at "
            "another address, which PILLION_LISTEN names."
        )


@contextmanager
def _sidecar(settings: Settings, console: Console) -> Iterator[Settings]:
    """Use the sidecar that is here, or run one meanwhile; yield its settings."""
    with Asker(settings) as ask:
        if ask.is_sidecar:
            data_dir = Path(ask.status(pb2.GetStatusRequest()).data_dir)
            _check_is_meant(settings, data_dir)
            console.print(f"The sidecar at {settings.listen} is used, with its data in {data_dir}.")
            yield settings.model_copy(update={"data_dir": data_dir})
            return
    sidecar = start_sidecar(settings)
    if not sidecar.address:
        raise SettingsError(f"The sidecar did not start; {log_path_of(settings)} says why.")
    console.print(f"A sidecar listens at {settings.listen}.")
    try:
        yield settings
    finally:
        sidecar.process.send_signal(signal.SIGTERM)
        _say(console, "The sidecar delivers what is left, then stops ...")
        _wait(sidecar.process)  # a second signal would end it at once


@contextmanager
def _running(trainer: _Trainer, settings: Settings, logs: Path, group: str) -> Iterator[None]:
    output_dir = _output_dir(settings, trainer.run_id)
    with (logs / f"{trainer.run_id}.log").open("ab") as log_file:
        trainer.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pillion_trainer", *trainer.flags),
                *("--run-id", trainer.run_id, "--name", trainer.name, "--project", PROJECT),
                *("--group", group, "--output-dir", str(output_dir), "--threads", "1"),
                *("--address", settings.listen, "--quiet"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            # No W&B in the trainer, and no key of it.
            env={k: v for k, v in os.environ.items() if not k.startswith("WANDB_")},
        )
    try:
        yield
    finally:
        _stop([trainer])
        _wait(trainer.process)


def _output_dir(settings: Settings, run_id: str) -> Path:
    return settings.data_dir / "demo" / run_id


def _watch(trainers: Sequence[_Trainer], ask: Asker, console: Console) -> int:
    """Show the runs until all trainers have ended; return 1 if one failed."""
    with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:
        while True:
            processes = [trainer.process for trainer in trainers if trainer.process]
            codes = [process.poll() for process in processes]
            table = _progress_table(trainers, _runs(trainers, ask))
            if console.is_terminal:
                live.update(table, refresh=True)
            if None not in codes:
                if not console.is_terminal:
                    live.update(table, refresh=True)
                    console.print(table)
                return int(any(codes))
            time.sleep(REFRESH_S)


def _runs(trainers: Sequence[_Trainer], ask: Asker) -> dict[str, run_pb2.Run]:
    response = ask.runs(pb2.ListRunsRequest(project=PROJECT))
    ids = {trainer.run_id for trainer in trainers}
    return {run.run_id: run for run in response.runs if run.run_id in ids}


def _progress_table(trainers: Sequence[_Trainer], runs: Mapping[str, run_pb2.Run]) -> Table:
    table = Table("RUN", "STATE", box=None, pad_edge=False, header_style="bold")
    for title in ("ROWS", "STEP", "LOSS"):
        table.add_column(title, justify="right", min_width=6)
    table.add_column("", min_width=_SPARKLINE_WIDTH)
    table.add_column("EVAL LOSS", justify="right")
    table.add_column("TOKENS/S", justify="right")
    for trainer in trainers:
        run = runs.get(trainer.run_id)
        if run is None:
            table.add_row(trainer.name, "starting")
            continue
        summary: Mapping[str, Any] = from_key_values(run.summary)
        loss = summary.get("train/loss")
        if run.last_step != trainer.last_step and isinstance(loss, float):
            trainer.losses.append(loss)
            trainer.last_step = run.last_step
        table.add_row(
            trainer.name,
            state_text(run),
            f"{run.row_count:,}",
            str(run.last_step),
            number_text(loss),
            sparkline(trainer.losses, _SPARKLINE_WIDTH),
            number_text(summary.get("eval/loss")),
            number_text(summary.get("train/tokens_per_second")),
        )
    return table


def _show_comparison(
    trainers: Sequence[_Trainer], ask: Asker, console: Console, settings: Settings
) -> int:
    """Show the comparison, and what the best adapter has learned; return 1 if there is none."""
    known = _runs(trainers, ask)
    run_ids = [trainer.run_id for trainer in trainers if trainer.run_id in known]
    if len(run_ids) < 2:  # noqa: PLR2004 - to compare takes two
        console.print("There are not two runs to compare.")
        return 1
    response = ask.compare(pb2.CompareRequest(run_ids=run_ids))
    _keep_only(response, _SHOWN)
    console.print()
    console.print(ComparisonView(response))
    console.print()
    console.print(best_sentence(response), style="bold")
    if response.best_run_id in run_ids:
        return _show_text(_output_dir(settings, response.best_run_id), console)
    return 0


def _show_text(adapter: Path, console: Console) -> int:
    """Show how the base model goes on from a prompt, and how the adapter does; 1 if it cannot."""
    command = [sys.executable, "-m", "pillion_trainer", "--generate", _PROMPT]
    command += ["--adapter", str(adapter), "--max-new-tokens", "150", "--threads", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    console.print()
    console.print(done.stdout.strip(), markup=False, highlight=False, soft_wrap=True)
    return int(done.returncode != 0)


_PROMPT = "DAY 412 | Monday | Gull Point\nwind:"
"""The beginning of a page of the logbook that the three were tuned on."""


_SHOWN = {"train/loss", "eval/loss", "train/tokens_per_second", "train/grad_norm"}
"""What the demo shows of the comparison; `pillion compare` shows all."""


def _keep_only(response: pb2.CompareResponse, keys: set[str]) -> None:
    metrics = [metric for metric in response.metrics if metric.key in keys]
    del response.metrics[:]
    response.metrics.extend(metrics)


def _sync(settings: Settings, trainers: Sequence[_Trainer]) -> int:
    """Upload the runs as `pillion sync` does."""
    command = [sys.executable, "-m", "pillion_sidecar", "sync", "--data-dir"]
    run_ids = [trainer.run_id for trainer in trainers]
    return subprocess.call([*command, str(settings.data_dir), *run_ids])


def _show_where(settings: Settings, trainers: Sequence[_Trainer], console: Console) -> None:
    ids = " ".join(trainer.run_id for trainer in trainers)
    console.print()
    console.print(f"Kept in {settings.data_dir}: the journal, the store, W&B's files, the adapters")
    console.print(f"Look further: pillion runs · pillion compare {ids}", soft_wrap=True)
    console.print(f"Upload later: pillion sync {ids}", soft_wrap=True)


def _say(console: Console, line: str) -> None:
    with suppress(OSError):  # a closed terminal must not keep us from cleaning up
        console.print(line)


def _stop(trainers: Sequence[_Trainer]) -> None:
    """Tell trainers to end, each once: a second SIGINT would break off what the first began."""
    for trainer in trainers:
        if trainer.process and trainer.process.poll() is None and not trainer.is_told_to_end:
            trainer.is_told_to_end = True
            trainer.process.send_signal(signal.SIGINT)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was told to end; not for ever."""
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """Have a closed terminal and `kill` end the demo as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    former = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)
