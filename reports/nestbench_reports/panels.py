"""Small plots side by side, in rows of one quantity: as plain data for the page (templates/panels.js). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestbench_reports.charts import Chart
from nestbench_reports.io import DASH, SUBSTRATES
from nestbench_reports.stats import Estimate
from nestbench_reports.text import number, plural, printable, quantity, time_ns


@dataclass(frozen=True)
class Point:
    x: int
    spread: tuple[float, float | None, float | None]
    title: str
    notes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Line:
    """One curve: what the legend calls it, and whose it is."""

    name: str
    substrate: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Row:
    """Plots that stand in one row: the same quantity, one scale."""

    name: str
    format: str  # count, time, ratio, exits
    mark: float | None = None  # a line across
    mark_text: str = ""


@dataclass(frozen=True)
class Column:
    title: str
    plots: tuple[tuple[Line, ...], ...]  # one for each row


def panels(x_name: str, x_format: str, rows: Sequence[Row], columns: Sequence[Column]) -> Chart:
    """Plots side by side, in rows of the same quantity; columns go on below where there is no room."""
    legend = list(dict.fromkeys((line.name, line.substrate) for c in columns for plot in c.plots for line in plot))
    order = {name: index for index, name in enumerate(SUBSTRATES)}
    legend.sort(key=lambda entry: order.get(entry[1], len(order)))  # stable: as they came within a substrate
    return {
        "kind": "panels",
        "x": {"name": x_name, "format": x_format},
        "rows": [
            {"name": printable(row.name), "format": row.format, "mark": row.mark, "mark_text": row.mark_text}
            for row in rows
        ],
        "legend": [{"name": printable(name), "substrate": printable(substrate)} for name, substrate in legend],
        "columns": [
            {
                "title": printable(column.title),
                "plots": [
                    [
                        {
                            "key": legend.index((line.name, line.substrate)),
                            "points": [
                                {
                                    "x": point.x,
                                    "spread": list(point.spread),
                                    "title": printable(point.title),
                                    "notes": [[name, printable(text)] for name, text in point.notes],
                                }
                                for point in line.points
                            ],
                        }
                        for line in plot
                    ]
                    for plot in column.plots
                ],
            }
            for column in columns
        ],
    }


def evidence(estimate: Estimate) -> str:
    return f"{plural(estimate.rounds, 'round')}, {plural(estimate.samples, 'sample')}"


def range_text(estimate: Estimate, unit: str) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    if time_ns(1, unit) is not None:
        low, high = (quantity(bound, unit).partition("/")[0] for bound in (estimate.low, estimate.high))
        return f"{low}{DASH}{high}"
    return f"{number(estimate.low)}{DASH}{number(estimate.high)}"
