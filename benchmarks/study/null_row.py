"""How often a cell of isolation's null row is flagged: a victim beside an aggressor that does nothing, many times."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nestbench_reports import isolation
from nestbench_reports.isolation import Hurt
from nestbench_reports.load import load
from programs import FAIL, INCONCLUSIVE, PASS, Programs, run_for_document, show_progress

MOST_FLAGGED = 0.05  # of all cells


@dataclass
class Count:
    cells: int = 0
    hurt: int = 0
    helped: int = 0
    unhurt: int = 0

    @property
    def flagged(self) -> int:
        return self.hurt + self.helped

    def add(self, other: Count) -> None:
        self.cells += other.cells
        self.hurt += other.hurt
        self.helped += other.helped
        self.unhurt += other.unhurt


def measure(programs: Programs, repeats: int, profile: str, first_seed: int, folder: Path) -> list[Path]:
    """Measures the null row `repeats` times and returns the documents."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = []
    for number in range(repeats):
        out = folder / f"null-row-{first_seed + number}"
        options = [f"--profile={profile}", f"--filter=aggressor={isolation.NONE}(,|/)"]
        documents.append(run_for_document(programs, "isolation", options, first_seed + number, out))
        show_progress(f"run {len(documents)} of {repeats}")
    show_progress("")
    return documents


def count(documents: Iterable[Path]) -> dict[str, Count]:
    """Counts by cell. Each document is judged by itself, as its report judges it."""
    counts: dict[str, Count] = {}
    for path in documents:
        for cell in isolation.matrix(load(path)).cells:
            if not cell.is_null or all(impact.ratio.low is None for impact in cell.impacts):
                continue
            entry = counts.setdefault(f"{cell.victim}, {cell.placement}, {cell.substrate}", Count())
            entry.cells += 1
            verdicts = {impact.verdict for impact in cell.impacts}
            entry.hurt += Hurt.HURT in verdicts
            entry.helped += Hurt.HELPED in verdicts and Hurt.HURT not in verdicts
            entry.unhurt += cell.verdict is Hurt.UNHURT
    return counts


def line(name: str, entry: Count) -> str:
    return f"{name:<40}{entry.cells:>7}{entry.hurt:>7}{entry.helped:>8}{entry.unhurt:>8}"


def judge(documents: Sequence[Path]) -> int:
    counts = count(documents)
    total = Count()
    for entry in counts.values():
        total.add(entry)
    if total.cells == 0:
        print("no null row in these documents", file=sys.stderr)
        return INCONCLUSIVE
    print(f"{'victim, placement, substrate':<40}{'cells':>7}{'hurt':>7}{'helped':>8}{'unhurt':>8}")
    for name in sorted(counts):
        print(line(name, counts[name]))
    print(line("all", total))
    said = f"{total.flagged} of {total.cells} cells flagged ({100 * total.flagged / total.cells:.1f} %)"
    if total.flagged > MOST_FLAGGED * total.cells:
        print(f"BROKEN: {said}; at most {100 * MOST_FLAGGED:.0f} % may be")
        return FAIL
    print(f"holds: {said}")
    return PASS
