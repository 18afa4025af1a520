"""How many guests fit, where the knee is, and what gives out: a ramp's steps judged. Pure.

A number of guests is good when its p99 stays within the objective and its throughput keeps up with what is offered, in
the median over its repetitions. The knee is the number that best parts the good from the bad (fewest on the wrong side;
between equals the smallest), so that one unlucky step far below it does not move it. Its interval is a bootstrap:
repetitions drawn with replacement, then windows within each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nestbench_reports import stats
from nestbench_reports.experiments import DENSITY, SUBSTRATES, DensitySetup, End, Experiment, Failure, Memory, Step
from nestbench_reports.model import Document
from nestbench_reports.stats import FloatArray

KEEPS_UP = 0.95  # of the offered throughput
RESAMPLES = 1000
STEADY = "steady"


@dataclass(frozen=True)
class Point:
    """One number of guests: the median over its repetitions."""

    guests: int
    repetitions: int
    offered_per_s: float
    throughput_per_s: float
    p50_ns: float
    p99_ns: float
    p999_ns: float
    fairness: float | None  # slowest guest over the median guest
    start_rate_per_s: float | None
    start_p50_ns: float | None
    start_p99_ns: float | None
    exits_per_s: float | None
    memory: Memory
    good: bool
    why_not: str  # in which way it is not good


@dataclass(frozen=True)
class Knee:
    guests: int  # 0: not even the smallest step was good
    low: int | None  # 95 % interval among the steps measured; None with a single window
    high: int | None
    next_bad: int | None  # the smallest number above it that was measured and is not good; None: the knee lies beyond
    repetitions: int  # of the step at the knee

    @property
    def is_open(self) -> bool:
        """Nothing gave out: more may fit."""
        return self.next_bad is None


@dataclass(frozen=True)
class FirstFailure:
    guests: int  # the number that could not be had, or did not run well
    how: str
    evidence: str


@dataclass(frozen=True)
class Ramp:
    experiment: Experiment
    setup: DensitySetup
    points: tuple[Point, ...]  # by number of guests
    knee: Knee | None  # None without an objective
    knees: npt.NDArray[np.int64]  # of the resamples
    first_failure: FirstFailure | None
    end: End | None

    @property
    def load(self) -> str:
        return self.experiment.workload

    @property
    def substrate(self) -> str:
        return self.experiment.substrate

    @property
    def most(self) -> int:
        """The most guests that ran well: the knee where there is an objective, else what the run counted."""
        if self.knee is not None:
            return self.knee.guests
        if self.end is not None:
            return self.end.guests
        return max((point.guests for point in self.points), default=0)


@dataclass(frozen=True)
class Ratio:
    """How many guests fit, against another substrate."""

    above: Ramp
    below: Ramp
    value: float
    low: float | None
    high: float | None
    bound: str  # "": both knees found; "at least", "at most": one lies beyond; "unknown": both do


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _why_not(setup: DensitySetup, offered: float, throughput: float, p99_ns: float) -> str:
    reasons = []
    if setup.slo_p99_ns > 0 and p99_ns > setup.slo_p99_ns:
        reasons.append(f"p99 {p99_ns / 1e6:.3g} ms is above {setup.slo_p99_ns / 1e6:.3g} ms")
    if offered > 0 and throughput < KEEPS_UP * offered:
        reasons.append(f"serves {100 * throughput / offered:.0f} % of what is offered")
    return ", ".join(reasons)


def _point(setup: DensitySetup, steps: Sequence[Step]) -> Point:
    starts = [start for step in steps for start in step.start_ns]
    offered, throughput = _middle(step.offered_per_s for step in steps), _middle(step.throughput for step in steps)
    p99 = _middle(step.latency_ns.p99 for step in steps)
    why_not = _why_not(setup, offered, throughput, p99)
    return Point(
        guests=steps[0].guests,
        repetitions=len(steps),
        offered_per_s=offered,
        throughput_per_s=throughput,
        p50_ns=_middle(step.latency_ns.p50 for step in steps),
        p99_ns=p99,
        p999_ns=_middle(step.latency_ns.p999 for step in steps),
        fairness=_median([step.fairness for step in steps]),
        start_rate_per_s=_median([step.start_rate_per_s for step in steps if step.start_ns]),
        start_p50_ns=float(np.quantile(starts, 0.5)) if starts else None,
        start_p99_ns=float(np.quantile(starts, 0.99)) if starts else None,
        exits_per_s=_median([step.exits_per_s for step in steps]),
        memory=Memory(
            _median([step.memory.total_bytes for step in steps]),
            _median([step.memory.guest_ram_bytes for step in steps]),
            _median([step.memory.vmm_private_bytes for step in steps]),
            _median([step.memory.kernel_bytes for step in steps]),
        ),
        good=not why_not,
        why_not=why_not,
    )


def _middle(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def part(guests: Sequence[int], good: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The number that best parts good from bad, for each row of `good` (a column for each number, ascending); 0: none.

    Fewest on the wrong side; between equals the smallest. The number itself is good.
    """
    bad_below = np.cumsum(~good, axis=1)
    good_above = good.sum(axis=1, keepdims=True) - np.cumsum(good, axis=1)
    wrong = np.where(good, bad_below + good_above, np.iinfo(np.int64).max)
    none = good.sum(axis=1, keepdims=True)
    wrong = np.hstack([none, wrong])
    numbers: npt.NDArray[np.int64] = np.array([0, *guests], dtype=np.int64)[np.argmin(wrong, axis=1)]
    return numbers


