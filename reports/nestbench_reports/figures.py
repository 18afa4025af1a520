"""The charts of the HTML page as plain data, each with the table that holds the same numbers. Pure.

Every string of the document passes `printable` here; escaping for HTML and JSON is render's.
"""

from __future__ import annotations

from collections.abc import Sequence

from nestbench_reports import metrics
from nestbench_reports.charts import Chart, Figure, Section, make_table
from nestbench_reports.metrics import BARE, FLOOR, Metric
from nestbench_reports.model import OK, Document, Measurement
from nestbench_reports.others import FLOORED, OVERHEAD
from nestbench_reports.stats import SMALLEST_EFFECT, Estimate
from nestbench_reports.summary import COST_WORDS, label
from nestbench_reports.text import (
    bytes_text,
    interval,
    number,
    parameter,
    percent,
    plural,
    printable,
    quantity,
    ratio,
    time_ns,
)


def _spread(estimate: Estimate | None) -> list[float | None]:
    """value, low, high: what a chart draws."""
    return [None, None, None] if estimate is None else [estimate.value, estimate.low, estimate.high]


def _null_band(metric: Metric) -> list[float] | None:
    """The A/A band: as far from 1 as identical runs are on this host, for this metric."""
    return None if metric.effect is None else [1 / (1 + metric.effect), 1 + metric.effect]


def _evidence(estimate: Estimate) -> str:
    return f"{plural(estimate.rounds, 'round')}, {plural(estimate.samples, 'sample')}"


def _percent_of(metric: Metric) -> str:
    return "\N{PLUS-MINUS SIGN}" + percent(metric.effect) if metric.effect is not None else "not measured"


def _null_text(estimate: Estimate | None) -> str:
    return "not measured" if estimate is None else interval(estimate)


def median_text(measurement: Measurement) -> str:
    estimate = metrics.absolute(measurement)
    return "\N{EN DASH}" if estimate is None else quantity(estimate.value, measurement.unit)


def forest(identifier: str, title: str, description: str, rows: Sequence[Metric], below: str) -> Figure:
    """Ratios with intervals, one row each, and the A/A band behind each."""
    drawn = []
    cells = []
    for metric in rows:
        assert metric.estimate is not None
        drawn.append(
            {
                "label": printable(label(metric.numerator)),
                "spread": _spread(metric.estimate),
                "band": _null_band(metric),
                "notes": [
                    ["cost", f"{ratio(metric.estimate.value)}\N{MULTIPLICATION SIGN}"],
                    ["95 % interval", interval(metric.estimate)],
                    ["A/A band", _percent_of(metric)],
                    [metric.denominator.substrate, median_text(metric.denominator)],
                    [metric.numerator.substrate, median_text(metric.numerator)],
                    ["evidence", _evidence(metric.estimate)],
                ],
                "verdict": metric.verdict.value,
            }
        )
        cells.append(
            (
                label(metric.numerator),
                median_text(metric.denominator),
                median_text(metric.numerator),
                ratio(metric.estimate.value),
                interval(metric.estimate),
                _null_text(metric.denominator_null),
                _null_text(metric.numerator_null),
                _percent_of(metric),
                COST_WORDS[metric.verdict],
                str(metric.estimate.rounds),
                str(metric.estimate.samples),
            )
        )
    columns = (
        f"workload|#{below}|#vm|#vm/{below}|#95 % interval|#A/A {below}|#A/A vm|#A/A band|reads as|#rounds|#samples"
    )
    chart: Chart = {"kind": "forest", "rows": drawn}
    return Figure(identifier, title, description, chart, make_table(title, columns, cells))


_FAMILIES = (
    ("cpu", "CPU", ("cpu_",), ()),
    ("memory", "Memory, steady state", ("memory_",), ("memory_first_touch",)),
    ("first-touch", "Memory, first touch", ("memory_first_touch",), ()),
)


def _family(workload: str) -> str:
    for identifier, _, prefixes, but in _FAMILIES:
        if workload.startswith(prefixes) and workload not in but:
            return identifier
    return "other"


def overhead_section(ratios: Sequence[Metric]) -> Section | None:
    rows = [
        metric
        for metric in ratios
        if metric.ratio_name == "vm/bare"
        and metric.estimate is not None
        and metric.numerator.scenario in (OVERHEAD, *FLOORED)
    ]
    figures: list[Figure] = []
    for identifier, title in [*((family[0], family[1]) for family in _FAMILIES), ("other", "Other work")]:
        members = [metric for metric in rows if _family(metric.numerator.workload) == identifier]
        if members:
            description = (
                "Read as above."
                if figures
                else (
                    "Cost in a guest over cost on the host: the diamond is the ratio of medians, the line its 95 %"
                    " interval, the grey band how far two identical runs were apart (A/A). Right of 1: the guest pays."
                    " An arrow: the interval goes on beyond the axis."
                )
            )
            figures.append(forest(f"overhead-{identifier}", title, description, members, BARE))
    lead = (
        "The same program image, byte for byte, at the same address and privilege, once as a process of the host and"
        " once in a guest, in alternation on one CPU. An interval that clears the grey band is a cost; one inside it is"
        " none."
    )
    return Section("overhead", "What a guest costs", lead, tuple(figures)) if figures else None


