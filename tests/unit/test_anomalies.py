"""Which curves are told of, and which are left alone."""

import itertools
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion_sidecar.anomalies import (
    FINDINGS_MAX,
    METRICS_MAX,
    Anomalies,
    Finding,
    is_of_trainer,
)
from pillion_sidecar.anomaly_rules import LEVELS
from pillion_sidecar.anomaly_thresholds import Threshold
from pillion_sidecar.errors import SettingsError
from pillion_sidecar.metric_kinds import Kind, kind_of
from pillion_sidecar.records import Frame
from pillion_sidecar.settings import AnomalyRule

Curve = npt.NDArray[np.float64]

STEPS = np.arange(600)
NOISE = np.random.default_rng(7).normal(size=600)
LOSS: Curve = (2.0 + 3.0 * np.exp(-STEPS / 200)) * (1 + 0.03 * NOISE)
NORM: Curve = np.exp(0.3 * NOISE)
EVAL: Curve = 2.0 + np.exp(-np.arange(30) / 10) + 0.01 * NOISE[:30]
SPEED: Curve = 100 + 5 * NOISE


TEXTS = np.array(["0"] * 600, dtype=object)


def frame(columns: Mapping[str, Curve], first: int = 0) -> Frame:
    """Make rows, a second apart, whose steps are ten times their ordinals."""
    count = len(next(iter(columns.values())))
    ordinals = np.arange(first, first + count, dtype=np.int64)
    return Frame(first, ordinals * 10, ordinals * 10**9, columns)


def found(key: str, curve: Curve, *rules: str) -> list[Finding]:
    """Return what is found in one curve."""
    return Anomalies([Threshold.parse(rule) for rule in rules]).take(frame({key: curve}))


def after(curve: Curve, place: int, values: Sequence[float] | Curve) -> Curve:
    """Return a curve with these values from a place on."""
    changed = curve.copy()
    changed[place : place + len(values)] = values
    return changed


PLANTED = [
    ("nan", "train/loss", after(LOSS, 300, [np.nan]), 300),
    ("nan", "val_loss", after(EVAL, 20, [-np.inf]), 20),
    ("nan", "grad_norm", after(NORM, 300, [np.inf] * 3), 302),
    ("nan", "train/reward", after(SPEED, 300, [np.nan] * 3), 302),
    ("loss_spike", "train/loss", after(LOSS, 300, LOSS[300:305] * 2), 302),
    ("loss_spike", "loss", after(LOSS, 300, [60.0]), 300),
    ("divergence", "loss", after(LOSS, 300, LOSS[300:] * (1 + STEPS[:300] / 150)), None),
    ("gradient_explosion", "train/grad_norm", after(NORM, 300, NORM[300:305] * 100), 302),
    ("gradient_vanishing", "gradient/norm", after(NORM, 300, NORM[300:] * 1e-6), None),
    ("plateau", "loss", np.concatenate([LOSS, np.full(1200, 2.1)]), None),
    ("overfitting", "eval/loss", after(EVAL, 15, EVAL[15] + 0.05 * np.arange(15)), None),
    ("throughput_drop", "tokens_per_second", after(SPEED, 300, SPEED[300:] / 3), None),
]


@pytest.mark.parametrize(("rule", "key", "curve", "ordinal"), PLANTED)
def test_each_rule_finds_what_is_planted_for_it(
    rule: str, key: str, curve: Curve, ordinal: int | None
) -> None:
    """Once, at its step, with evidence that names the metric."""
    (finding,) = [each for each in found(key, curve) if each.rule == rule]
    assert ordinal is None or finding.ordinal == ordinal
    assert finding.step == finding.ordinal * 10
    assert finding.time_unix_nano == finding.ordinal * 10**9
    assert finding.sentence.startswith(f"{key}: ")
    assert f"at step {finding.step}." in finding.sentence


@pytest.mark.parametrize(
    ("key", "curve"),
    [("train/loss", LOSS), ("grad_norm", NORM), ("eval/loss", EVAL), ("samples_per_second", SPEED)],
)
def test_a_healthy_curve_is_left_alone(key: str, curve: Curve) -> None:
    """Noise is no anomaly."""
    assert found(key, curve) == []


