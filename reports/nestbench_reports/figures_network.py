"""The page's sections on doorbells and interrupts, networks, and fio beside the disks. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nestbench_reports import io, metrics
from nestbench_reports.charts import Cells, Figure, Section, Table, make_table
from nestbench_reports.io import DASH, Disk, Path
from nestbench_reports.metrics import BARE, FIO, IPERF3, VM, Metric
from nestbench_reports.model import OK, Document, Measurement
from nestbench_reports.panels import evidence, range_text
from nestbench_reports.text import interval, printable, ratio, time_ns

MOST_OPEN = 24  # rows of a table that stands open
TELLING_DEPTH = 32


def _bare_costs(
    identifier: str, title: str, description: str, rows: Sequence[dict[str, object]], table: Table
) -> Figure:
    return Figure(identifier, title, description, {"kind": "costs", "rows": list(rows)}, table)


def _cost_row(label: str, entries: Sequence[Measurement | None], notes: Sequence[tuple[str, str]]) -> dict[str, object]:
    """Times on a logarithmic axis; the first of the entries is written at the end of its row."""
    points = []
    for entry in entries:
        estimate = metrics.absolute(entry) if entry is not None else None
        if entry is None or estimate is None:
            continue
        step = time_ns(1, entry.unit) or 1.0
        spread = [None if v is None else v * step for v in (estimate.value, estimate.low, estimate.high)]
        points.append({"substrate": entry.substrate, "spread": spread})
    text = io.median_text(entries[0]).partition("/")[0]
    return {
        "label": printable(label),
        "notes": [[name, printable(value)] for name, value in notes],
        "points": points,
        "band": [None, None],
        "text": printable(text),
    }


def signal_section(document: Document) -> Section | None:
    found = [
        (entry, estimate)
        for entry in io.signals(document)
        if (estimate := metrics.absolute(entry)) is not None and time_ns(1, entry.unit) is not None
    ]
    if not found:
        return None
    drawn = []
    cells: list[Cells] = []
    for entry, estimate in found:
        spread = range_text(estimate, entry.unit)
        notes = (("time", io.median_text(entry)), ("95 % interval", spread), ("evidence", evidence(estimate)))
        drawn.append(_cost_row(io.signal_name(entry), [entry], notes))
        null = metrics.null_ratio(entry)
        again = DASH if null is None else interval(null)
        cells.append(
            (io.signal_name(entry), io.median_text(entry), spread, again, str(estimate.rounds), str(estimate.samples))
        )
    title = "One doorbell, one interrupt"
    description = (
        "A doorbell: what one ring costs the guest when nobody waits behind it. An interrupt: from the"
        " thread that raises it to the guest that was halted. ioeventfd and irqfd are the kernel's help."
    )
    said = tuple(
        f"Without the kernel's help {what} costs {ratio(cost.value)}\N{MULTIPLICATION SIGN} one with it"
        f" (95 % interval {interval(cost)})."
        for what, cost in io.without_help(document)
    )
    table = make_table(title, "signal|#time|#95 % interval|#A/A|#rounds|#samples", cells)
    figure = _bare_costs("io-signals", title, description, drawn, table)
    lead = "What the two directions of a virtio device cost by themselves, with the kernel's help and without it."
    return Section("io-signals-section", "I/O: doorbells and interrupts", lead, (figure,), notes=said)


def _network_waits(document: Document, by_id: dict[str, Metric]) -> Figure | None:
    drawn = []
    cells: list[Cells] = []
    for network in io.networks(document):
        for metric, name in io.LATENCIES.items():
            vm, bare = network.get(metric, VM), network.get(metric, BARE)
            shown = vm if vm is not None and metrics.absolute(vm) is not None else bare
            estimate = metrics.absolute(shown) if shown is not None else None
            if shown is None or estimate is None:
                continue
            cost = by_id[vm.id].estimate if vm is not None and vm.id in by_id else None
            said = DASH if cost is None else f"{ratio(cost.value)} ({interval(cost)})"
            notes = (
                (VM, io.median_text(vm)),
                (BARE, io.median_text(bare)),
                ("vm/bare", said),
                ("evidence", evidence(estimate)),
            )
            drawn.append(_cost_row(f"{network.path.label}, {name}", [shown, bare if shown is vm else None], notes))
            cells.append((network.path.label, name, io.median_text(vm), io.median_text(bare), said))
    if not drawn:
        return None
    title = "Round trips"
    description = "Median over processes of each process's percentile, on a logarithmic axis."
    table = make_table(title, "network|percentile|#vm|#bare|#vm/bare", cells)
    return _bare_costs("io-network-latency", title, description, drawn, table)


def _short_labels(paths: Sequence[Path]) -> list[str]:
    """What tells the rates of one figure apart: the peer; the operation and the size of frames where they differ."""
    operations, sizes = {path.operation for path in paths}, {path.frame_bytes for path in paths}
    labels = []
    for path in paths:
        operation, _, rest = path.label.partition(", ")
        where = path.peer_text if len(sizes) == 1 and not path.more else rest
        labels.append(where if len(operations) == 1 else f"{operation}, {where}")
    return labels


def _network_rates(document: Document, metric: str, identifier: str, title: str) -> Figure | None:
    rows = [
        (network, entry)
        for network in io.networks(document)
        if (entry := network.get(metric, VM) or network.get(metric, BARE)) is not None
    ]
    units = {entry.unit for _, entry in rows}
    rows = [
        (network, entry)
        for network, entry in rows
        if any(metrics.absolute(m) for m in network.measurements if m.params["metric"] == metric)
    ]
    if not rows or len(units) != 1:
        return None
    series = []
    cells: list[Cells] = []
    for substrate in (BARE, VM):
        spreads: list[list[float | None]] = []
        seen = []
        for network, _ in rows:
            entry = network.get(metric, substrate)
            estimate = metrics.absolute(entry) if entry is not None else None
            spreads.append([None] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high])
            seen.append("" if estimate is None else evidence(estimate))
            if entry is not None and estimate is not None:
                cells.append(
                    (
                        network.path.label,
                        substrate,
                        io.median_text(entry),
                        range_text(estimate, entry.unit),
                        str(estimate.rounds),
                        str(estimate.samples),
                    )
                )
        if any(seen):
            series.append({"substrate": substrate, "spreads": spreads, "evidence": seen})
    unit = printable(units.pop())
    chart: dict[str, object] = {
        "kind": "bars", "labels": _short_labels([network.path for network, _ in rows]), "series": series, "unit": unit
    }
    description = "Median rate with its 95 % interval; longer is better."
    table = make_table(title, "network|where|#rate|#95 % interval|#rounds|#samples", cells)
    return Figure(identifier, title, description, chart, table)


def network_section(document: Document, by_id: dict[str, Metric]) -> Section | None:
    cells: list[Cells] = []
    for network in io.networks(document):
        for metric in dict.fromkeys(str(entry.params["metric"]) for entry in network.measurements):
            vm, bare = network.get(metric, VM), network.get(metric, BARE)
            shown = next((m for m in (vm, bare) if m is not None and m.status == OK), None)
            if shown is None:
                continue
            cost = by_id[vm.id].estimate if vm is not None and vm.id in by_id else None
            spread = [DASH, DASH] if cost is None else [ratio(cost.value), interval(cost)]
            seen = map(io.median_text, (bare, vm, network.get(metric, IPERF3)))
            cells.append((network.path.label, io.metric_name(shown), *seen, *spread))
    if not cells:
        return None
    figures = (
        _network_waits(document, by_id),
        _network_rates(document, io.BANDWIDTH, "io-network-bandwidth", "Streams"),
        _network_rates(document, "packets", "io-network-packets", "Small packets"),
    )
    lead = (
        "virtio-net between a guest and the host, or another guest, beside the same traffic over a veth pair between"
        " two network namespaces, in the same run. iperf3, where it was asked for: UDP over a veth pair of its own,"
        " what arrived, without a window."
    )
    columns = "network|metric|#bare|#vm|#iperf3|#vm/bare|#95 % interval"
    table = make_table("Network: virtio-net beside a veth pair", columns, cells)
    present = tuple(figure for figure in figures if figure is not None)
    return Section("io-network", "I/O: network", lead, present, (table,))


def reference_section(disks: Sequence[Disk], ratios: Sequence[Metric]) -> Section | None:
    over = {name: io.ratios_by_id(ratios, name) for name in (f"{VM}/{FIO}", f"{FIO}/{BARE}")}

    def said(metric: Metric | None) -> tuple[str, str]:
        estimate = metric.estimate if metric is not None else None
        return (DASH, DASH) if estimate is None else (ratio(estimate.value), interval(estimate))

    rows: list[tuple[Disk, Cells]] = []
    for disk in disks:
        for entry in disk.measurements:
            if entry.substrate != FIO or entry.status != OK:
                continue
            vm, bare = (disk.get(str(entry.params["metric"]), name) for name in (VM, BARE))
            cells = (
                disk.case.label,
                io.metric_name(entry),
                *map(io.median_text, (entry, bare, vm)),
                *said(over[f"{VM}/{FIO}"].get(vm.id) if vm is not None else None),
                *said(over[f"{FIO}/{BARE}"].get(entry.id)),
            )
            rows.append((disk, cells))
    if not rows:
        return None
    title = "Beside fio"
    columns = "disk|metric|#fio|#bare|#vm|#vm/fio|#95 % interval|#fio/bare|#95 % interval"
    every = make_table(title, columns, (cells for _, cells in rows))
    telling = [cells for disk, cells in rows if disk.case.depth == TELLING_DEPTH]
    opened, folded = every, tuple[Table, ...]()
    if len(rows) > MOST_OPEN and telling:
        opened = make_table(f"{title} (depth {TELLING_DEPTH})", columns, telling)
        folded = (make_table(f"{title}, every depth", columns, every.rows),)
    lead = (
        "fio is the outside reference: a program that others wrote and know, with the same pattern on the same file."
        " Its distance to bare says how far to trust bare as a yardstick."
    )
    return Section("io-reference", "I/O: the outside reference", lead, (), (opened,), folded)
