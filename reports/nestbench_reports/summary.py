"""Tables for the terminal: a document, a comparison, a gate's result. Plain text where there is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from nestbench_reports import metrics
from nestbench_reports.compare import Comparison, Difference
from nestbench_reports.counted import is_counted, print_costs
from nestbench_reports.gate import GateResult, Judgement, Outcome
from nestbench_reports.metrics import Metric
from nestbench_reports.model import OK, Document, Measurement
from nestbench_reports.nested import print_nested
from nestbench_reports.others import FLOORED, OVERHEAD, Other, others
from nestbench_reports.stats import Estimate, Verdict
from nestbench_reports.summary_io import print_io
from nestbench_reports.summary_tenants import print_tenants
from nestbench_reports.terminal import NARROW, TINY, WIDE, bullets, new_table, plain, print_line
from nestbench_reports.text import bytes_text, interval, number, parameter, percent, plural, printable, quantity, ratio

_VERDICT_STYLE = {
    Verdict.REGRESSION: "red",
    Verdict.IMPROVEMENT: "green",
    Verdict.EQUIVALENT: "green",
    Verdict.INCONCLUSIVE: "yellow",
}
# What the four verdicts say about one ratio within one document.
COST_WORDS = {
    Verdict.REGRESSION: "costs more",
    Verdict.IMPROVEMENT: "costs less",
    Verdict.EQUIVALENT: "no cost",
    Verdict.INCONCLUSIVE: "not settled",
}
_OUTCOME_STYLE = {
    Outcome.PASS: "green",
    Outcome.TOLERATED: "yellow",
    Outcome.ACCEPTED: "yellow",
    Outcome.LACKING: "yellow",
    Outcome.INCONCLUSIVE: "bold yellow",
}
MOST_IDS = 4  # that one line of what was not measured names


def label(measurement: Measurement) -> str:
    """`memory_chase, working set 64 MiB`"""
    params = [parameter(name, value) for name, value in sorted(measurement.params.items())]
    return ", ".join([measurement.workload, *params])


def _interval_of(estimate: Estimate | None) -> str:
    return "-" if estimate is None else interval(estimate)


def _ladder(console: Console, title: str, rows: Sequence[Metric]) -> None:
    wide, narrow, tiny = console.width >= WIDE, console.width < NARROW, console.width < TINY
    columns = [("workload", "left")]
    if not narrow:
        columns += [("bare", "right"), ("vm", "right")]
    columns += [("vm/bare", "right"), ("95 % interval", "right")]
    if wide:
        columns += [("A/A bare", "right"), ("A/A vm", "right")]
    if not tiny:
        columns.append(("reads as", "left"))
    table = new_table(console, title, columns)
    for metric in rows:
        assert metric.estimate is not None
        cells = [plain(label(metric.numerator))]
        if not narrow:
            cells += [plain(_median(side)) for side in (metric.denominator, metric.numerator)]
        cells += [plain(ratio(metric.estimate.value), "bold"), plain(_interval_of(metric.estimate))]
        if wide:
            cells += [
                plain(_interval_of(metric.denominator_null), "dim"),
                plain(_interval_of(metric.numerator_null), "dim"),
            ]
        if not tiny:
            cells.append(plain(COST_WORDS[metric.verdict], _VERDICT_STYLE[metric.verdict]))
        table.add_row(*cells)
    console.print(table)


def _median(measurement: Measurement) -> str:
    estimate = metrics.absolute(measurement)
    return "-" if estimate is None else quantity(estimate.value, measurement.unit)


def _floors(console: Console, title: str, rows: Sequence[tuple[Measurement, Metric | None]]) -> None:
    """Costs of the VMM library beside the same loop in raw ioctls."""
    narrow, tiny = console.width < NARROW, console.width < TINY
    columns = [("operation", "left"), ("vm", "right")]
    if not tiny:
        columns.append(("floor", "right"))
    columns.append(("vm/floor", "right"))
    if not tiny:
        columns.append(("95 % interval", "right"))
    if not narrow:
        columns.append(("A/A vm", "right"))
    table = new_table(console, title, columns)
    for measurement, metric in rows:
        cells = [plain(label(measurement)), plain(_median(measurement), "bold")]
        estimate = metric.estimate if metric is not None else None
        if not tiny:
            cells.append(plain(_median(metric.denominator) if metric is not None and estimate is not None else "-"))
        cells.append(plain("-" if estimate is None else ratio(estimate.value)))
        if not tiny:
            cells.append(plain(_interval_of(estimate)))
        if not narrow:
            cells.append(plain(_interval_of(metrics.null_ratio(measurement)), "dim"))
        table.add_row(*cells)
    console.print(table)


def _other(console: Console, other: Other) -> None:
    """A scenario without tables of its own."""
    if other.ratios:
        _ladder(console, f"{other.title}: in a guest and on the host", other.ratios)
    if other.alone:
        columns = [("operation", "left"), ("where", "left"), ("median", "right")]
        if console.width >= TINY:
            columns.append(("A/A", "right"))
        table = new_table(console, f"{other.title}: single values", columns)
        for entry in other.alone:
            cells = [plain(label(entry)), plain(entry.substrate), plain(_median(entry), "bold")]
            if console.width >= TINY:
                cells.append(plain(_interval_of(metrics.null_ratio(entry)), "dim"))
            table.add_row(*cells)
        console.print(table)


def _floor_rows(document: Document, ratios: Sequence[Metric], scenario: str) -> list[tuple[Measurement, Metric | None]]:
    by_id = {metric.numerator.id: metric for metric in ratios if metric.ratio_name.endswith("/floor")}
    return [
        (entry, by_id.get(entry.id))
        for entry in document.measurements
        if entry.scenario == scenario and entry.status == OK and entry.substrate == metrics.VM
    ]


def host_line(document: Document) -> str:
    host = document.host
    kvm = f"KVM {host.kvm.module or 'built in'}" if host.kvm.available else "no KVM"
    return (
        f"{host.cpu.model_name}, {plural(host.topology.cpus, 'CPU')}, {bytes_text(host.topology.memory_bytes)},"
        f" level {host.level.value} ({percent(host.level.confidence)} sure), {kvm}, {host.kernel}"
    )


def null_line(document: Document) -> str | None:
    """How many A/A intervals hold 1: what the intervals of this document are worth."""
    found = [ratio_ for _, ratio_ in metrics.null_ratios(document) if ratio_.low is not None]
    if not found:
        return None
    held = sum(ratio_.contains(1.0) for ratio_ in found)
    return f"A/A: {held} of {len(found)} intervals of identical runs hold 1 ({percent(held / len(found))})"


def print_summary(console: Console, document: Document, verdict: str, verdict_style: str) -> None:
    """The whole document on one screen or a few."""
    run = document.run
    print_line(console, f"nestbench {run.profile}, {run.started}, {number(run.duration_s)} s, seed {run.seed}", "bold")
    print_line(console, host_line(document), "dim")
    if document.host.has_emulated_clock and not is_counted(document):
        print_line(console, "The clock of this host is emulated: every time below is meaningless.", "bold red")
    if run.interrupted:
        print_line(console, "The run was interrupted; this is what it finished.", "yellow")
    console.print()
    ratios = metrics.metrics(document)
    overhead = [
        metric
        for metric in ratios
        if metric.ratio_name == "vm/bare"
        and metric.estimate is not None
        and metric.numerator.scenario in (OVERHEAD, *FLOORED)
    ]
    if overhead:
        _ladder(console, "Overhead: the same image in a guest and on the host", overhead)
    for scenario, title in FLOORED.items():
        rows = _floor_rows(document, ratios, scenario)
        if rows:
            _floors(console, title, rows)
    print_nested(console, document, ratios)
    print_costs(console, document)
    print_io(console, document, ratios)
    for other in others(document, ratios):
        _other(console, other)
    print_tenants(console, document)
    if (line := null_line(document)) is not None:
        print_line(console, line)
        console.print()
    _print_not_ok(console, document)
    notable = [finding for finding in document.findings if finding.severity != "info"]
    if notable:
        print_line(console, "Findings", "bold")
        bullets(console, (f"{finding.severity}: {finding.text}" for finding in notable))
        console.print()
    print_line(console, verdict, verdict_style)


def _some_ids(measurements: Sequence[Measurement]) -> str:
    """The first few; a matrix has hundreds of the same reason, and the report names them all."""
    names = [entry.id for entry in measurements[:MOST_IDS]]
    rest = len(measurements) - len(names)
    return ", ".join(names) + (f" and {rest:,} more" if rest else "")


def _print_not_ok(console: Console, document: Document) -> None:
    """Everything that was not measured, with its reason; equal reasons together."""
    bad = sorted((m for m in document.measurements if m.status != OK), key=lambda m: (m.status, m.reason))
    blocked = sorted((c for c in document.capability if not c.runnable), key=lambda c: (c.reason, c.remedy))
    if bad:
        print_line(console, "Not measured", "bold")
        groups = ((key, list(group)) for key, group in groupby(bad, key=lambda m: (m.status, m.reason)))
        bullets(console, (f"{key[0]}: {_some_ids(group)}: {key[1]}" for key, group in groups))
        console.print()
    if blocked:
        print_line(console, "Cannot run here", "bold")
        for (reason, remedy), group in groupby(blocked, key=lambda c: (c.reason, c.remedy)):
            names = ", ".join(f"{c.scenario}/{c.workload}" for c in group)
            bullets(console, [f"{names}: {reason}" + (f" (remedy: {remedy})" if remedy else "")])
        console.print()


def _difference_value(estimate: Estimate | None, unit: str) -> str:
    if estimate is None:
        return "-"
    return ratio(estimate.value) if unit == "x" else quantity(estimate.value, unit)


def _difference_verdict(entry: Difference) -> Text:
    rounds = f" (~{entry.required_rounds:,} rounds)" if entry.required_rounds else ""
    return plain(entry.verdict.value + rounds, _VERDICT_STYLE[entry.verdict])


def print_comparison(console: Console, comparison: Comparison) -> None:
    print_line(console, f"baseline {comparison.baseline}", "dim")
    print_line(console, f"current  {comparison.current}", "dim")
    console.print()
    if comparison.environment:
        table = new_table(
            console, "The environments differ", [("what", "left"), ("baseline", "left"), ("current", "left")]
        )
        for difference in comparison.environment:
            table.add_row(plain(difference.what), plain(difference.baseline), plain(difference.current))
        console.print(table)
    columns = [
        ("metric", "left"),
        ("baseline", "right"),
        ("current", "right"),
        ("cost", "right"),
        ("95 % interval", "right"),
        ("min. effect", "right"),
        ("verdict", "left"),
    ]
    table = new_table(console, "Current against baseline (above 1: worse)", columns)
    for entry in comparison.differences:
        if entry.status == OK and entry.ratio is not None:
            effect = "-" if entry.effect is None else percent(entry.effect)
            table.add_row(
                plain(entry.id),
                plain(_difference_value(entry.baseline, entry.unit)),
                plain(_difference_value(entry.current, entry.unit)),
                plain(ratio(entry.ratio.value), "bold"),
                plain(_interval_of(entry.ratio)),
                plain(effect),
                _difference_verdict(entry),
            )
    console.print(table)
    unsettled = sorted(comparison.with_verdict(Verdict.INCONCLUSIVE), key=lambda entry: entry.reason)
    if unsettled:
        print_line(console, "Inconclusive, and why (in brackets above: the rounds that would settle it)", "bold")
        for reason, group in groupby(unsettled, key=lambda entry: entry.reason):
            bullets(console, [f"{reason}: {', '.join(entry.id for entry in group)}"])
        console.print()
    if comparison.not_compared:
        print_line(console, "Not compared", "bold")
        bullets(console, (f"{entry.status}: {entry.id}: {entry.reason}" for entry in comparison.not_compared))
        console.print()
    counts = [f"{len(comparison.with_verdict(verdict))} {verdict.value}" for verdict in Verdict]
    print_line(console, f"compare: {', '.join(counts)}; false discovery rate {percent(comparison.fdr)}", "bold")


def outcome_style(outcome: Outcome) -> str:
    return _OUTCOME_STYLE.get(outcome, "bold red")


def print_gate(console: Console, result: GateResult, verbose: bool) -> None:
    """One line for each limit, then every check that did not pass, then the verdict."""
    table = new_table(
        console, f"Gate {printable(result.policy)}", [("limit", "left"), ("checks", "right"), ("outcome", "left")]
    )
    groups: dict[str, list[Judgement]] = {}
    for judgement in result.judgements:
        groups.setdefault(judgement.rule, []).append(judgement)
    for rule, members in groups.items():
        outcomes = [outcome for outcome in Outcome if any(member.outcome is outcome for member in members)]
        cell = Text(", ").join(
            plain(f"{sum(member.outcome is outcome for member in members)} {outcome.value}", outcome_style(outcome))
            for outcome in outcomes
        )
        table.add_row(plain(rule), plain(str(len(members))), cell)
    console.print(table)
    quiet = () if verbose else (Outcome.PASS, Outcome.TOLERATED)
    for judgement in result.judgements:
        if judgement.outcome not in quiet:
            line = Text.assemble(
                (f"{judgement.outcome.value}: ", outcome_style(judgement.outcome)),
                printable(f"{judgement.id}: {judgement.text}"),
                (printable(f" ({judgement.rule}" + (f": {judgement.reason}" if judgement.reason else "") + ")"), "dim"),
            )
            console.print(Padding(line, (0, 0, 0, 2), expand=False))
    if not verbose and (tolerated := result.count(Outcome.TOLERATED)):
        text = f"{tolerated:,} inconclusive, which the policy tolerates: `nestbench gate -v` names them"
        console.print(Padding(plain(text, "yellow"), (0, 0, 0, 2), expand=False))
    for note in result.notes:
        console.print(Padding(plain(f"note: {note}", "dim"), (0, 0, 0, 2), expand=False))
    print_line(console, f"gate: {result.headline}", outcome_style(result.outcome))
