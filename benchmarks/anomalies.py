"""What the rules of `docs/anomalies.md` miss, and what they raise for nothing.

    make anomalies                      1,000 curves of each kind; writes docs/anomalies.md
    make anomalies ARGS='--curves 50'   a quick look; writes nothing

Healthy curves come in kinds, some of them mean; each has 2,000 values (evaluations: 60). A fault is
planted in healthy curves at a random place and with a random size; it is missed if its rule has not
spoken within `PATIENCE` values, and too early is what the rule said before. All from fixed seeds.
"""

import argparse
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from bench import machine

from pillion_sidecar.anomalies import Anomalies
from pillion_sidecar.records import Frame

DOCUMENT = Path(__file__).parents[1] / "docs" / "anomalies.md"
RECORDED = Path(__file__).parent / "recorded" / "demo.json"
BEGIN, END = "<!-- made by `make anomalies` -->\n", "<!-- up to here -->\n"
VALUES, EVALUATIONS, PATIENCE = 2000, 60, 200
STEPS = np.arange(VALUES)

Curve = npt.NDArray[np.float64]
Noise = np.random.Generator
Kind = Callable[[Noise], Curve]


def decay(noise: Noise) -> Curve:
    """Fall exponentially, with Gaussian noise of 1 to 10 %."""
    level = noise.uniform(0.5, 3) + noise.uniform(1, 6) * np.exp(-STEPS / noise.uniform(100, 1500))
    return level * (1 + noise.uniform(0.01, 0.1) * noise.normal(size=VALUES))


def power_law(noise: Noise) -> Curve:
    """Fall as language models do, with noise that lasts, and faster as a cosine rate ends."""
    level = 1.7 + noise.uniform(2, 8) * (1 + STEPS) ** -noise.uniform(0.2, 0.5)
    level -= 0.1 * (1 - np.cos(np.pi * STEPS / VALUES))
    return level + lasting(noise, 0.5) * noise.uniform(0.01, 0.08)


def cyclical(noise: Noise) -> Curve:
    """Fall, and rise by up to 30 % at every restart of the learning rate."""
    period = noise.integers(100, 500)
    restart = noise.uniform(0.05, 0.3) * np.exp(-np.mod(STEPS, period) / (period / 4))
    return decay(noise) * (1 + np.where(period > STEPS, 0, restart))


def heavy_tails(noise: Noise) -> Curve:
    """Fall, with noise of Student's t with 3 degrees of freedom: odd batches come often."""
    level = noise.uniform(1, 3) + noise.uniform(1, 4) * np.exp(-STEPS / 500)
    return level * np.maximum(0.05, 1 + noise.uniform(0.02, 0.08) * noise.standard_t(3, VALUES))


def small_batches(noise: Noise) -> Curve:
    """Fall, with lognormal noise of 30 to 60 %: batches of one or two."""
    level = noise.uniform(0.5, 2) + 3 * np.exp(-STEPS / noise.uniform(100, 800))
    return level * np.exp(noise.uniform(0.3, 0.6) * noise.normal(size=VALUES))


def to_zero(noise: Noise) -> Curve:
    """Fall by orders of magnitude, with lognormal noise."""
    return 2 * np.exp(-STEPS / noise.uniform(150, 400)) * np.exp(0.3 * noise.normal(size=VALUES))


