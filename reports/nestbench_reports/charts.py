"""What every figure of the page is made of: a chart as plain data and the table that holds the same numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nestbench_reports.text import printable

Chart = dict[str, object]
Cells = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]  # right-aligned, in figures of equal width
    rows: tuple[Cells, ...]


@dataclass(frozen=True)
class Figure:
    """A chart and its table twin."""

    id: str
    title: str
    description: str  # what a screen reader says and a person reads under the title
    chart: Chart
    table: Table


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    lead: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()  # open, above the figures
    folded: tuple[Table, ...] = ()  # closed, below them: the evidence
    notes: tuple[str, ...] = ()


def make_table(title: str, columns: str, rows: Iterable[Sequence[str]]) -> Table:
    """columns: names separated by `|`, those of numbers with a leading `#`."""
    names = columns.split("|")
    cells = tuple(tuple(printable(cell) for cell in row) for row in rows)
    return Table(title, tuple(name.lstrip("#") for name in names), tuple(name.startswith("#") for name in names), cells)
