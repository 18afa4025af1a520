"""Estimates, intervals and verdicts. Pure functions over numbers; nothing here knows a document or a file.

Location. The median over rounds of the median within each round: one slow round, or one slow sample, does not move it.
A ratio of things measured side by side is the median over pairs of the ratio of their medians.

Interval. Hierarchical bootstrap: rounds (for the ratio of two substrates: pairs of processes, metrics.raw_ratio) are
drawn with replacement, then samples within each drawn round. The standard error of the log ratio over the resamples
feeds a Student interval with (rounds - 1) degrees of freedom; the error is scaled by sqrt(n / (n - 1)): a bootstrap
over n clusters sees only that share of their spread (T. Hesterberg, "What Teachers Should Know About the Bootstrap",
2015, section "Confidence intervals"). A plain percentile interval of four rounds would hold the truth in 87 % of
cases at best, because it cannot reach beyond the extreme rounds.

The median of s draws with replacement from s sorted values needs no s draws: it is the value at the quantile that the
median of s uniform numbers takes, which is Beta distributed. That is exact, and makes a resample two numbers per round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

RESAMPLES = 2000
SEED = 20250101
CONFIDENCE = 0.95
SMALLEST_EFFECT = 0.005  # no difference below this is ever called one
LARGEST_EFFECT = 0.10  # a metric whose own noise exceeds this cannot be called equivalent to anything
MOST_ROUNDS = 10_000  # a larger answer to "how many rounds" is no answer


class Verdict(Enum):
    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Estimate:
    """A median or a ratio with its interval; `low` and `high` are None when there are too few rounds for one."""

    value: float
    low: float | None
    high: float | None
    log_error: float | None  # standard error of log(value)
    freedom: float  # degrees of freedom of log_error; 0 without an interval
    rounds: int
    samples: int

    def contains(self, number: float) -> bool:
        return self.low is not None and self.high is not None and self.low <= number <= self.high


@lru_cache(maxsize=256)
def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def t_tail(t: float, freedom: float) -> float:
    """P(T > t) for Student's t distribution."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))


def location(rounds: Sequence[FloatArray]) -> float:
    """The median over rounds of the median within each round."""
    return float(np.median([np.median(samples) for samples in rounds]))


@lru_cache(maxsize=64)
def _picks(seed: int, resamples: int, rounds: int) -> IntArray:
    picks = np.random.default_rng([seed, rounds]).integers(0, rounds, size=(resamples, rounds), dtype=np.int64)
    picks.setflags(write=False)
    return picks


@lru_cache(maxsize=256)
def _median_ranks(seed: int, stream: int, shape: tuple[int, int], size: int) -> tuple[IntArray, IntArray]:
    """Ranks (lower and upper middle) of the median of `size` draws with replacement from `size` sorted values."""
    rng = np.random.default_rng([seed, stream, size, *shape])
    half = size // 2
    if size % 2 == 1:
        lower = rng.beta(half + 1, half + 1, size=shape)
        upper = lower
    else:
        lower = rng.beta(half, half + 1, size=shape)
        # The next order statistic: the smallest of `half` uniform numbers above `lower`.
        upper = lower + (1.0 - lower) * (1.0 - rng.random(shape) ** (1.0 / half))
    ranks = [np.minimum((quantile * size).astype(np.int64), size - 1) for quantile in (lower, upper)]
    for rank in ranks:
        rank.setflags(write=False)
    return ranks[0], ranks[1]


def resampled_locations(
    rounds: Sequence[FloatArray], seed: int = SEED, stream: int = 0, resamples: int = RESAMPLES
) -> FloatArray:
    """`location` of `resamples` hierarchical resamples.

    Two measurements with the same number of rounds and the same seed draw the same rounds, whatever their stream: that
    pairs them. Their samples are drawn independently when the streams differ.
    """
    return _row_medians(_resampled_medians(rounds, seed, stream, resamples))


def _resampled_medians(rounds: Sequence[FloatArray], seed: int, stream: int, resamples: int) -> FloatArray:
    """The medians of the drawn rounds, a row for each resample."""
    count = len(rounds)
    sizes = np.array([len(samples) for samples in rounds], dtype=np.int64)
    table = np.zeros((count, int(sizes.max())))
    for row, samples in enumerate(rounds):
        table[row, : len(samples)] = np.sort(samples)
    picks = _picks(seed, resamples, count)
    medians = np.empty(picks.shape)
    for size in np.unique(sizes):
        lower, upper = _median_ranks(seed, stream, (resamples, count), int(size))
        chosen = sizes[picks] == size
        medians[chosen] = 0.5 * table[picks[chosen], lower[chosen]] + 0.5 * table[picks[chosen], upper[chosen]]
    return medians


