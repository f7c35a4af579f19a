"""One writer's artifacts: staged in the caller's thread, sent by a thread of their own."""

import os
from collections.abc import Iterable
from typing import Any

from pillion._artifact import Artifact, artifact_of, checked_aliases
from pillion._logged import LoggedArtifact
from pillion._messages import Start
from pillion._notice import warn
from pillion._uploads import Uploads
from pillion.spool import spool_directory
from pillion.staging import Staged

_IS_LINKED = {"copy": False, "mutable": False, "link": True, "immutable": True}
_IS_LINKED |= dict.fromkeys(("live", "now", "end"), False)
"""What may be said of files, with W&B's words for the same, or for when they are read: at once."""


class Artifacts:
    """See `Run.log_artifact`. Any thread may call it."""

    def __init__(self, start: Start, address: str, token: str, *, is_child: bool) -> None:
        self._start = start
        self._uploads = None if is_child else Uploads(address, token)
        self._kept: list[Staged] = []
        """Of a forked child: the sidecar's, once the run has ended here, or the process."""
        self.is_closed = False
        """Whether the run has ended."""

    def log(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None,
        type: str | None,
        aliases: str | Iterable[str] | None,
        policy: str,
    ) -> LoggedArtifact:
        """Stage an artifact, and have it sent. Raises ValueError for what is malformed."""
        if policy not in _IS_LINKED:
            raise ValueError(f"policy is {policy!r}; take 'copy' or 'link'.")
        artifact = artifact_or_path
        if not isinstance(artifact, Artifact):
            artifact = artifact_of(artifact, name, type, self._start.run_id)
        manifest, sources = artifact.to_manifest(self._start, checked_aliases(aliases))
        logged = LoggedArtifact(artifact.name, artifact.type)
        if self.is_closed:
            return failed(logged, "the run has ended")
        try:
            staged = Staged.create(spool_directory(), manifest, sources, link=_IS_LINKED[policy])
        except Exception as error:  # noqa: BLE001 - the disk's faults are not the training's
            return failed(logged, str(error))
        logged.size_bytes = sum(
            file.size_bytes for file in manifest.files if file.place is not None
        )
        if self._uploads is None:
            self._kept.append(staged)
            logged.end()
        else:
            self._uploads.put(staged, logged)
        return logged

    def wait(self, timeout_s: float) -> bool:
        """Wait until all is sent; tell whether it is."""
        return self._uploads is None or self._uploads.idle.wait(max(0.0, timeout_s))

    def close(self) -> int:
        """Leave what was not sent to the sidecar; return how much that is."""
        self.is_closed = True
        for staged in self._kept:
            staged.close()
        return self._uploads.leave() if self._uploads is not None else 0


def failed(logged: LoggedArtifact, error: str) -> LoggedArtifact:
    """Tell that an artifact will not be logged, and why."""
    warn("pillion: the artifact %s is not logged: %s.", logged.name, error.rstrip("."))
    logged.end(error=error)
    return logged


def checkpoint_of(
    path: str | os.PathLike[str],
    name: str,
    step: int | None,
    metrics: dict[str, Any] | None,
) -> tuple[Artifact, list[str]]:
    """Make an artifact of a checkpoint; return it and the alias that names its step."""
    checkpoint = artifact_of(path, name, "checkpoint", "")
    if metrics:
        checkpoint.metadata["metrics"] = dict(metrics)
    if step is None:
        return checkpoint, []
    checkpoint.metadata["step"] = step
    return checkpoint, [f"step-{step}"]
