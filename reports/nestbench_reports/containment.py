"""Whether a crash stays inside its guest, and whether it is called what it was. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nestbench_reports import stats
from nestbench_reports.experiments import (
    CONTAINMENT,
    SOAK,
    SUBSTRATES,
    ContainmentSetup,
    Experiment,
    Quantiles,
    Soak,
    Try,
)
from nestbench_reports.isolation import IMPACT, TOLERABLE, Hurt
from nestbench_reports.model import Document
from nestbench_reports.stats import Estimate


@dataclass(frozen=True)
class NeighbourChange:
    """The neighbours' p99 against before the fault; above 1 is worse. By try."""

    ratio: Estimate
    verdict: Hurt


@dataclass(frozen=True)
class Fault:
    """One fault on one substrate, over all its tries."""

    experiment: Experiment
    setup: ContainmentSetup
    tries: tuple[Try, ...]
    right: int
    contained: int
    noticed: int
    in_time: int
    classifications: tuple[tuple[str, int], ...]  # the most frequent first
    detection_median_ns: float | None
    detection_max_ns: float | None
    checksums_wrong: int
    restarted: int
    before_p99_ns: float | None
    during_p99_ns: float | None
    after_p99_ns: float | None
    during: NeighbourChange | None
    after: NeighbourChange | None

    @property
    def name(self) -> str:
        return self.experiment.workload

    @property
    def substrate(self) -> str:
        return self.experiment.substrate

    @property
    def ok(self) -> bool:
        return not self.why_not

    @property
    def why_not(self) -> tuple[str, ...]:
        """Everything that keeps this fault from being ok; empty when it is."""
        count = len(self.tries)
        if not count:
            return ("not tried",)
        expected = self.setup.expected
        others = [f"{word} {times}x" for word, times in self.classifications if word != expected]
        checks = (
            (self.contained < count, f"contained in {self.contained} of {count} tries"),
            (
                self.right < count,
                f"classified right in {self.right} of {count} tries"
                + (f" (expected {expected}: {', '.join(others)})" if others else ""),
            ),
            (self.in_time < count, f"noticed within its deadline in {self.in_time} of {count} tries"),
            (self.checksums_wrong > 0, f"{self.checksums_wrong} wrong checksums of neighbours"),
            (self.restarted > 0, f"{self.restarted} neighbours lost or restarted"),
        )
        return tuple(text for is_bad, text in checks if is_bad)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _change(before: Sequence[Quantiles], then: Sequence[Quantiles]) -> NeighbourChange | None:
    pairs = [(b.p99, t.p99) for b, t in zip(before, then, strict=True) if b.p99 and t.p99]
    if not pairs:
        return None
    ratio = stats.paired_ratio([np.array([t]) for _, t in pairs], [np.array([b]) for b, _ in pairs])
    if ratio is None:
        return None
    verdict = Hurt.NOT_SETTLED
    if ratio.low is not None and ratio.high is not None:
        if ratio.low > 1 + TOLERABLE:
            verdict = Hurt.HURT
        elif ratio.high < 1 / (1 + IMPACT):
            verdict = Hurt.HELPED
        elif ratio.high <= 1 + TOLERABLE:
            verdict = Hurt.UNHURT
    return NeighbourChange(ratio, verdict)


def fault(experiment: Experiment) -> Fault:
    assert isinstance(experiment.setup, ContainmentSetup)
    setup, tries = experiment.setup, tuple(sorted(experiment.tries, key=lambda entry: entry.number))
    times = [entry.detection_ns for entry in tries if entry.detection_ns is not None]
    latencies = [entry.neighbours.latency_ns for entry in tries]
    before, during = [entry.before for entry in latencies], [entry.during for entry in latencies]
    after = [entry.after for entry in latencies]
    return Fault(
        experiment=experiment,
        setup=setup,
        tries=tries,
        right=sum(entry.right for entry in tries),
        contained=sum(entry.contained for entry in tries),
        noticed=len(times),
        in_time=sum(time <= setup.deadline_ns for time in times),
        classifications=tuple(Counter(entry.classification for entry in tries).most_common()),
        detection_median_ns=_median(times),
        detection_max_ns=max(times, default=None),
        checksums_wrong=sum(entry.neighbours.checksums_wrong for entry in tries),
        restarted=sum(entry.neighbours.restarted for entry in tries),
        before_p99_ns=_median([entry.p99 for entry in before]),
        during_p99_ns=_median([entry.p99 for entry in during]),
        after_p99_ns=_median([entry.p99 for entry in after]),
        during=_change(before, during),
        after=_change(before, after),
    )


def faults(document: Document) -> tuple[Fault, ...]:
    """Faults in the order of the document, the substrates of each side by side. Without a try: in no table."""
    found = [
        fault(entry)
        for entry in document.experiments
        if entry.scenario == CONTAINMENT and entry.workload != SOAK and entry.tries
    ]
    names = list(dict.fromkeys(entry.name for entry in found))
    order = {name: index for index, name in enumerate(SUBSTRATES)}
    return tuple(sorted(found, key=lambda entry: (names.index(entry.name), order.get(entry.substrate, 9))))


def soaks(document: Document) -> tuple[tuple[Experiment, Soak], ...]:
    return tuple((entry, soak) for entry in document.experiments for soak in entry.soaks)
