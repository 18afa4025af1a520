"""Isolation, attribution and containment: worlds with a known truth."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from nestbench_reports import attribution, containment, isolation, metrics, tenant_text
from nestbench_reports.compare import compare
from nestbench_reports.isolation import Hurt
from nestbench_reports.load import parse
from nestbench_reports.model import Document
from nestbench_reports.stats import Verdict
from tests import synthetic
from tests import synthetic_tenants as tenants

Raw = dict[str, Any]


def document(measurements: list[Raw] | None = None, experiments: list[Raw] | None = None) -> Document:
    raw = synthetic.document(specs=[])
    raw["nestbench"]["measurements"] = measurements or []
    raw["nestbench"]["experiments"] = experiments or []
    return parse(json.dumps(raw), "d.json")


def cells(*specs: tuple[str, int, float], seed: int = 1, **options: Any) -> isolation.Matrix:
    rng = np.random.default_rng(seed)
    found = [tenants.cell("latency", name, at, "vm", cost, rng, **options) for name, at, cost in specs]
    return isolation.matrix(document([entry for rows in found for entry in rows]))


# ---- isolation ----


def test_isol_01_is_the_first_percentile_in_shares_of_the_alone_figure() -> None:
    (cell,) = cells(("cpu_hog", 100, 1.25), noise=0.001).cells
    assert cell.isol_01 is not None and cell.kept is not None
    assert cell.kept.value == pytest.approx(0.80, rel=0.01)
    assert cell.isol_01.value == pytest.approx(0.80, rel=0.02) and cell.isol_01.value < cell.kept.value
    assert cell.isol_01.low is not None and cell.isol_01.low <= cell.isol_01.value
    latency = cell.impact("latency_p99")
    assert latency is not None and latency.ratio.value == pytest.approx(1.25, rel=0.01)
    assert cell.verdict is Hurt.HURT


def test_isol_01_sees_rare_stalls_that_the_median_does_not() -> None:
    rows = tenants.cell("latency", "cpu_hog", 100, "vm", 1.0, np.random.default_rng(1))
    for entry in rows[0]["rounds"]:
        if entry["arm"] == "b":
            entry["samples"][3] = 1.0
    (cell,) = isolation.matrix(document(rows)).cells
    assert cell.isol_01 is not None and cell.kept is not None
    assert cell.isol_01.value < 0.05 and cell.kept.value > 0.95


def test_the_intervals_of_kept_throughput_hold_the_truth() -> None:
    hits = 0
    for seed in range(100):
        (cell,) = cells(("cpu_hog", 100, 1.25), seed=seed).cells
        assert cell.kept is not None and cell.kept.low is not None and cell.kept.high is not None
        hits += cell.kept.low <= 0.80 <= cell.kept.high
    assert hits >= 90


@pytest.mark.parametrize("rounds", [3, 6])
def test_the_null_row_is_flagged_in_at_most_5_percent_of_cells(rounds: int) -> None:
    flagged = judged = 0
    for seed in range(20):
        null = cells(*[("none", number, 1.0) for number in range(10)], seed=seed, rounds=rounds, noise=0.05).null
        assert null is not None
        flagged, judged = flagged + null.flagged, judged + null.cells
    assert judged == 200 and flagged / judged <= 0.05


def test_a_true_impact_is_found_among_many_cells_without_one() -> None:
    matrix = cells(("memory_bandwidth", 100, 1.15), *[("none", number, 1.0) for number in range(40)])
    assert [cell.aggressor for cell in matrix.cells if cell.verdict is Hurt.HURT] == ["memory_bandwidth"]


def test_small_and_certain_is_unhurt_and_one_round_is_not_settled() -> None:
    matrix = cells(("cpu_hog", 100, 1.0))
    assert matrix.cells[0].verdict is Hurt.UNHURT and matrix.null is None
    (single,) = cells(("cpu_hog", 100, 3.0), rounds=1).cells
    assert single.verdict is Hurt.NOT_SETTLED
    assert single.isol_01 is not None and single.isol_01.low is None


def test_a_null_row_of_single_rounds_claims_no_rate_of_false_positives() -> None:
    null = cells(("none", 0, 1.0), ("none", 1, 1.0), rounds=1).null
    assert null is not None and (null.cells, null.single, null.flagged) == (0, 2, 0)
    assert "no verdict" in tenant_text.null_text(null) and "0 %" not in tenant_text.null_text(null)


def test_a_victim_that_starves_is_hurt_and_keeps_nothing() -> None:
    rows = tenants.cell("latency", "cpu_hog", 100, "vm", 1.0, np.random.default_rng(1))
    for metric in rows:
        for entry in metric["rounds"]:
            if entry["arm"] == "b":
                # No request finished: throughput 0, and no latency at all.
                entry["samples"] = [0.0] * 20 if metric["unit"] == "op/s" else []
    (cell,) = isolation.matrix(document(rows)).cells
    assert cell.kept is not None and cell.isol_01 is not None
    assert (cell.kept.value, cell.isol_01.value, cell.verdict) == (0.0, 0.0, Hurt.HURT)
    assert [impact.metric for impact in cell.impacts] == ["throughput"]


def test_several_phases_in_a_round_are_paired_in_their_order() -> None:
    rows = tenants.cell("latency", "cpu_hog", 100, "vm", 1.5, np.random.default_rng(1), rounds=1, windows=5)
    for metric in rows:
        a, b = metric["rounds"]
        metric["rounds"] = [{**a, "order": 0}, {**b, "order": 1}, {**b, "order": 2}, {**a, "order": 3}]
    measurement = document(rows).measurements[0]
    (alone, beside), rounds = isolation.pairs(measurement)
    assert (len(alone), len(beside), rounds) == (2, 2, 1)


def test_an_unsupported_placement_is_a_cell_with_its_reason() -> None:
    matrix = isolation.matrix(document(tenants.isolation_matrix()))
    (refused,) = [cell for cell in matrix.cells if cell.placement == "sibling"]
    assert (refused.status, refused.impacts, refused.isol_01) == ("unsupported", (), None)
    assert "no CPU siblings" in refused.reason


def test_arms_of_isolation_are_no_a_a_and_its_substrates_no_cost() -> None:
    found = document(tenants.isolation_matrix())
    assert metrics.null_ratios(found) == () and metrics.metrics(found) == ()
    with_aggressor = metrics.absolute(next(e for e in found.measurements if "cpu_hog,intensity=100" in e.id))
    assert with_aggressor is not None
    whole = parse(json.dumps(tenants.document()), "d.json")
    assert {metric.numerator.scenario for metric in metrics.metrics(whole) if metric.ratio_name == "vm/bare"} == {
        "overhead"
    }
    assert {m.numerator.workload for m in metrics.metrics(whole) if m.numerator.scenario == "density"} == {
        "memory_per_guest",
        "start_rate",
    }


def test_two_documents_are_compared_by_what_the_aggressor_costs() -> None:
    def run(cost: float, seed: int, speed: float) -> Document:
        rng = np.random.default_rng(seed)
        rows = tenants.cell("latency", "none", 0, "vm", 1.0, rng) + tenants.cell("latency", "hog", 100, "vm", cost, rng)
        for entry in (entry for row in rows if row["unit"] == "op/s" for entry in row["rounds"]):
            entry["samples"] = [sample * speed for sample in entry["samples"]]
        return document(rows)

    hog = "isolation/latency/aggressor=hog,intensity=100,metric=throughput,placement=same_cache,victim=latency/vm"
    # A host twice as fast with the same impact is the same isolation.
    same = {entry.id: entry for entry in compare(run(1.2, 1, 1.0), run(1.2, 2, 2.0)).differences}
    worse = {entry.id: entry for entry in compare(run(1.05, 1, 1.0), run(1.3, 2, 1.0)).differences}
    assert same[hog].verdict is not Verdict.REGRESSION and same[hog].unit == "x"
    assert worse[hog].verdict is Verdict.REGRESSION


# ---- attribution ----


def scored(*records: Raw) -> attribution.Attribution:
    (found,) = attribution.attributions(
        document(experiments=[tenants.experiment("isolation", "attribution", "vm", {}, list(records))])
    )
    return found


def test_scores_of_the_known_schedules() -> None:
    (found,) = attribution.attributions(document(experiments=[tenants.attribution()]))
    assert (found.recall.hits, found.recall.trials) == (58, 60)
    assert (found.precision.hits, found.precision.trials) == (58, 59)
    assert (found.quiet_alarms.hits, found.quiet_alarms.trials) == (1, 2800)
    assert found.false_alarms_per_hour == pytest.approx(1 / (40 * 10 / 3600))
    assert found.quiet_false_alarms_per_hour == pytest.approx(1 / (10 * 10 / 3600))
    assert found.delay_median_ns == pytest.approx(0.4e9, rel=0.1)
    groups = {(group.aggressor, group.intensity): group for group in found.groups}
    assert groups["memory_bandwidth", 50].recall == attribution.Proportion(28, 30)
    assert groups["exit_storm", 25].counting == 0 and groups["exit_storm", 25].recall.value is None


def test_repetition_improves_neither_precision_nor_recall() -> None:
    one = tenants.episode(2, 1, 3, 0.5)
    many = scored(tenants.schedule(0, [one], [tenants.detection(2, 1 + 0.1 * n) for n in range(10)]))
    assert (many.precision, many.recall) == (attribution.Proportion(1, 1), attribution.Proportion(1, 1))
    wrong = scored(tenants.schedule(0, [one], [tenants.detection(5, 1 + 0.1 * n) for n in range(10)]))
    assert (wrong.precision, wrong.recall) == (attribution.Proportion(0, 10), attribution.Proportion(0, 1))


def test_the_wrong_guest_too_early_and_too_late_are_wrong() -> None:
    one = tenants.episode(2, 1, 3, 0.5)
    times = [(2, 0.95), (2, 3.3), (3, 2.0)]
    found = scored(tenants.schedule(0, [one], [tenants.detection(guest, at) for guest, at in times]))
    assert found.precision == attribution.Proportion(0, 3)
    late = scored(tenants.schedule(0, [one], [tenants.detection(2, 3.15)]))
    assert late.recall == attribution.Proportion(1, 1) and late.precision == attribution.Proportion(1, 1)


def test_a_faint_aggressor_counts_neither_way() -> None:
    faint = tenants.episode(2, 1, 3, 0.09)
    answers: list[list[Raw]] = [[], [tenants.detection(2, 2)]]
    for detections in answers:
        found = scored(tenants.schedule(0, [faint], detections))
        assert found.recall.trials == 0 and found.precision.trials == 0 and found.recall.value is None


def test_wilsons_interval() -> None:
    assert attribution.Proportion(0, 0).interval is None
    low, high = attribution.Proportion(95, 100).interval or (0, 0)
    assert low == pytest.approx(0.8882, abs=1e-3) and high == pytest.approx(0.9785, abs=1e-3)
    assert (attribution.Proportion(10, 10).interval or (0, 0))[1] == pytest.approx(1.0)


# ---- containment ----


def fault(*tries: Raw, **options: Any) -> containment.Fault:
    experiment = tenants.containment("triple_fault", "vm", "guest_fault", list(tries), **options)
    (found,) = containment.faults(document(experiments=[experiment]))
    return found


def test_ok_only_when_every_try_is_right_contained_and_in_time() -> None:
    assert fault(*[tenants.one_try(n) for n in range(20)]).ok
    good = tenants.one_try(0)
    for bad, words in (
        (tenants.one_try(1, right=False), "classified right in 1 of 2"),
        (tenants.one_try(1, classification="hang", right=False), "hang 1x"),
        (tenants.one_try(1, contained=False), "contained in 1 of 2"),
        (tenants.one_try(1, detection_ms=1001), "within its deadline in 1 of 2"),
        (tenants.one_try(1, detection_ms=None, right=False), "within its deadline in 1 of 2"),
        (tenants.one_try(1, checksums_wrong=1), "1 wrong checksums"),
        (tenants.one_try(1, restarted=2), "2 neighbours lost"),
    ):
        found = fault(good, bad)
        assert not found.ok and words in "; ".join(found.why_not), found.why_not


def test_neighbours_are_judged_against_before_the_fault() -> None:
    calm = fault(*[tenants.one_try(n) for n in range(6)]).during
    assert calm is not None and calm.verdict is Hurt.UNHURT
    hurt = fault(*[tenants.one_try(n, during=1.5) for n in range(6)])
    assert hurt.during is not None and hurt.during.verdict is Hurt.HURT
    assert hurt.during.ratio.value == pytest.approx(1.5, rel=1e-6)
    assert hurt.after is not None and hurt.after.verdict is Hurt.UNHURT
    single = fault(tenants.one_try(0, during=9)).during
    assert single is not None and single.verdict is Hurt.NOT_SETTLED


def test_neighbours_without_a_figure_are_no_verdict() -> None:
    bad = tenants.one_try(0)
    bad["neighbours"]["latency_ns"]["during"] = {"p50": None, "p99": None}
    found = fault(bad)
    assert found.during is None and found.during_p99_ns is None and found.after is not None
