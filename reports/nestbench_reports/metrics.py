"""Ratios of one document: what a guest costs against bare metal and against the floor, each with its own A/A. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar

import numpy as np

from nestbench_reports import stats
from nestbench_reports.experiments import CONTAINMENT, DENSITY, ISOLATION
from nestbench_reports.model import OK, UNSUPPORTED, Document, Measurement
from nestbench_reports.stats import Estimate, FloatArray

BARE = "bare"
VM = "vm"
FLOOR = "floor"
FIO = "fio"  # the outside reference for disks
IPERF3 = "iperf3"  # and for networks: other traffic on the same wire, so it is shown, not divided by
NESTED = ("nested", "nested_shadow")
# Scenarios with many tenants, whose measurements are no times of one piece of work.
EXPERIMENTAL = (DENSITY, ISOLATION, CONTAINMENT)
# Exits for each operation can be none at all, of which no ratio can be formed: less than one in a thousand operations
# counts as that.
EXITS = "exits/op"
LEAST_EXITS = 1e-3
# When two sides are not ok, the metric takes the graver of the two.
_GRAVITY = ("crashed", "error", "timeout", "failed", UNSUPPORTED, OK)


@dataclass(frozen=True)
class Metric:
    """A cost ratio: above 1, the numerator is worse, whatever the direction of its unit."""

    numerator: Measurement
    denominator: Measurement
    status: str
    reason: str
    estimate: Estimate | None  # None unless status is ok
    numerator_null: Estimate | None  # arm b over arm a of the numerator: would be 1 without noise
    denominator_null: Estimate | None
    effect: float | None  # the smallest difference that counts, from the two A/A ratios

    @property
    def key(self) -> str:
        return self.numerator.key

    @property
    def ratio_name(self) -> str:
        return f"{self.numerator.substrate}/{self.denominator.substrate}"

    @property
    def name(self) -> str:
        return f"{self.key} {self.ratio_name}"

    @property
    def verdict(self) -> stats.Verdict:
        """Whether this host shows a cost at all: the one metric alone, without correction for how many there are."""
        if self.estimate is None:
            return stats.Verdict.INCONCLUSIVE
        p = 1.0 if self.effect is None else stats.p_value(self.estimate, self.effect)
        return stats.verdict(self.estimate, self.effect, p, 1 - stats.CONFIDENCE)


Owner = TypeVar("Owner", Measurement, Document)
Found = TypeVar("Found")


def _remembered(function: Callable[[Owner], Found]) -> Callable[[Owner], Found]:
    """`function`, which tables, figures and the gate ask for again and again, once for each (frozen) argument."""
    name = f"_{function.__name__}"

    @wraps(function)
    def remembering(owner: Owner) -> Found:
        kept = vars(owner)
        if name not in kept:
            kept[name] = function(owner)
        found: Found = kept[name]
        return found

    return remembering


@_remembered
def absolute(measurement: Measurement) -> Estimate | None:
    """The median in the measurement's unit, for isolation that with the aggressor; None when not ok or not positive."""
    samples = measurement.samples_of_arm("b") if measurement.is_isolation else measurement.samples_by_round
    rounds = list(_comparable(measurement, samples).values())
    return stats.median(rounds) if measurement.status == OK and rounds else None


def is_of_exits(measurement: Measurement) -> bool:
    """Whether it counts exits: `exits/op`, `exits/packet`."""
    return measurement.unit.startswith("exits/")


def _comparable(measurement: Measurement, samples: Mapping[int, FloatArray]) -> Mapping[int, FloatArray]:
    if not is_of_exits(measurement):
        return samples
    return {number: np.maximum(values, LEAST_EXITS) for number, values in samples.items()}


@_remembered
def null_ratio(measurement: Measurement) -> Estimate | None:
    """A/A: the second process of each round against the first; None when no round has both.

    None for isolation: its arms are the victim alone and the victim beside an aggressor, which are not two of the same.
    """
    if measurement.is_isolation:
        return None
    first, second = (_comparable(measurement, measurement.samples_of_arm(arm)) for arm in ("a", "b"))
    common = sorted(first.keys() & second.keys())
    if measurement.status != OK or not common:
        return None
    return stats.paired_ratio([second[number] for number in common], [first[number] for number in common])


def raw_ratio(above: Measurement, below: Measurement) -> Estimate | None:
    """above / below, paired by the processes that both have; independent when they share fewer than two.

    The unit is the pair, not the round: ABBA puts the two processes of a pair side by side, so what a round shares
    falls out of their ratio, and what is left (where each process got its memory) is new in every process.
    """
    above_pairs, below_pairs = above.samples_by_pair, below.samples_by_pair
    common = sorted(above_pairs.keys() & below_pairs.keys())
    if len(common) >= 2 or (common and len(above_pairs) == len(below_pairs) == 1):
        rounds = len({number for number, _arm in common})
        return stats.paired_ratio([above_pairs[n] for n in common], [below_pairs[n] for n in common], rounds=rounds)
    above_median, below_median = absolute(above), absolute(below)
    return None if above_median is None or below_median is None else stats.independent_ratio(above_median, below_median)


def cost(ratio: Estimate, direction: str) -> Estimate:
    """`ratio`, turned so that above 1 is worse."""
    return ratio if direction == "lower" else stats.inverse(ratio)


def _broken(above: Measurement, below: Measurement, status: str, reason: str) -> Metric:
    return Metric(above, below, status, reason, None, null_ratio(above), null_ratio(below), None)


def metric(above: Measurement, below: Measurement) -> Metric:
    status = min((above.status, below.status), key=_GRAVITY.index)
    if status != OK:
        reasons = [f"{side.substrate}: {side.reason}" for side in (above, below) if side.status != OK]
        return _broken(above, below, status, "; ".join(reasons))
    if (above.unit, above.direction) != (below.unit, below.direction):
        return _broken(above, below, "error", f"{above.id} and {below.id} differ in unit or direction: no ratio")
    ratio = raw_ratio(above, below)
    if ratio is None:
        return _broken(above, below, "error", "a median is not positive: no ratio can be formed")
    nulls = null_ratio(above), null_ratio(below)
    return Metric(above, below, OK, "", cost(ratio, above.direction), *nulls, stats.minimum_effect(nulls))


def denominators(document: Document, above: Measurement) -> list[Measurement]:
    """What a measurement is divided by: `bare` of the same key, its floor, and `fio`; a guest of a guest: `bare`, `vm`.

    `bare` only where the same work is timed on both. In density, isolation and containment the substrates stand side by
    side, and what one of them shows is no cost over another.
    """
    if above.substrate in (BARE, FLOOR):
        return []
    if above.substrate in NESTED:
        found = [document.by_id.get(f"{above.key}/{VM}")]
    else:
        found = [document.by_id.get(above.floor_id or f"{above.key}/{FLOOR}")]
    if above.scenario not in EXPERIMENTAL:
        found.insert(0, document.by_id.get(f"{above.key}/{BARE}"))
        found.append(document.by_id.get(f"{above.key}/{FIO}") if above.substrate != FIO else None)
    return [below for below in found if below is not None]


@_remembered
def metrics(document: Document) -> tuple[Metric, ...]:
    """Every ratio that the document holds, in its order, those that could not be measured included."""
    return tuple(metric(above, below) for above in document.measurements for below in denominators(document, above))


def null_ratios(document: Document) -> tuple[tuple[Measurement, Estimate], ...]:
    """The A/A ratio of every measurement that has one."""
    found = ((measurement, null_ratio(measurement)) for measurement in document.measurements)
    return tuple((measurement, ratio) for measurement, ratio in found if ratio is not None)
