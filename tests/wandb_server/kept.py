"""What the server keeps of what it got. The modules that answer fill it."""

import json
from dataclasses import dataclass, field
from typing import Any


class RefusedError(Exception):
    """A request is refused with an HTTP status, as W&B does it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Account:
    """Whose key it is, and where it may write: its own entity and its teams."""

    user: str
    teams: tuple[str, ...] = ()

    def may_write(self, entity: str) -> bool:
        """Tell whether runs may be made there."""
        return entity in (self.user, *self.teams)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert; one that is sent twice is kept twice."""

    run_id: str
    title: str
    text: str
    level: str


@dataclass
class ServerRun:
    """One run. Lines are kept by number, so that a post that is sent again changes nothing."""

    entity: str
    project: str
    run_id: str
    name: str = ""
    state: str = "running"
    """`running`, `finished` or `failed`."""
    exit_code: int | None = None
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    host: str = ""
    program: str = ""
    commit: str = ""
    repo: str = ""
    sent_config: dict[str, Any] = field(default_factory=dict)
    """As it came: each value wrapped, and W&B's own entry `_wandb`."""
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    """By the file stream's file and the line's number."""
    rewritten: list[int] = field(default_factory=list)
    """Numbers of history lines that came again with another content: there should be none."""
    files: dict[str, bytes] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    """With which it was written."""
    is_stop_pressed: bool = False

    @property
    def id(self) -> str:
        """The server's own id of it."""
        return f"{self.entity}:{self.project}:{self.run_id}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, as W&B would read it."""
        return [json.loads(line) for line in self.text("wandb-history.jsonl")]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The system metrics."""
        return [json.loads(line) for line in self.text("wandb-events.jsonl")]

    @property
    def console(self) -> list[str]:
        """The console's lines, each with the time that the SDK puts before it."""
        return self.text("output.log")

    @property
    def config(self) -> dict[str, Any]:
        """What the user gave."""
        return {k: v["value"] for k, v in self.sent_config.items() if k != "_wandb"}

    def text(self, file: str) -> list[str]:
        """Return a file's lines in order."""
        return [line for _, line in sorted(self.lines.get(file, {}).items())]

    def line_count(self, file: str) -> int:
        """Return the number of the line that is to come next."""
        return max(self.lines.get(file, {}), default=-1) + 1


@dataclass
class ServerArtifact:
    """One version of an artifact."""

    id: str
    entity: str
    project: str
    name: str
    type: str
    digest: str
    run_id: str
    client_id: str
    metadata: dict[str, Any]
    description: str
    aliases: set[str]
    version: int | None = None
    """None until it is committed."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """The entries by path, as the SDK's manifest has them."""
    used_by: list[str] = field(default_factory=list)
    """Runs, by id."""
    links: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """`ENTITY/PROJECT/COLLECTION` and aliases, once per link."""

    @property
    def digests(self) -> dict[str, str]:
        """What it has the bytes of, by path."""
        return {p: entry["digest"] for p, entry in self.manifest.items() if "ref" not in entry}

    @property
    def references(self) -> dict[str, str]:
        """What it only points at, by path."""
        return {path: entry["ref"] for path, entry in self.manifest.items() if "ref" in entry}