@pytest.mark.parametrize(
    ("key", "curve"),
    [
        ("loss", after(LOSS, 300, [LOSS[300] * 1.5])),  # one odd batch
        ("grad_norm", after(NORM, 300, [np.inf])),  # a step that mixed precision skipped
        ("eval/accuracy", np.full(20, np.nan)),  # never had a value
        ("lr", np.where(STEPS == 300, 1e6, 1e-4)),  # nobody knows what that should be
        ("train/loss_scale", np.where(STEPS < 300, 2.0**16, 2.0**24)),
        ("loss", np.full(600, 2.0)),
    ],
)
def test_what_happens_in_healthy_runs_is_left_alone(key: str, curve: Curve) -> None:
    """Each of these is usual."""
    assert found(key, curve) == []


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 599), unique=True, max_size=20))
def test_findings_do_not_depend_on_how_rows_are_sliced(cuts: list[int]) -> None:
    """A replay hands rows over in other pieces."""
    columns = {
        "loss": after(after(LOSS, 300, LOSS[300:305] * 2), 500, [np.nan] * 4),
        "grad_norm": after(NORM, 200, NORM[200:210] * 500),
        "tps": after(SPEED, 300, SPEED[300:] / 3),
    }
    anomalies = Anomalies()
    edges = [0, *sorted(cuts), 600]
    pieces = [
        each
        for first, last in itertools.pairwise(edges)
        for each in anomalies.take(
            frame({key: curve[first:last] for key, curve in columns.items()}, first)
        )
    ]
    assert pieces == Anomalies().take(frame(columns))
    assert {each.rule for each in pieces} == {
        *("loss_spike", "nan", "gradient_explosion", "throughput_drop")
    }


def test_a_rule_speaks_again_after_a_quiet_time() -> None:
    """And is counted."""
    curve = after(after(LOSS, 200, LOSS[200:205] * 3), 500, LOSS[500:505] * 3)
    assert [(each.rule, each.number) for each in found("loss", curve)] == [
        ("loss_spike", 1),
        ("loss_spike", 2),
    ]


def test_what_is_found_here_is_not_looked_at() -> None:
    """Else findings would feed themselves."""
    assert found("anomaly/loss", after(LOSS, 300, [np.nan]), "* > 0") == []


def test_how_the_system_does_is_looked_at_by_the_users_own_rules_alone() -> None:
    """A rate per second there is no throughput, and a figure that is missing is no NaN."""
    key = "system/disk_read_mib_per_s"
    curve = after(SPEED, 300, SPEED[300:] / 3)
    assert found(key, after(curve, 500, [np.nan] * 20)) == []
    (finding,) = found(key, curve, "system/disk_* < 50 for 3 steps")
    assert (finding.rule, finding.metric, finding.ordinal) == ("threshold", key, 302)


def test_samples_of_the_system_do_not_make_a_stalled_run_look_alive() -> None:
    """They come every 15 seconds, whatever the trainer does."""
    anomalies = Anomalies(stall_min_s=60.0)
    anomalies.take(frame({"loss": LOSS}))
    samples = frame({"system/cpu_percent": SPEED[:100]}, first=600)
    assert not is_of_trainer(samples)
    anomalies.take(samples)
    (finding,) = anomalies.stalled(61.0)
    assert finding.ordinal == 599


def gpus_of(*utilizations: Sequence[float], interval_s: int = 15, first: int = 0) -> Frame:
    """Make samples of GPUs, one sequence per GPU."""
    count = len(utilizations[0])
    ordinals = np.arange(first, first + count, dtype=np.int64)
    columns = {
        f"system/gpu/{index}/utilization_percent": np.array(values, np.float64)
        for index, values in enumerate(utilizations)
    }
    return Frame(first, np.full(count, 7), ordinals * interval_s * 10**9, columns)


def test_gpus_that_are_all_idle_for_ten_minutes_are_told_once() -> None:
    """From the start on, and again when one was busy in between; by time, not by samples."""
    samples = [0.0, 3.0] * 30 + [98.0] + [0.0] * 100
    first, second = Anomalies().take(gpus_of(samples, [4.0] * 161))
    assert (first.rule, first.metric, first.ordinal) == ("idle_gpu", "", 40)
    assert first.sentence == "no GPU was busier than 4 % for 10 minutes, at step 7."
    assert second.ordinal == 60 + 40
    (slow,) = Anomalies().take(gpus_of([0.0] * 30, interval_s=120))
    assert slow.ordinal == 9


@pytest.mark.parametrize(
    "samples",
    [
        gpus_of([0.0] * 100, [60.0] * 100),  # one works, the other belongs to nobody
        gpus_of(([90.0] * 20 + [0.0] * 36) * 5),  # evaluations of nine minutes
        gpus_of([0.0, 0.0, 0.0, 6.0] * 50),
        gpus_of([0.0] * 30, interval_s=700),  # so seldom that nobody knows
        gpus_of([0.0] * 30),
        gpus_of([np.nan] * 100),
        Frame(0, STEPS, STEPS * 15 * 10**9, {"system/gpu/0/utilization_percent": TEXTS}),
        Frame(0, STEPS, STEPS * 15 * 10**9, {"gpu/0/utilization_percent": np.zeros(600)}),
    ],
)
def test_gpus_that_work_now_and_then_are_left_alone(samples: Frame) -> None:
    """Pauses are part of training."""
    assert Anomalies().take(samples) == []


