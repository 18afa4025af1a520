"""Density, isolation, attribution and containment under the gate."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from nestbench_reports.errors import PolicyError
from nestbench_reports.gate import GateResult, Outcome, gate
from nestbench_reports.load import parse
from nestbench_reports.policy import parse as parse_policy
from tests import synthetic
from tests import synthetic_tenants as tenants
from tests.conftest import DEFAULT_POLICY

Raw = dict[str, Any]
CELL = "isolation/{0}/aggressor={1},intensity={2},metric=throughput,placement=same_cache,victim={0}/{3}"


@pytest.fixture(scope="module")
def whole() -> Raw:
    return tenants.document()


def judge(raw: Raw, policy: str) -> GateResult:
    return gate(parse_policy(policy, "p.toml"), parse(json.dumps(raw), "d.json"))


def outcomes(raw: Raw, policy: str) -> dict[str, Outcome]:
    return {judgement.id: judgement.outcome for judgement in judge(raw, policy).judgements}


def without(raw: Raw, *prefixes: str) -> Raw:
    """The document without the measurements and experiments whose ids start so."""
    body = dict(raw["nestbench"])
    for key in ("measurements", "experiments"):
        body[key] = [entry for entry in body[key] if not entry["id"].startswith(prefixes)]
    return {**raw, "nestbench": body}


def test_isolation_below_the_line_fails_and_the_null_row_is_not_held_to_it(whole: Raw) -> None:
    found = outcomes(whole, '[[isolation]]\nmetric = "isolation/*/vm"\n[[containment]]\nmetric="*"\n')
    assert found[CELL.format("cache", "cache_thrash", 100, "vm")] is Outcome.FAIL
    assert found[CELL.format("cache", "cpu_hog", 100, "vm")] is Outcome.PASS
    assert CELL.format("cache", "none", 0, "vm") not in found
    assert CELL.format("cache", "cache_thrash", 100, "bare") not in found
    refused = "isolation/latency/aggressor=cpu_hog,intensity=100,metric=throughput,placement=sibling,victim=latency/vm"
    assert found[refused] is Outcome.LACKING


def test_the_last_rule_that_names_a_cell_decides(whole: Raw) -> None:
    policy = """
