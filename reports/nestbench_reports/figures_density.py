"""The page's section on density: ramps with their knees, memory of each guest, what gave out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nestbench_reports import density, limits, metrics
from nestbench_reports import tenant_text as say
from nestbench_reports.charts import Cells, Figure, Section, Table, make_table
from nestbench_reports.density import Point, Ramp
from nestbench_reports.experiments import DENSITY, Memory
from nestbench_reports.metrics import FLOOR
from nestbench_reports.model import OK, Document
from nestbench_reports.text import number, plural, printable

PARTS = (
    ("guest_ram_bytes", "guest RAM"),
    ("vmm_private_bytes", "VMM, private"),
    ("kernel_bytes", "kernel"),
)


def _series(ramp: Ramp) -> dict[str, object]:
    knee = ramp.knee
    fits = f"{say.knee_text(ramp)} fit"
    return {
        "substrate": printable(ramp.substrate),
        "name": printable(f"{ramp.substrate}: {fits}"),
        "knee": None if knee is None else [knee.guests, knee.low, knee.high],
        "points": [
            {
                "guests": point.guests,
                "throughput": point.throughput_per_s,
                "p99": point.p99_ns,
                "notes": [
                    ["served", f"{number(point.throughput_per_s)} of {number(point.offered_per_s)} per s"],
                    ["p50, p99", f"{say.time_text(point.p50_ns)}, {say.time_text(point.p99_ns)}"],
                    ["p99.9", say.time_text(point.p999_ns)],
                    ["slowest / median guest", say.DASH if point.fairness is None else number(point.fairness)],
                    ["within the objective", "yes" if point.good else printable(point.why_not)],
                    ["evidence", plural(point.repetitions, "repetition")],
                ],
            }
            for point in ramp.points
        ],
    }


def _point_cells(ramp: Ramp, point: Point) -> Cells:
    return (
        ramp.substrate,
        f"{point.guests:,}",
        number(point.offered_per_s),
        number(point.throughput_per_s),
        say.time_text(point.p50_ns),
        say.time_text(point.p99_ns),
        say.time_text(point.p999_ns),
        say.DASH if point.fairness is None else number(point.fairness),
        say.DASH if point.start_rate_per_s is None else number(point.start_rate_per_s),
        f"{say.time_text(point.start_p50_ns)}, {say.time_text(point.start_p99_ns)}",
        say.DASH if point.exits_per_s is None else number(point.exits_per_s),
        "yes" if point.good else point.why_not,
        str(point.repetitions),
    )


def _curves(ramps: Sequence[Ramp]) -> Figure | None:
    shown = [ramp for ramp in ramps if ramp.load == density.STEADY and ramp.points]
    if not shown:
        return None
    setup = shown[0].setup
    title = "Throughput and tail latency by number of guests"
    slo = setup.slo_p99_ns
    description = (
        f"Each guest is offered {number(setup.rate_per_s)} requests a second of {say.time_text(setup.service_ns)} each;"
        " the dashed grey line is what all are offered."
        + (f" The red line is the objective: p99 within {say.time_text(slo)}." if slo > 0 else "")
        + " Vertical lines: the knee, the most guests within it, with its 95 % interval."
    )
    columns = (
        "substrate|#guests|#offered/s|#served/s|#p50|#p99|#p99.9|#slowest / median|#starts/s|#start p50, p99|#exits/s|"
        "within the objective|#repetitions"
    )
    rows = [_point_cells(ramp, point) for ramp in shown for point in ramp.points]
    chart: dict[str, object] = {
        "kind": "ramp",
        "series": [_series(ramp) for ramp in shown],
        "slo_ns": slo if slo > 0 else None,
        "rate_per_s": setup.rate_per_s,
    }
    return Figure("density-ramp", title, description, chart, make_table(title, columns, rows))


def _floor_memory(document: Document) -> list[tuple[str, int, Memory]]:
    """(load, guests, memory) of the floor: the raw program that forks once for each virtual machine."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for entry in document.measurements:
        guests, load, part = (entry.params.get(key) for key in ("guests", "load", "part"))
        is_floor = (entry.scenario, entry.workload, entry.substrate) == (DENSITY, "memory_per_guest", FLOOR)
        estimate = metrics.absolute(entry) if is_floor and entry.status == OK else None
        if estimate is not None and isinstance(guests, int):
            found.setdefault((str(load), guests), {})[f"{part}_bytes"] = estimate.value
    largest = {load: max(guests for other, guests in found if other == load) for load, _ in found}
    return [
        (load, guests, Memory(*(parts.get(key) for key in ("total_bytes", *(name for name, _ in PARTS)))))
        for (load, guests), parts in found.items()
        if guests == largest[load]
    ]