def _row_medians(values: FloatArray) -> FloatArray:
    ordered = np.sort(values, axis=1)
    middle = values.shape[1] // 2
    if values.shape[1] % 2 == 1:
        return ordered[:, middle]
    return 0.5 * ordered[:, middle - 1] + 0.5 * ordered[:, middle]


def _log_error(logs: FloatArray, rounds: int) -> float:
    return float(np.std(logs, ddof=1)) * math.sqrt(rounds / (rounds - 1))


def _estimate(log_value: float, log_error: float | None, freedom: float, rounds: int, samples: int) -> Estimate:
    if log_error is None:
        return Estimate(math.exp(log_value), None, None, None, 0.0, rounds, samples)
    reach = t_quantile(0.5 + CONFIDENCE / 2, freedom) * log_error
    # Beyond e^200 there is no reading the number; the bound keeps it finite.
    low, high = (math.exp(max(-200.0, min(200.0, log_value + sign * reach))) for sign in (-1, 1))
    return Estimate(math.exp(log_value), low, high, log_error, freedom, rounds, samples)


def _count(rounds: Sequence[FloatArray]) -> int:
    return sum(len(samples) for samples in rounds)


def _positive_logs(values: FloatArray) -> FloatArray | None:
    return np.log(values) if bool(np.all(values > 0)) else None


def median(rounds: Sequence[FloatArray], seed: int = SEED) -> Estimate | None:
    """Median with its interval; None when it is not positive."""
    value = location(rounds)
    if value <= 0:
        return None
    error = None
    if len(rounds) >= 2:
        logs = _positive_logs(resampled_locations(rounds, seed))
        error = None if logs is None else _log_error(logs, len(rounds))
    return _estimate(math.log(value), error, len(rounds) - 1, len(rounds), _count(rounds))


def paired_ratio(
    numerator: Sequence[FloatArray], denominator: Sequence[FloatArray], seed: int = SEED, rounds: int | None = None
) -> Estimate | None:
    """The median over pairs of the ratio of their medians; the n-th entries of both were measured side by side.

    Pairing before the median over pairs takes out what a slow hour of the host does to both sides of a pair; the ratio
    of two medians over pairs would keep it. None when a median is not positive.

    `rounds`: how many rounds the entries come from, when a round holds several of them.
    """
    if len(numerator) != len(denominator):
        raise ValueError("paired_ratio needs the same rounds on both sides")
    above = np.array([np.median(samples) for samples in numerator])
    below = np.array([np.median(samples) for samples in denominator])
    if np.any(above <= 0) or np.any(below <= 0):
        return None
    count = len(numerator)
    error = None
    if (count if rounds is None else rounds) >= 2:
        above_medians = _resampled_medians(numerator, seed, 1, RESAMPLES)
        below_medians = _resampled_medians(denominator, seed, 2, RESAMPLES)
        if bool(np.all(above_medians > 0)) and bool(np.all(below_medians > 0)):
            error = _log_error(_row_medians(np.log(above_medians) - np.log(below_medians)), count)
    log_ratio = float(np.median(np.log(above) - np.log(below)))
    samples = _count(numerator) + _count(denominator)
    return _estimate(log_ratio, error, count - 1, rounds or count, samples)


def independent_ratio(above: Estimate, below: Estimate) -> Estimate:
    """above / below of two runs that share nothing; degrees of freedom after Welch and Satterthwaite."""
    log_value = math.log(above.value) - math.log(below.value)
    rounds, samples = min(above.rounds, below.rounds), above.samples + below.samples
    if above.log_error is None or below.log_error is None:
        return _estimate(log_value, None, 0.0, rounds, samples)
    error, freedom = _sum_of_errors(((above.log_error, above.freedom), (below.log_error, below.freedom)))
    return _estimate(log_value, error, freedom, rounds, samples)