[[isolation]]
metric = "isolation/*"
[[isolation]]
metric = "*aggressor=cache_thrash*"
min_isol_01 = 0.60
reason = "the caches are shared here"
[[isolation]]
metric = "isolation/*/bare"
on_below = "pass"
"""
    found = outcomes(whole, policy)
    assert found[CELL.format("cache", "cache_thrash", 100, "vm")] is Outcome.PASS
    assert found[CELL.format("cache", "memory_bandwidth", 100, "vm")] is Outcome.FAIL
    assert found[CELL.format("cache", "memory_bandwidth", 100, "bare")] is Outcome.ACCEPTED
    assert judge(whole, policy).exit_code == 1


def test_a_single_round_is_inconclusive_and_the_policy_says_what_that_means() -> None:
    raw = synthetic.document(specs=[])
    raw["nestbench"]["measurements"] = tenants.cell(
        "latency", "cpu_hog", 100, "vm", 3.0, np.random.default_rng(1), rounds=1
    )
    rule = '[[isolation]]\nmetric = "isolation/*"\n'
    assert judge(raw, rule).exit_code == 3
    assert judge(raw, rule + 'on_inconclusive = "pass"\n').exit_code == 0


def test_a_null_row_that_is_flagged_too_often_is_said() -> None:
    raw = synthetic.document(specs=[])
    rng = np.random.default_rng(1)
    rows = tenants.cell("latency", "none", 0, "vm", 1.3, rng) + tenants.cell("latency", "cpu_hog", 100, "vm", 1.0, rng)
    raw["nestbench"]["measurements"] = rows
    assert any("null row: 1 of 1 cell flagged" in note for note in judge(raw, '[[isolation]]\nmetric = "*"\n').notes)


def test_containment_that_is_not_ok_fails_without_any_rule(whole: Raw) -> None:
    found = outcomes(whole, '[[limit]]\nmetric = "overhead/cpu_integer"\nratio = "vm/bare"\nmax = 2\n')
    assert found["containment/triple_fault/vm"] is Outcome.PASS and found["containment/soak/vm"] is Outcome.PASS
    assert found["containment/memory_bomb/zone"] is Outcome.FAIL


def test_a_rule_may_accept_what_a_zone_does_not_contain(whole: Raw) -> None:
    policy = '[[containment]]\nmetric = "containment/*/zone"\non_not_contained = "pass"\n'
    result = judge(whole, policy)
    (judgement,) = [entry for entry in result.judgements if entry.id == "containment/memory_bomb/zone"]
    assert judgement.outcome is Outcome.ACCEPTED and "contained in 17 of 20 tries" in judgement.text
    assert result.exit_code == 0


def test_a_soak_that_lost_something_fails(whole: Raw) -> None:
    raw = copy.deepcopy(whole)
    raw["nestbench"]["experiments"][-1]["records"][0]["lost"] = 1
    policy = '[[containment]]\nmetric = "containment/*/zone"\non_not_contained = "pass"\n'
    assert outcomes(raw, policy)["containment/soak/vm"] is Outcome.FAIL


def test_density_has_limits_at_the_knee_and_against_bare(whole: Raw) -> None:
    raw = without(whole, "containment")
    rule = '[[density]]\nmetric = "density/steady/vm"\n'
    assert judge(raw, rule + "min_guests = 100\n").exit_code == 0
    assert judge(raw, rule + "min_guests = 110\n").exit_code == 1
    assert judge(raw, rule + "min_ratio = 0.8\n").exit_code == 0
    assert judge(raw, rule + "min_ratio = 0.9\n").exit_code == 1
    memory = '[[density]]\nmetric = "density/memory/vm"\n'
    assert judge(raw, memory + "min_guests = 100\n").exit_code == 0
    assert judge(raw, memory + "min_guests = 101\n").exit_code == 1
    assert judge(raw, memory + "min_ratio = 0.5\n").exit_code == 5


def test_a_knee_that_was_not_reached_does_not_fail_a_limit_above_it() -> None:
    raw = synthetic.document(specs=[])
    rng = np.random.default_rng(1)
    records = [tenants.step(n, 3 * tenants.MS, n * tenants.RATE_PER_S, rng) for n in (1, 2, 4)]
    raw["nestbench"]["experiments"] = [
        tenants.experiment("density", "steady", "vm", tenants.density_setup(), [*records, tenants.end("max", 4)])
    ]
    assert judge(raw, '[[density]]\nmetric = "density/steady/vm"\nmin_guests = 100\n').exit_code == 3


@pytest.mark.parametrize(("memory", "rate", "code"), [(1.12, 0.93, 0), (1.31, 0.93, 1), (1.12, 0.79, 1)])
def test_memory_and_start_rate_against_the_floor(memory: float, rate: float, code: int) -> None:
    raw = synthetic.document()
    raw["nestbench"]["measurements"] += tenants.density_measurements(2000, memory, rate)
    text = DEFAULT_POLICY.read_text(encoding="utf-8")
    assert judge(raw, text).exit_code == code
    # One value for thousands of guests has no interval: by the interval nothing would be settled.
    assert judge(raw, text.replace('judge = "value"', 'judge = "interval"')).exit_code == 3


@pytest.mark.parametrize(
    ("bound", "code"),
    [("min_recall = 0.95", 0), ("min_recall = 0.97", 1), ("min_precision = 0.99", 1), ("max_quiet_alarms = 0.0001", 1)],
)
def test_attribution_has_limits(whole: Raw, bound: str, code: int) -> None:
    raw = without(whole, "containment")
    assert judge(raw, f'[[attribution]]\nmetric = "isolation/attribution/*"\n{bound}\n').exit_code == code


def test_the_default_policy_judges_everything_with_many_tenants(whole: Raw) -> None:
    result = judge(whole, DEFAULT_POLICY.read_text(encoding="utf-8"))
    by_id: dict[str, set[Outcome]] = {}
    for judgement in result.judgements:
        by_id.setdefault(judgement.id.split("/")[0], set()).add(judgement.outcome)
    assert by_id["density"] == {Outcome.PASS} and by_id["containment"] == {Outcome.PASS, Outcome.ACCEPTED}
    assert {Outcome.FAIL, Outcome.PASS, Outcome.ACCEPTED} <= by_id["isolation"] and result.exit_code == 1
    failed = [entry.id for entry in result.judgements if entry.outcome is Outcome.FAIL]
    assert failed and all(name.endswith("/vm") for name in failed)


def test_a_rule_that_is_required_and_matches_nothing_is_refused(result_raw: Raw) -> None:
    for text, words in (
        ('[[density]]\nmetric = "density/x"\nmin_guests = 1\n', "density/x"),
        ('[[isolation]]\nmetric = "isolation/x"\nrequired = true\n', "isolation/x"),
        ('[[containment]]\nmetric = "containment/x"\nrequired = true\n', "containment/x"),
    ):
        with pytest.raises(PolicyError, match=words):
            judge(result_raw, text)
    optional = '[[isolation]]\nmetric = "isolation/x"\n[[limit]]\nmetric = "overhead/*"\nratio = "vm/bare"\nmax = 9\n'
    assert any("isolation/x" in note for note in judge(result_raw, optional).notes)


def test_a_run_of_one_scenario_is_judged_by_what_the_policy_says_of_it(whole: Raw) -> None:
    raw = without(whole, "overhead", "exits", "lifecycle", "isolation", "density")
    document = parse(json.dumps(raw), "d.json")
    policy = parse_policy(DEFAULT_POLICY.read_text(encoding="utf-8"), "p.toml")
    with pytest.raises(PolicyError, match="overhead/cpu_integer"):
        gate(policy, document)
    result = gate(policy, document, whole=False)
    assert {entry.id.partition("/")[0] for entry in result.judgements} == {"containment"} and result.exit_code == 0
    assert any("cpu_integer" in note and "did not measure" in note for note in result.notes)
    # A glob that is wrong within a scenario that was measured is still an error.
    wrong = parse_policy('[[limit]]\nmetric = "containment/typo*"\nunit = "ns"\nmax = 1\n', "p.toml")
    with pytest.raises(PolicyError, match="typo"):
        gate(wrong, document, whole=False)


@pytest.fixture
def result_raw() -> Raw:
    return synthetic.document(rounds=2, samples=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("isolation = 1", "array of tables"),
        ("[[isolation]]\nmin_isol_01 = 0.9", "`metric` is missing"),
        ('[[isolation]]\nmetric = "x"\nmin_isol_01 = 90', "share"),
        ('[[isolation]]\nmetric = "x"\non_below = "maybe"', "on_below"),
        ('[[isolation]]\nmetric = "x"\nsurprise = 1', "unknown key `surprise`"),
        ('[[density]]\nmetric = "x"', "min_guests"),
        ('[[density]]\nmetric = "x"\nmin_guests = -1', "positive"),
        ('[[attribution]]\nmetric = "x"', "min_precision"),
        ('[[attribution]]\nmetric = "x"\nmin_recall = 95', "fractions"),
        ('[[containment]]\nmetric = ""', "empty"),
        ('[[containment]]\nmetric = "x"\non_not_contained = 1', "on_not_contained"),
        ('[[limit]]\nmetric = "x"\nratio = "vm/floor"\nmax = 1\njudge = "luck"', "judge"),
    ],
)
def test_rules_that_are_wrong_are_refused(text: str, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        parse_policy(text, "p.toml")