def _costs(identifier: str, title: str, rows: Sequence[tuple[Measurement, Metric | None]]) -> Figure | None:
    """Absolute times on a logarithmic axis, vm beside its floor."""
    drawn = []
    cells = []
    for measurement, metric in rows:
        estimate = metrics.absolute(measurement)
        floor = metrics.absolute(metric.denominator) if metric is not None else None
        if estimate is None or time_ns(1, measurement.unit) is None:
            continue
        operation = measurement.unit.partition("/")[2]
        null = metrics.null_ratio(measurement)
        notes = [["vm", quantity(estimate.value, measurement.unit)]]
        if metric is not None and floor is not None:
            notes.append(["floor", quantity(floor.value, measurement.unit)])
            if metric.estimate is not None:
                notes.append(["vm/floor", f"{ratio(metric.estimate.value)} ({interval(metric.estimate)})"])
        notes += [["A/A of vm", _null_text(null)], ["evidence", _evidence(estimate)]]
        drawn.append(
            {
                "label": printable(label(measurement)),
                "notes": [[name, printable(text)] for name, text in notes],
                "points": [
                    {
                        "substrate": "vm",
                        "spread": [time_ns(v, measurement.unit) if v else None for v in _spread(estimate)],
                    },
                    {
                        "substrate": "floor",
                        "spread": [time_ns(v, measurement.unit) if v else None for v in _spread(floor)],
                    },
                ],
                # Where the other identical runs of the guest lay: the A/A interval about its median.
                "band": [
                    time_ns(estimate.value * bound, measurement.unit) if bound else None for bound in _spread(null)[1:]
                ],
                "text": printable(quantity(estimate.value, measurement.unit).removesuffix(f"/{operation}")),
            }
        )
        cells.append(
            (
                label(measurement),
                *(text for _, text in notes[:1]),
                median_text(metric.denominator) if metric else "-",
                ratio(metric.estimate.value) if metric and metric.estimate else "-",
                interval(metric.estimate) if metric and metric.estimate else "-",
                _null_text(null),
                str(estimate.rounds),
                str(estimate.samples),
            )
        )
    if not drawn:
        return None
    description = (
        "Median time on a logarithmic axis, through vmm-core (vm) and without it (floor); the grey band is A/A of vm."
    )
    table = make_table(title, "operation|#vm|#floor|#vm/floor|#95 % interval|#A/A vm|#rounds|#samples", cells)
    return Figure(identifier, title, description, {"kind": "costs", "rows": drawn}, table)


def floored_section(
    document: Document, ratios: Sequence[Metric], scenario: str, title: str, lead: str
) -> Section | None:
    by_id = {metric.numerator.id: metric for metric in ratios if metric.ratio_name == "vm/floor"}
    measured = [
        (entry, by_id.get(entry.id))
        for entry in document.measurements
        if entry.scenario == scenario and entry.status == OK and entry.substrate == metrics.VM
    ]
    figures = [_costs(f"{scenario}-cost", "Time", measured)]
    compared = [metric for _, metric in measured if metric is not None and metric.estimate is not None]
    if compared:
        description = "Time through vmm-core over time without it; the grey band is A/A."
        figures.append(forest(f"{scenario}-floor", "Against the floor", description, compared, FLOOR))
    present = tuple(figure for figure in figures if figure is not None)
    return Section(scenario, title, lead, present) if present else None


def _variant(measurement: Measurement, without: str) -> str:
    rest = [parameter(name, value) for name, value in sorted(measurement.params.items()) if name != without]
    return ", ".join([measurement.substrate, *rest])


