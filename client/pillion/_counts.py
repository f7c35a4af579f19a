"""Where a writer's rows are, in figures."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Counts:
    """A writer's rows, exactly: logged = queued + unacked + spooled + acked + refused + dropped.

    Bytes are those of encoded batches; what is queued has none yet.
    """

    queued: int = 0
    """In memory, not encoded."""
    unacked: int = 0
    """In memory, encoded; perhaps on their way."""
    acked: int = 0
    """On the sidecar's disk."""
    refused: int = 0
    """Not kept: there was no room, or they held nothing that can be."""
    spooled: int = 0
    """In the spool file, and not acked."""
    dropped: int = 0
    """Lost after they were kept: the sidecar never takes them, or the spool cannot be read."""
    refused_values: int = 0
    """Values that were left out of rows."""
    unacked_bytes: int = 0
    spooled_bytes: int = 0
    acked_bytes: int = 0


@dataclass(slots=True)
class Refused:
    """What `log()` itself could not take: it only grows. `+=` is atomic enough under the GIL."""

    rows: int = 0
    values: int = 0
    told: set[str] = field(default_factory=set)
    """The names of values that the user was told of, a few."""
    is_file_told: bool = False
    """Whether the user was told why a file that was queued was left out."""
