"""Disks, doorbells, interrupts and networks for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from nestbench_reports import io
from nestbench_reports.io import Disk, Near
from nestbench_reports.metrics import BARE, FIO, IPERF3, VM, Metric
from nestbench_reports.model import OK, Document
from nestbench_reports.terminal import NARROW, TINY, WIDE, bullets, new_table, plain, print_line
from nestbench_reports.text import interval, plural, quantity, ratio

MOST_ROWS = 24  # of a table; beyond them only the depths below
TELLING_DEPTHS = (1, 32)
_NEAR_STYLE = {Near.WITHIN: "green", Near.BEYOND: "red", Near.NOT_SETTLED: "yellow", Near.UNKNOWN: "yellow"}


def _ratio_cells(metric: Metric | None) -> tuple[Text, Text]:
    if metric is None or metric.estimate is None:
        return plain(io.DASH), plain(io.DASH)
    return plain(ratio(metric.estimate.value), "bold"), plain(interval(metric.estimate))


def _shortened(console: Console, rows: Sequence[Disk]) -> list[Disk]:
    shown = [disk for disk in rows if len(rows) <= MOST_ROWS or disk.case.depth in TELLING_DEPTHS] or list(rows)
    return shown if console.width >= TINY else shown[:MOST_ROWS]


def _print_disks(console: Console, document: Document, ratios: Sequence[Metric]) -> None:
    rows = [
        disk
        for disk in io.disks(document)
        if any(rate is not None and rate.status == OK for rate in map(disk.rate, (VM, BARE)))
    ]
    if not rows:
        return
    wide, narrow, tiny = console.width >= WIDE, console.width < NARROW, console.width < TINY
    columns = [("disk", "left")]
    if not narrow:
        columns += [("bare", "right"), ("vm", "right")]
    columns.append(("vm/bare", "right"))
    if not tiny:
        columns += [("95 % interval", "right"), ("exits/op", "right")]
    if wide:
        columns += [("p99 in vm", "right"), ("CPU in vm", "right")]
    table = new_table(console, "Disk: the same pattern in a guest and on the host", columns)
    by_id = io.ratios_by_id(ratios)
    shown = _shortened(console, rows)
    for disk in shown:
        rate = disk.rate(VM)
        cells = [plain(disk.case.label)]
        if not narrow:
            cells += [plain(io.median_text(disk.rate(name))) for name in (BARE, VM)]
        cost, spread = _ratio_cells(by_id.get(rate.id) if rate is not None else None)
        cells.append(cost)
        if not tiny:
            cells += [spread, plain(io.median_text(disk.get(io.EXITS_METRIC, VM)).removesuffix(" exits/op"))]
        if wide:
            cells += [plain(io.median_text(disk.get(metric, VM))) for metric in ("latency_p99", io.CPU)]
        table.add_row(*cells)
    console.print(table)
    if len(shown) < len(rows):
        more = plural(len(rows) - len(shown), "more row")
        print_line(console, f"{more} of other depths: the report shows all", "dim")
        console.print()


def _print_limits(console: Console, document: Document) -> None:
    found = [limit for limit in io.limits(document) if limit.rate.status == OK]
    near = [limit for limit in found if limit.distance is not None]
    if near:
        tiny, narrow = console.width < TINY, console.width < NARROW
        columns = [("disk", "left")]
        if not narrow:
            columns += [("measured", "right"), ("limit", "right")]
        columns.append(("measured/limit", "right"))
        if not tiny:
            columns += [("95 % interval", "right"), ("reads as", "left")]
        title = "Disk: how near to the limit (bare + exits \N{MULTIPLICATION SIGN} doorbell, for one operation)"
        table = new_table(console, title, columns)
        few = [limit for limit in near if len(near) <= MOST_ROWS or limit.case.depth in TELLING_DEPTHS] or near
        for limit in few:
            assert limit.distance is not None
            cells = [plain(limit.case.label)]
            if not narrow:
                cells += [
                    plain(io.DASH if value is None else quantity(value, "ns"))
                    for value in (limit.measured_ns, limit.limit_ns)
                ]
            cells.append(plain(ratio(limit.distance.value), "bold"))
            if not tiny:
                cells += [plain(interval(limit.distance)), plain(io.near_text(limit), _NEAR_STYLE[limit.near()])]
            table.add_row(*cells)
        console.print(table)
        print_line(console, io.within_text(found))
        print_line(console, io.WHY_DEPTH, "dim")
        console.print()
    unknown: dict[str, list[str]] = {}
    for limit in found:
        if limit.distance is None:
            unknown.setdefault(io.near_text(limit), []).append(limit.case.label)
    if unknown:
        print_line(console, "Without a limit", "bold")
        bullets(console, (f"{names[0]}{_and_more(len(names) - 1)}: {why}" for why, names in unknown.items()))
        console.print()


def _and_more(count: int) -> str:
    return f" and {count:,} more" if count else ""


def _print_signals(console: Console, document: Document) -> None:
    found = io.signals(document)
    if not found:
        return
    print_line(console, "Doorbells and interrupts, with and without the kernel's help", "bold")
    bullets(console, (f"{io.signal_name(entry)}: {io.median_text(entry)}" for entry in found))
    bullets(
        console,
        (
            f"{what} without the kernel's help costs {ratio(cost.value)}\N{MULTIPLICATION SIGN} one with it"
            f" ({interval(cost)})"
            for what, cost in io.without_help(document)
        ),
    )
    console.print()


def _print_networks(console: Console, document: Document, ratios: Sequence[Metric]) -> None:
    rows = [
        (network, entry)
        for network in io.networks(document)
        for entry in network.measurements
        if entry.substrate == VM and entry.status == OK
    ]
    if not rows:
        return
    tiny = console.width < TINY
    columns = [("network", "left")]
    if not tiny:
        columns += [("metric", "left"), ("bare", "right"), ("vm", "right")]
    columns.append(("vm/bare", "right"))
    if not tiny:
        columns.append(("95 % interval", "right"))
    table = new_table(console, "Network: virtio-net beside a veth pair", columns)
    by_id = io.ratios_by_id(ratios)
    for network, entry in rows:
        metric = str(entry.params.get("metric", ""))
        name = io.metric_name(entry)
        cost, spread = _ratio_cells(by_id.get(entry.id))
        cells = [plain(f"{network.path.label}, {name}" if tiny else network.path.label)]
        if not tiny:
            cells += [plain(name), plain(io.median_text(network.get(metric, BARE))), plain(io.median_text(entry))]
        table.add_row(*cells, cost, *([] if tiny else [spread]))
    console.print(table)
    bullets(
        console,
        (
            f"iperf3 over a veth pair of its own, {network.path.label}: {io.median_text(entry)}"
            for network in io.networks(document)
            for entry in network.measurements
            if entry.substrate == IPERF3 and entry.status == OK
        ),
    )


def _print_reference(console: Console, document: Document, ratios: Sequence[Metric]) -> None:
    by_name = {name: io.ratios_by_id(ratios, name) for name in (f"{VM}/{FIO}", f"{FIO}/{BARE}")}
    rows = [
        (disk, entry)
        for disk in io.disks(document)
        for entry in disk.measurements
        if entry.substrate == FIO and entry.status == OK
    ]
    if not rows:
        return
    every = len(rows)
    rows = [row for row in rows if every <= MOST_ROWS or row[0].case.depth in TELLING_DEPTHS] or rows
    narrow, tiny = console.width < NARROW, console.width < TINY
    columns = [("disk", "left")]
    if not tiny:
        columns += [("metric", "left"), ("fio", "right")]
    columns.append(("vm/fio", "right"))
    if not narrow:
        columns += [("95 % interval", "right"), ("fio/bare", "right"), ("95 % interval", "right")]
    table = new_table(console, "Disk: fio beside it, on the same file", columns)
    for disk, entry in rows:
        metric = str(entry.params.get("metric", ""))
        vm = disk.get(metric, VM)
        of_vm = _ratio_cells(by_name[f"{VM}/{FIO}"].get(vm.id) if vm is not None else None)
        cells = [plain(f"{disk.case.label}, {io.metric_name(entry)}" if tiny else disk.case.label)]
        if not tiny:
            cells += [plain(io.metric_name(entry)), plain(io.median_text(entry))]
        cells.append(of_vm[0])
        if not narrow:
            cells += [of_vm[1], *_ratio_cells(by_name[f"{FIO}/{BARE}"].get(entry.id))]
        table.add_row(*cells)
    console.print(table)


def print_io(console: Console, document: Document, ratios: Sequence[Metric]) -> None:
    """Every part that the document holds; nothing where it holds none."""
    _print_disks(console, document, ratios)
    _print_limits(console, document)
    _print_signals(console, document)
    _print_networks(console, document, ratios)
    _print_reference(console, document, ratios)
