"""The page's sections on isolation and attribution: heat maps and the timeline of one schedule. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nestbench_reports import attribution, isolation
from nestbench_reports import tenant_text as say
from nestbench_reports.attribution import LEAST_IMPACT, Attribution, Scored
from nestbench_reports.charts import Cells, Figure, Section, Table, make_table
from nestbench_reports.experiments import SUBSTRATES, Episode
from nestbench_reports.isolation import NONE, PASS_LINE, Cell, Matrix
from nestbench_reports.model import OK, Document
from nestbench_reports.text import number, percent, plural, printable


def _square(cell: Cell) -> dict[str, object]:
    share = cell.isol_01
    notes = [
        ["isol-01", f"{say.share_text(share)} ({say.share_interval(share)})"],
        ["throughput kept", f"{say.share_text(cell.kept)} ({say.share_interval(cell.kept)})"],
        ["p50", say.impact_text(cell.impact("latency_p50"))],
        ["p99", say.impact_text(cell.impact("latency_p99"))],
        ["verdict", cell.verdict.value],
    ]
    if cell.status != OK:
        notes = [["status", cell.status], ["why", printable(cell.reason)]]
    return {
        "share": share.value if share is not None else None,
        "hurt": cell.verdict.name.lower() if cell.status == OK else "none",
        "title": printable(f"{cell.victim} beside {say.cell_name(cell)}, {cell.substrate}"),
        "notes": notes,
    }


def _cells_of(cells: Sequence[Cell]) -> list[Cells]:
    return [
        (
            cell.victim,
            cell.aggressor,
            f"{cell.intensity} %",
            cell.substrate,
            say.share_text(cell.isol_01),
            say.share_interval(cell.isol_01),
            say.share_text(cell.kept),
            say.impact_text(cell.impact("latency_p50")),
            say.impact_text(cell.impact("latency_p99")),
            cell.verdict.value if cell.status == OK else f"{cell.status}: {cell.reason}",
            str(cell.isol_01.rounds if cell.isol_01 is not None else 0),
        )
        for cell in cells
    ]


def _heat(placement: str, cells: Sequence[Cell]) -> Figure:
    """Rows: a victim beside an aggressor. Columns: the substrates side by side, within each the intensities."""
    order = {name: index for index, name in enumerate(SUBSTRATES)}
    substrates = sorted({cell.substrate for cell in cells}, key=lambda name: (order.get(name, len(order)), name))
    intensities = sorted({cell.intensity for cell in cells if not cell.is_null}) or [0]
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.victim, cell.aggressor), []).append(cell)
    drawn = []
    for (victim, aggressor), members in rows.items():
        squares: list[dict[str, object]] = [
            {
                "substrate": substrates.index(cell.substrate),
                # The null row has no intensity: its square is as wide as all of them.
                "from": 0 if cell.is_null else intensities.index(cell.intensity),
                "span": len(intensities) if cell.is_null else 1,
                **_square(cell),
            }
            for cell in members
        ]
        beside = "nobody (null row)" if aggressor == NONE else aggressor
        drawn.append({"label": printable(f"{victim} beside {beside}"), "squares": squares})
    title = f"isol-01, {say.placement_text(placement)}"
    chart: dict[str, object] = {
        "kind": "heat",
        "rows": drawn,
        "substrates": [printable(name) for name in substrates],
        "intensities": intensities,
        "line": PASS_LINE,
    }
    columns = (
        "victim|aggressor|#intensity|substrate|#isol-01|#95 % interval|#kept|#p50|#p99|verdict|#rounds"
    )
    description = (
        "What the victim keeps in its worst windows, in per cent of what it has alone; columns are the aggressor's"
        " intensity. * hurt, ? not settled, bold: below the line."
    )
    return Figure(
        f"isolation-{placement.replace('_', '-') or 'any'}",
        printable(title),
        description,
        chart,
        make_table(printable(title), columns, _cells_of(cells)),
    )


def isolation_section(document: Document, matrix: Matrix | None = None) -> Section | None:
    found = isolation.matrix(document) if matrix is None else matrix
    measured = [cell for cell in found.cells if cell.status == OK]
    if not measured:
        return None
    placements = list(dict.fromkeys(cell.placement for cell in measured))
    figures = tuple(_heat(name, [cell for cell in found.cells if cell.placement == name]) for name in placements)
    lead = (
        "A victim alone and beside an aggressor, phase by phase in alternation. isol-01 is the 1st percentile of its"
        f" throughput by windows, as a share of its median alone; the line is {percent(PASS_LINE)}. Verdicts hold the"
        " false discovery rate over the whole matrix (Benjamini-Hochberg)."
    )
    notes = () if found.null is None else (say.null_text(found.null) + ".",)
    return Section("isolation", "Who hurts whom", lead, figures, notes=notes)


def _scores(found: Attribution) -> Table:
    rows: list[Cells] = [
        (name, say.proportion_text(value), say.proportion_interval(value))
        for name, value in (
            ("precision", found.precision),
            (f"recall (impact {percent(LEAST_IMPACT)} or more)", found.recall),
            ("quiet windows with a false alarm", found.quiet_alarms),
        )
    ]
    rows += [
        ("time to detection, median", say.time_text(found.delay_median_ns), say.DASH),
        ("time to detection, 95 % within", say.time_text(found.delay_p95_ns), say.DASH),
        ("false alarms", say.per_hour_text(found.false_alarms_per_hour), say.DASH),
        ("false alarms in quiet schedules", say.per_hour_text(found.quiet_false_alarms_per_hour), say.DASH),
    ]
    title = f"Scores over {plural(len(found.scored), 'hidden schedule')}, {printable(found.substrate)}"
    return make_table(title, "score|#value|#95 % interval", rows)


def _groups(found: Attribution) -> Table:
    rows = [
        (
            group.aggressor,
            f"{number(group.intensity)} %",
            f"{group.episodes:,}",
            f"{group.counting:,}",
            say.proportion_text(group.recall),
            percent(max(0.0, group.median_impact)),
            say.time_text(group.delay_median_ns),
        )
        for group in found.groups
    ]
    columns = "aggressor|#intensity|#episodes|#that count|#found|#median impact|#time to detection"
    return make_table(f"By aggressor and intensity, {printable(found.substrate)}", columns, rows)


def _span(episode: Episode) -> str:
    return f"{number(episode.begin_ns / 1e9)}{say.DASH}{number(episode.end_ns / 1e9)} s"


def _timeline(found: Attribution, shown: Scored) -> Figure:
    schedule = shown.schedule
    hits = [(hit, True) for hit in shown.hits] + [(hit, False) for hit in shown.faint]
    episodes = [
        {
            "guest": hit.episode.guest,
            "begin": hit.episode.begin_ns / 1e9,
            "end": hit.episode.end_ns / 1e9,
            "impact": hit.episode.impact,
            "counts": counts,
            "title": printable(f"guest {hit.episode.guest}: {hit.episode.aggressor} {number(hit.episode.intensity)} %"),
            "notes": [
                ["hidden episode", _span(hit.episode)],
                ["worst victim lost", percent(max(0.0, hit.episode.impact))],
                ["found after", "not found" if hit.delay_ns is None else say.time_text(hit.delay_ns)],
            ],
        }
        for hit, counts in hits
    ]
    detections = [
        {
            "guest": entry.guest,
            "at": entry.at_ns / 1e9,
            "right": entry not in shown.wrong,
            "title": f"detector: guest {entry.guest}",
            "notes": [
                ["at", f"{number(entry.at_ns / 1e9)} s"],
                ["score", number(entry.score)],
                ["victims", ", ".join(map(str, entry.victims)) or "none named"],
                ["", "wrong" if entry in shown.wrong else "right"],
            ],
        }
        for entry in schedule.detections
    ]
    rows = [
        (
            _span(entry),
            str(entry.guest),
            "hidden episode",
            f"{entry.aggressor} {number(entry.intensity)} %",
            f"worst victim lost {percent(max(0.0, entry.impact))}",
        )
        for entry in schedule.episodes
    ]
    rows += [
        (
            f"{number(entry.at_ns / 1e9)} s",
            str(entry.guest),
            "detection",
            "wrong" if entry in shown.wrong else "right",
            f"score {number(entry.score)}",
        )
        for entry in schedule.detections
    ]
    title = f"Timeline of schedule {schedule.schedule}, {printable(found.substrate)}"
    description = (
        "One lane for each guest. Bars: hidden episodes, darker the more the worst victim lost; outlined ones cost less"
        f" than {percent(LEAST_IMPACT)}. Diamonds: whom the detector named; crosses: wrongly."
    )
    chart: dict[str, object] = {
        "kind": "timeline",
        "rows": [{"label": f"guest {guest}"} for guest in range(schedule.guests)],
        "duration": schedule.duration_ns / 1e9,
        "episodes": episodes,
        "detections": detections,
    }
    table = make_table(title, "#time|#guest|what|who|more", rows)
    return Figure(f"attribution-{printable(found.substrate)}", title, description, chart, table)


def attribution_section(document: Document) -> Section | None:
    every = attribution.attributions(document)
    if not every:
        return None
    figures = []
    for found in every:
        shown = attribution.telling(found)
        if shown is not None and 0 < shown.schedule.guests <= 256:
            figures.append(_timeline(found, shown))
    lead = (
        "A detector that sees only what an operator sees from outside names the noisy neighbour; seeded schedules that"
        " are hidden from it say who it was. An episode counts when the worst hit victim lost"
        f" {percent(LEAST_IMPACT)} or more."
    )
    tables = tuple(table for found in every for table in (_scores(found), _groups(found)) if table.rows)
    return Section("attribution", "Who was the noisy neighbour", lead, tuple(figures), tables)
