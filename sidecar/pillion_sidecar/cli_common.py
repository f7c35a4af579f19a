"""What the commands share: common options, asking a sidecar, and printing."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer
from rich.console import Console

from pillion.address import Address, AddressError
from pillion.v1 import record_pb2, run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.errors import PillionError, SettingsError
from pillion_sidecar.settings import load

PIPED_WIDTH = 1000
"""Columns of a table that no terminal shows: enough to cut nothing."""
PIPED_HEIGHT = 1000

_FILLING = re.compile(r" +(?=\n)")

DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept. [PILLION_DATA_DIR]")]
Listen = Annotated[
    str | None,
    typer.Option("--address", help="The sidecar: unix:PATH or HOST:PORT. [PILLION_ADDRESS]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

RUN_HELP = "A run is named by its id, its name, or the beginning of its id."
COMPLETIONS_MAX = 100


def complete_run(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield what may stand for a run that begins so, of the latest runs; nothing if none answer."""
    try:
        listen = asked_address(context.params.get("address"))
        with Asker(load(listen=listen, data_dir=context.params.get("data_dir"))) as ask:
            runs = ask.runs(pb2.ListRunsRequest(page_size=COMPLETIONS_MAX)).runs
    except PillionError:
        return
    names = [run.name for run in runs]
    for run in runs:
        if run.run_id.startswith(incomplete):
            yield run.run_id, run.name
        elif run.name.startswith(incomplete) and names.count(run.name) == 1:
            yield run.name, run.run_id


Run = Annotated[str, typer.Argument(help=RUN_HELP, autocompletion=complete_run)]


@contextmanager
def asking(address: str | None, data_dir: Path | None) -> Iterator[Asker]:
    """Ask a sidecar, or what is stored if none answers; say so if that is not as was asked."""
    with (
        refusals_told(),
        Asker(load(listen=asked_address(address), data_dir=data_dir)) as ask,
    ):
        yield ask
        if address and not ask.is_sidecar:
            print(f"No sidecar answers at {ask.address}: this is from the store.", file=sys.stderr)


def asked_address(flag: str | None) -> str | None:
    """Return where to ask, as a flag or the environment says; None: as the settings say.

    Raises:
        SettingsError: No sidecar can be asked there.
    """
    text = flag or os.environ.get("PILLION_ADDRESS")
    if text:
        name = "--address" if flag else "PILLION_ADDRESS"
        try:
            address = Address.parse(text)
        except AddressError as error:
            raise SettingsError(f"{name}: {error}") from error
        if not address.is_loopback:
            raise SettingsError(
                f"{name}: {text} is no address of this machine; a sidecar is asked there only, at "
                "unix:PATH or 127.0.0.1:PORT."
            )
    return text


def tell_unless_serving(ask: Asker, runs: Iterable[run_pb2.Run]) -> None:
    """Say that nothing new will come, where some of these runs go on and no sidecar answers."""
    if not ask.is_sidecar and any(run.state == record_pb2.RUN_STATE_RUNNING for run in runs):
        print(
            f"No sidecar answers at {ask.address}: this is what is stored, and runs that are "
            "RUNNING in it may have ended. `pillion serve` goes on with them.",
            file=sys.stderr,
        )


@contextmanager
def refusals_told() -> Iterator[None]:
    """Turn an error of ours into its sentence and exit code 1."""
    try:
        yield
    except PillionError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


def show(view: Any, shape: dict[str, Any], *, as_json: bool) -> None:
    """Print for people, or as JSON."""
    if as_json:
        print(json.dumps(shape, indent=2, ensure_ascii=False))
    else:
        make_console().print(view)


def make_console() -> Console:
    """Make what prints tables: as wide as the terminal, or as wide as need be and no wider."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(
        file=cast("IO[str]", _Stripped()),
        width=PIPED_WIDTH,
        height=PIPED_HEIGHT,  # without it 80 columns are taken, where TERM is `dumb`
        highlight=False,
    )


class _Stripped:
    """Standard output without the blanks that fill up lines."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        """Write a text of whole lines."""
        return sys.stdout.write(_FILLING.sub("", text))
