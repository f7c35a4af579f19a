"""How many alerts of one run are passed on: to the sidecar's log, W&B and people. All are stored.

By the times that the caller names. Those of the alerts let the same ones pass however often a run
is handed over, but are the trainer's word; those of their arrival let no flood pass.
"""

from collections import OrderedDict, deque

from pillion_sidecar.records import RunId

PER_MINUTE_MAX = 10
RUNS_MAX = 1_000
"""So many runs are remembered; then the one that was quiet for longest is forgotten."""

_MINUTE_NS = 60 * 10**9


class AlertGate:
    """Lets some alerts pass. One thread."""

    def __init__(self) -> None:
        self._passed: OrderedDict[RunId, deque[int]] = OrderedDict()

    def admit(self, run_id: RunId, time_ns: int) -> bool:
        """Tell whether an alert of this time is passed on."""
        passed = self._passed.setdefault(run_id, deque(maxlen=PER_MINUTE_MAX))
        self._passed.move_to_end(run_id)
        if len(self._passed) > RUNS_MAX:
            self._passed.popitem(last=False)
        is_full = len(passed) == PER_MINUTE_MAX
        if is_full and abs(time_ns - passed[0]) < _MINUTE_NS:
            return False
        passed.append(time_ns)
        return True
