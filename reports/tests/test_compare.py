"""Two documents against each other: verdicts, refusals, exit codes, JSON."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from nestbench_reports.compare import compare
from nestbench_reports.errors import EnvironmentRefusedError
from nestbench_reports.load import parse
from nestbench_reports.model import Document
from nestbench_reports.stats import Verdict
from tests import synthetic
from tests.conftest import DEFAULT_POLICY, Run

Raw = dict[str, Any]
STEADY = synthetic.Noise(rounds=0.002, processes=0.0003, samples=0.001)


def document(raw: Raw, name: str = "d.json") -> Document:
    return parse(json.dumps(raw), name)


def steady(seed: int, vm_factor: float = 1.0) -> Raw:
    return synthetic.document(seed, rounds=12, noise=STEADY, vm_factor=vm_factor)


def test_a_slower_guest_is_a_regression_and_a_faster_one_an_improvement() -> None:
    before, after = document(steady(1)), document(steady(2, vm_factor=1.05))
    slower = compare(before, after, of=["vm/bare"])
    assert {entry.verdict for entry in slower.differences} == {Verdict.REGRESSION}
    faster = compare(after, before, of=["vm/bare"])
    assert {entry.verdict for entry in faster.differences} == {Verdict.IMPROVEMENT}
    wanted = "overhead/memory_bandwidth/operation=read vm/bare"
    found = next(entry for entry in slower.differences if entry.id == wanted)
    assert found.ratio is not None and found.ratio.value == pytest.approx(1.05, abs=0.01)  # a rate, yet a cost


def test_the_same_machine_twice_has_no_verdict_of_a_change() -> None:
    changes = 0
    for seed in range(5):
        comparison = compare(document(steady(10 + 2 * seed)), document(steady(11 + 2 * seed)))
        verdicts = [entry.verdict for entry in comparison.differences]
        changes += verdicts.count(Verdict.REGRESSION) + verdicts.count(Verdict.IMPROVEMENT)
        assert verdicts.count(Verdict.EQUIVALENT) > len(verdicts) / 2
    assert changes == 0


def test_a_document_against_itself_is_never_worse() -> None:
    same = document(synthetic.document())
    comparison = compare(same, same)
    assert not comparison.with_verdict(Verdict.REGRESSION) and not comparison.with_verdict(Verdict.IMPROVEMENT)
    assert comparison.environment == ()


def test_inconclusive_says_why_and_how_many_rounds_would_settle_it() -> None:
    noisy = synthetic.Noise(rounds=0.03, processes=0.01, samples=0.02)
    before = document(synthetic.document(1, rounds=4, noise=noisy))
    comparison = compare(before, document(synthetic.document(2, rounds=4, noise=noisy, vm_factor=1.04)))
    unsettled = comparison.with_verdict(Verdict.INCONCLUSIVE)
    assert unsettled and all(entry.reason for entry in unsettled)
    assert any(entry.required_rounds is not None and entry.required_rounds > 4 for entry in unsettled)


def test_one_round_is_inconclusive_and_says_that_it_is_too_few() -> None:
    one = document(synthetic.document(rounds=1))
    reasons = {entry.reason for entry in compare(one, one).differences}
    assert reasons == {"fewer than two rounds on a side: nothing is known about the spread"}


def test_without_a_second_arm_nothing_is_called_different() -> None:
    raw = steady(1, vm_factor=2.0)
    for entry in raw["nestbench"]["measurements"]:
        entry["rounds"] = [process for process in entry["rounds"] if process["arm"] == "a"]
    comparison = compare(document(steady(2)), document(raw))
    assert {entry.verdict for entry in comparison.differences} == {Verdict.INCONCLUSIVE}
    assert {entry.reason for entry in comparison.differences} == {
        "no A/A interval: nothing is known about what identical runs differ by here"
    }


def test_environments_that_differ_are_listed() -> None:
    before, after = synthetic.document(), synthetic.document()
    after["nestbench"]["host"]["kernel"] = "Linux 6.12"
    after["nestbench"]["host"]["mitigations"]["retbleed"] = "Vulnerable"
    after["nestbench"]["images"]["cpu_integer"] = "f" * 64
    differences = compare(document(before), document(after)).environment
    found = {entry.what: (entry.baseline, entry.current) for entry in differences}
    assert found["kernel"][1] == "Linux 6.12" and found["mitigation retbleed"] == ("(none)", "Vulnerable")
    assert "image cpu_integer" in found and len(found) == 3


@pytest.mark.parametrize("change", ["model", "clock", "nothing in common"])
def test_documents_that_cannot_be_compared_are_refused(
    change: str, result_path: Path, tmp_path: Path, run: Run
) -> None:
    raw = synthetic.document(2)
    if change == "model":
        raw["nestbench"]["host"]["cpu"]["model"] = 1
    elif change == "clock":
        raw["nestbench"]["host"]["clock"] = "emulated"
    else:
        raw["nestbench"]["measurements"] = []
    other = document(copy.deepcopy(raw))
    with pytest.raises(EnvironmentRefusedError):
        compare(document(synthetic.document()), other)
    result = run("compare", result_path, synthetic.write(tmp_path / "other.json", raw))
    assert (result.code, result.out) == (4, "")


def test_another_schema_is_a_refusal_only_where_documents_are_compared(
    result_path: Path, tmp_path: Path, run: Run
) -> None:
    raw = synthetic.document(2)
    raw["nestbench"]["schema"] = "nestbench.result/2"
    other = synthetic.write(tmp_path / "other.json", raw)
    for arguments in (
        ("compare", result_path, other),
        ("compare", other, result_path),
        ("gate", "--policy", DEFAULT_POLICY, result_path, "--baseline", other),
    ):
        result = run(*arguments)
        assert (result.code, result.out) == (4, "") and "nestbench.result/2" in result.err, arguments
    assert run("summary", other).code == 2
    assert run("gate", "--policy", DEFAULT_POLICY, other).code == 2


def test_exit_codes(result_path: Path, tmp_path: Path, run: Run) -> None:
    def against(raw: Raw, *flags: str) -> int:
        return run("compare", result_path, synthetic.write(tmp_path / "other.json", raw), *flags).code

    assert against(synthetic.document(2, vm_factor=1.2)) == 1
    assert against(synthetic.document(2)) == 3
    assert against(synthetic.document(2), "--allow-inconclusive") == 0
    for status, code in (("unsupported", 5), ("failed", 1), ("crashed", 6)):
        raw = synthetic.document(2)
        synthetic.set_status(raw, "exits/cpuid/cpl=3/vm", status, "because")
        assert against(raw, "--allow-inconclusive") == code, status
    assert run("compare", result_path, tmp_path / "none.json").code == 2
    assert run("compare", result_path).code == 2
    assert run("compare", result_path, result_path, "--fdr", "2").code == 2


def test_json_holds_what_the_table_shows(result_path: Path, tmp_path: Path, run: Run) -> None:
    other = synthetic.write(tmp_path / "other.json", synthetic.document(2, vm_factor=1.2))
    result = run("compare", result_path, other, "--json")
    found = json.loads(result.out)
    assert found["exit_code"] == result.code == 1
    entry = next(entry for entry in found["differences"] if entry["id"] == "overhead/cpu_integer/vm")
    assert entry["verdict"] == "regression" and entry["cost_ratio"]["low"] > 1.1 and entry["minimum_effect"] >= 0.005
    assert found["counts"]["regression"] == sum(entry["verdict"] == "regression" for entry in found["differences"])
