"""Links of artifacts to W&B's registry that wait until their offline run has been uploaded.

Offline the SDK cannot link. So what is to be linked lies in the run's folder, in `links.json`, and
is done by whoever uploads that; the file goes when all is done. An artifact is found at the server
by one of its names, and is the right one if it has the digest that was written.

Imports wandb when links are made, in the process that uploads; never in the sidecar's.
"""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "links.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """An artifact that is to be linked."""

    name: str
    versions: list[str]
    """Names that it may have at the server: its version here, and its aliases."""
    digest: str
    """W&B's own."""
    target: str


def leave(folder: Path, links: list[Link]) -> None:
    """Leave what is to be linked in a run's folder."""
    if links:
        (folder / FILE).write_text(json.dumps([asdict(link) for link in links]), encoding="utf-8")


def waiting(folder: Path) -> list[Link]:
    """Return what is to be linked."""
    try:
        return [Link(**each) for each in json.loads((folder / FILE).read_bytes())]
    except FileNotFoundError:
        return []


def make(folder: Path, base_url: str, key: str, place: str) -> str:
    """Link what waits; return why something could not be, for people, or nothing.

    Args:
        folder: The run's folder.
        base_url: The server.
        key: Whose run it is.
        place: `ENTITY/PROJECT` of the run.
    """
    links = waiting(folder)
    if not links:
        return ""
    left, problem = [], ""
    api = _api(base_url, key, place.partition("/")[0])
    for link in links:
        try:
            _found(api, place, link).link(link.target)
        except Exception as error:  # noqa: BLE001 - the SDK lets through whatever happens to it
            left.append(link)
            problem = f"The artifact {link.name} is not linked to {link.target} yet: {error}."
    if left:
        leave(folder, left)
        return f"{problem} `pillion sync` tries again."
    (folder / FILE).unlink()
    return ""


def _api(base_url: str, key: str, entity: str) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # noqa: PLC0415 - in the process that uploads only

    return wandb.Api(overrides={"base_url": base_url, "entity": entity}, api_key=key)


def _found(api: Any, place: str, link: Link) -> Any:
    """Return the version at the server that was written."""
    for version in link.versions:
        try:
            artifact = api.artifact(f"{place}/{link.name}:{version}")
        except Exception as error:  # noqa: BLE001 - as above
            log.info("no such artifact at W&B", extra={"artifact": link.name, "error": error})
            continue
        if artifact.digest == link.digest:
            return artifact
    raise LookupError("it is not at the server under any of its names")
