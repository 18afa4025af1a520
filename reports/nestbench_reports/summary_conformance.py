"""The checklist of conformance in the terminal, and as JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from nestbench_reports.conformance import BROKEN, Checklist, Entry, Status, brief, words
from nestbench_reports.junit import clean
from nestbench_reports.terminal import bullets, new_table, plain, print_line

STYLES = {
    Status.PASS: "green",
    Status.FAIL: "bold red",
    Status.KNOWN: "yellow",
    Status.FIXED: "yellow",
    Status.SKIP: "dim",
    Status.ERROR: "bold red",
    Status.CRASH: "bold red",
    Status.TIMEOUT: "bold red",
}
MOST_NAMES = 4  # of conditions that were skipped for one reason
SHORT = {Status.FIXED: "pass (on the list)", Status.KNOWN: "known"}


def _some(names: Sequence[str]) -> str:
    """The first few; a host without SVM skips dozens for one reason, and -v and the report name them all."""
    rest = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")


def print_checklist(console: Console, checklist: Checklist, verbose: bool) -> None:
    """A line for each suite; with `verbose`, or where something did not pass, one for each condition."""
    rows = new_table(
        console,
        "Conformance: does KVM behave as documented",
        [("conditions", "left"), *((SHORT.get(status, status.value), "right") for status in Status)],
    )
    suites = groupby(checklist.entries, key=lambda entry: entry.id.rpartition(".")[0])
    for name, group in suites:
        entries = list(group)
        counts = [sum(entry.status is status for entry in entries) for status in Status]
        numbers = zip(Status, counts, strict=True)
        cells = [plain(str(count) if count else "", STYLES[status]) for status, count in numbers]
        rows.add_row(plain(name), *cells)
    console.print(rows)
    shown = [e for e in checklist.entries if verbose or e.status not in (Status.PASS, Status.SKIP)]
    for entry in shown:
        text = f"{entry.status.value}: {entry.id} [{entry.condition.source}]"
        print_line(console, text, STYLES[entry.status])
        if said := words(entry):
            console.print(Text(f"    {said}"), soft_wrap=True)
    skipped = [entry for entry in checklist.entries if entry.status is Status.SKIP]
    if skipped and not verbose:
        print_line(console, "Skipped", "bold")
        by_reason = groupby(sorted(skipped, key=words), key=words)
        bullets(console, (f"{why}: {_some([entry.id for entry in group])}" for why, group in by_reason))
    for known in checklist.unused:
        print_line(console, f"the list of known failures has {known.test}, which is no condition here", "yellow")
    style = "green" if checklist.exit_code == 0 else "bold red" if checklist.exit_code in (1, 6) else "yellow"
    print_line(console, f"conformance: {checklist.headline}", style)


def junit(checklist: Checklist) -> bytes:
    """One suite for each area; a known failure is a skipped case with its reason, one that passes says so."""
    root = ElementTree.Element("testsuites", name="nestbench conform")
    for area, group in groupby(checklist.entries, key=lambda entry: entry.area):
        entries = list(group)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=clean(area),
            tests=str(len(entries)),
            failures=str(sum(entry.status is Status.FAIL for entry in entries)),
            errors=str(sum(entry.status in BROKEN for entry in entries)),
            skipped=str(sum(entry.status in (Status.SKIP, Status.KNOWN) for entry in entries)),
        )
        for entry in entries:
            _case(suite, entry)
    ElementTree.indent(root)
    body: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def _case(suite: ElementTree.Element, entry: Entry) -> None:
    group, _, name = entry.condition.test.partition(".")
    seconds = f"{entry.condition.duration_ns / 1e9:.6f}"
    case = ElementTree.SubElement(
        suite, "testcase", classname=clean(f"nestbench.{entry.area}.{group}"), name=clean(name), time=seconds
    )
    if entry.status in (Status.SKIP, Status.KNOWN):
        ElementTree.SubElement(case, "skipped", message=clean(f"{entry.status.value}: {words(entry)}"))
    elif entry.status in (Status.FAIL, *BROKEN):
        tag = "failure" if entry.status is Status.FAIL else "error"
        message = clean(brief(entry.condition.reason))
        element = ElementTree.SubElement(case, tag, type=entry.status.value, message=message)
        element.text = clean(f"{entry.condition.source}\n{entry.condition.reason}")
    else:
        said = [f"source: {entry.condition.source}"]
        said += [f"{key} = {value}" for key, value in entry.condition.evidence.items()]
        said += [entry.status.value] if entry.status is Status.FIXED else []
        ElementTree.SubElement(case, "system-out").text = clean("\n".join(said))
