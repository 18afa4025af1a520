"""The report in a real browser: Debian's Chromium, driven by playwright-core (browser_check.js)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import synthetic, synthetic_tenants
from tests.conftest import Run
from tests.hostile import SCRIPT_MARK, hostile_document, hostile_tenants

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
        # A phone has no pointer that rests: there a tap opens what a table below says as well.
        for name in ("overhead-cpu", "exits-cost", "null") if view["name"] != "phone" else ():
            assert "rounds" in view["tooltips"][name] and "samples" in view["tooltips"][name], view["name"]


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


TENANT_FIGURES = {"density-ramp", "density-memory", "isolation-same-cache", "attribution-vm"}


def test_density_isolation_and_containment_are_drawn_in_every_view(tmp_path: Path, run: Run) -> None:
    """Every chart and table of many tenants, on a desktop, on a phone and in the dark."""
    path = synthetic.write(tmp_path / "result.json", synthetic_tenants.document(rounds=3, samples=4))
    assert run("report", path).code == 0
    page = tmp_path / "report.html"
    for view in open_in_browser(page):
        check_quiet(view, page)
        charts = {chart["id"]: chart for chart in view["charts"]}
        assert set(charts) == FIGURES | TENANT_FIGURES
        for name in sorted(TENANT_FIGURES):
            chart = charts[name]
            assert chart["width"] > 250 and chart["height"] > 150, (view["name"], chart)
            assert chart["outside"] == [] and chart["rows"] >= 5, (view["name"], chart)
            assert chart["shapes"] >= chart["rows"] and chart["texts"] >= 5, (view["name"], chart)
        for name, words in (
            ("density-ramp", "within the objective"),
            ("density-memory", "VMM, private"),
            ("isolation-same-cache", "throughput kept"),
            ("attribution-vm", "guest"),
        ):
            if view["name"] == "phone":
                break
            assert words in view["tooltips"][name], (view["name"], name)
        tables = {table["title"]: table for table in view["tables"]}
        assert tables["How many fit, and what gave out"]["rows"] == 4
        faults = tables["Faults, and what became of them"]
        assert faults["rows"] == 4 and not faults["folded"]
        assert tables["Evidence: memory_bomb, zone, 5 of 20 tries"]["folded"]
        assert tables["Evidence for what gave out: density/steady/vm"]["folded"]


def test_a_thin_document_of_many_tenants_is_drawn_too(tmp_path: Path, run: Run) -> None:
    """One step, one cell of one round, one schedule without an answer, one try: nothing to be said, nothing broken."""
    raw = synthetic.document(specs=[])
    rng = synthetic_tenants.rng(1)
    steps = [synthetic_tenants.step(1, 3e6, 20.0, rng, windows=1)]
    setup = synthetic_tenants.density_setup()
    episode = synthetic_tenants.episode(1, 1, 2, 0.5)
    raw["nestbench"]["experiments"] = [
        synthetic_tenants.experiment("density", "steady", "vm", setup, steps),
        synthetic_tenants.experiment(
            "isolation", "attribution", "vm", {}, [synthetic_tenants.schedule(0, [episode], [])]
        ),
        synthetic_tenants.containment("abort", "vm", "vmm_fault", [synthetic_tenants.one_try(0, "vmm_fault")]),
    ]
    raw["nestbench"]["measurements"] = synthetic_tenants.cell("cache", "hog", 25, "vm", 2.0, rng, rounds=1, windows=1)
    assert run("report", synthetic.write(tmp_path / "result.json", raw)).code == 0
    page = tmp_path / "report.html"
    for view in open_in_browser(page):
        check_quiet(view, page)
        assert {chart["id"] for chart in view["charts"]} == TENANT_FIGURES
        assert all(chart["outside"] == [] for chart in view["charts"]), view["charts"]


def test_a_hostile_document_of_many_tenants_runs_nothing(tmp_path: Path, run: Run) -> None:
    assert run("report", synthetic.write(tmp_path / "result.json", hostile_tenants())).code == 0
    page = tmp_path / "report.html"
    for view in open_in_browser(page):
        check_quiet(view, page)
        assert (view["scripts"], view["foreign"], view["attacked"]) == (3, 0, False)
        assert TENANT_FIGURES <= {chart["id"] for chart in view["charts"]}


def test_a_document_without_a_single_value_still_makes_a_page(tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    for entry in raw["nestbench"]["measurements"]:
        entry.update(status="unsupported", reason="no /dev/kvm", rounds=[])
    assert run("report", synthetic.write(tmp_path / "result.json", raw)).code == 0
    page = tmp_path / "report.html"
    for view in open_in_browser(page):
        check_quiet(view, page)
        assert view["charts"] == [] and "unsupported" in view["verdict"]
