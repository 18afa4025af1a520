"""The page's sections on scenarios that have none of their own. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nestbench_reports import metrics
from nestbench_reports.charts import Section, make_table
from nestbench_reports.figures import forest, median_text
from nestbench_reports.io import DASH
from nestbench_reports.metrics import BARE, Metric
from nestbench_reports.model import Document
from nestbench_reports.others import others
from nestbench_reports.panels import evidence
from nestbench_reports.summary import label
from nestbench_reports.text import interval


def other_sections(document: Document, ratios: Sequence[Metric]) -> tuple[Section, ...]:
    found = []
    for other in others(document, ratios):
        description = "Cost in a guest over cost on the host, with its 95 % interval; the grey band is A/A."
        name = f"scenario-{other.scenario}"
        figures = (forest(f"{name}-cost", "Against the host", description, other.ratios, BARE),) if other.ratios else ()
        rows = []
        for entry in other.alone:
            null, estimate = metrics.null_ratio(entry), metrics.absolute(entry)
            again = DASH if null is None else interval(null)
            seen = DASH if estimate is None else evidence(estimate)
            rows.append((label(entry), entry.substrate, median_text(entry), again, seen))
        tables = (make_table("Single values", "operation|where|#median|#A/A|evidence", rows),) if rows else ()
        lead = "What this run measured, in a guest and, where the same work has a yardstick there, on the host."
        found.append(Section(name, other.title, lead, figures, tables))
    return tuple(found)
