"""Guests of guests: their ratios, and the exits that one exit of theirs becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nestbench_reports import load, metrics, nested
from tests import synthetic
from tests.conftest import Run

VALUES = {"bare": 10.0, "vm": 20.0, "nested": 60.0, "nested_shadow": 80.0}


def document(exits: int = 300, runs: int = 100) -> dict[str, Any]:
    specs = [
        synthetic.Spec("overhead", "cpu_integer", {}, "ns/op", "lower", VALUES),
        synthetic.Spec("exits", "cpuid", {}, "ns/op", "lower", VALUES),
    ]
    raw = synthetic.document(specs=specs)
    for entry in raw["nestbench"]["measurements"]:
        for record in entry["rounds"] if entry["substrate"].startswith("nested") else ():
            record["iterations"] = runs // len(record["samples"]) if entry["scenario"] == "exits" else 1_000_000
            record["exits"], record["nested_runs"] = exits, runs
    return raw


def test_a_guest_of_a_guest_is_compared_with_the_host_and_with_a_guest(tmp_path: Path) -> None:
    loaded = load.load(synthetic.write(tmp_path / "a.json", document()))
    found = {metric.name: metric.estimate for metric in metrics.metrics(loaded)}
    for name, expected in (("nested/bare", 6), ("nested/vm", 3), ("nested_shadow/bare", 8), ("nested_shadow/vm", 4)):
        estimate = found[f"overhead/cpu_integer {name}"]
        assert estimate is not None
        assert estimate.value == pytest.approx(expected, rel=0.1)
    assert "overhead/cpu_integer nested/floor" not in found


def test_exits_are_divided_by_entries_of_operations_that_leave(tmp_path: Path) -> None:
    loaded = load.load(synthetic.write(tmp_path / "a.json", document(exits=302, runs=100)))
    found = {entry.id: value for entry, value in nested.multiplications(loaded)}
    # cpu_integer stays in L2: what is counted there is the host's timer.
    assert sorted(found) == ["exits/cpuid/nested", "exits/cpuid/nested_shadow"]
    assert list(found.values()) == pytest.approx([3.02, 3.02])


def test_both_are_shown(run: Run, tmp_path: Path) -> None:
    path = synthetic.write(tmp_path / "a.json", document())
    shown = run("summary", path)
    assert shown.code == 0, shown.err
    assert nested.TITLE in shown.out
    assert nested.EXITS_TITLE in shown.out
    assert "3.00" in shown.out
    page = tmp_path / "page.html"
    assert run("report", path, "-o", page).code == 0
    assert nested.EXITS_TITLE in page.read_text(encoding="utf-8")


def test_a_round_without_entries_is_a_round(run: Run, tmp_path: Path) -> None:
    raw = document()
    for entry in raw["nestbench"]["measurements"]:
        for record in entry["rounds"]:
            record.pop("nested_runs", None)
    path = synthetic.write(tmp_path / "a.json", raw)
    shown = run("summary", path)
    assert shown.code == 0, shown.err
    assert nested.TITLE in shown.out
    assert nested.EXITS_TITLE not in shown.out


def test_zero_entries_are_no_entry(run: Run, tmp_path: Path) -> None:
    result = run("validate", synthetic.write(tmp_path / "a.json", document(runs=0)))
    assert result.code == 2
    assert "nested_runs" in result.err
