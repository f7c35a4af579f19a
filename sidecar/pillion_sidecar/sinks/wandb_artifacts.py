"""Artifacts for W&B's SDK: made of blobs where they lie, and given to a run one after the other.

The SDK digests every file, and online it waits for the network, up to minutes. So that is done by
an executor; a run's rows go on meanwhile, and its end waits. An artifact that W&B has already is
found by its digest, so one that is handed over again arrives once.

Only what the SDK itself refuses is left out at once. Whatever goes wrong on the way is tried again:
the SDK's word for that is ValueError too, be it a refused key or the page of some proxy.

Imports no wandb: it is handed the module.
"""

import logging
import random
import re
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from pillion_sidecar.artifact_records import Artifact, ArtifactUse
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.sinks.wandb_care import ROW_STATUSES
from pillion_sidecar.sinks.wandb_links import Link

COMMIT_TIMEOUT_S = 600.0
"""How long one artifact's files may take to arrive, before it is tried again."""
RETRY_MIN_S, RETRY_MAX_S, DOUBLINGS_MAX = 1.0, 60.0, 10
REFUSALS_MAX = 3
"""So often a server may dislike what it is sent; then the artifact is left out."""
LINK_TRIES_MAX = 10
"""So often a link is tried, within minutes: the run's end waits for it."""

_STATUS = re.compile(r"(?<![0-9])([45][0-9][0-9])(?![0-9])")

log = logging.getLogger(__name__)


class _UnfitError(Exception):
    """What is no artifact for the SDK, whatever the server would say; see its cause."""


class _UnlinkedError(Exception):
    """The artifact is there, but not linked."""


class WandbArtifacts:
    """Makes the SDK's artifacts. Any thread may call it."""

    def __init__(self, wandb: Any, blobs: Blobs) -> None:
        self._wandb, self._blobs = wandb, blobs

    def make(self, artifact: Artifact) -> Any:
        """Make the SDK's artifact; its files stay where they are. Raises ValueError, OSError."""
        from wandb.sdk.artifacts.artifact_manifest_entry import (  # noqa: PLC0415 - as wandb is
            ArtifactManifestEntry,
        )

        made = self._wandb.Artifact(
            name=artifact.name,
            type=artifact.type,
            description=artifact.description or None,
            metadata=_plain(artifact.metadata),
        )
        for file in artifact.files:
            if file.reference_uri:
                # `add_reference` would load the library of the place, and ask there.
                uri, size = file.reference_uri, file.size_bytes or None
                entry = ArtifactManifestEntry(path=file.name, ref=uri, digest=uri, size=size)
                made.manifest.add_entry(entry)
            else:
                path = str(self._blobs.path(file.sha256))
                made.add_file(path, name=file.name, policy="immutable", skip_cache=True)
        return made


