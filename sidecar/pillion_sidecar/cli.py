"""The command line: `pillion serve | run | status | runs | compare | …`.

Tables for people, `--json` for scripts (its shapes: `docs/cli.md`). Exit codes: 0 well; 1 refused
or failed, with a sentence on standard error; 2 wrong usage; 130 ended by Ctrl-C.
"""

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress as ProgressBar
from typer.core import TyperGroup

from pillion._version import __version__
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar import (
    cli_artifacts,
    cli_compare,
    cli_runs,
    cli_spool,
    logs,
    waiting,
)
from pillion_sidecar.cli_common import (
    RUN_HELP,
    DataDir,
    Json,
    Listen,
    asked_address,
    asking,
    complete_run,
    make_console,
    refusals_told,
    show,
)
from pillion_sidecar.cli_deletion import delete_runs
from pillion_sidecar.cli_export import export
from pillion_sidecar.cli_import import import_runs
from pillion_sidecar.cli_wandb import configure
from pillion_sidecar.cli_watch import watch
from pillion_sidecar.doctor import Verdict, checks_view, examine
from pillion_sidecar.rendering import user_text
from pillion_sidecar.rendering_status import status_json, status_view
from pillion_sidecar.settings import AlertLevelMin, LogFormat, LogLevel, WandbMode, load

EXIT_TIMEOUT = 3
"""Of `wait`: not everything was there in time."""
EXIT_UNSAFE = 4
"""Of `status` and `wait`: something was refused or dropped, or nothing new is taken in."""
EXIT_STUCK = 5
"""Of `wait`: what is left waits for somebody."""

COMMANDS = (
    *("serve", "run", "status", "wait", "doctor", "runs", "watch", "show", "console"),
    *("tag", "note", "update", "rm", "compare", "diff", "export", "import"),
    *("configure", "sync", "artifacts", "spool", "gc", "train", "demo", "version"),
)
"""In the order in which people need them."""


