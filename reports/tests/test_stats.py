"""Intervals are checked by simulation: worlds with a known truth, measured many times."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from nestbench_reports import stats
from nestbench_reports.stats import Estimate, FloatArray, Verdict


def world(rng: np.random.Generator, rounds: int, between: float, within: float, tail: float = 0.0) -> list[FloatArray]:
    """Rounds of 12 samples about 100, with relative spreads between rounds and between samples, and slow rounds."""
    centres = 100 * np.exp(between * rng.standard_normal(rounds)) * (1 + tail * (rng.random(rounds) < 0.15))
    return [centre * np.exp(within * rng.standard_normal(12)) for centre in centres]


@pytest.mark.parametrize("rounds", [3, 5, 8, 20])
@pytest.mark.parametrize(
    ("between", "within", "tail"),
    [(0.01, 0.001, 0.0), (0.0005, 0.02, 0.0), (0.005, 0.01, 0.05)],
    ids=["rounds", "samples", "slow"],
)
def test_at_least_95_percent_of_intervals_hold_the_truth(
    rounds: int, between: float, within: float, tail: float
) -> None:
    rng = np.random.default_rng(7)
    trials = 300
    hits = 0
    for _ in range(trials):
        ratio = stats.paired_ratio(world(rng, rounds, between, within, tail), world(rng, rounds, between, within, tail))
        assert ratio is not None
        hits += ratio.contains(1.0)
    # 0.95 less three standard errors of 300 trials.
    assert hits / trials >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials)


def test_interval_of_a_median_holds_the_truth_and_narrows_with_rounds() -> None:
    rng = np.random.default_rng(11)
    widths = {}
    for rounds in (4, 16):
        found = [stats.median(world(rng, rounds, 0.01, 0.005)) for _ in range(200)]
        assert np.mean([entry is not None and entry.contains(100.0) for entry in found]) >= 0.90
        widths[rounds] = np.median(
            [math.log(entry.high / entry.low) for entry in found if entry and entry.high and entry.low]
        )
    assert widths[16] < widths[4] / 2


def test_pairing_takes_the_luck_of_a_round_out() -> None:
    rng = np.random.default_rng(5)
    luck = np.exp(0.2 * rng.standard_normal(8))
    above = [102 * shared * np.exp(0.001 * rng.standard_normal(10)) for shared in luck]
    below = [100 * shared * np.exp(0.001 * rng.standard_normal(10)) for shared in luck]
    paired = stats.paired_ratio(above, below)
    alone = stats.median(above), stats.median(below)
    assert paired is not None and alone[0] is not None and alone[1] is not None
    independent = stats.independent_ratio(alone[0], alone[1])
    assert paired.low is not None and paired.high is not None and independent.low is not None
    assert 1.01 < paired.low < 1.02 < paired.high < 1.03
    assert independent.low < 0.9


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_resampled_medians_are_distributed_as_those_of_drawn_samples(size: int) -> None:
    """The Beta short cut against drawing each sample, by the first two moments and the quartiles."""
    rng = np.random.default_rng(3)
    samples = rng.lognormal(0, 0.3, size)
    drawn = np.median(rng.choice(samples, size=(40000, size)), axis=1)
    short = stats.resampled_locations([samples, samples], resamples=40000)  # two equal rounds: the mean of two medians
    expected = drawn[:20000] / 2 + drawn[20000:] / 2
    assert np.mean(short) == pytest.approx(np.mean(expected), rel=0.01)
    assert np.std(short) == pytest.approx(np.std(expected), rel=0.05, abs=1e-12)
    assert np.quantile(short, [0.25, 0.75]) == pytest.approx(np.quantile(expected, [0.25, 0.75]), rel=0.03)


def test_rounds_may_have_different_numbers_of_samples() -> None:
    rng = np.random.default_rng(2)
    rounds = [100 + rng.standard_normal(size) for size in (1, 4, 9, 2)]
    found = stats.median(rounds)
    assert found is not None and found.contains(100) and found.samples == 16


def test_same_seed_same_interval_and_other_seed_nearly_the_same() -> None:
    rng = np.random.default_rng(1)
    rounds = world(rng, 6, 0.01, 0.01)
    first, again, other = (stats.median(rounds, seed) for seed in (1, 1, 2))
    assert first == again
    assert first is not None and other is not None and first.low != other.low
    assert first.low == pytest.approx(other.low, rel=0.01)


def test_one_round_gives_no_interval_and_no_verdict() -> None:
    ratio = stats.paired_ratio([np.array([2.0, 2.1])], [np.array([1.0, 1.1])])
    assert ratio is not None and ratio.low is None and ratio.log_error is None
    assert stats.p_value(ratio, 0.01) == 1.0
    assert stats.verdict(ratio, 0.01, 0.0, 0.05) is Verdict.INCONCLUSIVE
    assert stats.required_rounds(ratio, 0.01) is None
    assert stats.minimum_effect([ratio]) is None


def test_a_median_that_is_not_positive_gives_no_ratio() -> None:
    zero, one = [np.zeros(3)] * 3, [np.ones(3)] * 3
    assert stats.paired_ratio(zero, one) is None
    assert stats.paired_ratio(one, zero) is None
    assert stats.median(zero) is None


def test_extreme_samples_stay_finite() -> None:
    huge, tiny = [np.full(3, 1e18)] * 3, [np.full(3, 1e-18)] * 3
    ratio = stats.paired_ratio(huge, tiny)
    assert ratio is not None and math.isfinite(ratio.value) and ratio.value == pytest.approx(1e36)
    wild = [np.array([1e-18, 1e18]), np.array([1e18]), np.array([1e-18])]
    spread = stats.paired_ratio(wild, huge)
    assert spread is not None and spread.high is not None and math.isfinite(spread.high)


def test_minimum_effect_is_the_reach_of_the_null_intervals_and_never_below_half_a_percent() -> None:
    def null(low: float, high: float) -> Estimate:
        return Estimate(1.0, low, high, 0.001, 5, 6, 60)

    assert stats.minimum_effect([null(0.999, 1.001)]) == pytest.approx(0.005)
    assert stats.minimum_effect([null(0.999, 1.001), null(0.99, 1.03)]) == pytest.approx(0.03)
    assert stats.minimum_effect([null(0.9, 1.03)]) == pytest.approx(1 / 0.9 - 1)
    assert stats.minimum_effect([null(0.9, 1.03), None]) is None
    assert stats.minimum_effect([]) is None


def test_benjamini_hochberg_by_hand() -> None:
    assert stats.benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert stats.benjamini_hochberg([]) == []
    adjusted = stats.benjamini_hochberg([1.0, 1.0])
    assert adjusted == [1.0, 1.0]


def test_benjamini_hochberg_holds_the_rate_where_single_tests_do_not() -> None:
    rng = np.random.default_rng(13)
    false_alarms = [min(stats.benjamini_hochberg(list(rng.random(60)))) <= 0.05 for _ in range(400)]
    assert np.mean(false_alarms) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def of(value: float, log_error: float, rounds: int = 10) -> Estimate:
    reach = stats.t_quantile(0.975, rounds - 1) * log_error
    return Estimate(
        value, value * math.exp(-reach), value * math.exp(reach), log_error, rounds - 1, rounds, 10 * rounds
    )


@pytest.mark.parametrize(
    ("value", "log_error", "effect", "expected"),
    [
        (1.10, 0.005, 0.01, Verdict.REGRESSION),
        (0.90, 0.005, 0.01, Verdict.IMPROVEMENT),
        (1.001, 0.001, 0.01, Verdict.EQUIVALENT),
        (1.02, 0.01, 0.01, Verdict.INCONCLUSIVE),
        (1.005, 0.01, 0.01, Verdict.INCONCLUSIVE),
        (1.0, 0.001, 0.30, Verdict.INCONCLUSIVE),  # within the noise, and the noise is too large to mean anything
    ],
)
def test_verdicts(value: float, log_error: float, effect: float, expected: Verdict) -> None:
    ratio = of(value, log_error)
    assert stats.verdict(ratio, effect, stats.p_value(ratio, effect), 0.05) is expected


def test_p_value_is_5_percent_when_the_interval_touches_the_bound() -> None:
    ratio = of(1.05, 0.01)
    assert ratio.low is not None
    assert stats.p_value(ratio, ratio.low - 1) == pytest.approx(0.05, abs=1e-9)
    assert stats.p_value(of(1.05, 0.0), 0.01) == 0.0
    assert stats.p_value(of(1.005, 0.01), 0.01) == 1.0


def test_required_rounds_settle_what_was_inconclusive() -> None:
    ratio = of(1.02, 0.01, rounds=6)
    needed = stats.required_rounds(ratio, 0.005)
    assert needed is not None and needed > 6
    settled = of(1.02, 0.01 * math.sqrt(6 / needed), rounds=needed)
    assert stats.verdict(settled, 0.005, stats.p_value(settled, 0.005), 0.05) is Verdict.REGRESSION
    assert stats.required_rounds(of(1.005, 0.01), 0.005) is None  # on the bound itself


def test_inverse_turns_rates_into_costs() -> None:
    assert stats.inverse(Estimate(2.0, 1.6, 2.5, 0.1, 5, 6, 60)) == Estimate(0.5, 0.4, 0.625, 0.1, 5, 6, 60)


def test_sixty_metrics_take_less_than_two_seconds() -> None:
    rng = np.random.default_rng(1)
    worlds = [(world(rng, 8, 0.01, 0.01), world(rng, 8, 0.01, 0.01)) for _ in range(60)]
    started = time.process_time()
    for above, below in worlds:
        stats.paired_ratio(above, below)
    assert time.process_time() - started < 2.0
