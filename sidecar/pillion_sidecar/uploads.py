"""What `pillion sync` uploads: which runs, with whose key, and how it is told.

The upload of one run is done by `sync.py`.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pillion_sidecar.configuration import Configuration
from pillion_sidecar.errors import PillionError, SettingsError, StateError
from pillion_sidecar.records import RunId
from pillion_sidecar.settings import Settings
from pillion_sidecar.sinks.wandb_folders import offline_folders, run_id_of
from pillion_sidecar.store import Store
from pillion_sidecar.sync import Outcome, SyncState, sync_folder
from pillion_sidecar.wandb_keys import find_key, netrc_path_of

_REASONS_FOR_ALL = ("WANDB_KEY_MISSING", "WANDB_KEY_REFUSED", "WANDB_AWAY")
"""What keeps one run for one of these reasons keeps all that have the same destination."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where runs go, and with whose key; empty: there is none."""

    base_url: str
    key: str
    entity: str


class Destinations:
    """Knows where each run goes: as asked for, else as the sidecar is set up."""

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], base_url: str = "", entity: str = ""
    ) -> None:
        """Look up keys. Raises SettingsError if they cannot be read, or wandb is not installed."""
        if importlib.util.find_spec("wandb") is None:
            raise SettingsError(
                "wandb is not installed here. Run `pip install -e '.[sidecar]'` in Pillion's "
                "checkout."
            )
        self._configuration = Configuration(settings, dict(environ))
        choices = self._configuration.choices
        self._entity = entity or environ.get("WANDB_ENTITY") or choices.entity
        self._given: Destination | None = None
        if base_url:
            base_url = base_url.rstrip("/")
            key = find_key(base_url, environ, netrc_path_of(environ)) or ""
            self._given = Destination(base_url, key, self._entity)

    def of(self, folder: Path) -> Destination:
        """Return where a run goes: by its own credential, else by the one that is in use."""
        if self._given is not None:
            return self._given
        own = folder.parent.parent.name.partition("wandb-")[2]
        configuration, in_use = self._configuration, self._configuration.choices.credential
        account = configuration.account(own) or configuration.account(in_use)
        if account is None:
            return Destination(configuration.base_url(own), "", self._entity)
        return Destination(account.base_url, account.key, self._entity)


def have_folders(settings: Settings, run_ids: Sequence[str]) -> bool:
    """Tell whether these are ids of runs, each of which has a folder."""
    return _folders(settings).keys() >= set(run_ids)


def chosen_folders(settings: Settings, run_ids: Sequence[str]) -> list[Path]:
    """Return the folders of these runs, or of all. Raises StateError for one that has none."""
    folders = _folders(settings)
    for run_id in run_ids:
        if run_id not in folders:
            raise StateError(
                f"There are no files of run {run_id} in {settings.wandb_dir / 'wandb'}: it has not "
                "ended, was sent online, or is unknown. `pillion runs` lists the runs there are.",
                "RUN_UNKNOWN",
            )
    return [folders[RunId(run_id)] for run_id in run_ids] or list(folders.values())


def upload(
    folders: Sequence[Path],
    destinations: Destinations,
    store_url: str,
    on_progress: Callable[[Path, int, int], None],
) -> Iterator[Outcome]:
    """Upload folders one after the other; yield what became of each that was tried.

    Args:
        folders: What to upload.
        destinations: Where to.
        store_url: The store, which knows what else W&B is to be told of a run; it may be missing.
        on_progress: Called with the folder, how many of its rows have arrived, and how many it has.
    """
    closed: set[Destination] = set()
    for folder in folders:
        to, run_id = destinations.of(folder), run_id_of(folder)
        if to in closed:
            continue
        if to.key:
            program = _program_of(store_url, run_id)
            show = partial(on_progress, folder)
            outcome = sync_folder(folder, to.base_url, to.key, to.entity, show, program=program)
        else:
            sentence = (
                f"There is no key for W&B at {to.base_url}. Run `wandb login` or set "
                "WANDB_API_KEY, then sync again."
            )
            outcome = Outcome(run_id, SyncState.FAILED, sentence, "WANDB_KEY_MISSING")
        yield outcome
        if outcome.reason in _REASONS_FOR_ALL:
            closed.add(to)


def is_all_there(folders: Sequence[Path], outcomes: Sequence[Outcome]) -> bool:
    """Tell whether every run is at W&B."""
    return len(outcomes) == len(folders) and all(
        outcome.state is not SyncState.FAILED for outcome in outcomes
    )


def summary(folders: Sequence[Path], outcomes: Sequence[Outcome]) -> str:
    """Tell in one sentence what is at W&B."""
    if not folders:
        return "There are no offline runs that have ended."
    there_count = sum(outcome.state is not SyncState.FAILED for outcome in outcomes)
    earlier_count = sum(outcome.state is SyncState.PRESENT for outcome in outcomes)
    earlier = f", {earlier_count:,} of them since before" if earlier_count else ""
    return f"{there_count:,} of {len(folders):,} runs are at W&B{earlier}."


def as_json(folders: Sequence[Path], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the shape that `docs/cli.md` describes."""
    return {
        "sentence": summary(folders, outcomes),
        "run_count": len(folders),
        "runs": [asdict(outcome) for outcome in outcomes],
    }


def _folders(settings: Settings) -> dict[RunId, Path]:
    folders: dict[RunId, Path] = {}
    for directory in settings.wandb_dirs:
        folders |= offline_folders(directory)
    return folders


def _program_of(store_url: str, run_id: RunId) -> str:
    try:
        with closing(Store(store_url)) as store:
            run = store.run(run_id)
    except PillionError:
        return ""
    return run.environment.program if run else ""
