"""What the HTML page shows, as plain data: verdict, headline numbers, sections, environment. Pure.

Every string of the document passes `printable` here; escaping for HTML and JSON is render's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from nestbench_reports import containment, density, figures_io, isolation, metrics
from nestbench_reports import tenant_text as say
from nestbench_reports.charts import Cells, Section, Table, make_table
from nestbench_reports.figures import (
    bandwidth_section,
    floored_section,
    latency_section,
    median_text,
    null_section,
    overhead_section,
)
from nestbench_reports.conformance import PASS, UNSUPPORTED, Checklist, Known, checklist
from nestbench_reports.counted import costs_section
from nestbench_reports.figures_conformance import conformance_section
from nestbench_reports.figures_containment import containment_section
from nestbench_reports.figures_density import density_section
from nestbench_reports.figures_io import io_sections
from nestbench_reports.figures_isolation import attribution_section, isolation_section
from nestbench_reports.figures_other import other_sections
from nestbench_reports.gate import GateResult, Outcome
from nestbench_reports.judgement import HARMLESS
from nestbench_reports.metrics import Metric
from nestbench_reports.model import OK, Document, Measurement
from nestbench_reports.nested import nested_section
from nestbench_reports.summary import label
from nestbench_reports.text import bytes_text, number, percent, plural, printable, ratio


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Verdict:
    kind: str  # pass, fail, warn: which colour and sign
    word: str
    sentence: str
    failures: tuple[str, ...]
    table: Table | None


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    meta: tuple[str, ...]
    warnings: tuple[str, ...]
    verdict: Verdict
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    findings: tuple[tuple[str, str, str], ...]  # severity, text, evidence
    not_ok: Table | None
    blocked: Table | None
    environment: tuple[tuple[str, str], ...]
    details: tuple[Table, ...]


def _tile_cpu(ratios: Sequence[Metric]) -> Tile | None:
    control = ("cpu_cpuid", "cpu_rdtsc")
    found = sorted(
        (
            (metric.estimate.value, metric.numerator.workload)
            for metric in ratios
            if metric.ratio_name == "vm/bare"
            and metric.estimate is not None
            and metric.numerator.workload.startswith("cpu_")
            and metric.numerator.workload not in control
        )
    )
    if not found:
        return None
    middle, worst = median(value for value, _ in found), found[-1]
    most = f"{worst[1]} {ratio(worst[0])}\N{MULTIPLICATION SIGN}"
    note = f"of bare metal, median of {plural(len(found), 'workload')}; most: {most}"
    return Tile("CPU work in a guest", f"{ratio(middle)}\N{MULTIPLICATION SIGN}", note)


def _tile_memory(ratios: Sequence[Metric]) -> Tile | None:
    sized = [
        (size, metric)
        for metric in ratios
        if metric.ratio_name == "vm/bare"
        and metric.estimate is not None
        and metric.numerator.workload == "memory_chase"
        and isinstance(size := metric.numerator.params.get("working_set_bytes"), int)
    ]
    if not sized:
        return None
    size, metric = max(sized, key=lambda pair: pair[0])
    assert metric.estimate is not None
    note = f"latency over {bytes_text(size)}: {median_text(metric.numerator)}, bare {median_text(metric.denominator)}"
    return Tile("Memory latency", f"{ratio(metric.estimate.value)}\N{MULTIPLICATION SIGN}", note)


def _tile_time(document: Document, ratios: Sequence[Metric], prefix: str, title: str) -> Tile | None:
    found = [
        entry
        for entry in document.measurements
        if entry.id.startswith(prefix) and entry.substrate == "vm" and metrics.absolute(entry) is not None
    ]
    if not found:
        return None
    entry = found[-1]
    floor = next(
        (m for m in ratios if m.numerator is entry and m.ratio_name == "vm/floor" and m.estimate is not None), None
    )
    note = label(entry)
    if floor is not None and floor.estimate is not None:
        note += f"; {ratio(floor.estimate.value)}\N{MULTIPLICATION SIGN} of raw ioctls"
    return Tile(title, median_text(entry).partition("/")[0], printable(note))


def _tile_io(document: Document, ratios: Sequence[Metric]) -> Tile | None:
    found = figures_io.tile(document, ratios)
    return None if found is None else Tile(*found)


def _tile_density(document: Document) -> Tile | None:
    ramps = [ramp for ramp in density.ramps(document) if ramp.load == density.STEADY and ramp.substrate == "vm"]
    if not ramps or ramps[0].knee is None:
        return None
    against = next((r for r in density.density_ratios(density.ramps(document)) if r.above.substrate == "vm"), None)
    note = f"95 % interval {say.knee_interval(ramps[0].knee)}"
    return Tile(
        "Guests that fit", say.knee_text(ramps[0]), note + (f"; {say.density_ratio_text(against)}" if against else "")
    )


def _tile_isolation(matrix: isolation.Matrix) -> Tile | None:
    found = [(c.isol_01.value, c) for c in matrix.cells if c.isol_01 and c.substrate == "vm" and not c.is_null]
    if not found:
        return None
    _, worst = min(found, key=lambda pair: pair[0])
    kept = sum(value >= isolation.PASS_LINE for value, _ in found)
    note = f"{worst.victim} beside {say.cell_name(worst)}; {kept} of {plural(len(found), 'cell')} keep the line"
    return Tile("Worst isolation (isol-01)", say.share_text(worst.isol_01), printable(note))


def _tile_containment(document: Document) -> Tile | None:
    found = [fault for fault in containment.faults(document) if fault.substrate == "vm"]
    if not found:
        return None
    tries = sum(len(fault.tries) for fault in found)
    good = sum(fault.ok for fault in found)
    note = f"contained and called what they were, in {plural(tries, 'try', 'tries')}"
    return Tile("Faults contained", f"{good} of {len(found)}", note)


def _tile_null(document: Document) -> Tile | None:
    found = [ratio_ for _, ratio_ in metrics.null_ratios(document) if ratio_.low is not None]
    if not found:
        return None
    held = sum(ratio_.contains(1.0) for ratio_ in found)
    return Tile(
        "A/A intervals that hold 1", percent(held / len(found)), f"{held} of {len(found)} pairs of identical runs agree"
    )


def _verdict(judged: GateResult | str) -> Verdict:
    if isinstance(judged, str):
        return Verdict("warn", "not judged", printable(judged), (), None)
    outcome = judged.outcome
    if outcome is Outcome.PASS:
        # A pass of which most is unknown is no reason to look reassured.
        kind = "pass" if judged.count(Outcome.PASS) >= judged.count(Outcome.TOLERATED) else "warn"
    else:
        kind = "warn" if outcome in (Outcome.INCONCLUSIVE, Outcome.UNSUPPORTED) else "fail"
    bad = [entry for entry in judged.judgements if entry.outcome not in HARMLESS]
    failures = tuple(
        printable(
            f"{entry.id}: {entry.text}"
            + (f" ({entry.rule})" if entry.rule not in ("status", "clock") else "")
            + (f": {entry.reason}" if entry.reason else "")
        )
        for entry in bad[:8]
    ) + ((f"and {len(bad) - 8} more, in the table of checks",) if len(bad) > 8 else ())
    order = list(Outcome)
    rows = sorted(judged.judgements, key=lambda entry: -order.index(entry.outcome))
    table = make_table(
        "Checks of the policy",
        "check|limit|outcome|observed|why",
        ((entry.id, entry.rule, entry.outcome.value, entry.text, entry.reason) for entry in rows),
    )
    sentence = judged.headline.partition(": ")[2]
    return Verdict(kind, outcome.value, printable(sentence), failures, table)


def _verdict_of_conditions(found: Checklist) -> Verdict:
    kind = {PASS: "pass", UNSUPPORTED: "warn"}.get(found.exit_code, "fail")
    name = {PASS: "pass", UNSUPPORTED: "unsupported"}.get(found.exit_code, "fail")
    return Verdict(kind, name, printable(found.headline), (), None)


def _environment(document: Document) -> tuple[tuple[str, str], ...]:
    host, build, run = document.host, document.build, document.run
    kvm = (
        f"{host.kvm.module or 'built in'}, API version {host.kvm.api_version}"
        if host.kvm.available
        else f"no: {host.kvm.reason}"
    )
    pairs = [
        (
            "CPU",
            f"{host.cpu.model_name} ({host.cpu.vendor}, family {host.cpu.family}, model {host.cpu.model},"
            f" stepping {host.cpu.stepping})",
        ),
        ("Microcode", host.cpu.microcode or "not shown by the kernel"),
        (
            "Topology",
            f"{plural(host.topology.cpus, 'CPU')}, {plural(host.topology.cores, 'core')},"
            f" {plural(host.topology.sockets, 'socket')}, {plural(host.topology.numa_nodes, 'NUMA node')}",
        ),
        ("Memory", bytes_text(host.topology.memory_bytes)),
        (
            "Caches",
            ", ".join(f"L{cache.level} {bytes_text(cache.size_bytes)}" for cache in document.caches) or "unknown",
        ),
        (
            "Level",
            f"{host.level.value}, {percent(host.level.confidence)} sure: "
            + ("; ".join(host.level.evidence) or "no evidence"),
        ),
        ("Hypervisor below", host.hypervisor_signature or "none seen"),
        ("Kernel", host.kernel),
        ("Kernel command line", host.cmdline or "(empty)"),
        ("KVM", kvm),
        (
            "KVM parameters",
            ", ".join(f"{name}={value}" for name, value in sorted(host.kvm.parameters.items())) or "none",
        ),
        ("Guest kernel mode (CPL0)", host.supervisor_execution),
        ("Guest user mode (CPL3)", host.user_execution),
        ("Clock", f"{host.clock_source}, {host.clock}; TSC {number(host.tsc_hz / 1e9, 5)} GHz"),
        (
            "Huge pages",
            f"transparent: {host.huge_pages.thp or 'none'}; free 2 MiB: {host.huge_pages.hugetlb_2m_free:,},"
            f" 1 GiB: {host.huge_pages.hugetlb_1g_free:,}",
        ),
        (
            "Control groups",
            f"{host.cgroup.layout}; {', '.join(host.cgroup.controllers) or 'no controllers'};"
            f" {'writable' if host.cgroup.writable else 'not writable'}",
        ),
        ("nestbench", f"{build.version} ({build.commit}), {build.compiler}, {build.flags}, {build.type}"),
        ("Run", f"{run.id}: nestbench {' '.join(run.arguments)}; profile {run.profile}, seed {run.seed}"),
    ]
    return tuple((name, printable(text)) for name, text in pairs)


def _details(document: Document) -> tuple[Table, ...]:
    host = document.host
    tables = (
        make_table("Mitigations", "vulnerability|state", sorted(host.mitigations.items())),
        make_table(
            "KVM capabilities",
            "capability|#value",
            ((name, str(value)) for name, value in sorted(host.kvm.capabilities.items())),
        ),
        make_table("Payload images", "image|SHA-256", sorted(document.images.items())),
        make_table(
            "Measurements",
            "measurement|status|#rounds|#processes|#samples|#voided|#steal ms|#run queue ms|#switches|#migrations",
            (_measurement_row(entry) for entry in document.measurements),
        ),
    )
    return tuple(table for table in tables if table.rows)


def _measurement_row(entry: Measurement) -> Cells:
    def total(values: Iterable[int]) -> int:
        return sum(values)

    rounds = entry.rounds
    return (
        entry.id,
        entry.status,
        str(len(entry.samples_by_round)),
        str(len(rounds)),
        str(total(len(r.samples) for r in rounds)),
        str(total(r.voided for r in rounds)),
        number(total(r.steal_ns for r in rounds) / 1e6),
        number(total(r.run_queue_wait_ns for r in rounds) / 1e6),
        str(total(r.context_switches for r in rounds)),
        str(total(r.migrations for r in rounds)),
    )


def _warnings(document: Document) -> tuple[str, ...]:
    warnings = []
    if document.host.has_emulated_clock:
        warnings.append(
            "The clock of this host is emulated. Every time on this page is meaningless; no gate accepts it."
        )
    if document.run.interrupted:
        warnings.append("The run was interrupted. The page shows what it had finished.")
    if document.run.recovered:
        warnings.append("This document was rebuilt from the journal of a run that did not end by itself.")
    return tuple(warnings)


def page(document: Document, judged: GateResult | str, known: Sequence[Known]) -> Page:
    """Everything that the page shows of a document. known: the list of known failures of conformance."""
    conditions = checklist(document, known)
    ratios = metrics.metrics(document)
    matrix = isolation.matrix(document)
    host, run = document.host, document.run
    exits_lead = (
        "One trip out of the guest and back, from user mode. RDTSC is the control: it must not leave the guest."
        " The floor is the same loop in raw ioctls, without vmm-core."
    )
    lifecycle_lead = (
        "Making, changing and ending a virtual machine; cold start is everything from nothing to the first exit."
    )
    hotpath_lead = (
        "What vmm-core itself does for an exit, a guest memory access or an image, without entering a guest. The floor"
        " is the least code that could do the same."
    )
    sections = (
        overhead_section(ratios),
        floored_section(document, ratios, "exits", "What leaving the guest costs", exits_lead),
        floored_section(document, ratios, "lifecycle", "Life cycle and cold start", lifecycle_lead),
        floored_section(document, ratios, "hotpath", "Hot paths of the VMM library", hotpath_lead),
        nested_section(document, ratios),
        costs_section(document),
        latency_section(document),
        bandwidth_section(document),
        *io_sections(document, ratios),
        *other_sections(document, ratios),
        density_section(document),
        isolation_section(document, matrix),
        attribution_section(document),
        containment_section(document),
        conformance_section(conditions),
        null_section(document),
    )
    tiles = (
        _tile_cpu(ratios),
        _tile_memory(ratios),
        _tile_time(document, ratios, "exits/doorbell_pio", "Exit by port I/O"),
        _tile_time(document, ratios, "lifecycle/cold_start", "Cold start"),
        _tile_io(document, ratios),
        _tile_density(document),
        _tile_isolation(matrix),
        _tile_containment(document),
        _tile_null(document),
    )
    bad = [entry for entry in document.measurements if entry.status != OK]
    blocked = [entry for entry in document.capability if not entry.runnable]
    return Page(
        title=printable(host.cpu.model_name or "unknown CPU"),
        subtitle=printable(
            f"{plural(host.topology.cpus, 'CPU')}, {bytes_text(host.topology.memory_bytes)}, level {host.level.value},"
            f" {host.kvm.module if host.kvm.available else 'no KVM'}"
        ),
        meta=tuple(
            map(
                printable,
                (
                    f"profile {run.profile}",
                    run.started,
                    f"{number(run.duration_s)} s",
                    f"nestbench {document.build.version}",
                ),
            )
        ),
        warnings=_warnings(document),
        # A conformance run measures nothing that a policy could judge.
        verdict=_verdict_of_conditions(conditions)
        if conditions.entries and not document.measurements
        else _verdict(judged),
        tiles=tuple(tile for tile in tiles if tile is not None),
        sections=tuple(section for section in sections if section is not None),
        findings=tuple((f.severity, printable(f.text), printable(f.evidence)) for f in document.findings),
        not_ok=make_table(
            "Measurements without a value", "measurement|status|reason", ((e.id, e.status, e.reason) for e in bad)
        )
        if bad
        else None,
        blocked=make_table(
            "What cannot run here",
            "workload|why|what would change it",
            ((f"{e.scenario}/{e.workload}", e.reason, e.remedy or "nothing known") for e in blocked),
        )
        if blocked
        else None,
        environment=_environment(document),
        details=_details(document),
    )
