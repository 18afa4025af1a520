"""Costs of privileged operations: a table of them, and a comparison of those that are instruction counts. Pure but for
what prints.

A count repeats to the last instruction (DESIGN.md, "Costs"), so two of them are compared as they are: no interval, and
a tolerance far below any that times would need. Each difference is shown, also one within it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from rich.console import Console

from nestbench_reports.charts import Section, make_table
from nestbench_reports.errors import EnvironmentRefusedError
from nestbench_reports.model import OK, Document, Measurement
from nestbench_reports.terminal import new_table, plain, print_line
from nestbench_reports.text import quantity

SCENARIO = "costs"
COUNTED = "instructions/op"
TOLERANCE = 0.001  # 0.1 %: another build or command line moves memory, and with it a count by an instruction
ENOUGH_FOR_A_TAIL = 1000  # samples, of which 99.9 % leave one
TITLE = "Costs: one operation of a guest's kernel"


@dataclass(frozen=True)
class Difference:
    id: str
    before: float | None  # None: not measured there
    after: float | None

    @property
    def verdict(self) -> str:
        if self.before is None or self.after is None:
            return "inconclusive"
        if abs(self.after - self.before) <= TOLERANCE * abs(self.before):
            return "equivalent"
        return "regression" if self.after > self.before else "improvement"


def _samples(measurement: Measurement) -> list[float]:
    return [sample for entry in measurement.rounds for sample in entry.samples]


def costs(document: Document) -> list[tuple[Measurement, float]]:
    """Every cost that was measured, with its median."""
    return [
        (entry, median(_samples(entry)))
        for entry in document.measurements
        if entry.scenario == SCENARIO and entry.status == OK and _samples(entry)
    ]


def is_counted(document: Document) -> bool:
    """Whether it holds instruction counts, and nothing that is a time."""
    return bool(costs(document)) and all(entry.unit == COUNTED for entry in document.measurements if entry.status == OK)


def differences(baseline: Document, current: Document) -> list[Difference]:
    """EnvironmentRefusedError for documents of different processors or kernels: these count other instructions."""
    for what, before, after in (
        ("CPU models", baseline.host.cpu.model_name, current.host.cpu.model_name),
        ("kernels", baseline.host.kernel, current.host.kernel),
    ):
        if before != after:
            raise EnvironmentRefusedError(f"the counts come from different {what}: {before} and {after}")
    old = {entry.id: value for entry, value in costs(baseline)}
    new = {entry.id: value for entry, value in costs(current)}
    return [Difference(name, old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new])]


def exit_code(found: Sequence[Difference], allow_inconclusive: bool) -> int:
    verdicts = {entry.verdict for entry in found}
    if "regression" in verdicts:
        return 1
    return 3 if "inconclusive" in verdicts and not allow_inconclusive else 0


def _text(value: float, unit: str) -> str:
    return f"{value:,.2f} instructions" if unit == COUNTED else quantity(value, unit)


def _middle_half(measurement: Measurement) -> str:
    samples = _samples(measurement)
    low, _, high = quantiles(samples, n=4) if len(samples) > 1 else (samples[0],) * 3
    return f"{_text(low, measurement.unit)} to {_text(high, measurement.unit)}"


def _tail(measurement: Measurement) -> str:
    samples = _samples(measurement)
    if len(samples) < ENOUGH_FOR_A_TAIL:
        return "-"
    return _text(quantiles(samples, n=1000)[-1], measurement.unit)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def print_differences(console: Console, found: Sequence[Difference]) -> None:
    columns = [("cost", "left"), ("A", "right"), ("B", "right"), ("B - A", "right"), ("verdict", "left")]
    table = new_table(console, f"Instructions of one operation; {TOLERANCE:.1%} is the same", columns)
    for entry in found:
        both = entry.before is not None and entry.after is not None
        change = f"{entry.after - entry.before:+,.2f}" if both else "-"  # type: ignore[operator]
        style = {"regression": "bold red", "improvement": "green", "inconclusive": "yellow"}.get(entry.verdict, "")
        cells = (entry.id, _shown(entry.before), _shown(entry.after), change)
        table.add_row(*map(plain, cells), plain(entry.verdict, style))
    console.print(table)
    counts = [entry.verdict for entry in found]
    said = ", ".join(f"{counts.count(name)} {name}" for name in dict.fromkeys(counts))
    print_line(console, f"compare: {said}", "bold")


def print_costs(console: Console, document: Document) -> None:
    found = costs(document)
    if not found:
        return
    columns = [("operation", "left"), ("median", "right"), ("middle half", "right"), ("99.9 %", "right")]
    table = new_table(console, TITLE, columns)
    for entry, value in found:
        table.add_row(plain(entry.workload), _text(value, entry.unit), _middle_half(entry), _tail(entry))
    console.print(table)


def costs_section(document: Document) -> Section | None:
    found = costs(document)
    if not found:
        return None
    rows = [
        (entry.workload, _text(value, entry.unit), _middle_half(entry), _tail(entry), str(len(entry.rounds)))
        for entry, value in found
    ]
    lead = (
        "What a loop of one privileged operation at CPL0 takes, less the same loop without it. Instructions, where they"
        " are counted, are those of guest, KVM and kernel together."
    )
    tables = (make_table("Costs", "operation|#median|#middle half of the samples|#99.9 % of them|#rounds", rows),)
    return Section("costs", "What a guest's kernel pays", lead, (), tables)
