"""Who hurts whom: every cell of the isolation matrix judged. Pure.

A cell is one victim beside one aggressor at one intensity and placement on one substrate. Its arms are two conditions,
not two of the same: `a` the victim alone, `b` with the aggressor, side by side in each round.

isol-01: the 1st percentile of the victim's window throughput with the aggressor, in per cent of its median alone in the
same round. Kept: the median likewise. Impact on latency: ratio of medians over windows, b over a.

Verdicts: a cost ratio (above 1: the victim is worse) with a hierarchical bootstrap interval by round. `hurt` when it is
beyond IMPACT with the false discovery rate held over the whole matrix (Benjamini-Hochberg), `unhurt` when the whole
interval lies within TOLERABLE, otherwise not settled. The null row (aggressor none) is judged like every other: what is
flagged there is the rate of false positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np

from nestbench_reports import stats
from nestbench_reports.experiments import ISOLATION, SUBSTRATES
from nestbench_reports.model import OK, Document, Measurement
from nestbench_reports.stats import Estimate, FloatArray, IntArray

NONE = "none"  # the aggressor of the null row
THROUGHPUT = "throughput"
METRICS = (THROUGHPUT, "latency_p50", "latency_p99")
PASS_LINE = 0.90  # of isol-01
IMPACT = 0.02  # no ratio nearer to 1 is ever called an impact
TOLERABLE = 0.10  # a victim that loses less for certain is unhurt
FDR = 0.05
RESAMPLES = 1000
STARVED = 1e-3  # of the alone figure: what is less counts as this, so that a ratio can be formed


class Hurt(Enum):
    HURT = "hurt"
    HELPED = "helped"
    UNHURT = "unhurt"
    NOT_SETTLED = "not settled"


@dataclass(frozen=True)
class Share:
    """A share of the alone figure with its interval; 1 is as good as alone."""

    value: float
    low: float | None
    high: float | None
    rounds: int
    windows: int

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.low, self.high, None, 0.0, self.rounds, self.windows)


@dataclass(frozen=True)
class Impact:
    """One metric of one cell as a cost: above 1, the victim is worse."""

    metric: str
    measurement: Measurement
    ratio: Estimate
    p_value: float
    adjusted_p: float
    verdict: Hurt


@dataclass(frozen=True)
class Cell:
    victim: str
    aggressor: str
    intensity: int
    placement: str
    substrate: str
    measurement: Measurement  # of the throughput where there is one
    status: str
    reason: str
    isol_01: Share | None
    kept: Share | None
    impacts: tuple[Impact, ...]

    @property
    def is_null(self) -> bool:
        return self.aggressor == NONE

    @property
    def verdict(self) -> Hurt:
        """Hurt when one metric is; unhurt when all are."""
        found = {impact.verdict for impact in self.impacts}
        if Hurt.HURT in found:
            return Hurt.HURT
        if found == {Hurt.UNHURT} or (found == {Hurt.UNHURT, Hurt.HELPED}):
            return Hurt.UNHURT
        return Hurt.HELPED if found == {Hurt.HELPED} else Hurt.NOT_SETTLED

    def impact(self, metric: str) -> Impact | None:
        return next((entry for entry in self.impacts if entry.metric == metric), None)


@dataclass(frozen=True)
class NullRow:
    """False positives: how many ratios of the null row were flagged, corrected and one by one."""

    cells: int  # that could be flagged: with two rounds or more
    single: int  # cells of a single round, of which nothing can be said
    flagged: int  # cells with a corrected verdict of hurt or helped
    ratios: int
    beyond: int  # ratios beyond IMPACT at the rate without correction

    @property
    def rate(self) -> float:
        return self.flagged / self.cells if self.cells else 0.0


@dataclass(frozen=True)
class Matrix:
    cells: tuple[Cell, ...]

    @property
    def null(self) -> NullRow | None:
        every = [cell for cell in self.cells if cell.is_null and cell.impacts]
        if not every:
            return None
        judged = [cell for cell in every if any(impact.ratio.low is not None for impact in cell.impacts)]
        impacts = [impact for cell in judged for impact in cell.impacts]
        flagged = sum(any(i.verdict in (Hurt.HURT, Hurt.HELPED) for i in cell.impacts) for cell in judged)
        beyond = sum(impact.p_value <= FDR for impact in impacts)
        return NullRow(len(judged), len(every) - len(judged), flagged, len(impacts), beyond)


Pairs = tuple[list[FloatArray], list[FloatArray]]


def pairs(measurement: Measurement) -> tuple[Pairs, int]:
    """(windows alone, windows with the aggressor) of each pair of phases side by side, and the number of rounds.

    A round with several phases of each arm gives several pairs, in their order.
    """
    alone: list[FloatArray] = []
    beside: list[FloatArray] = []
    numbers = sorted({entry.round for entry in measurement.rounds})
    rounds = 0
    for number in numbers:
        phases = sorted((e for e in measurement.rounds if e.round == number and e.samples), key=lambda e: e.order)
        of_a = [np.array(entry.samples) for entry in phases if entry.arm == "a"]
        of_b = [np.array(entry.samples) for entry in phases if entry.arm == "b"]
        rounds += bool(of_a and of_b)
        for a, b in zip(of_a, of_b, strict=False):
            alone.append(a)
            beside.append(b)
    return (alone, beside), rounds


@lru_cache(maxsize=16)
def _draws(rounds: int, windows: int) -> tuple[IntArray, FloatArray]:
    """Rounds drawn with replacement, and for each drawn round where in it (0 to 1) each window is drawn from."""
    rng = np.random.default_rng([stats.SEED, rounds, windows])
    picks = rng.integers(0, rounds, size=(RESAMPLES, rounds), dtype=np.int64)
    return picks, rng.random((RESAMPLES, rounds, windows))


def _share(alone: Sequence[FloatArray], beside: Sequence[FloatArray], quantile: float) -> Share | None:
    """A quantile of the windows with the aggressor, each in shares of the median alone in its own round."""
    normal = [b / np.median(a) for a, b in zip(alone, beside, strict=True) if np.median(a) > 0]
    if not normal:
        return None
    pooled = np.concatenate(normal)
    value = float(np.quantile(pooled, quantile))
    if len(normal) < 2:
        return Share(value, None, None, len(normal), len(pooled))
    sizes = np.array([len(windows) for windows in normal])
    table = np.zeros((len(normal), int(sizes.max())))
    for row, windows in enumerate(normal):
        table[row, : len(windows)] = windows
    picks, where = _draws(len(normal), int(sizes.max()))
    columns = (where * sizes[picks][:, :, None]).astype(np.int64)
    drawn = np.quantile(table[picks[:, :, None], columns].reshape(RESAMPLES, -1), quantile, axis=1)
    # As in stats: a few clusters show only a share of their spread, and a normal quantile is too short for them.
    stretch = float(np.sqrt(len(normal) / (len(normal) - 1)))
    stretch *= stats.t_quantile(0.5 + stats.CONFIDENCE / 2, len(normal) - 1) / 1.96
    tail = (1 - stats.CONFIDENCE) / 2
    low, high = (value + stretch * (float(np.quantile(drawn, q)) - value) for q in (tail, 1 - tail))
    return Share(value, max(0.0, min(low, value)), max(high, value), len(normal), len(pooled))


def impact_ratio(measurement: Measurement) -> Estimate | None:
    """The cost ratio of one metric: above 1, the victim is worse beside the aggressor. None without both arms."""
    if measurement.status != OK:
        return None
    (alone, beside), rounds = pairs(measurement)
    usable = [(a, b) for a, b in zip(alone, beside, strict=True) if np.median(a) > 0]
    if not usable:
        return None
    above = [np.maximum(b, STARVED * np.median(a)) for a, b in usable]
    below = [np.maximum(a, STARVED * np.median(a)) for a, _ in usable]
    ratio = stats.paired_ratio(above, below, rounds=rounds if len(usable) == len(alone) else len(usable))
    if ratio is None:
        return None
    return ratio if measurement.direction == "lower" else stats.inverse(ratio)


def _verdict(ratio: Estimate, adjusted_p: float, fdr: float) -> Hurt:
    if ratio.low is None or ratio.high is None:
        return Hurt.NOT_SETTLED
    if adjusted_p <= fdr:
        return Hurt.HURT if ratio.value > 1 else Hurt.HELPED
    within = ratio.low >= 1 - TOLERABLE and ratio.high <= 1 / (1 - TOLERABLE)
    return Hurt.UNHURT if within else Hurt.NOT_SETTLED


Name = tuple[str, str, int, str, str]  # victim, aggressor, intensity, placement, substrate


def _name(measurement: Measurement) -> Name | None:
    params = measurement.params
    intensity = params.get("intensity", 0)
    if "victim" not in params or "aggressor" not in params or not isinstance(intensity, int):
        return None
    victim, aggressor, placement = (str(params.get(key, "")) for key in ("victim", "aggressor", "placement"))
    return victim, aggressor, intensity, placement, measurement.substrate


def matrix(document: Document, fdr: float = FDR) -> Matrix:
    """Every cell of the document, those that could not be measured included."""
    groups: dict[Name, dict[str, Measurement]] = {}
    for measurement in document.measurements:
        name = _name(measurement) if measurement.scenario == ISOLATION else None
        if name is not None:
            groups.setdefault(name, {})[str(measurement.params.get("metric", ""))] = measurement
    ratios = {
        (name, metric): ratio
        for name, group in groups.items()
        for metric in METRICS
        if metric in group and (ratio := impact_ratio(group[metric])) is not None
    }
    p_values = [stats.p_value(ratio, IMPACT) for ratio in ratios.values()]
    adjusted = dict(zip(ratios, stats.benjamini_hochberg(p_values), strict=True))
    cells = []
    for name, group in groups.items():
        impacts = tuple(
            Impact(
                metric,
                group[metric],
                ratios[name, metric],
                stats.p_value(ratios[name, metric], IMPACT),
                adjusted[name, metric],
                _verdict(ratios[name, metric], adjusted[name, metric], fdr),
            )
            for metric in METRICS
            if (name, metric) in ratios
        )
        cells.append(_cell(name, group, impacts))
    order = {substrate: index for index, substrate in enumerate(SUBSTRATES)}

    def place(cell: Cell) -> tuple[str, str, bool, str, int, int]:
        side = order.get(cell.substrate, len(order))
        return cell.victim, cell.placement, not cell.is_null, cell.aggressor, cell.intensity, side

    cells.sort(key=place)
    return Matrix(tuple(cells))


def _cell(name: Name, group: dict[str, Measurement], impacts: tuple[Impact, ...]) -> Cell:
    measurement = group.get(THROUGHPUT) or next(iter(group.values()))
    bad = next((entry for entry in group.values() if entry.status != OK), None)
    status, reason = (OK, "") if bad is None else (bad.status, bad.reason)
    isol_01 = kept = None
    if measurement.status == OK and measurement.params.get("metric") == THROUGHPUT:
        (alone, beside), _ = pairs(measurement)
        isol_01, kept = _share(alone, beside, 0.01), _share(alone, beside, 0.5)
    if status == OK and not impacts:
        status, reason = "error", "no round has both arms with a figure above zero"
    return Cell(*name, measurement, status, reason, isol_01, kept, impacts)


def null_impacts(document: Document, measurement: Measurement) -> tuple[Estimate | None, ...]:
    """What identical conditions differ by here: the null row of the same victim, placement, metric and substrate."""
    same = ("victim", "placement", "metric")
    return tuple(
        impact_ratio(other)
        for other in document.measurements
        if other.scenario == ISOLATION
        and other.params.get("aggressor") == NONE
        and other.substrate == measurement.substrate
        and all(other.params.get(key) == measurement.params.get(key) for key in same)
    )