def test_one_rule_speaks_a_bounded_number_of_times() -> None:
    """A run whose every metric is broken does not flood anybody."""
    columns = {f"loss/{index}": np.full(1, np.nan) for index in range(100)}
    assert len(Anomalies().take(frame(columns))) == FINDINGS_MAX


def test_metrics_beyond_the_bound_are_not_looked_at() -> None:
    """What is kept of a run is bounded."""
    anomalies = Anomalies()
    anomalies.take(frame({f"loss/{index}": np.ones(1) for index in range(METRICS_MAX)}))
    assert anomalies.take(frame({"loss": np.full(1, np.nan)}, 1)) == []


def test_integers_and_booleans_are_numbers_and_texts_are_none() -> None:
    """Rules look at what can be compared."""
    columns = {
        "count": np.array([1, 2, 3]),
        "is_done": np.array([False, True, True]),
        "note": np.array(["a", "b", "c"], np.object_),
    }
    rules = [Threshold.parse(rule) for rule in ("count > 2", "is_done > 0", "note > 0")]
    findings = Anomalies(rules).take(Frame(0, np.arange(3), np.arange(3), columns))
    assert [(each.metric, each.ordinal) for each in findings] == [("is_done", 1), ("count", 2)]


def test_a_rule_of_the_users_needs_its_values_in_a_row() -> None:
    """`for 3 steps` means three, and speaks once until it is no longer so."""
    curve = np.array([0, 9, 9, 0, 9, 9, 9, 9, 0, 9, 9, 9.0])
    assert [each.ordinal for each in found("a b", curve, "a b > 5 for 3 steps")] == [6, 11]
    assert found("ab", curve, "a b > 5 for 3 steps") == []
    assert [each.ordinal for each in found("gpu.0.util", curve, "gpu.*.util<=0")] == [0, 3, 8]


@pytest.mark.parametrize(
    "text", ["", "loss", "loss > ", "loss > x", "> 3", "loss > 3 for 0 steps", "loss > nan"]
)
def test_a_rule_that_cannot_be_read_is_told_with_how_to_write_it(text: str) -> None:
    """Bad input has an answer."""
    with pytest.raises(SettingsError, match="METRIC > VALUE for N steps"):
        Threshold.parse(text)


def test_a_run_is_stalled_when_it_is_silent_for_much_longer_than_usual() -> None:
    """Once, until it goes on; never before its least time."""
    anomalies = Anomalies(stall_min_s=5)
    anomalies.take(frame({"loss": LOSS[:20]}))
    assert anomalies.stalled(19) == []
    (finding,) = anomalies.stalled(21)
    assert (finding.rule, finding.ordinal, finding.step) == ("stalled", 19, 190)
    assert anomalies.stalled(100) == []
    anomalies.take(frame({"loss": LOSS[20:21]}, 20))
    assert anomalies.stalled(19) == []
    assert Anomalies(stall_min_s=5).stalled(1000) == []
    patient = Anomalies(stall_min_s=60)
    patient.take(frame({"loss": LOSS[:20]}))
    assert patient.stalled(59) == []


def test_a_run_that_pauses_now_and_then_is_not_stalled_by_another_pause() -> None:
    """Evaluations and checkpoints take their time."""
    times = np.cumsum(np.where(np.arange(100) % 20 == 10, 60, 1)) * 10**9
    anomalies = Anomalies(stall_min_s=5)
    anomalies.take(Frame(0, np.arange(100), times, {"loss": LOSS[:100]}))
    assert anomalies.stalled(170) == []
    assert len(anomalies.stalled(190)) == 1


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("loss", Kind.LOSS),
        ("train/loss", Kind.LOSS),
        ("train_loss", Kind.LOSS),
        ("loss/train", Kind.LOSS),
        ("eval/loss", Kind.EVAL_LOSS),
        ("val_loss", Kind.EVAL_LOSS),
        ("loss_scale", Kind.OTHER),
        ("lossless", Kind.OTHER),
        ("train/grad_norm", Kind.GRADIENT_NORM),
        ("grad/norm/layer.1", Kind.GRADIENT_NORM),
        ("grad_scale", Kind.OTHER),
        ("train_samples_per_second", Kind.THROUGHPUT),
        ("throughput/tokens", Kind.THROUGHPUT),
        ("reward", Kind.OTHER),
    ],
)
def test_a_metrics_name_says_what_it_is(metric: str, kind: Kind) -> None:
    """By its words."""
    assert kind_of(metric) is kind


def test_every_rule_has_a_level_and_can_be_named_in_settings() -> None:
    """What is found is an alert, and may ask trainers to stop."""
    rules = {rule for rule, *_ in PLANTED} | {"stalled", "idle_gpu", "threshold"}
    assert rules == set(LEVELS) == set(get_args(AnomalyRule))