def _draw(rng: np.random.Generator, values: Sequence[FloatArray]) -> FloatArray:
    """Means of resampled windows: a row for each resample, a column for each entry of `values`."""
    means = np.empty((RESAMPLES, len(values)))
    for column, windows in enumerate(values):
        picks = rng.integers(0, len(windows), size=(RESAMPLES, len(windows)))
        means[:, column] = windows[picks].mean(axis=1)
    return means


def _scatter(windows: FloatArray) -> FloatArray:
    """Windows in shares of their mean."""
    mean = float(windows.mean()) if len(windows) else 0.0
    scattered: FloatArray = windows / mean if mean > 0 else np.ones(1)
    return scattered


def _resampled_good(rng: np.random.Generator, setup: DensitySetup, steps: Sequence[Step]) -> npt.NDArray[np.bool_]:
    """Whether one number of guests is good, in each resample of its repetitions and their windows."""
    repetitions = rng.integers(0, len(steps), size=(RESAMPLES, len(steps)))
    # A window's figure is not the step's; how the windows scatter is how the step's would.
    throughput = _draw(rng, [_scatter(step.windows) for step in steps])
    throughput *= np.array([step.throughput for step in steps])
    p99 = _draw(rng, [_scatter(np.array(step.latency_p99_ns, dtype=np.float64)) for step in steps])
    p99 *= np.array([step.latency_ns.p99 for step in steps])
    rows = np.arange(RESAMPLES)[:, None]
    offered = float(np.median([step.offered_per_s for step in steps]))
    good: npt.NDArray[np.bool_] = np.median(throughput[rows, repetitions], axis=1) >= KEEPS_UP * offered
    if setup.slo_p99_ns > 0:
        good &= np.median(p99[rows, repetitions], axis=1) <= setup.slo_p99_ns
    return good


def _knee(
    setup: DensitySetup, points: Sequence[Point], steps: Mapping[int, Sequence[Step]]
) -> tuple[Knee, npt.NDArray[np.int64]]:
    guests = [point.guests for point in points]
    value = int(part(guests, np.array([[point.good for point in points]]))[0])
    rng = np.random.default_rng([stats.SEED, len(guests)])
    resampled = part(guests, np.column_stack([_resampled_good(rng, setup, steps[number]) for number in guests]))
    has_spread = any(len(step.throughput_per_s) >= 2 for group in steps.values() for step in group)
    tail = (1 - stats.CONFIDENCE) / 2
    low, high = (int(np.quantile(resampled, q, method="inverted_cdf")) for q in (tail, 1 - tail))
    above = [point.guests for point in points if point.guests > value and not point.good]
    at_knee = next((point.repetitions for point in points if point.guests == value), 0)
    bounds = (min(low, value), max(high, value)) if has_spread else (None, None)
    return Knee(value, *bounds, min(above, default=None), at_knee), resampled


def _first_failure(
    points: Sequence[Point], failures: Sequence[Failure], knee: Knee | None
) -> FirstFailure | None:
    """The smallest number that could not be had; else the smallest above the knee that did not run well."""
    if failures:
        first = min(failures, key=lambda failure: failure.guests)
        return FirstFailure(first.guests + 1, first.how, first.evidence)
    bad = next((point for point in points if knee is not None and point.guests == knee.next_bad), None)
    return FirstFailure(bad.guests, "slo", bad.why_not) if bad is not None else None


def ramp(experiment: Experiment) -> Ramp:
    assert isinstance(experiment.setup, DensitySetup)
    setup = experiment.setup
    steps: dict[int, list[Step]] = {}
    for step in experiment.steps:
        if step.guests > 0:
            steps.setdefault(step.guests, []).append(step)
    points = tuple(_point(setup, steps[guests]) for guests in sorted(steps))
    knee, knees = None, np.zeros(0, dtype=np.int64)
    if points and (setup.slo_p99_ns > 0 or any(point.offered_per_s > 0 for point in points)):
        knee, knees = _knee(setup, points, steps)
    failure = _first_failure(points, experiment.failures, knee)
    return Ramp(experiment, setup, points, knee, knees, failure, experiment.end)


def ramps(document: Document) -> tuple[Ramp, ...]:
    """Every ramp that has a step or a failure, loads together, substrates in their order."""
    found = [ramp(entry) for entry in document.experiments if entry.scenario == DENSITY and entry.records]
    order = {name: index for index, name in enumerate(SUBSTRATES)}
    loads = list(dict.fromkeys(entry.load for entry in found))
    return tuple(sorted(found, key=lambda r: (loads.index(r.load), order.get(r.substrate, len(order)), r.substrate)))


def density_ratio(above: Ramp, below: Ramp) -> Ratio | None:
    """How many guests fit in one substrate over how many in another; None when neither can be told."""
    if above.knee is None or below.knee is None or below.knee.guests == 0:
        return None
    bound = {(False, False): "", (True, False): "at least", (False, True): "at most", (True, True): "unknown"}[
        above.knee.is_open, below.knee.is_open
    ]
    low = high = None
    if above.knee.low is not None and below.knee.low is not None and np.all(below.knees > 0):
        ratios = above.knees / below.knees
        tail = (1 - stats.CONFIDENCE) / 2
        low, high = (float(np.quantile(ratios, q)) for q in (tail, 1 - tail))
    return Ratio(above, below, above.knee.guests / below.knee.guests, low, high, bound)


def density_ratios(found: Sequence[Ramp]) -> tuple[Ratio, ...]:
    """vm and zone against bare, of the same load."""
    ratios = [
        density_ratio(above, below)
        for above in found
        for below in found
        if above.load == below.load and below.substrate == "bare" and above.substrate != "bare"
    ]
    return tuple(entry for entry in ratios if entry is not None)
