"""The report in a real browser: Debian's Chromium, driven by playwright-core (browser_check.js)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import synthetic
from tests.conftest import Run
from tests.hostile import SCRIPT_MARK, hostile_document

REPORTS = Path(__file__).resolve().parents[1]
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))

# Missing tools fail the run, as in the suite `nestbench test` has set up; a skip would let the page go unseen.
for _needed, _how in (
    (CHROMIUM, "apt-get install chromium"),
    (REPORTS / "node_modules" / "playwright-core", "npm ci in reports/"),
    (Path(shutil.which("node") or "node"), "apt-get install nodejs"),
):
    if not _needed.exists():
        raise FileNotFoundError(f"{_needed} is missing: {_how}")

FIGURES = {
    "overhead-cpu",
    "overhead-memory",
    "overhead-first-touch",
    "exits-cost",
    "exits-floor",
    "lifecycle-cost",
    "lifecycle-floor",
    "latency",
    "bandwidth",
    "null",
}


def open_in_browser(page: Path) -> list[dict[str, Any]]:
    command = ["node", "tests/browser_check.js", str(page)]
    done = subprocess.run(command, cwd=REPORTS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    views: list[dict[str, Any]] = json.loads(done.stdout)
    assert [view["name"] for view in views] == ["desktop", "phone", "dark"]
    return views


def check_quiet(view: dict[str, Any], page: Path) -> None:
    """No message, no error, no request but the file itself, nothing wider than the screen."""
    assert (view["console"], view["errors"]) == ([], [])
    assert view["requests"] == [page.resolve().as_uri()]
    assert view["overflow"] == 0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nestbench_reports.cli import main

    folder = tmp_path_factory.mktemp("report")
    assert main(["report", str(synthetic.write(folder / "result.json", synthetic.document()))]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def views(page: Path) -> list[dict[str, Any]]:
    return open_in_browser(page)


def test_every_view_is_quiet_and_loads_nothing(page: Path, views: list[dict[str, Any]]) -> None:
    for view in views:
        check_quiet(view, page)


def test_every_chart_is_drawn_in_every_view_with_a_table_beside_it(views: list[dict[str, Any]]) -> None:
    for view in views:
        assert {chart["id"] for chart in view["charts"]} == FIGURES
        for chart in view["charts"]:
            assert chart["width"] > 250 and chart["height"] > 100, (view["name"], chart)
            assert chart["rows"] >= 2 and chart["outside"] == [], (view["name"], chart)
            # At least a mark for each row of the table, and some text for the axes.
            assert chart["shapes"] >= chart["rows"] and chart["texts"] >= 3, (view["name"], chart)


def test_intervals_of_too_few_rounds_stay_within_their_charts(tmp_path: Path, run: Run) -> None:
    """Two rounds that differ by a third give intervals of several orders of magnitude."""
    noisy = synthetic.Noise(rounds=0.3, processes=0.3, samples=0.2)
    hot = synthetic.Spec("hotpath", "bus_dispatch", {"kind": "pio"}, "ns/op", "lower", {"vm": 6.2, "floor": 5.1})
    raw = synthetic.document(rounds=2, noise=noisy, specs=[*synthetic.default_specs(), hot])
    assert run("report", synthetic.write(tmp_path / "result.json", raw)).code == 0
    page = tmp_path / "report.html"
    for view in open_in_browser(page):
        check_quiet(view, page)
        assert {chart["id"] for chart in view["charts"]} == FIGURES | {"hotpath-cost", "hotpath-floor"}
        for chart in view["charts"]:
            assert chart["outside"] == [], (view["name"], chart)


def test_the_verdict_is_on_top_and_charts_answer_the_pointer(views: list[dict[str, Any]]) -> None:
    for view in views:
        assert "pass" in view["verdict"] and "checks passed" in view["verdict"]
        assert "rounds" in view["tooltip"] and "samples" in view["tooltip"]


def test_dark_mode_is_dark_and_print_is_light(views: list[dict[str, Any]]) -> None:
    desktop, _, dark = views
    assert desktop["background"] > 230 and dark["background"] < 40
    assert dark["print"]["background"] > 250


def test_a_hostile_document_runs_nothing_and_loads_nothing(tmp_path: Path, run: Run) -> None:
    path = synthetic.write(tmp_path / "result.json", hostile_document())
    assert run("report", path).code == 0
    page = tmp_path / "report.html"
    for view in open_in_browser(page):
        check_quiet(view, page)
        assert SCRIPT_MARK in view["title"]  # shown as text
        assert (view["scripts"], view["foreign"], view["attacked"]) == (3, 0, False)
        assert view["charts"]


def test_a_document_without_a_single_value_still_makes_a_page(tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    for entry in raw["nestbench"]["measurements"]:
        entry.update(status="unsupported", reason="no /dev/kvm", rounds=[])
    assert run("report", synthetic.write(tmp_path / "result.json", raw)).code == 0
    page = tmp_path / "report.html"
    for view in open_in_browser(page):
        check_quiet(view, page)
        assert view["charts"] == [] and "unsupported" in view["verdict"]