class ArtifactLane:
    """One run's artifacts. For the sink's thread."""

    def __init__(
        self,
        artifacts: WandbArtifacts,
        executor: Executor,
        *,
        is_online: bool,
        on_left_out: Callable[[str, str], None],
    ) -> None:
        """Begin without artifacts.

        Args:
            artifacts: Makes them.
            executor: Does what may wait for the network.
            is_online: Whether it is waited for until the server has them.
            on_left_out: Called with the name of one that W&B never takes, and a sentence on that.
        """
        self._artifacts, self._executor, self._is_online = artifacts, executor, is_online
        self._on_left_out = on_left_out
        self._waiting: deque[Artifact | ArtifactUse] = deque()
        self._task: Future[Any] | None = None
        self._retry_at_s = 0.0
        self._failure_count = self._refusal_count = 0
        self.trouble = ""
        """What keeps an artifact, for people."""
        self.put_count = self.done_count = 0
        """How many were handed over, and how many of them the SDK, or the server, has."""
        self.given: list[tuple[str, str]] = []
        """Name and W&B's digest of those that the SDK has."""
        self.links: list[Link] = []
        """What is to be linked once they are at the server; see `wandb_links.py`."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def put(self, item: Artifact | ArtifactUse) -> None:
        """Take what is to be given to the SDK."""
        self.put_count += 1
        self._waiting.append(item)

    def tick(self, sdk_run: Any) -> None:
        """Go on; raises what the SDK raised if that is no fault of the artifact or the network."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            try:
                given = task.result()
            except _UnfitError as error:
                self._leave_out(error)
            except Exception as error:
                if not self._is_online:
                    raise
                self._fail(error)
            else:
                self._pop(given)
        if self._task is None and self._waiting and time.monotonic() >= self._retry_at_s:
            give = self._give(sdk_run, self._waiting[0])
            self._task = self._executor.submit(give)

    def _give(self, sdk_run: Any, item: Artifact | ArtifactUse) -> Callable[[], Any]:
        """Return what gives one to the SDK, and waits till the server has it."""

        def use() -> None:
            if self._is_online and isinstance(item, ArtifactUse):
                try:
                    sdk_run.use_artifact(item.artifact)
                except Exception as error:  # noqa: BLE001 - it may be one that W&B never had
                    known = {"artifact": item.artifact, "run_id": sdk_run.id, "error": error}
                    log.warning("W&B knows nothing of an artifact that is used", extra=known)

        def give() -> tuple[str, str]:
            assert isinstance(item, Artifact)
            try:
                made = self._artifacts.make(item)
            except (ValueError, OSError) as error:  # a name that it reserves, a blob that is gone
                raise _UnfitError(_text(error)) from error
            try:
                logged = sdk_run.log_artifact(made, aliases=list(item.aliases))
            except ValueError as error:
                if type(error) is ValueError:  # else it is an answer that cannot be read
                    raise _UnfitError(_text(error)) from error
                raise
            if self._is_online:
                logged.wait(COMMIT_TIMEOUT_S)
                for target in item.registry_links:
                    _link(sdk_run, logged, target)
            else:
                names, digest = [item.version_name, *item.aliases], str(made.digest)
                self.links += [
                    Link(item.name, names, digest, target) for target in item.registry_links
                ]
            return item.name, str(made.digest)

        return give if isinstance(item, Artifact) else use

    def _pop(self, given: tuple[str, str] | None) -> None:
        if given is not None:
            self.given.append(given)
        self._waiting.popleft()
        self.done_count += 1
        self._failure_count = self._refusal_count = 0
        self.trouble = ""

    def _fail(self, error: Exception) -> None:
        """Try it again later, for ever, unless the server dislikes just this one."""
        if (tries_max := _tries_max(error)) is not None:
            self._refusal_count += 1
            if self._refusal_count >= tries_max:
                self._leave_out(error)
                return
        pause_s = min(RETRY_MIN_S * 2 ** min(self._failure_count, DOUBLINGS_MAX), RETRY_MAX_S)
        self._failure_count += 1
        self._retry_at_s = time.monotonic() + random.uniform(0, pause_s)  # noqa: S311
        lacks = "link" if isinstance(error, _UnlinkedError) else "have"
        self.trouble = (
            f"W&B does not {lacks} the artifact {_name(self._waiting[0])} yet ({_text(error)}). It "
            "is tried again."
        )

    def _leave_out(self, error: Exception) -> None:
        name = _name(self._waiting[0])
        log.error("artifact not given to W&B", extra={"artifact": name, "error": error})
        does = "links" if isinstance(error, _UnlinkedError) else "takes"
        said = f"W&B never {does} the artifact {name} ({_text(error)}); it is kept here."
        self._on_left_out(name, said)
        self._pop(None)


def _link(sdk_run: Any, logged: Any, target: str) -> None:
    try:
        sdk_run.link_artifact(logged, target)
    except Exception as error:
        raise _UnlinkedError(f"{target}: {_text(error)}") from error


def _tries_max(error: Exception) -> int | None:
    """Tell how often this is tried; None: for ever, since it is no fault of the artifact's."""
    if isinstance(error, _UnlinkedError):
        is_no_place = type(error.__cause__) is ValueError  # the SDK's own word
        return 1 if is_no_place else LINK_TRIES_MAX
    found = _STATUS.search(str(error))
    return REFUSALS_MAX if found and int(found[1]) in ROW_STATUSES else None


def _name(item: Artifact | ArtifactUse) -> str:
    return item.artifact if isinstance(item, ArtifactUse) else f"{item.name}:{item.version_name}"


def _text(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]


def _plain(value: Any) -> Any:
    """Return metadata as JSON has it, which is what the SDK takes."""
    match value:
        case bytes():
            return value.decode(errors="backslashreplace")
        case list() | tuple():
            return [_plain(element) for element in value]
        case dict():
            return {key: _plain(element) for key, element in value.items()}
    return value