class _InOrder(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:  # Typer's or click's, by its version
        """Return the commands as `--help` lists them."""
        return sorted(super().list_commands(ctx), key=COMMANDS.index)


app = typer.Typer(
    cls=_InOrder,
    help="Keeps what training jobs log, and owns their Weights & Biases runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(cli_spool.app, name="spool")
app.add_typer(cli_artifacts.app, name="artifacts")
app.command()(cli_artifacts.gc)
app.command()(cli_compare.compare)
app.command()(cli_compare.diff)
app.command()(configure)
app.command("runs")(cli_runs.list_runs)
app.command("show")(cli_runs.show_run)
app.command()(watch)
app.command("console")(cli_runs.print_console)
app.command()(cli_runs.update)
app.command()(export)
app.command(context_settings={"ignore_unknown_options": True})(cli_runs.tag)
app.command()(cli_runs.note)
app.command("rm")(delete_runs)
app.command("import")(import_runs)


@app.command()
def serve(
    data_dir: DataDir = None,
    listen: Annotated[
        str | None, typer.Option(help="unix:PATH, or HOST:PORT on loopback. [PILLION_LISTEN]")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="The store's URL; else store.db in the data directory. [PILLION_STORE]"),
    ] = None,
    wandb_mode: Annotated[
        WandbMode | None,
        typer.Option(help="Where runs go; `auto`: online where there is a key, else offline."),
    ] = None,
    wandb_project: Annotated[
        str | None, typer.Option(help="The project of runs that name none.")
    ] = None,
    wandb_entity: Annotated[str | None, typer.Option(help="The W&B team or user.")] = None,
    wandb_base_url: Annotated[
        str | None, typer.Option(help="The W&B server. [WANDB_BASE_URL]")
    ] = None,
    wandb_api_key_file: Annotated[
        Path | None, typer.Option(help="Holds the W&B key. [else WANDB_API_KEY, ~/.netrc]")
    ] = None,
    wandb_send_interval_s: Annotated[
        int | None, typer.Option(help="How often rows are sent to W&B, in seconds.")
    ] = None,
    spool_dir: Annotated[
        Path | None, typer.Option(help="Where trainers leave what no sidecar took.")
    ] = None,
    drain_timeout_s: Annotated[
        float | None, typer.Option(help="How long a stop may take to deliver what is left.")
    ] = None,
    store_wait_s: Annotated[
        float | None, typer.Option(help="How long an answer may wait for the store.")
    ] = None,
    disk_reserve_bytes: Annotated[
        int | None, typer.Option(help="Take nothing in while the disk has less room than that.")
    ] = None,
    metric_keys_max: Annotated[
        int | None, typer.Option(help="How many metrics one run may have.")
    ] = None,
    system_interval_s: Annotated[
        float | None, typer.Option(help="Sample CPU, memory, disk and GPUs so often; 0: never.")
    ] = None,
    anomalies: Annotated[
        bool | None,
        typer.Option("--anomalies/--no-anomalies", help="Look for anomalies, pass alerts on."),
    ] = None,
    anomaly_rules: Annotated[
        list[str] | None,
        typer.Option(help="A rule: `METRIC > VALUE for N steps`; may be repeated."),
    ] = None,
    anomaly_stop: Annotated[
        list[str] | None,
        typer.Option(help="A rule that asks trainers to stop; may be repeated."),
    ] = None,
    anomaly_stall_min_s: Annotated[
        float | None, typer.Option(help="A run that is silent for less is not stalled.")
    ] = None,
    alert_webhook: Annotated[
        str | None, typer.Option(help="Post alerts there. [PILLION_ALERT_WEBHOOK]")
    ] = None,
    alert_command: Annotated[
        str | None, typer.Option(help="Run this for each alert, without a shell.")
    ] = None,
    alert_level_min: Annotated[
        AlertLevelMin | None, typer.Option(help="Pass these alerts on, and graver ones.")
    ] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="`text` for people, `json` for machines.")
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Log this and what is graver.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Answer GET /metrics on this port of 127.0.0.1; 0: any.")
    ] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="TOML with these names. [PILLION_SETTINGS]")
    ] = None,
    ready_fd: Annotated[
        int | None, typer.Option(help="Write the address to this descriptor when it listens.")
    ] = None,
    end_when_idle_s: Annotated[
        float | None,
        typer.Option(help="End so long after the last writer, once all is delivered.", min=0),
    ] = None,
) -> None:
    """Run the sidecar until Ctrl-C or SIGTERM."""
    # Only this command needs it.
    from pillion_sidecar.server import EXIT_HELD, HeldError, Sidecar  # noqa: PLC0415

    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whoever started it may have blocked some

    with refusals_told():
        settings = load(
            settings_file,
            data_dir=data_dir,
            listen=listen,
            store=store,
            wandb_mode=wandb_mode,
            wandb_project=wandb_project,
            wandb_entity=wandb_entity,
            wandb_base_url=wandb_base_url,
            wandb_api_key_file=wandb_api_key_file,
            wandb_send_interval_s=wandb_send_interval_s,
            spool_dir=spool_dir,
            drain_timeout_s=drain_timeout_s,
            store_wait_s=store_wait_s,
            disk_reserve_bytes=disk_reserve_bytes,
            metric_keys_max=metric_keys_max,
            system_interval_s=system_interval_s,
            anomalies=anomalies,
            anomaly_rules=anomaly_rules or None,
            anomaly_stop=anomaly_stop or None,
            anomaly_stall_min_s=anomaly_stall_min_s,
            alert_webhook=alert_webhook,
            alert_command=alert_command,
            alert_level_min=alert_level_min,
            log_format=log_format,
            log_level=log_level,
            metrics_port=metrics_port,
        )
        logs.configure(settings.log_format, settings.log_level)

        def on_ready(sidecar: Sidecar) -> None:
            print(f"pillion {__version__} listens at {sidecar.address}")
            print(f"data is kept in {settings.data_dir}; W&B is {sidecar.wandb_mode}")
            if settings.address.path is None:
                token = f"PILLION_TOKEN=$(cat {settings.token_path})"
                print(f"for trainers: export PILLION_ADDRESS={sidecar.address} {token}")
            if sidecar.metrics_url:
                print(f"metrics are at {sidecar.metrics_url}")
            print("`pillion status` tells whether it is safe; Ctrl-C ends it", flush=True)
            if ready_fd is not None:
                os.write(ready_fd, f"{sidecar.address}\n".encode())
                os.close(ready_fd)

        try:
            sidecar = Sidecar(settings, end_when_idle_s=end_when_idle_s)
            code = asyncio.run(sidecar.run(on_ready))
        except HeldError as error:
            print(error, file=sys.stderr)
            code = EXIT_HELD
    raise typer.Exit(code)


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[
        list[str], typer.Argument(help="The command and its arguments.", metavar="COMMAND...")
    ],
    project: Annotated[str | None, typer.Option(help="What it is filed under.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name for people.")] = None,
    run_id: Annotated[
        str | None, typer.Option("--id", help="Its id; one that exists is gone on with.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Shared by runs that belong together.")] = None,
    job_type: Annotated[str | None, typer.Option(help="Its role in the group.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A label; may be repeated.")] = None,
    notes: Annotated[str | None, typer.Option(help="Free text.")] = None,
    address: Listen = None,
    data_dir: DataDir = None,
    wandb_mode: Annotated[
        WandbMode | None, typer.Option(help="Of a sidecar that has to be started.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing but what the command prints.")
    ] = False,
) -> None:
    """Run any command as a run: its console, its end, and what it logs itself."""
    from pillion_sidecar.launcher import run_as_run  # noqa: PLC0415 - only this command needs it

    options = {
        "project": project,
        "name": name,
        "id": run_id,
        "group": group,
        "job_type": job_type,
        "tags": tag,
        "notes": notes,
    }
    with refusals_told():
        listen = asked_address(address)
        settings = load(listen=listen, data_dir=data_dir, wandb_mode=wandb_mode)
        raise typer.Exit(run_as_run(command, settings, options, quiet=quiet))


