"""`log()` raises nothing, whatever is logged and wherever: fuzzed, and in real processes.

What passes is what ends a program, a BaseException that is no Exception: whether a user pressed
Ctrl-C, a signal's handler called `sys.exit`, or a logged object raised the same, nobody can tell.
"""

import collections
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillion._batch import WaitingRow
from pillion._encoding import Encoder
from pillion._link import Link
from pillion._messages import Start
from pillion._run import Run
from pillion_sidecar.validation import check_log

EXAMPLES = 100


def make_run() -> Run:
    """Make a run whose threads were not started: what it logs stays in its queue."""
    start = Start("run", "w", "allow", {"name": "a name", "project": "demo"}, {})
    return Run(Link("unix:/nowhere/sidecar.sock", "", start), start, is_quiet=True)


def hostile(name: str, error: type[Exception]) -> Any:
    """Make an object one of whose methods, or all of them, raise."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error(name)

    methods: dict[str, Any] = {
        "item": lambda _: 1.0,
        "keys": lambda _: ["a"],
        "items": lambda _: [("a", 1.0)],
        "__getitem__": lambda *_: 1.0,
        "__iter__": lambda _: iter(["a"]),
        "__len__": lambda _: 1,
        "__float__": lambda _: 1.0,
        "__index__": lambda _: 1,
        "__bool__": lambda _: True,
        "__hash__": lambda _: 1,
        "__str__": lambda _: "x",
        "__eq__": lambda *_: False,
        "__lt__": lambda *_: False,
        "device": None,
    }
    if name == "all":
        methods = dict.fromkeys(methods, fail) | {"__getattr__": fail}
    elif name in {"device", "__class__"}:
        methods[name] = property(fail)
    else:
        methods[name] = fail
    return type("Hostile", (), methods)()


METHODS = [
    *("item", "keys", "items", "__getitem__", "__iter__", "__len__", "__float__", "__index__"),
    *("__bool__", "__hash__", "__str__", "__eq__", "__lt__", "device", "__class__", "all"),
]
ERRORS = [
    ValueError,
    KeyError,
    RecursionError,
    MemoryError,
    StopIteration,
    OSError,
    NotImplementedError,
]


class HostileMapping(Mapping[Any, Any]):
    """A mapping that raises at a chosen point."""

    def __init__(self, fails: str) -> None:
        self._fails = fails

    def __len__(self) -> int:
        """Say how many, or raise."""
        if self._fails == "len":
            raise ValueError(self._fails)
        return -1 if self._fails == "negative" else 10**9 if self._fails == "huge" else 1

    def __iter__(self) -> Iterator[Any]:
        """Yield names, perhaps for ever."""
        if self._fails == "iter":
            raise ValueError(self._fails)
        return iter(["a"])

    def __getitem__(self, key: Any) -> Any:
        """Return a value, or raise."""
        if self._fails == "get":
            raise ValueError(self._fails)
        return 1.0


def deep() -> dict[str, Any]:
    """Make a mapping nested far deeper than anybody may nest."""
    values: dict[str, Any] = {"leaf": 1.0}
    for _ in range(10_000):
        values = {"a": values}
    return values


ODD = [
    *(None, "text", b"bytes", "\udcff", "\0", "x" * 100_000, 10**5000, 1j, float("nan"), 2**63),
    *([1.0], (1,), {1}, frozenset(), range(3), iter([]), itertools.count, deep(), object(), type),
    *(
        np.float16(1),
        np.uint64(2**64 - 1),
        np.array([]),
        np.array([None]),
        np.ma.masked,
        np.str_("1"),
    ),
    *(HostileMapping(fails) for fails in ("len", "iter", "get", "negative", "huge", "")),
    *(
        collections.defaultdict(lambda: 1.0),
        collections.ChainMap({}),
        sys,
        Ellipsis,
        NotImplemented,
    ),
]

hostiles = st.builds(hostile, st.sampled_from(METHODS), st.sampled_from(ERRORS))
values = st.recursive(
    st.one_of(
        st.integers(0, len(ODD) - 1).map(lambda index: ODD[index]),
        hostiles,
        st.floats(),
        st.integers(),
        st.booleans(),
        st.text(max_size=5),
    ),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children)
    ),
    max_leaves=5,
)
keys = st.one_of(st.text(max_size=5), st.integers(), st.none(), st.binary(max_size=3), st.floats())
rows = st.one_of(st.dictionaries(keys, values, max_size=5), values)
steps = st.one_of(st.none(), st.integers(), values)
commits = st.one_of(
    st.none(), st.booleans(), st.integers(0, len(ODD) - 1).map(lambda index: ODD[index])
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=st.lists(st.tuples(rows, steps, commits), max_size=10))
def test_whatever_is_logged_is_kept_or_counted(calls: list[tuple[Any, Any, Any]]) -> None:
    """It never raises, never queues what the sender cannot encode, and loses nothing in silence."""
    logging.disable(logging.CRITICAL)
    run = make_run()
    try:
        for data, step, commit in calls:
            run.log({"good": 1.0})
            run.log(data, step, commit)
        run.log({"last": 1.0})
        committed = 1 + len(calls) + sum(commit is not False for _, _, commit in calls)
        counts = run.counts
        # A call without commit that could not be read is a refused one too.
        assert committed <= counts.queued + counts.refused <= 1 + 2 * len(calls)
        assert not any(type(item) is WaitingRow for item in run._queue)
        encoder = Encoder("run", "w")
        kept = sum(check_log(batch.message).row_count for batch in encoder.encode([*run._queue]))
        assert kept + encoder.refused_row_count == counts.queued
        assert kept >= 1 + len(calls)
    finally:
        run.abandon()
        logging.disable(logging.NOTSET)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=rows, step=steps)
def test_run_that_has_ended_only_counts(data: Any, step: Any) -> None:
    """Whatever comes after the end."""
    logging.disable(logging.CRITICAL)
    run = make_run()
    run.abandon()
    try:
        run.log(data, step)
        assert (run.counts.queued, run.counts.refused) == (0, 1)
    finally:
        logging.disable(logging.NOTSET)


def test_end_of_the_stack_is_no_reason_to_raise() -> None:
    """Deep in a recursion there may be no room for `log` itself, nor for its excuse."""
    run = make_run()
    raised: list[BaseException] = []

    def dive(depth: int) -> None:
        try:
            run.log({"a": 1.0, "b": np.float32(1), "c": {"d": object()}})
        except RecursionError as error:  # only where not even the call was possible
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raised.append(error)
        if depth:
            dive(depth - 1)

    with pytest.raises(RecursionError):
        dive(10**6)
    run.abandon()
    assert raised == []


class Ending:
    """Ends the program when it is read."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def item(self) -> float:
        """Raise."""
        raise self._error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr)
