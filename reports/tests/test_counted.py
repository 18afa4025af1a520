"""Costs: instruction counts are compared as they are, times are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nestbench_reports.counted import COUNTED, Difference
from tests import synthetic
from tests.conftest import Run


def document(values: dict[str, float], unit: str = COUNTED, kernel: str | None = None) -> dict[str, Any]:
    specs = [synthetic.Spec("costs", name, {}, unit, "lower", {"vm": value}) for name, value in values.items()]
    raw = synthetic.document(specs=specs)
    for entry in raw["nestbench"]["measurements"]:
        for record in entry["rounds"]:
            record["samples"] = [values[entry["workload"]]] * len(record["samples"])
    raw["nestbench"]["host"]["clock"] = "emulated"
    if kernel is not None:
        raw["nestbench"]["host"]["kernel"] = kernel
    return raw


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (2766.0, 2766.0, "equivalent"),
        (2766.0, 2768.0, "equivalent"),  # 0.07 %
        (2766.0, 2769.0, "regression"),  # 0.11 %
        (2766.0, 2763.0, "improvement"),
        (None, 1.0, "inconclusive"),
        (1.0, None, "inconclusive"),
    ],
)
def test_a_tenth_of_a_percent_is_the_line(before: float | None, after: float | None, verdict: str) -> None:
    assert Difference("costs/cpuid/vm", before, after).verdict == verdict


@pytest.mark.parametrize(("after", "code"), [(2766.0, 0), (2800.0, 1), (2700.0, 0)])
def test_counts_of_an_emulated_host_are_compared(run: Run, tmp_path: Path, after: float, code: int) -> None:
    first = synthetic.write(tmp_path / "a.json", document({"cpuid": 2766.0}))
    second = synthetic.write(tmp_path / "b.json", document({"cpuid": after}))
    result = run("compare", first, second)
    assert result.code == code, result.err
    assert "costs/cpuid/vm" in result.out


def test_an_operation_that_is_gone_is_inconclusive(run: Run, tmp_path: Path) -> None:
    first = synthetic.write(tmp_path / "a.json", document({"cpuid": 2766.0, "invlpg": 1.0}))
    second = synthetic.write(tmp_path / "b.json", document({"cpuid": 2766.0}))
    assert run("compare", first, second).code == 3
    assert run("compare", first, second, "--allow-inconclusive").code == 0


def test_times_of_an_emulated_host_are_refused(run: Run, tmp_path: Path) -> None:
    first = synthetic.write(tmp_path / "a.json", document({"cpuid": 2766.0}, unit="ns/op"))
    assert run("compare", first, first).code == 4


def test_counts_of_another_kernel_are_refused(run: Run, tmp_path: Path) -> None:
    first = synthetic.write(tmp_path / "a.json", document({"cpuid": 2766.0}))
    second = synthetic.write(tmp_path / "b.json", document({"cpuid": 2766.0}, kernel="another"))
    result = run("compare", first, second)
    assert result.code == 4
    assert "kernels" in result.err


def test_terminal_and_page_show_costs(run: Run, tmp_path: Path) -> None:
    path = synthetic.write(tmp_path / "result.json", document({"cpuid": 2766.0}))
    assert "2,766.00 instructions" in run("summary", path).out
    assert run("report", path).code == 0
    assert "2,766.00 instructions" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_tail_is_shown_where_there_are_samples_enough_for_one(run: Run, tmp_path: Path) -> None:
    raw = document({"timer_late_awake": 3000.0, "cpuid": 2766.0})
    for entry in raw["nestbench"]["measurements"]:
        if entry["workload"] == "timer_late_awake":
            entry["rounds"][0]["samples"] = [3000.0] * 995 + [14000.0] * 5
            del entry["rounds"][1:]
    said = run("summary", synthetic.write(tmp_path / "result.json", raw)).out
    assert said.count("14,000.00 instructions") == 1
