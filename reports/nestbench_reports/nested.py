"""The ladder's third rung: what a guest of a guest costs, and how many exits one exit of it becomes. Pure but for what
prints.

Measurements of the substrates `nested` and `nested_shadow` (DESIGN.md, "Nested"). L0 is the host, L1 the hypervisor in
its guest, L2 the guest in there.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from nestbench_reports import metrics
from nestbench_reports.charts import Section, make_table
from nestbench_reports.metrics import BARE, VM, Metric
from nestbench_reports.model import OK, Document, Measurement
from nestbench_reports.terminal import new_table, plain
from nestbench_reports.text import interval, parameter, quantity, ratio

PAGING = {"nested": "nested", "nested_shadow": "shadow"}
TITLE = "Guests of guests: what one more level costs"
EXITS_TITLE = "Exits that one exit of L2 to its hypervisor becomes on the host"
_COLUMNS = ("workload", "paging", "bare", "vm", "nested", "nested/vm", "95 % interval", "nested/bare", "95 % interval")


def multiplication(measurement: Measurement) -> float | None:
    """Exits that the host handles for each entry of L2; None where they were not counted."""
    runs = sum(entry.nested_runs for entry in measurement.rounds)
    return sum(entry.exits for entry in measurement.rounds) / runs if runs else None


def multiplications(document: Document) -> list[tuple[Measurement, float]]:
    """Of the operations that leave L2: where it computes, what the host's timer does to it would be counted."""
    found = ((entry, multiplication(entry)) for entry in document.measurements if entry.scenario == "exits")
    # An operation that stays in L2 has no entries but the few of each batch.
    return [(entry, value) for entry, value in found if value is not None and _entries_per_operation(entry) >= 0.5]


def _entries_per_operation(measurement: Measurement) -> float:
    operations = sum(entry.iterations * len(entry.samples) for entry in measurement.rounds)
    return sum(entry.nested_runs for entry in measurement.rounds) / operations if operations else 0.0


def _label(measurement: Measurement) -> str:
    """`exits/cpuid`, or `memory_chase, working set 64 MiB`"""
    params = [parameter(name, value) for name, value in sorted(measurement.params.items())]
    name = measurement.workload if measurement.scenario == "overhead" else "exits/" + measurement.workload
    return ", ".join([name, *params])


def _median(measurement: Measurement | None) -> str:
    estimate = None if measurement is None else metrics.absolute(measurement)
    return "-" if measurement is None or estimate is None else quantity(estimate.value, measurement.unit)


def _costs(metric: Metric | None) -> tuple[str, str]:
    if metric is None or metric.estimate is None:
        return "-", "-"
    return ratio(metric.estimate.value), interval(metric.estimate)


def _rows(document: Document, ratios: Sequence[Metric]) -> list[tuple[str, ...]]:
    by_name = {metric.name: metric for metric in ratios}
    rows: list[tuple[str, ...]] = []
    for entry in document.measurements:
        if entry.substrate not in PAGING or entry.status != OK:
            continue
        rows.append(
            (
                _label(entry),
                PAGING[entry.substrate],
                _median(document.by_id.get(f"{entry.key}/{BARE}")),
                _median(document.by_id.get(f"{entry.key}/{VM}")),
                _median(entry),
                *_costs(by_name.get(f"{entry.key} {entry.substrate}/{VM}")),
                *_costs(by_name.get(f"{entry.key} {entry.substrate}/{BARE}")),
            )
        )
    return rows


def _exit_rows(document: Document) -> list[tuple[str, ...]]:
    return [
        (_label(entry), PAGING[entry.substrate], f"{value:.2f}", f"{sum(r.nested_runs for r in entry.rounds):,}")
        for entry, value in multiplications(document)
    ]


def print_nested(console: Console, document: Document, ratios: Sequence[Metric]) -> None:
    rows = _rows(document, ratios)
    if rows:
        # The median of `nested` is the row's own; what it is over `vm` is the finding.
        shown = [(0, "left"), (1, "left"), (3, "right"), (4, "right"), (5, "right"), (6, "right")]
        table = new_table(console, TITLE, [(_COLUMNS[index], justify) for index, justify in shown])
        for row in rows:
            table.add_row(*(plain(row[index]) for index, _ in shown))
        console.print(table)
    counted = _exit_rows(document)
    if counted:
        columns = [("operation", "left"), ("paging", "left"), ("exits", "right"), ("entries of L2", "right")]
        table = new_table(console, EXITS_TITLE, columns)
        for row in counted:
            table.add_row(*map(plain, row))
        console.print(table)


def nested_section(document: Document, ratios: Sequence[Metric]) -> Section | None:
    rows, counted = _rows(document, ratios), _exit_rows(document)
    if not rows:
        return None
    columns = "|".join(name if name in ("workload", "paging") else f"#{name}" for name in _COLUMNS)
    tables = [make_table("The ladder", columns, rows)]
    if counted:
        tables.append(make_table(EXITS_TITLE, "operation|paging|#exits|#entries of L2", counted))
    lead = (
        "The same program image once more, as the guest (L2) of a small hypervisor that runs in a guest (L1), with"
        " nested paging and with shadow paging. Each exit of L2 ends at the host first, which hands it to L1; what L1"
        " then does to answer it are further exits."
    )
    return Section("nested", TITLE, lead, (), tuple(tables))
