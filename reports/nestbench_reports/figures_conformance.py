"""The page's checklist of conformance: every condition with status, evidence and source. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from nestbench_reports.charts import Section, Table, make_table
from nestbench_reports.conformance import Checklist, Entry, Status, words


def _suite_rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    rows = []
    for name, group in groupby(entries, key=lambda entry: entry.id.rpartition(".")[0]):
        statuses = [entry.status for entry in group]
        counts = (statuses.count(status) for status in Status)
        rows.append((name, *(str(count) if count else "" for count in counts)))
    return rows


def _condition_table(title: str, entries: Sequence[Entry]) -> Table:
    rows = [(entry.id, entry.status.value, words(entry), entry.condition.source) for entry in entries]
    return make_table(title, "condition|status|evidence|source", rows)


def conformance_section(found: Checklist) -> Section | None:
    if not found.entries:
        return None
    columns = "|".join(["conditions", *(f"#{status.value}" for status in Status)])
    tables = [make_table("Conditions by suite", columns, _suite_rows(found.entries))]
    notable = [entry for entry in found.entries if entry.status not in (Status.PASS, Status.SKIP)]
    if notable:
        tables.append(_condition_table("What did not pass, or is on the list of known failures", notable))
    folded = [
        _condition_table(f"Every condition of {area}", list(group))
        for area, group in groupby(found.entries, key=lambda entry: entry.area)
    ]
    lead = (
        f"{found.headline}. Each condition is one that a document states of KVM or of the processor, tried in a process"
        " of its own with a deadline. A known failure is one that is on the list of this class of host."
    )
    return Section("conformance", "Does KVM behave as documented", lead, (), tuple(tables), tuple(folded))