def _memory(document: Document, ramps: Sequence[Ramp]) -> Figure | None:
    rows = [
        (ramp.load, ramp.substrate, ramp.points[-1].guests, ramp.points[-1].memory)
        for ramp in ramps
        if ramp.points
    ]
    rows += [(load, FLOOR, guests, memory) for load, guests, memory in _floor_memory(document)]
    loads = list(dict.fromkeys(load for load, *_ in rows))
    rows.sort(key=lambda row: loads.index(row[0]))  # stable: substrates keep their order
    drawn, cells = [], []
    for load, substrate, guests, memory in rows:
        values = [getattr(memory, key) for key, _ in PARTS]
        if all(value is None for value in values) and memory.total_bytes is None:
            continue
        total = memory.total_bytes if memory.total_bytes is not None else sum(value or 0.0 for value in values)
        drawn.append(
            {
                "label": printable(f"{substrate}, {load}, {plural(guests, 'guest')}"),
                "parts": values,
                "total": total,
                "text": say.memory_text(total),
                "notes": [
                    *([name, say.memory_text(value)] for (_, name), value in zip(PARTS, values, strict=True)),
                    ["together", say.memory_text(total)],
                ],
            }
        )
        cells.append((load, substrate, f"{guests:,}", *map(say.memory_text, values), say.memory_text(total)))
    if not drawn:
        return None
    title = "Memory of each guest"
    description = (
        "At the largest number of guests of each ramp: the guest's own RAM as far as it is backed, what is private to"
        " its process (PSS), and what the kernel keeps for it."
    )
    table = make_table(title, "load|substrate|#guests|#guest RAM|#VMM, private|#kernel|#together", cells)
    chart: dict[str, object] = {"kind": "stack", "rows": drawn, "parts": [name for _, name in PARTS]}
    return Figure("density-memory", title, description, chart, table)


def _fits(document: Document, ramps: Sequence[Ramp]) -> tuple[Table, tuple[Table, ...]]:
    """How many fit, and the evidence for what gave out."""
    ratios = {entry.above.experiment.id: entry for entry in density.density_ratios(ramps)}
    rows: list[Cells] = []
    evidence = []
    for ramp in ramps:
        limit = limits.limit(ramp, document.host.topology.memory_bytes)
        against = ratios.get(ramp.experiment.id)
        rows.append(
            (
                f"{ramp.load}, {ramp.substrate}",
                say.knee_text(ramp),
                say.knee_interval(ramp.knee),
                say.density_ratio_text(against) if against is not None else say.DASH,
                say.failure_text(ramp),
                say.limit_text(limit),
                say.teardown_text(ramp),
            )
        )
        if limit.evidence:
            title = f"Evidence for what gave out: {printable(ramp.experiment.id)}"
            seen = [(entry.resource, number(entry.weight, 2), entry.text) for entry in limit.evidence]
            evidence.append(make_table(title, "resource|#weight|seen at the edge", seen))
        missing = ramp.setup.cgroups.missing
        if missing:
            title = f"Control groups that were missing: {printable(ramp.experiment.id)}"
            evidence.append(make_table(title, "missing", ((name,) for name in missing)))
    columns = "guests|#fit|#95 % interval|against bare|first that failed, and how|what gave out|torn down in"
    return make_table("How many fit, and what gave out", columns, rows), tuple(evidence)


def density_section(document: Document) -> Section | None:
    ramps = density.ramps(document)
    if not ramps:
        return None
    fits, evidence = _fits(document, ramps)
    figures = tuple(figure for figure in (_curves(ramps), _memory(document, ramps)) if figure is not None)
    lead = (
        "Guests are added until the objective breaks, something is exhausted or the maximum is reached; the same ramp"
        " runs for zones (OS-level virtualization) and plain processes. What gave out is named by evidence, or not at"
        " all."
    )
    return Section("density", "How many guests fit", lead, figures, (fits,), evidence)