def test_what_ends_the_program_passes(error: BaseException) -> None:
    """It may be Ctrl-C, or a signal's handler that exits; the run goes on if the program does."""
    run = make_run()
    with pytest.raises(type(error)):
        run.log({"a": Ending(error)})
    run.log({"a": 1.0})
    assert (run.counts.queued, run.counts.refused) == (1, 0)
    run.abandon()


TRAINER = """
import sys, pillion
run = pillion.init(id="run", quiet=True)
for step in range(1000):
    assert pillion.log({"loss": float(step), "odd": object(), 3: [1]}, step=step) is None
    run.config[str(step)] = object(); run.summary["x"] = step
sys.exit(9)
"""


PLACES = {
    "no sidecar": {},
    "no spool": {"PILLION_SPOOL_DIR": "/dev/full/x"},
    "read-only": {"PILLION_SPOOL_DIR": "/proc/x"},
    "an odd setting": {"PILLION_SPOOL_BYTES_MAX": "many"},
    "a full spool": {"PILLION_SPOOL_BYTES_MAX": "100"},
    "tcp": {"PILLION_ADDRESS": "127.0.0.1:1"},
    "no home": {"PILLION_SPOOL_DIR": "", "HOME": "", "XDG_STATE_HOME": "/dev/null"},
}


def test_training_goes_on_wherever_it_runs(run_python: Callable[..., Any], tmp_path: Path) -> None:
    """No sidecar, no disk, no rights, odd settings: the program ends with its own exit code."""
    defaults = {"PILLION_ADDRESS": f"unix:{tmp_path}/s.sock"}
    # At once, since each waits for a sidecar when it begins and when it ends.
    trainers = {
        place: run_python(TRAINER, **defaults | variables) for place, variables in PLACES.items()
    }
    for place, trainer in trainers.items():
        _, errors = trainer.communicate(timeout=300)
        assert trainer.returncode == 9, (place, errors)
        assert "Traceback" not in errors, place


def test_directory_that_others_own_never_reaches_the_trainer(
    run_python: Callable[..., Any], tmp_path: Path
) -> None:
    """Missing permissions, as a user who is not root has them: root without its privilege."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    os.chown(closed, 65534, 65534)
    trainer = run_python(
        "import os, sys; os.execvp('setpriv', ['setpriv', '--bounding-set=-dac_override,"
        "-dac_read_search', sys.executable, '-c', sys.argv[1]])",
        TRAINER,
        PILLION_ADDRESS=f"unix:{tmp_path}/s.sock",
        PILLION_SPOOL_DIR=str(closed / "spool"),
    )
    _, errors = trainer.communicate(timeout=300)
    assert trainer.returncode == 9, errors
    assert errors.count("cannot be spooled") == 1
    assert "Traceback" not in errors
