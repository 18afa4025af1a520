"""The page's sections on disks: by depth and block size, and how near to the limit. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nestbench_reports import io, metrics
from nestbench_reports.charts import Cells, Figure, Section, make_table
from nestbench_reports.figures_network import (
    MOST_OPEN,
    TELLING_DEPTH,
    network_section,
    reference_section,
    signal_section,
)
from nestbench_reports.io import DASH, Case, Disk, Limit
from nestbench_reports.metrics import BARE, FIO, VM, Metric
from nestbench_reports.model import OK, Document, Measurement
from nestbench_reports.panels import Column, Line, Point, Row, evidence, panels, range_text
from nestbench_reports.text import bytes_text, interval, number, printable, quantity, ratio, time_ns


def _point(x: int, measurement: Measurement, case: Case, name: str, over: Metric | None = None) -> Point | None:
    """The median of one measurement as a chart draws it: times in ns, everything else in its unit."""
    estimate = metrics.absolute(measurement)
    if estimate is None:
        return None
    step = time_ns(1, measurement.unit) or 1.0
    bounds = [None if bound is None else bound * step for bound in (estimate.low, estimate.high)]
    notes = [
        (io.metric_name(measurement), io.median_text(measurement)),
        ("95 % interval", range_text(estimate, measurement.unit)),
    ]
    if over is not None and over.estimate is not None:
        notes.append((over.ratio_name, f"{ratio(over.estimate.value)} ({interval(over.estimate)})"))
    notes.append(("evidence", evidence(estimate)))
    title = f"{name}: {case.label}"
    return Point(x, (estimate.value * step, bounds[0], bounds[1]), title, tuple(notes))


def _ratio_point(x: int, metric: Metric, case: Case) -> Point | None:
    estimate = metric.estimate
    if estimate is None:
        return None
    notes = (
        (metric.ratio_name, f"{ratio(estimate.value)}\N{MULTIPLICATION SIGN}"),
        ("95 % interval", interval(estimate)),
        (metric.denominator.substrate, io.median_text(metric.denominator)),
        (metric.numerator.substrate, io.median_text(metric.numerator)),
        ("evidence", evidence(estimate)),
    )
    title = f"{metric.ratio_name}: {case.label}"
    return Point(x, (estimate.value, estimate.low, estimate.high), title, notes)


def _lines(
    cases: Sequence[Disk],
    substrates: Sequence[str],
    make: Callable[[Disk, str], Point | None],
    suffix: str = "",
) -> list[Line]:
    """A curve for each substrate and variant of the device, over the cases in their order."""
    found: dict[tuple[str, str], list[Point]] = {}
    for disk in cases:
        for substrate in substrates:
            if (point := make(disk, substrate)) is None:
                continue
            # On bare and for fio the device's variants are all the same.
            variant = disk.case.variant if substrate == VM else ""
            name = ", ".join(part for part in (f"{substrate} {suffix}".strip(), variant) if part)
            found.setdefault((name, substrate), []).append(point)
    lines = []
    for (name, substrate), points in found.items():
        by_x = {point.x: point for point in reversed(points)}  # of several, the plain device's
        lines.append(Line(name, substrate, tuple(by_x[x] for x in sorted(by_x))))
    return lines


def _grouped(disks: Iterable[Disk], key: Callable[[Case], str]) -> dict[str, list[Disk]]:
    groups: dict[str, list[Disk]] = {}
    for disk in disks:
        groups.setdefault(key(disk.case), []).append(disk)
    return groups


_RATE_COLUMNS = "pattern|where|#depth|#rate|#95 % interval|#cost over bare|#95 % interval|#rounds|#samples"


def _rate_rows(disks: Sequence[Disk], by_id: dict[str, Metric]) -> list[Cells]:
    rows: list[Cells] = []
    for disk in disks:
        for substrate in io.SUBSTRATES:
            rate = disk.rate(substrate)
            estimate = metrics.absolute(rate) if rate is not None else None
            if rate is None or estimate is None:
                continue
            cost = by_id[rate.id].estimate if rate.id in by_id else None
            rows.append(
                (
                    ", ".join(part for part in (disk.case.pattern, disk.case.variant) if part),
                    substrate,
                    str(disk.case.depth),
                    io.median_text(rate),
                    range_text(estimate, rate.unit),
                    DASH if cost is None else ratio(cost.value),
                    DASH if cost is None else interval(cost),
                    str(estimate.rounds),
                    str(estimate.samples),
                )
            )
    return rows


def _rates(
    kind: str, disk: str, disks: Sequence[Disk], ratios: Sequence[Metric], by_block: bool
) -> Figure | None:
    """IOPS by depth, or bandwidth by block size: the figure itself above, its cost over bare below."""
    over_bare = io.ratios_by_id(ratios)
    fio_over_bare = io.ratios_by_id(ratios, f"{FIO}/{BARE}")

    def x(case: Case) -> int:
        return case.block_bytes if by_block else case.depth

    def rate(entry: Disk, substrate: str) -> Point | None:
        found = entry.get(kind, substrate)
        return None if found is None else _point(x(entry.case), found, entry.case, substrate, over_bare.get(found.id))

    def cost(entry: Disk, substrate: str) -> Point | None:
        found = entry.get(kind, substrate)
        metric = (over_bare | fio_over_bare).get(found.id) if found is not None else None
        return None if metric is None else _ratio_point(x(entry.case), metric, entry.case)

    def title_of(case: Case) -> str:
        return f"{case.operation.replace('_', ' ')}, depth {case.depth}" if by_block else case.pattern

    columns = []
    for title, members in _grouped(disks, title_of).items():
        plots = (_lines(members, io.SUBSTRATES, rate), _lines(members, (VM, FIO), cost))
        if plots[0]:
            columns.append(Column(title, tuple(tuple(plot) for plot in plots)))
    if not columns:
        return None
    unit = io.MB_PER_S if by_block else io.KIOPS
    rows = (Row(unit, "count"), Row("cost over bare", "ratio"))
    what = "Bandwidth by block size" if by_block else "IOPS by queue depth"
    title = f"{what}: {io.disk_name(disk)}"
    description = (
        "Above: the median with its 95 % interval. Below: what it costs over bare, by pairs of processes; 1 is no cost."
    )
    table = make_table(title, _RATE_COLUMNS, _rate_rows([d for d in disks if d.get(kind, VM) or d.get(kind, BARE)],
                                                         over_bare | fio_over_bare))
    axis = ("block size", "bytes") if by_block else ("queue depth", "count")
    name = "bandwidth" if by_block else "iops"
    return Figure(_id(name, disk), title, description, panels(*axis, rows, columns), table)


def _id(name: str, disk: str) -> str:
    safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in disk)
    return f"io-{name}-{safe}"


def _latency(disk: str, disks: Sequence[Disk]) -> Figure | None:
    columns = []
    rows: list[Cells] = []
    for title, members in _grouped(disks, lambda case: case.pattern).items():
        plain = [entry for entry in members if not entry.case.variant] or members
        lines = []
        for metric, name in io.LATENCIES.items():

            def wait(entry: Disk, substrate: str, metric: str = metric, name: str = name) -> Point | None:
                found = entry.get(metric, substrate)
                return None if found is None else _point(entry.case.depth, found, entry.case, f"{substrate} {name}")

            lines += _lines(plain, io.SUBSTRATES, wait, name)
        if lines:
            columns.append(Column(title, (tuple(lines),)))
        for entry in members:
            for substrate in io.SUBSTRATES:
                found = [entry.get(metric, substrate) for metric in io.LATENCIES]
                if any(m is not None and metrics.absolute(m) is not None for m in found):
                    where = ", ".join(part for part in (title, entry.case.variant) if part)
                    known = next(metrics.absolute(m) for m in found if m is not None)
                    count = str(known.rounds) if known is not None else DASH
                    rows.append((where, substrate, str(entry.case.depth), *map(io.median_text, found), count))
    if not columns:
        return None
    title = f"Latency by queue depth: {io.disk_name(disk)}"
    description = (
        "From handing an operation over to its answer: the median over processes of each process's p50 (solid), p99"
        " (dashed) and p99.9 (dotted), with 95 % intervals."
    )
    chart = panels("queue depth", "count", (Row("latency", "time"),), columns)
    return Figure(
        _id("latency", disk), title, description, chart,
        make_table(title, "pattern|where|#depth|#p50|#p99|#p99.9|#rounds", rows),
    )


def _work(disk: str, disks: Sequence[Disk], ratios: Sequence[Metric]) -> Figure | None:
    """CPU time and exits of each operation."""
    over_bare = io.ratios_by_id(ratios)
    columns = []
    rows: list[Cells] = []

    def of(metric: str) -> Callable[[Disk, str], Point | None]:
        def make(entry: Disk, substrate: str) -> Point | None:
            found = entry.get(metric, substrate)
            if found is None:
                return None
            return _point(entry.case.depth, found, entry.case, substrate, over_bare.get(found.id))

        return make

    for title, members in _grouped(disks, lambda case: case.pattern).items():
        plots = (_lines(members, (VM, BARE), of(io.CPU)), _lines(members, (VM,), of(io.EXITS_METRIC)))
        if any(plots):
            columns.append(Column(title, tuple(tuple(plot) for plot in plots)))
        for entry in members:
            vm, bare = entry.get(io.CPU, VM), entry.get(io.CPU, BARE)
            cost = over_bare.get(vm.id) if vm is not None else None
            spread = cost.estimate if cost is not None else None
            rows.append(
                (
                    ", ".join(part for part in (title, entry.case.variant) if part),
                    str(entry.case.depth),
                    io.median_text(bare),
                    io.median_text(vm),
                    DASH if spread is None else ratio(spread.value),
                    DASH if spread is None else interval(spread),
                    io.median_text(entry.get(io.EXITS_METRIC, VM)),
                )
            )
    if not columns:
        return None
    title = f"CPU time and exits of one operation: {io.disk_name(disk)}"
    description = (
        "Above: host CPU time of the whole VMM process, or of its twin on bare, for one operation. Below: how often the"
        " guest leaves for it; one in a thousand operations and less counts as none."
    )
    chart = panels(
        "queue depth", "count", (Row("CPU time for each operation", "time"), Row("exits/op", "exits")), columns
    )
    table = make_table(title, "pattern|#depth|#CPU on bare|#CPU in vm|#vm/bare|#95 % interval|#exits in vm", rows)
    return Figure(_id("work", disk), title, description, chart, table)


def _disk_section(disks: Sequence[Disk], ratios: Sequence[Metric]) -> Section | None:
    figures: list[Figure | None] = []
    for disk, members in _grouped(disks, lambda case: case.disk).items():
        small = [entry for entry in members if any(entry.get(io.IOPS, name) for name in io.SUBSTRATES)]
        figures += [
            _rates(io.IOPS, disk, members, ratios, by_block=False),
            _latency(disk, small),
            _work(disk, small, ratios),
            _rates(io.BANDWIDTH, disk, members, ratios, by_block=True),
        ]
    present = tuple(figure for figure in figures if figure is not None)
    lead = (
        "The same pattern of operations through virtio-blk in a guest, and through io_uring in a process of the host,"
        " on the same file or on memory, in alternation. vm: a payload with its own driver, on the library's device."
    )
    return Section("io", "I/O: disk", lead, present) if present else None


def _limit_cells(limit: Limit) -> Cells:
    def time(value: float | None) -> str:
        return DASH if value is None else quantity(value, "ns")

    distance = limit.distance
    return (
        limit.case.label,
        time(limit.measured_ns),
        time(limit.bare_ns),
        DASH if limit.exits is None else io.exits_text(limit.exits).removesuffix(" exits/op"),
        time(limit.doorbell_ns),
        time(limit.limit_ns),
        DASH if distance is None else ratio(distance.value),
        DASH if distance is None else interval(distance),
        io.near_text(limit),
    )


def _distance_point(limit: Limit, x: int) -> Point:
    value = limit.distance
    assert value is not None
    notes = (
        ("measured / limit", f"{ratio(value.value)} ({interval(value)})"),
        ("measured", quantity(limit.measured_ns or 0, "ns")),
        ("limit", quantity(limit.limit_ns or 0, "ns")),
        ("reads as", io.near_text(limit)),
        ("evidence", evidence(value)),
    )
    return Point(x, (value.value, value.low, value.high), limit.case.label, notes)


_LIMIT_COLUMNS = "disk|#measured|#bare|#exits/op|#doorbell|#limit|#measured / limit|#95 % interval|reads as"


def _distances(found: Sequence[Limit], by_block: bool) -> Figure | None:
    """Distances by depth, those of large blocks by block size."""
    groups: dict[str, list[Limit]] = {}
    for limit in found:
        if limit.distance is not None:
            operation = limit.case.operation.replace("_", " ")
            where = f"{operation}, depth {limit.case.depth}" if by_block else limit.case.pattern
            groups.setdefault(f"{limit.case.disk_name}: {where}", []).append(limit)
    if not groups:
        return None
    columns = []
    for title, members in groups.items():
        lines: dict[str, list[Point]] = {}
        for limit in members:
            name = ", ".join(part for part in (VM, limit.case.variant) if part)
            x = limit.case.block_bytes if by_block else limit.case.depth
            lines.setdefault(name, []).append(_distance_point(limit, x))
        columns.append(Column(title, (tuple(Line(name, VM, tuple(points)) for name, points in lines.items()),)))
    row = Row("measured / limit", "ratio", io.LINE, f"{number(io.LINE, 2)}\N{MULTIPLICATION SIGN}")
    title = f"Measured time over the limit, by {'block size' if by_block else 'queue depth'}"
    description = "1 is the limit itself; an interval that lies wholly below the line is within it."
    chart = panels(*(("block size", "bytes") if by_block else ("queue depth", "count")), (row,), columns)
    table = make_table(title, _LIMIT_COLUMNS, map(_limit_cells, found))
    return Figure(f"io-limit-{'block' if by_block else 'depth'}", title, description, chart, table)


def _limit_section(document: Document) -> Section | None:
    found = [limit for limit in io.limits(document) if limit.rate.status == OK]  # the others stand where all such do
    if not found:
        return None
    small = [limit for limit in found if limit.rate.params["metric"] == io.IOPS]
    large = [limit for limit in found if limit.rate.params["metric"] == io.BANDWIDTH]
    figures = tuple(f for f in (_distances(small, by_block=False), _distances(large, by_block=True)) if f is not None)
    telling = [limit for limit in found if len(found) <= MOST_OPEN or limit.case.depth == TELLING_DEPTH] or found
    name = "Time of one operation: measured, and the least that it must take"
    name += "" if len(telling) == len(found) else f" (depth {TELLING_DEPTH})"
    lead = (
        "The limit is the time of one operation on bare, and for each exit that an operation makes the price of a"
        " doorbell of the same kind: what remains even if the device itself costs nothing."
    )
    said = (f"{io.within_text(found)}. " if figures else "") + io.WHY_DEPTH
    table = make_table(name, _LIMIT_COLUMNS, map(_limit_cells, telling))
    return Section("io-limit", "I/O: how near to the limit", lead, figures, (table,), notes=(said,))


def io_sections(document: Document, ratios: Sequence[Metric]) -> tuple[Section | None, ...]:
    disks = io.disks(document)
    return (
        _disk_section(disks, ratios),
        _limit_section(document),
        signal_section(document),
        network_section(document, io.ratios_by_id(ratios)),
        reference_section(disks, ratios),
    )


def tile(document: Document, ratios: Sequence[Metric]) -> tuple[str, str, str] | None:
    """Label, value, note: random reads of a deep queue, the deepest up to 32."""
    by_id = io.ratios_by_id(ratios)
    found = [
        (disk, rate)
        for disk in io.disks(document)
        if disk.case.operation == "random_read"
        and not disk.case.variant
        and disk.case.depth <= TELLING_DEPTH
        and (rate := disk.get(io.IOPS, VM)) is not None
        and metrics.absolute(rate) is not None
    ]
    if not found:
        return None
    disk, rate = max(found, key=lambda pair: pair[0].case.depth)
    cost = by_id[rate.id].estimate if rate.id in by_id else None
    said = "" if cost is None else f"; costs {ratio(cost.value)}\N{MULTIPLICATION SIGN} bare"
    exits = disk.get(io.EXITS_METRIC, VM)
    said += "" if exits is None or exits.status != OK else f"; {io.median_text(exits)}"
    note = f"{disk.case.disk_name}, {bytes_text(disk.case.block_bytes)}, depth {disk.case.depth}{said}"
    return "Random reads in a guest", io.median_text(rate), printable(note)
