"""Disks and networks of the report in a real browser."""

from __future__ import annotations

from pathlib import Path

from tests import synthetic, synthetic_io
from tests.conftest import Run
from tests.test_browser import check_quiet, open_in_browser

DISKS = ("ram", "file", "file-cached")
IO_FIGURES = {
    *(f"io-{kind}-{disk}" for kind in ("iops", "latency", "work", "bandwidth") for disk in DISKS),
    "io-limit-depth",
    "io-limit-block",
    "io-signals",
    "io-network-latency",
    "io-network-bandwidth",
    "io-network-packets",
}


def test_disks_and_networks_are_drawn_in_every_view(tmp_path: Path, run: Run) -> None:
    path = synthetic.write(tmp_path / "result.json", synthetic_io.document(fio=True))
    assert run("report", path).code == 0
    page = tmp_path / "report.html"
    for view in open_in_browser(page):
        check_quiet(view, page)
        charts = {chart["id"]: chart for chart in view["charts"]}
        assert set(charts) == IO_FIGURES | {"null", "lifecycle-cost"}
        for name in sorted(IO_FIGURES):
            chart = charts[name]
            assert chart["width"] > 250 and chart["height"] > 150, (view["name"], chart)
            assert chart["outside"] == [] and chart["rows"] >= 4, (view["name"], chart)
            assert chart["shapes"] >= chart["rows"] and chart["texts"] >= 5, (view["name"], chart)
        for name, words in (
            ("io-iops-ram", "evidence"),
            ("io-latency-file", "p99.9"),
            ("io-work-ram", "exits/op"),
            ("io-bandwidth-file", "vm/bare"),
            ("io-limit-depth", "reads as"),
            ("io-network-latency", "vm/bare"),
        ):
            if view["name"] == "phone":
                break
            assert words in view["tooltips"][name], (view["name"], name, view["tooltips"][name])
        tables = {table["title"]: table for table in view["tables"]}
        limits = tables["Time of one operation: measured, and the least that it must take (depth 32)"]
        assert limits["rows"] == 20 and not limits["folded"]
        assert tables["Beside fio, every depth"]["folded"]


def test_a_thin_or_wild_document_of_disks_is_drawn_too(tmp_path: Path, run: Run) -> None:
    """One depth and one round; then rounds that differ by a third, and a guest a thousand times as slow."""
    thin = [*synthetic_io.disk_specs("ram", "random_read", 32), *synthetic_io.signal_specs()[:1]]
    wild = [*thin, *synthetic_io.disk_specs("ram", "random_read", 8, distance=1000.0, exits=0.0)]
    page = tmp_path / "report.html"
    for specs, noise, rounds in ((thin, None, 1), (wild, synthetic.Noise(0.3, 0.3, 0.2), 2)):
        raw = synthetic.document(rounds=rounds, samples=2, noise=noise, specs=specs)
        assert run("report", synthetic.write(tmp_path / "result.json", raw)).code == 0
        for view in open_in_browser(page):
            check_quiet(view, page)
            charts = {chart["id"] for chart in view["charts"]}
            assert {"io-iops-ram", "io-latency-ram", "io-work-ram", "io-limit-depth", "io-signals"} <= charts
            assert all(chart["outside"] == [] for chart in view["charts"]), (view["name"], view["charts"])