def latency_section(document: Document) -> Section | None:
    """Load latency against working set."""
    axis = "working_set_bytes"
    lines: dict[str, list[tuple[int, Measurement, Estimate]]] = {}
    for entry in document.measurements:
        size, estimate = entry.params.get(axis), metrics.absolute(entry)
        if entry.workload == "memory_chase" and isinstance(size, int) and size > 0 and estimate is not None:
            lines.setdefault(_variant(entry, axis), []).append((size, entry, estimate))
    if not lines:
        return None
    series = []
    cells = []
    for name, points in lines.items():
        points.sort(key=lambda point: point[0])
        series.append(
            {
                "name": name,
                "substrate": points[0][1].substrate,
                "points": [[size, *_spread(estimate), _evidence(estimate)] for size, _, estimate in points],
            }
        )
        cells += [
            (
                name,
                bytes_text(size),
                quantity(estimate.value, entry.unit),
                _range(estimate, entry.unit),
                str(estimate.rounds),
                str(estimate.samples),
            )
            for size, entry, estimate in points
        ]
    caches = [
        {"label": f"L{cache.level}", "bytes": cache.size_bytes, "text": bytes_text(cache.size_bytes)}
        for cache in document.caches
    ]
    unit = printable(next(iter(lines.values()))[0][1].unit)
    title = "Load latency by working set"
    figure = Figure(
        "latency",
        title,
        "Dependent loads through a random cycle, both axes logarithmic. Vertical lines: the host's caches.",
        {"kind": "curve", "series": series, "caches": caches, "unit": unit},
        make_table(title, "substrate|#working set|#latency|#95 % interval|#rounds|#samples", cells),
    )
    lead = "Where the two lines part, the guest pays for address translation; where they run together, it does not."
    return Section("latency-section", "Memory latency", lead, (figure,))


def _range(estimate: Estimate, unit: str) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{number(estimate.low)}\N{EN DASH}{number(estimate.high)} {unit}"


def bandwidth_section(document: Document) -> Section | None:
    found = [
        (entry, estimate)
        for entry in document.measurements
        if entry.workload == "memory_bandwidth" and (estimate := metrics.absolute(entry)) is not None
    ]
    if not found:
        return None
    unit = found[0][0].unit
    rows: dict[str, dict[str, tuple[Measurement, Estimate]]] = {}
    for entry, estimate in found:
        if entry.unit == unit:
            name = ", ".join(
                str(value) if key == "operation" else parameter(key, value)
                for key, value in sorted(entry.params.items())
            )
            rows.setdefault(printable(name or entry.workload), {})[entry.substrate] = entry, estimate
    substrates = [name for name in (BARE, "vm") if any(name in row for row in rows.values())]
    series = [
        {
            "substrate": substrate,
            "spreads": [_spread(row[substrate][1] if substrate in row else None) for row in rows.values()],
            "evidence": [_evidence(row[substrate][1]) if substrate in row else "" for row in rows.values()],
        }
        for substrate in substrates
    ]
    cells = [
        (
            name,
            substrate,
            quantity(estimate.value, unit),
            _range(estimate, unit),
            str(estimate.rounds),
            str(estimate.samples),
        )
        for name, row in rows.items()
        for substrate, (_, estimate) in row.items()
    ]
    title = "Bandwidth by operation"
    figure = Figure(
        "bandwidth",
        title,
        "Median rate with its 95 % interval; longer is better. nt: non-temporal stores, which bypass the caches.",
        {"kind": "bars", "labels": list(rows), "series": series, "unit": printable(unit)},
        make_table(title, "operation|substrate|#rate|#95 % interval|#rounds|#samples", cells),
    )
    return Section(
        "bandwidth-section",
        "Memory bandwidth",
        "Sequential streams over an arena far larger than the caches.",
        (figure,),
    )


def null_section(document: Document) -> Section | None:
    found = sorted(
        ((entry, ratio_) for entry, ratio_ in metrics.null_ratios(document) if ratio_.low is not None),
        key=lambda pair: pair[1].value,
    )
    if not found:
        return None
    held = sum(ratio_.contains(1.0) for _, ratio_ in found)
    drawn = [
        {
            "label": printable(entry.id),
            "spread": _spread(ratio_),
            "holds": ratio_.contains(1.0),
            "notes": [
                ["second / first", ratio(ratio_.value)],
                ["95 % interval", interval(ratio_)],
                ["evidence", _evidence(ratio_)],
            ],
        }
        for entry, ratio_ in found
    ]
    cells = [
        (entry.id, ratio(ratio_.value), interval(ratio_), "yes" if ratio_.contains(1.0) else "no", str(ratio_.rounds))
        for entry, ratio_ in found
    ]
    title = f"{held} of {len(found)} intervals hold 1"
    lead = (
        "Every round runs each substrate twice, in two fresh processes. The ratio of the two would be 1 without noise;"
        f" a 95 % interval should hold 1 in 95 of 100 cases ({percent(held / len(found))} here). The reach of these"
        f" intervals, at least {percent(SMALLEST_EFFECT)}, is the smallest difference that this page calls one."
    )
    figure = Figure(
        "null",
        title,
        "Second process over first, one line for each measurement, in order of size.",
        {"kind": "null", "rows": drawn},
        make_table(title, "measurement|#second / first|#95 % interval|holds 1|#rounds", cells),
    )
    return Section("null-section", "How steady this host was (A/A)", lead, (figure,))
