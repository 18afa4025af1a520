"""Terminal tables of density, isolation, attribution and containment. Those without data are absent."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.text import Text

from nestbench_reports import attribution, containment, density, isolation, limits
from nestbench_reports import tenant_text as say
from nestbench_reports.attribution import Attribution
from nestbench_reports.containment import Fault
from nestbench_reports.density import Ramp
from nestbench_reports.experiments import SUBSTRATES
from nestbench_reports.isolation import PASS_LINE, Cell, Hurt
from nestbench_reports.model import OK, Document
from nestbench_reports.terminal import NARROW, TINY, WIDE, bullets, new_table, plain, print_line
from nestbench_reports.text import number, percent, plural

STYLES = {Hurt.HURT: "red", Hurt.HELPED: "yellow", Hurt.UNHURT: "green", Hurt.NOT_SETTLED: "yellow"}
MARKS = {Hurt.HURT: " *", Hurt.HELPED: " +", Hurt.UNHURT: "  ", Hurt.NOT_SETTLED: " ?"}
SPREAD = ("95 % interval", "right")
SHORTEST = 12  # lines of the isolation table: beyond, only those that say something


def print_tenants(console: Console, document: Document) -> None:
    _print_density(console, document)
    _print_isolation(console, document)
    for found in attribution.attributions(document):
        _print_attribution(console, found)
    _print_containment(console, document)


def _last_memory(ramp: Ramp) -> float | None:
    return ramp.points[-1].memory.total_bytes if ramp.points else None


def _print_density(console: Console, document: Document) -> None:
    ramps = density.ramps(document)
    if not ramps:
        return
    wide, tiny = console.width >= NARROW, console.width < TINY
    columns = [("guests", "left"), ("fit", "right")]
    if not tiny:
        columns += [("95 % interval", "right"), ("p99 there", "right"), ("memory each", "right")]
    if wide:
        columns += [("starts/s", "right"), ("first that failed", "left")]
    columns.append(("what gave out", "left"))
    rows = new_table(console, "Density: how many guests fit", columns)
    for ramp in ramps:
        limit = limits.limit(ramp, document.host.topology.memory_bytes)
        at = next((point for point in reversed(ramp.points) if point.guests <= max(ramp.most, 1)), None)
        rates = [point.start_rate_per_s for point in ramp.points if point.start_rate_per_s]
        cells = [plain(f"{ramp.load} {ramp.substrate}"), plain(say.knee_text(ramp), "bold")]
        if not tiny:
            cells.append(plain(say.knee_interval(ramp.knee)))
            cells.append(plain(say.time_text(at.p99_ns if at is not None and ramp.knee is not None else None)))
            cells.append(plain(say.memory_text(_last_memory(ramp))))
        if wide:
            cells += [plain(number(rates[-1]) if rates else say.DASH), plain(say.failure_text(ramp))]
        cells.append(plain(say.limit_text(limit) if wide else limit.resource or limit.text))
        rows.add_row(*cells)
    console.print(rows)
    bullets(
        console,
        (
            f"{entry.above.load}: {entry.above.substrate} holds {say.density_ratio_text(entry)}"
            for entry in density.density_ratios(ramps)
        ),
    )
    bullets(
        console,
        (
            f"{ramp.experiment.id}: torn down in {say.teardown_text(ramp)}"
            for ramp in ramps
            if ramp.end is not None and not ramp.end.left_behind.nothing
        ),
    )
    console.print()


def _print_isolation(console: Console, document: Document) -> None:
    """A row for each victim beside each aggressor, the substrates side by side."""
    matrix = isolation.matrix(document)
    cells = [cell for cell in matrix.cells if cell.status == OK]
    if not cells:
        return
    substrates = list(dict.fromkeys(sorted((cell.substrate for cell in cells), key=_place)))
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        neighbour = f"{say.cell_name(cell)}, {say.placement_text(cell.placement)}"
        rows.setdefault((cell.victim, neighbour), {})[cell.substrate] = cell
    shown = {key: row for key, row in rows.items() if len(rows) <= SHORTEST or any(map(_is_telling, row.values()))}
    wide, tiny = console.width >= WIDE, console.width < TINY
    substrates = substrates[:1] if tiny else substrates
    names = [("victim beside", "left")] if tiny else [("victim", "left"), ("beside", "left")]
    columns = [*names, *((name, "right") for name in substrates)]
    if wide:
        columns += [(f"p99 in {name}", "right") for name in substrates]
    title = f"Isolation: isol-01, the least a victim keeps ({percent(PASS_LINE)} is the line; * hurt, ? not settled)"
    grid = new_table(console, title, columns)
    for (victim, neighbour), row in shown.items():
        line = [plain(f"{victim} beside {neighbour}")] if tiny else [plain(victim), plain(neighbour)]
        line += [_share_cell(row.get(name)) for name in substrates]
        if wide:
            found = (row.get(name) for name in substrates)
            line += [plain(say.impact_text(cell.impact("latency_p99") if cell else None), "dim") for cell in found]
        grid.add_row(*line)
    if shown:
        console.print(grid)
    if len(shown) < len(rows):
        quiet = len(rows) - len(shown)
        print_line(console, f"{plural(quiet, 'more row')} above the line and not hurt: the report shows all", "dim")
    if matrix.null is not None:
        print_line(console, say.null_text(matrix.null))
    console.print()


def _place(substrate: str) -> tuple[int, str]:
    return (SUBSTRATES.index(substrate) if substrate in SUBSTRATES else len(SUBSTRATES)), substrate


def _share_cell(cell: Cell | None) -> Text:
    if cell is None or cell.isol_01 is None:
        return plain(say.DASH)
    below = cell.isol_01.value < PASS_LINE and not cell.is_null
    return plain(say.share_text(cell.isol_01) + MARKS[cell.verdict], "bold red" if below else STYLES[cell.verdict])


def _is_telling(cell: Cell) -> bool:
    below = cell.isol_01 is not None and cell.isol_01.value < PASS_LINE
    return not cell.is_null and (below or cell.verdict is Hurt.HURT)


def _print_attribution(console: Console, found: Attribution) -> None:
    title = f"Attribution: who was the noisy neighbour ({found.substrate}, {plural(len(found.scored), 'schedule')})"
    tiny = console.width < TINY
    rows = new_table(console, title, [("score", "left")] if tiny else [("score", "left"), ("value", "right"), SPREAD])

    def add(name: str, value: str, spread: str = say.DASH) -> None:
        rows.add_row(*([plain(f"{name}: {value}")] if tiny else [plain(name), plain(value, "bold"), plain(spread)]))

    for name, proportion in (
        ("precision", found.precision),
        ("recall (impact 10 % or more)", found.recall),
        ("quiet windows with a false alarm", found.quiet_alarms),
    ):
        add(name, say.proportion_text(proportion), say.proportion_interval(proportion))
    add("time to detection, median", say.time_text(found.delay_median_ns))
    add("time to detection, 95 % within", say.time_text(found.delay_p95_ns))
    add("false alarms", say.per_hour_text(found.false_alarms_per_hour))
    add("false alarms in quiet runs", say.per_hour_text(found.quiet_false_alarms_per_hour))
    console.print(rows)


def _print_containment(console: Console, document: Document) -> None:
    faults, soaks = containment.faults(document), containment.soaks(document)
    if faults:
        wide, tiny = console.width >= NARROW, console.width < TINY
        columns = [("fault", "left")]
        if not tiny:
            columns += [("classified as", "left"), ("right", "right"), ("contained", "right")]
            columns.append(("noticed after", "right"))
        if wide:
            columns.append(("neighbours' p99 during", "right"))
        columns.append(("verdict", "left"))
        rows = new_table(console, "Containment: does a crash stay inside its guest", columns)
        for fault in faults:
            rows.add_row(*_fault_cells(fault, wide, tiny))
        console.print(rows)
        bad = ((key, list(group)) for key, group in groupby((f for f in faults if not f.ok), key=lambda f: f.why_not))
        bullets(console, (f"{', '.join(f.experiment.id for f in group)}: {'; '.join(key)}" for key, group in bad))
    for experiment, soak in soaks:
        style = "green" if soak.is_clean else "bold red"
        text = (
            f"{experiment.id}: {plural(soak.faults, 'fault')} among {plural(soak.guests, 'guest')} in"
            f" {say.time_text(soak.duration_ns)}: {soak.wrong} wrong, {soak.lost} lost"
        )
        print_line(console, text, style)
    if faults or soaks:
        console.print()


def _fault_cells(fault: Fault, wide: bool, tiny: bool) -> list[Text]:
    count = len(fault.tries)
    cells = [plain(f"{fault.name} {fault.substrate}")]
    if not tiny:
        cells += [
            plain(say.called_text(fault)),
            plain(f"{fault.right} of {count}"),
            plain(f"{fault.contained} of {count}"),
            plain(say.time_text(fault.detection_median_ns)),
        ]
    if wide:
        cells.append(plain(say.change_text(fault.during)))
    cells.append(plain(say.fault_verdict(fault), "green" if fault.ok else "bold red"))
    return cells
