"""What every table of the terminal is made of: the console, columns, cells without control characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nestbench_reports.text import printable

# Columns of the terminal below which a table leaves out what is least needed, rather than fold names letter by letter.
WIDE = 150
NARROW = 120
TINY = 60


def make_console(width: int | None = None) -> Console:
    """On standard output; without a terminal as wide as its tables need, so that nothing is cut in a log."""
    console = Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)
    if width is None and not console.is_terminal and "COLUMNS" not in console._environ:
        console = Console(width=160, highlight=False, markup=False, emoji=False)
    return console


def new_table(console: Console, title: str, columns: Sequence[tuple[str, str]]) -> Table:
    """columns: (heading, "left" or "right")."""
    print_line(console, title, "bold")  # not the table's own title, which is folded to the table's width
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, (heading, justify) in enumerate(columns):
        table.add_column(
            heading,
            justify="right" if justify == "right" else "left",
            overflow="fold",
            no_wrap=index > 0 and justify == "right",
        )
    return table


def plain(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)


def print_line(console: Console, text: str, style: str = "") -> None:
    console.print(plain(text, style))


def bullets(console: Console, entries: Iterable[str]) -> None:
    for entry in entries:
        console.print(Padding(plain("- " + entry), (0, 0, 0, 2), expand=False))