@app.command()
def status(
    run: Annotated[
        str, typer.Argument(help=f"Only this run. {RUN_HELP}", autocompletion=complete_run)
    ] = "",
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Tell whether the data is safe: on disk, and in each sink."""
    with asking(address, data_dir) as ask:
        response = ask.status(pb2.GetStatusRequest(run_id=run and ask.run_id(run)))
    show(status_view(response), status_json(response), as_json=as_json)
    if not response.is_safe:
        raise typer.Exit(EXIT_UNSAFE)


@app.command()
def wait(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"The runs; none: all. {RUN_HELP}",
            metavar="[RUN...]",
            autocompletion=complete_run,
        ),
    ] = None,
    sink: Annotated[str, typer.Option(help="Only `store` or `wandb`; else all.")] = "",
    delivered_only: Annotated[
        bool, typer.Option("--delivered-only", help="Do not wait for runs to end.")
    ] = False,
    timeout_s: Annotated[
        float | None, typer.Option(min=0, help="Give up after so many seconds; else never.")
    ] = None,
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Wait until runs have ended and all that is journaled of them is delivered."""
    progress = waiting.Progress()
    with (
        asking(address, data_dir) as ask,
        ProgressBar(
            transient=True, disable=as_json or not sys.stdout.isatty(), console=make_console()
        ) as bar,
    ):
        target = waiting.Target(tuple(map(ask.run_id, runs or ())), sink, delivered_only)
        task = bar.add_task("", total=None)
        for progress in waiting.wait(ask.status, target, timeout_s):
            bar.update(
                task,
                total=progress.row_count or None,
                completed=progress.row_count - progress.lag_row_count,
                description=escape(" ".join([progress.sentence, *progress.errors])),
            )
    if as_json:
        print(json.dumps(progress.as_json(), indent=2, ensure_ascii=False))
    else:
        print("\n".join([progress.sentence, *(user_text(each).plain for each in progress.errors)]))
    if progress.is_stuck:
        raise typer.Exit(EXIT_STUCK)
    if not progress.is_done:
        raise typer.Exit(EXIT_TIMEOUT)
    if progress.lost_row_count:
        raise typer.Exit(EXIT_UNSAFE)


@app.command()
def doctor(
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check the set-up and say what to mend. Works without a sidecar too."""
    with refusals_told():
        listen = asked_address(address)
        checks = list(examine(load(listen=listen, data_dir=data_dir)))
    show(checks_view(checks), {"findings": [asdict(one) for one in checks]}, as_json=as_json)
    if any(one.verdict is Verdict.FAIL for one in checks):
        raise typer.Exit(1)


@app.command()
def sync(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"The runs; none: all. {RUN_HELP}",
            metavar="[RUN...]",
            autocompletion=complete_run,
        ),
    ] = None,
    entity: Annotated[
        str, typer.Option(help="The user or team at W&B; else the run's or the key's own.")
    ] = "",
    base_url: Annotated[str, typer.Option(help="W&B's server. [WANDB_BASE_URL]")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Upload offline runs to W&B, each row once however often it is called. Needs no sidecar."""
    from pillion_sidecar import uploads  # noqa: PLC0415 - only this command needs it
    from pillion_sidecar.sync import Outcome, SyncState  # noqa: PLC0415 - as above

    outcomes: list[Outcome] = []
    with (
        refusals_told(),
        ProgressBar(
            transient=True, disable=as_json or not sys.stdout.isatty(), console=make_console()
        ) as bar,
    ):
        settings = load(data_dir=data_dir)
        run_ids = list(runs or ())
        if not uploads.have_folders(settings, run_ids):  # else nobody needs to be asked
            with asking(None, data_dir) as ask:
                run_ids = [ask.run_id(run) for run in run_ids]
        folders = uploads.chosen_folders(settings, run_ids)
        destinations = uploads.Destinations(settings, os.environ, base_url, entity)
        task = bar.add_task("", total=None)

        def tell(folder: Path, arrived: int, row_count: int) -> None:
            name = f"{escape(folder.name)} ({len(outcomes) + 1} of {len(folders)})"
            bar.update(task, description=name, completed=arrived, total=row_count or None)

        for outcome in uploads.upload(folders, destinations, settings.store_url, tell):
            outcomes.append(outcome)
            if not as_json and (runs or outcome.state is not SyncState.PRESENT):
                bar.console.print(user_text(outcome.sentence), soft_wrap=True)
    if as_json:
        print(json.dumps(uploads.as_json(folders, outcomes), indent=2, ensure_ascii=False))
    else:
        print(uploads.summary(folders, outcomes))
    if not uploads.is_all_there(folders, outcomes):
        raise typer.Exit(1)


@app.command()
def demo(
    online: Annotated[
        bool, typer.Option("--online", help="At the end, `wandb sync` the three runs.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Fine-tune three LoRA variants at once, logged by one sidecar, and compare them."""
    from pillion_sidecar.demo import run_demo  # noqa: PLC0415 - only this command needs it

    with refusals_told():
        settings = load(data_dir=data_dir, wandb_mode=WandbMode.OFFLINE)
        raise typer.Exit(run_demo(settings, make_console(), sync=online))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def train(context: typer.Context) -> None:
    """Fine-tune with PEFT adapters: LoRA, DoRA, IA3. `pillion train --help` lists the options."""
    # In this process's place, so that Ctrl-C and the exit code are the trainer's own.
    os.execv(sys.executable, [sys.executable, "-m", "pillion_trainer", *context.args])


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    print(json.dumps({"version": __version__}) if as_json else __version__)


def _version_told(is_asked: bool) -> None:
    if is_asked:
        version()
        raise typer.Exit


@app.callback()
def _before_the_command(
    _is_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version_told, is_eager=True),
    ] = False,
) -> None: ...