def _sum_of_errors(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(error, degrees of freedom) of a sum of independent terms, each with both; after Welch and Satterthwaite."""
    error = math.sqrt(sum(part**2 for part, _ in parts))
    spread = sum(part**4 / freedom for part, freedom in parts)
    return error, max(1.0, error**4 / spread if spread > 0 else sum(freedom for _, freedom in parts))


def paired_value(
    formula: Callable[..., FloatArray],
    sides: Sequence[Sequence[FloatArray]],
    shared: Sequence[FloatArray],
    rounds: int,
    seed: int = SEED,
) -> Estimate | None:
    """The median over pairs of `formula(*sides, shared)`: what no plain ratio says, with an interval all the same.

    `sides`: measured side by side, the n-th entries of all belong together and are drawn together. `shared`: measured
    apart from them and drawn apart. `formula` works element by element. `rounds`: how many rounds the entries of
    `sides` come from. None when a value is not positive; no interval from fewer than two rounds on either hand.
    """
    count = len(sides[0])
    if any(len(side) != count for side in sides):
        raise ValueError("paired_value needs the same pairs on every side")
    medians = [np.array([np.median(samples) for samples in side]) for side in sides]
    middle = np.float64(location(shared))
    logs = _usable_logs(formula(*medians, middle))
    if logs is None:
        return None
    samples = sum(map(_count, sides)) + _count(shared)
    error, freedom = None, 0.0
    if rounds >= 2 and len(shared) >= 2:
        drawn = [_resampled_medians(side, seed, stream, RESAMPLES) for stream, side in enumerate(sides, start=1)]
        of_sides = _usable_logs(formula(*drawn, middle))
        others = resampled_locations(shared, seed + 1)
        of_shared = _usable_logs(formula(*medians, others[:, None]))
        if of_sides is not None and of_shared is not None:
            parts = (
                (_log_error(_row_medians(of_sides), count), count - 1.0),
                (_log_error(_row_medians(of_shared), len(shared)), len(shared) - 1.0),
            )
            error, freedom = _sum_of_errors(parts)
    return _estimate(float(np.median(logs)), error, freedom, rounds, samples)


def _usable_logs(values: FloatArray) -> FloatArray | None:
    return np.log(values) if bool(np.all(np.isfinite(values)) and np.all(values > 0)) else None


def inverse(estimate: Estimate) -> Estimate:
    """1 / estimate."""
    low = None if estimate.high is None else 1 / estimate.high
    high = None if estimate.low is None else 1 / estimate.low
    return Estimate(
        1 / estimate.value, low, high, estimate.log_error, estimate.freedom, estimate.rounds, estimate.samples
    )


def minimum_effect(null_ratios: Sequence[Estimate | None]) -> float | None:
    """The smallest difference that counts, from A/A ratios: how far from 1 their intervals reach, at least 0.5 %.

    None when one of them has no interval: then nothing is known about what identical things differ by here.
    """
    reach = math.log1p(SMALLEST_EFFECT)
    for ratio in null_ratios:
        if ratio is None or ratio.low is None or ratio.high is None:
            return None
        reach = max(reach, abs(math.log(ratio.low)), abs(math.log(ratio.high)))
    return math.expm1(reach) if null_ratios else None


def p_value(ratio: Estimate, effect: float) -> float:
    """Two-sided p of "no further from 1 than `effect`"; 0.05 exactly when the 95 % interval touches that bound."""
    if ratio.log_error is None:
        return 1.0
    beyond = abs(math.log(ratio.value)) - math.log1p(effect)
    if beyond <= 0:
        return 1.0
    if ratio.log_error == 0:
        return 0.0
    return min(1.0, 2 * t_tail(beyond / ratio.log_error, ratio.freedom))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: reject those at or below the wanted false discovery rate."""
    count = len(p_values)
    adjusted = [0.0] * count
    running = 1.0
    for rank, index in reversed(list(enumerate(sorted(range(count), key=lambda i: p_values[i]), start=1))):
        running = min(running, p_values[index] * count / rank)
        adjusted[index] = running
    return adjusted


def verdict(
    ratio: Estimate, effect: float | None, adjusted_p: float, fdr: float, largest_effect: float = LARGEST_EFFECT
) -> Verdict:
    """The verdict on a cost ratio (above 1: worse), from its interval against the minimum effect."""
    if effect is None or ratio.low is None or ratio.high is None:
        return Verdict.INCONCLUSIVE
    if adjusted_p <= fdr:
        if ratio.low > 1 + effect:
            return Verdict.REGRESSION
        if ratio.high < 1 / (1 + effect):
            return Verdict.IMPROVEMENT
    if effect <= largest_effect and ratio.low >= 1 / (1 + effect) and ratio.high <= 1 + effect:
        return Verdict.EQUIVALENT
    return Verdict.INCONCLUSIVE


def required_rounds(ratio: Estimate, effect: float | None) -> int | None:
    """Rounds after which the interval would clear the bound that it now straddles, if the estimate and the spread stay.

    None when more rounds would not settle it: the estimate lies on the bound itself, or there is no spread to go by.
    """
    if ratio.log_error is None or effect is None or ratio.rounds < 2:
        return None
    distance = abs(abs(math.log(ratio.value)) - math.log1p(effect))
    units_per_round = (ratio.freedom + 1) / ratio.rounds
    rounds = ratio.rounds
    while rounds <= MOST_ROUNDS:
        error = ratio.log_error * math.sqrt(ratio.rounds / rounds)
        if t_quantile(0.5 + CONFIDENCE / 2, units_per_round * rounds - 1) * error < distance:
            return rounds
        rounds += max(1, rounds // 20)
    return None
