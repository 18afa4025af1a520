"""How often the interval of identical things contains 1: the A/A arms of many runs."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nestbench_reports import metrics
from nestbench_reports.load import load
from nestbench_reports.stats import CONFIDENCE, LARGEST_EFFECT
from programs import FAIL, INCONCLUSIVE, PASS, Programs, run_for_document, show_progress

# A share this improbable, or less, under the promised one is called below it.
CHANCE = 0.025
# An interval that reaches further than the largest difference which two identical things may have says nothing by
# containing 1.
MOST_WIDTH = 2 * LARGEST_EFFECT


@dataclass(frozen=True)
class Plan:
    filters: Mapping[str, str]  # by scenario
    runs: int
    rounds: int
    first_seed: int


@dataclass
class Count:
    intervals: int = 0
    containing: int = 0
    too_few_rounds: int = 0
    below: int = 0  # intervals that lie below 1 as a whole; the rest of the misses lie above
    widths: list[float] = field(default_factory=list)

    @property
    def median_width(self) -> float:
        return statistics.median(self.widths)

    def add(self, other: Count) -> None:
        self.intervals += other.intervals
        self.containing += other.containing
        self.too_few_rounds += other.too_few_rounds
        self.below += other.below
        self.widths += other.widths


def measure(programs: Programs, plan: Plan, folder: Path) -> list[Path]:
    """Runs everything and returns the documents."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = []
    total = plan.runs * len(plan.filters)
    for number in range(plan.runs):
        for scenario, expression in plan.filters.items():
            out = folder / f"{scenario}-{plan.first_seed + number}"
            options = ["--profile=quick", f"--filter={expression}", f"--rounds={plan.rounds}"]
            documents.append(run_for_document(programs, scenario, options, plan.first_seed + number, out))
            show_progress(f"run {len(documents)} of {total}")
    show_progress("")
    return documents


def count(documents: Iterable[Path]) -> dict[str, Count]:
    """Counts by measurement id."""
    counts: dict[str, Count] = {}
    for path in documents:
        for measurement, ratio in metrics.null_ratios(load(path)):
            entry = counts.setdefault(measurement.id, Count())
            if ratio.low is None or ratio.high is None:
                entry.too_few_rounds += 1
                continue
            entry.intervals += 1
            entry.containing += ratio.contains(1.0)
            entry.below += ratio.high < 1.0
            entry.widths.append(ratio.high / ratio.low - 1.0)
    return counts


def probability_of_so_few(containing: int, intervals: int) -> float:
    """P(at most `containing` of `intervals`) if each contains 1 with probability 95 %."""
    from scipy.special import bdtr

    return float(bdtr(containing, intervals, CONFIDENCE))


def line(name: str, entry: Count) -> str:
    share = entry.containing / entry.intervals
    above = entry.intervals - entry.containing - entry.below
    width = f"{100 * entry.median_width:.2f} %" if entry.median_width < 10 else "> 1000 %"
    return (
        f"{name:<52}{entry.containing:>6} of {entry.intervals:<6}{100 * share:>6.1f} %"
        f"{entry.below:>7}{above:>7}{width:>11}"
        f"{probability_of_so_few(entry.containing, entry.intervals):>9.3f}"
    )


def judge(documents: Sequence[Path]) -> int:
    counts = count(documents)
    total = Count()
    for entry in counts.values():
        total.add(entry)
    if total.too_few_rounds:
        print(f"{total.too_few_rounds} ratios have fewer than two rounds and so no interval", file=sys.stderr)
    if total.intervals == 0:
        print("no A/A interval in these documents", file=sys.stderr)
        return INCONCLUSIVE
    print(f"{'measurement':<52}{'contain 1':>16}{'share':>8}{'below':>7}{'above':>7}{'width':>11}{'chance':>9}")
    for name in sorted(counts):
        if counts[name].intervals:
            print(line(name, counts[name]))
    print(line("all", total))
    print(
        "below, above: intervals that miss 1 on that side; width: median of high/low - 1;"
        " chance: probability of a share so small, or smaller, where 95 % is the truth"
    )
    share = total.containing / total.intervals
    said = f"{100 * share:.1f} % of {total.intervals} intervals contain 1"
    if probability_of_so_few(total.containing, total.intervals) < CHANCE:
        print(f"BROKEN: only {said}")
        return FAIL
    if total.median_width > MOST_WIDTH:
        print(
            f"cannot say: {said}, but half of them are wider than {100 * MOST_WIDTH:.0f} %;"
            " repeat on an idle machine or with more rounds"
        )
        return INCONCLUSIVE
    print(f"holds: {said}" if share >= CONFIDENCE else f"holds within chance: {said}")
    return PASS