def stairs(noise: Noise) -> Curve:
    """Fall at each epoch's beginning, as in repeated data, with noise of 5 %."""
    epoch = noise.integers(200, 700)
    level = 1 + 2 * 0.75 ** (STEPS // epoch)
    return level * (1 + 0.05 * noise.normal(size=VALUES))


def policy(noise: Noise) -> Curve:
    """Stay around 0 with noise whose size wanders, as a policy's loss does (GRPO, PPO)."""
    size = np.exp(np.cumsum(noise.normal(0, 0.02, VALUES)))
    return 0.02 * size * noise.standard_t(5, VALUES)


def norms(noise: Noise) -> Curve:
    """Gradient norms: large at first, then lognormal with a spread of 0.2 to 1."""
    trend = 1 + 20 * np.exp(-STEPS / noise.uniform(5, 100))
    return trend * np.exp(noise.uniform(0.2, 1.0) * noise.normal(size=VALUES))


def norms_of_policies(noise: Noise) -> Curve:
    """Gradient norms of policies: lognormal, and a thousandth of them 3 to 30 times larger."""
    rare = np.where(noise.random(VALUES) < 1e-3, noise.uniform(3, 30, VALUES), 1)
    return rare * np.exp(0.6 * noise.normal(size=VALUES))


def evaluations(noise: Noise) -> Curve:
    """Evaluations that fall, then stay, with noise of 0.2 to 3 %."""
    level = 1 + np.exp(-np.arange(EVALUATIONS) / noise.uniform(2, 30))
    return level * (1 + noise.uniform(0.002, 0.03) * noise.normal(size=EVALUATIONS))


def throughput(noise: Noise) -> Curve:
    """A rate with noise of 10 %, slow while it warms up and at every checkpoint."""
    level = np.where(STEPS < 10, 0.3, 1) * np.where(noise.integers(1, 6) > STEPS % 100, 0.4, 1)
    return 1000 * level * np.maximum(0.05, 1 + 0.1 * noise.normal(size=VALUES))


def lasting(noise: Noise, share: float) -> Curve:
    """Return noise of which a share lasts to the next value."""
    values = noise.normal(size=VALUES)
    for index in range(1, VALUES):
        values[index] += share * values[index - 1]
    return values


LOSSES = [decay, power_law, cyclical, heavy_tails, small_batches, to_zero, stairs, policy]
HEALTHY: list[tuple[str, Kind]] = [
    *(("train/loss", kind) for kind in LOSSES),
    ("grad_norm", norms),
    ("grad_norm", norms_of_policies),
    ("eval/loss", evaluations),
    ("tokens_per_second", throughput),
]

Plant = Callable[[Noise, Curve, int], None]


def burst(noise: Noise, curve: Curve, place: int) -> None:
    """Rise to 2 to 5 times, fading over 5 to 40 values."""
    rest = np.arange(len(curve) - place)
    curve[place:] *= 1 + noise.uniform(1, 4) * np.exp(-rest / noise.uniform(5, 40))


def blip(noise: Noise, curve: Curve, place: int) -> None:
    """One value of 20 to 100 times."""
    curve[place] *= noise.uniform(20, 100)


def climb(noise: Noise, curve: Curve, place: int) -> None:
    """Rise to 2 to 10 times within 100 values, and stay."""
    rest = np.arange(len(curve) - place)
    curve[place:] *= 1 + noise.uniform(1, 9) * np.minimum(1, rest / 100)


def nan_once(_: Noise, curve: Curve, place: int) -> None:
    """One NaN."""
    curve[place] = np.nan


def nan_for_good(_: Noise, curve: Curve, place: int) -> None:
    """Nothing but NaN from there on."""
    curve[place:] = np.nan


def explode(noise: Noise, curve: Curve, place: int) -> None:
    """Norms of 100 to 10,000 times for 5 values and more."""
    length = noise.integers(5, 50)
    curve[place : place + length] *= 10 ** noise.uniform(2, 4)


def vanish(noise: Noise, curve: Curve, place: int) -> None:
    """Norms of a millionth and less from there on."""
    curve[place:] *= 10 ** noise.uniform(-9, -6)


def stop_falling(noise: Noise, curve: Curve, place: int) -> None:
    """Stay at one level, with the noise there was."""
    del noise
    curve[place:] = curve[place - 100 : place].mean() * curve[place:] / decay_of(curve)[place:]


def turn_up(noise: Noise, curve: Curve, place: int) -> None:
    """Rise by 1 to 5 % per evaluation."""
    curve[place:] *= 1 + noise.uniform(0.01, 0.05) * np.arange(len(curve) - place)


def slow_down(noise: Noise, curve: Curve, place: int) -> None:
    """A rate of 10 to 40 % from there on."""
    curve[place:] *= noise.uniform(0.1, 0.4)


def decay_of(curve: Curve) -> Curve:
    """Return the curve's trend: its median over 101 values."""
    padded = np.pad(curve, 50, "edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 101), axis=1)


CLEAR = [decay, power_law, cyclical, heavy_tails, stairs]
NOISY = [small_batches, to_zero]
FAULTS: list[tuple[str, str, Plant, list[Kind], int]] = [
    ("nan", "train/loss", nan_once, LOSSES, PATIENCE),
    ("nan", "grad_norm", nan_for_good, [norms], PATIENCE),
    ("loss_spike", "train/loss", burst, CLEAR, PATIENCE),
    ("loss_spike", "train/loss", burst, NOISY, PATIENCE),
    ("loss_spike", "train/loss", blip, CLEAR, PATIENCE),
    ("loss_spike", "train/loss", blip, NOISY, PATIENCE),
    ("divergence", "train/loss", climb, CLEAR, PATIENCE),
    ("divergence", "train/loss", climb, NOISY, PATIENCE),
    ("gradient_explosion", "grad_norm", explode, [norms, norms_of_policies], PATIENCE),
    ("gradient_vanishing", "grad_norm", vanish, [norms, norms_of_policies], PATIENCE),
    ("plateau", "train/loss", stop_falling, [power_law], VALUES),
    ("overfitting", "eval/loss", turn_up, [evaluations], EVALUATIONS),
    ("throughput_drop", "tokens_per_second", slow_down, [throughput], PATIENCE),
]


def seeds(name: str, curves: int) -> Iterator[Noise]:
    """Yield a source of noise per curve, the same in every run."""
    for number in range(curves):
        yield np.random.default_rng([zlib.crc32(name.encode()), number])


def found(key: str, curve: Curve) -> list[tuple[str, int]]:
    """Return the rules that spoke, and in which rows."""
    ordinals = np.arange(len(curve), dtype=np.int64)
    findings = Anomalies().take(Frame(0, ordinals, ordinals, {key: curve}))
    return [(finding.rule, finding.ordinal) for finding in findings]


def false_alarms(task: tuple[int, int]) -> tuple[str, ...]:
    """Return the row of a kind of healthy curve."""
    place, curves = task
    key, kind = HEALTHY[place]
    counts: Counter[str] = Counter()
    for noise in seeds(kind.__name__, curves):
        counts.update({rule for rule, _ in found(key, kind(noise))})
    told = ", ".join(f"`{rule}` {count}" for rule, count in sorted(counts.items()))
    return f"`{key}`", f"`{kind.__name__}`: {summary_of(kind)}", f"{curves:,}", told or "none"


def missed(task: tuple[int, int]) -> tuple[str, ...]:
    """Return the row of a fault that is planted."""
    place, curves = task
    rule, key, plant, kinds, patience = FAULTS[place]
    delays: list[int] = []
    early = 0
    for number, noise in enumerate(seeds(f"{plant.__name__}{len(kinds)}", curves)):
        curve = kinds[number % len(kinds)](noise)
        tail = 1500 if patience == VALUES else 15 if patience == EVALUATIONS else 300
        first = len(curve) // 5
        last = max(len(curve) - tail, len(curve) // 4)
        row = int(noise.integers(first, last))
        plant(noise, curve, row)
        rows = [told_row for told, told_row in found(key, curve) if told == rule]
        early += any(told_row < row for told_row in rows)
        delays += [each - row for each in rows if 0 <= each - row < patience][:1]
    delay = f"{np.median(delays):.0f}" if delays else "none"
    count = f"{curves - len(delays)} of {curves:,}"
    return f"`{rule}`", summary_of(plant), among(kinds), count, delay, str(early)


def among(kinds: list[Kind]) -> str:
    """Name the curves that a fault is planted in."""
    return "all losses" if kinds == LOSSES else ", ".join(f"`{kind.__name__}`" for kind in kinds)


RECORDED_FAULTS = [
    ("nan", "train/loss", nan_once),
    ("loss_spike", "train/loss", burst),
    ("loss_spike", "train/loss", blip),
    ("gradient_explosion", "train/grad_norm", explode),
    ("throughput_drop", "train/tokens_per_second", slow_down),
]


def recorded(curves: int) -> Iterator[tuple[str, ...]]:
    """Yield rows on the curves of three runs of `pillion demo`: as they are, and with faults."""
    runs = json.loads(RECORDED.read_text(encoding="utf-8"))
    for key in next(iter(runs.values())):
        told = [rule for run in runs.values() for rule, _ in found(key, np.array(run[key]))]
        yield f"`{key}`", "none", f"{', '.join(told) or 'nothing'} told"
    for rule, key, plant in RECORDED_FAULTS:
        missing = 0
        for number, noise in enumerate(seeds(f"recorded {plant.__name__}", curves)):
            curve = np.array(list(runs.values())[number % len(runs)][key])
            place = int(noise.integers(80, 100))
            plant(noise, curve, place)
            missing += all(name != rule or row < place for name, row in found(key, curve))
        yield f"`{key}`", summary_of(plant), f"`{rule}` missed in {missing} of {curves:,}"


PAUSES = [
    ("no pauses", 0, 0.0),
    ("an evaluation of 2 minutes every 200 rows", 200, 120.0),
    ("an evaluation of 10 minutes every 500 rows", 500, 600.0),
    ("an evaluation of 20 minutes every 500 rows", 500, 1200.0),
]


def paused(task: tuple[int, int]) -> tuple[str, ...]:
    """Return the row of a way to be slow: how many runs of 2,000 rows were called stalled."""
    name, every, pause_s = PAUSES[task[0]]
    stalled = 0
    for noise in seeds(name, task[1]):
        intervals_s = noise.uniform(0.1, 30) * np.exp(0.3 * noise.normal(size=VALUES))
        if every:
            intervals_s[every::every] += pause_s * noise.uniform(0.7, 1.3)
        times = np.cumsum(intervals_s * 1e9).astype(np.int64)
        anomalies, first = Anomalies(), 0
        for last in (*np.flatnonzero(intervals_s > 60), VALUES):
            if last > first:  # no shorter silence ever counts
                rows = slice(first, last)
                ones = {"loss": np.ones(last - first)}
                anomalies.take(Frame(first, STEPS[rows], times[rows], ones))
                first = last
            if last < VALUES and anomalies.stalled(float(intervals_s[last])):
                stalled += 1
                break
    return name, f"{stalled} of {task[1]:,}"


IDLING = [
    ("no pauses", 0.0, False),
    ("an evaluation of 5 minutes on the CPU every hour", 300.0, False),
    ("an evaluation of 8 minutes on the CPU every hour", 480.0, False),
    ("a pause of 15 minutes every hour", 900.0, True),
]


def idled(task: tuple[int, int]) -> tuple[str, ...]:
    """Return the row of a way to pause: how many runs of 8 hours had their GPUs called idle."""
    name, pause_s, is_idle = IDLING[task[0]]
    told = 0
    for noise in seeds(name, task[1]):
        times_s = 15.0 * np.arange(VALUES) + noise.uniform(0, 1, VALUES)
        busy = noise.uniform(20, 99) + 15 * noise.normal(size=VALUES)
        lasts_s = pause_s * noise.uniform(0.8, 1.2) if pause_s else 0.0
        is_paused = np.mod(times_s + noise.uniform(0, 3600), 3600) < lasts_s
        column = np.where(is_paused, noise.uniform(0, 2, VALUES), np.clip(busy, 0, 100))
        columns = {"system/gpu/0/utilization_percent": np.round(column)}
        times = (times_s * 1e9).astype(np.int64)
        told += bool(Anomalies().take(Frame(0, STEPS, times, columns)))
    return name, "yes" if is_idle else "no", f"{told:,} of {task[1]:,}"


def costs() -> Iterator[tuple[str, ...]]:
    """Yield a row per kind of metric: microseconds of CPU per value."""
    ordinals = np.arange(100 * VALUES, dtype=np.int64)
    for key in ("train/loss", "grad_norm", "tokens_per_second", "learning_rate"):
        values = 2 + 0.1 * np.random.default_rng(1).normal(size=len(ordinals))
        began_s = time.process_time()
        Anomalies().take(Frame(0, ordinals, ordinals, {key: values}))
        spent_s = time.process_time() - began_s
        yield f"`{key}`", f"{spent_s / len(ordinals) * 1e6:.2g}"


def summary_of(thing: Callable[..., object]) -> str:
    """Return what a kind's or a fault's docstring says."""
    return str(thing.__doc__).partition(".\n")[0].removesuffix(".")


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table as Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    """Measure, print, and write the document where all curves were tried."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--curves", type=int)
    curves = parser.parse_args().curves
    began_s = time.monotonic()
    count = curves or 1000
    with ProcessPoolExecutor() as pool:
        healthy = pool.map(false_alarms, ((place, count) for place in range(len(HEALTHY))))
        planted = pool.map(missed, ((place, count) for place in range(len(FAULTS))))
        idle = pool.map(idled, ((place, count) for place in range(len(IDLING))))
        slow = pool.map(paused, ((place, count) for place in range(len(PAUSES))))
        report = "\n".join(
            [
                f"`make anomalies`, {time.strftime('%Y-%m-%d')}: {machine()}.\n",
                "Healthy curves in which a rule spoke:\n",
                table(("metric", "curve", "curves", "false alarms"), healthy),
                "Planted faults; the delay is the median, in values:\n",
                table(("rule", "fault", "in", "missed", "delay", "too early"), planted),
                "The curves of three runs of `pillion demo`, 120 steps each:\n",
                table(("metric", "fault", "outcome"), recorded(count)),
                "Runs with rows every 0.1 to 30 s that were called stalled, though they paused:\n",
                table(("pauses", "false alarms"), slow),
                "Runs of 8 hours, sampled every 15 s, whose GPU was called idle:\n",
                table(("pauses", "is idle", "told"), idle),
                "What looking costs:\n",
                table(("metric", "microseconds of CPU per value"), costs()),
            ]
        )
    print(report)
    print(f"{time.monotonic() - began_s:.0f} s")
    if curves is None:
        head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        _, _, tail = rest.partition(END)
        DOCUMENT.write_text(head + BEGIN + "\n" + report + "\n" + END + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
