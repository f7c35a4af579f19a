"""Every error of the sidecar, told apart by whose fault it is.

Each says what is wrong, where, and what to do next. `service.py` holds the one table that maps them
to gRPC codes.
"""

from dataclasses import dataclass, field


@dataclass
class PillionError(Exception):
    """What all have in common.

    `reason` is the machine's word for it (`RUN_UNKNOWN`), `facts` what a program may need to go on
    (`{"expected_sequence": "7"}`); both travel as `google.rpc.ErrorInfo`.
    """

    message: str
    reason: str = "INVALID"
    facts: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


class SettingsError(PillionError):
    """The operator's: a setting, a path or a right is wrong. Mend it and start again."""


class PeerError(PillionError):
    """The caller's: the request can never be taken as it is."""


class StateError(PillionError):
    """The caller's, for now: the request does not fit the state of the run or the writer."""


class LimitError(PillionError):
    """A bound is reached. Less, later, or a larger bound."""


class DiskError(PillionError):
    """The disk failed or its content is damaged."""


class SinkError(PillionError):
    """A sink could not take something now; it is tried again."""


def unknown_run(run_id: str) -> StateError:
    """Return what is raised where a run is asked for that there is none of."""
    return StateError(
        f"There is no run {run_id}. `pillion runs` lists those there are.", "RUN_UNKNOWN"
    )
