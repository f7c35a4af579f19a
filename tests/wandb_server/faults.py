"""What the server does wrong, and to whom. A test sets faults, the server asks for each request."""

import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Self

WAIT_S = 120.0
"""How long a test waits for a fault to be met."""


class Kind(Enum):
    """What a fault does."""

    ANSWER = auto()
    """A status other than 200."""
    HANG = auto()
    """No answer before it is released; then a right one."""
    DROP = auto()
    """The connection ends without an answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a request when faults are looked up."""

    operation: str
    """A GraphQL operation, `file_stream`, `upload` or `download`."""
    run_id: str
    """Empty: it is about no run."""
    key: str
    body: bytes


@dataclass(eq=False)
class Fault:
    """One fault; `WandbServer.fail` makes it, and says what the fields mean. A context: cleared."""

    kind: Kind
    status: int
    retry_after_s: float | None
    operation: str
    runs: Collection[str] | None
    containing: bytes
    times: int | None
    is_done_first: bool
    hits: int = 0
    """How many requests have met it."""
    released: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _is_cleared: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Let requests through again; those that hang are answered."""
        self._is_cleared = True
        self.released.set()

    def wait(self, hits: int = 1) -> None:
        """Wait until so many requests have met it."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.hits >= hits, WAIT_S):
                raise TimeoutError(f"{self.hits} of {hits} requests met the fault")

    def takes(self, request: Request) -> bool:
        """Tell whether the request meets it, and count that."""
        with self._changed:
            if (
                self._is_cleared
                or (self.times is not None and self.hits >= self.times)
                or self.operation not in ("", request.operation)
                or (self.runs is not None and request.run_id not in self.runs)
                # A file stream's lines are JSON within JSON.
                or self.containing not in request.body.replace(b'\\"', b'"')
            ):
                return False
            self.hits += 1
            self._changed.notify_all()
            return True


class Faults:
    """All that are set; the first that takes a request counts."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Set one."""
        self._faults.append(fault)
        return fault

    def of(self, request: Request) -> Fault | None:
        """Return the one that the request meets."""
        return next((fault for fault in tuple(self._faults) if fault.takes(request)), None)

    def clear(self) -> None:
        """Clear all."""
        for fault in self._faults:
            fault.clear()
        self._faults.clear()
