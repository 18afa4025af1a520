"""The page's section on containment: a table of faults, the evidence of their tries folded. Pure."""

from __future__ import annotations

import json

from nestbench_reports import containment
from nestbench_reports import tenant_text as say
from nestbench_reports.charts import Cells, Section, Table, make_table
from nestbench_reports.containment import Fault
from nestbench_reports.experiments import Try
from nestbench_reports.model import Document
from nestbench_reports.text import printable, ratio

MOST_TRIES = 5  # whose evidence is shown, those that went wrong first
MOST_EVIDENCE = 1500  # characters of one try's evidence; the crash bundle has all of it


def _fault_cells(fault: Fault) -> Cells:
    count = len(fault.tries)
    return (
        fault.name,
        fault.substrate,
        say.fault_verdict(fault),
        say.called_text(fault),
        f"{fault.right} of {count}",
        f"{fault.contained} of {count}",
        say.detection_text(fault),
        say.neighbours_text(fault),
        say.change_text(fault.during),
        "" if fault.after is None else f"{ratio(fault.after.ratio.value)}, {fault.after.verdict.value}",
    )


def _evidence_text(entry: Try) -> str:
    text = json.dumps(entry.evidence, ensure_ascii=False, allow_nan=False, default=str)
    return text if len(text) <= MOST_EVIDENCE else f"{text[:MOST_EVIDENCE]} ... (all of it in the bundle)"


def _tries(fault: Fault) -> Table:
    def went_wrong(entry: Try) -> bool:
        clean = entry.neighbours.checksums_wrong == 0 and entry.neighbours.restarted == 0
        return not (entry.right and entry.contained and clean)

    shown = sorted(fault.tries, key=lambda entry: not went_wrong(entry))[:MOST_TRIES]
    rows = [
        (
            str(entry.number),
            entry.died,
            entry.classification,
            entry.cause,
            "yes" if entry.right else "no",
            "yes" if entry.contained else "no",
            say.time_text(entry.detection_ns),
            entry.bundle or say.DASH,
            _evidence_text(entry),
        )
        for entry in shown
    ]
    of = f"{len(shown)} of {len(fault.tries)} tries" if len(shown) < len(fault.tries) else "every try"
    title = f"Evidence: {printable(fault.name)}, {printable(fault.substrate)}, {of}"
    columns = "#try|died|classified as|cause|right|contained|#noticed after|bundle|evidence"
    return make_table(title, columns, rows)


def containment_section(document: Document) -> Section | None:
    faults, soaks = containment.faults(document), containment.soaks(document)
    if not faults and not soaks:
        return None
    columns = (
        "fault|substrate|verdict|classified as|#right|#contained|noticed after|neighbours|#their p99 during|#and after"
    )
    tables = []
    if faults:
        tables.append(make_table("Faults, and what became of them", columns, map(_fault_cells, faults)))
    if soaks:
        rows = [
            (
                experiment.substrate,
                "clean" if soak.is_clean else "not clean",
                say.time_text(soak.duration_ns),
                f"{soak.guests:,}",
                f"{soak.faults:,}",
                f"{soak.wrong:,}",
                f"{soak.lost:,}",
            )
            for experiment, soak in soaks
        ]
        columns = "substrate|verdict|#duration|#guests|#faults|#wrong|#lost"
        tables.append(make_table("Soak: random faults among many guests", columns, rows))
    lead = (
        "Each fault is injected into one guest among healthy, loaded ones. It is ok when it was contained in every try,"
        " called what it was, noticed within its deadline, and no neighbour lost a checksum or was restarted. The"
        " neighbours' p99 is a ratio to that before the fault."
    )
    folded = tuple(map(_tries, faults))
    return Section("containment", "Does a crash stay inside its guest", lead, (), tuple(tables), folded)
