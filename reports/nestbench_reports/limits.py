"""Which resource gave out, by evidence: what the host and the errors said at the edge of a ramp. Pure.

Each piece of evidence has a value at which it starts to mean something and one at which it says all; between them its
weight rises from 0 to 1. An error that names a resource (EMFILE, an OOM kill) weighs more than any reading. A resource
is named when its best evidence weighs at least half and clearly more than the runner-up's; otherwise nothing is
settled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nestbench_reports.density import Ramp
from nestbench_reports.experiments import Failure, Step
from nestbench_reports.text import bytes_text, percent

CPU, MEMORY, IO, DESCRIPTORS, THREADS = "cpu", "memory", "io", "descriptors", "threads"
ENOUGH = 0.5  # weight at which a resource can be named
CLEARLY = 0.2  # by which it must exceed the next
ERROR_WEIGHT = 1.5
NOT_SETTLED = "not settled"

# Fractions of the time: (key, resource, starts to mean something, says all, words).
_FRACTIONS = (
    ("cpu_busy", CPU, 0.80, 0.97, "CPUs busy"),
    ("psi_cpu_some", CPU, 0.20, 0.60, "tasks waited for a CPU (PSI)"),
    ("run_queue_wait", CPU, 0.15, 0.60, "guests waited in the run queue"),
    ("steal", CPU, 0.05, 0.25, "stolen by the hypervisor"),
    ("budget_throttled", CPU, 0.05, 0.30, "throttled by the CPU budget"),
    ("psi_memory_some", MEMORY, 0.02, 0.20, "tasks waited for memory (PSI)"),
    ("psi_memory_full", MEMORY, 0.01, 0.10, "all tasks waited for memory (PSI)"),
    ("psi_io_some", IO, 0.10, 0.50, "tasks waited for I/O (PSI)"),
)
# errno names and words of `failure.how` that name what ran out.
_ERRORS = {
    "ENOMEM": MEMORY,
    "oom_kill": MEMORY,
    "ENOBUFS": MEMORY,
    "EMFILE": DESCRIPTORS,
    "ENFILE": DESCRIPTORS,
    "EAGAIN": THREADS,
}


@dataclass(frozen=True)
class Evidence:
    resource: str
    weight: float
    text: str


@dataclass(frozen=True)
class Limit:
    resource: str | None  # None: not settled, or nothing gave out
    evidence: tuple[Evidence, ...]  # what weighs something, heaviest first
    text: str

    @property
    def is_settled(self) -> bool:
        return self.resource is not None


def weight(value: float, starts: float, says_all: float) -> float:
    """0 at `starts` or on its harmless side, 1 at `says_all` or beyond; either may be the larger."""
    return float(min(1.0, max(0.0, (value - starts) / (says_all - starts))))


def _worst(steps: Sequence[Step], read: Callable[[Step], float | int | None], largest: bool) -> float | None:
    known = [float(value) for step in steps if (value := read(step)) is not None]
    if not known:
        return None
    return float(np.median(known)) if largest else min(known)


def _from_fractions(edge: Sequence[Step]) -> list[Evidence]:
    found = []
    for key, resource, starts, says_all, words in _FRACTIONS:
        value = _worst(edge, lambda step, key=key: getattr(step.host, key), largest=True)  # type: ignore[misc]
        if value is not None:
            found.append(Evidence(resource, weight(value, starts, says_all), f"{words} {percent(value)} of the time"))
    return found


def _from_memory(edge: Sequence[Step], memory_bytes: float, budget_bytes: float | None) -> list[Evidence]:
    found = []
    available = _worst(edge, lambda step: step.host.mem_available_bytes, largest=False)
    if available is not None and memory_bytes > 0:
        text = f"MemAvailable {bytes_text(available)} of {bytes_text(memory_bytes)}"
        found.append(Evidence(MEMORY, weight(available / memory_bytes, 0.10, 0.02), text))
    left = _worst(edge, lambda step: step.host.budget_memory_left_bytes, largest=False)
    if left is not None and budget_bytes:
        text = f"{bytes_text(left)} of the memory budget of {bytes_text(budget_bytes)} left"
        found.append(Evidence(MEMORY, weight(left / budget_bytes, 0.10, 0.02), text))
    kills = [step.host.oom_kills for step in edge if step.host.oom_kills]
    if kills:
        found.append(Evidence(MEMORY, ERROR_WEIGHT, f"{max(kills):,} killed for want of memory (OOM)"))
    return found


def _from_counts(steps: Sequence[Step], edge: Sequence[Step]) -> list[Evidence]:
    """Descriptors and threads: how many more guests would fit, by what each has used."""
    found = []
    readers: tuple[tuple[str, Callable[[Step], int | None]], ...] = (
        (DESCRIPTORS, lambda step: step.host.descriptors_left),
        (THREADS, lambda step: step.host.threads_left),
    )
    for resource, read in readers:
        known = [(step.guests, value) for step in steps if (value := read(step)) is not None]
        left = _worst(edge, read, largest=False)
        if left is None or not known:
            continue
        (few, before), (many, after) = min(known), max(known)
        each = (before - after) / (many - few) if many > few else 0.0
        fits = left / each if each > 0 else float("inf")
        text = f"{left:,.0f} {resource} left" + (f", {each:.1f} for each guest" if each > 0 else "")
        heavy = 1.0 if left == 0 else weight(fits / many, 0.25, 0.01)
        found.append(Evidence(resource, heavy, text))
    return found


def _from_failures(failures: Sequence[Failure]) -> list[Evidence]:
    found = []
    for failure in failures:
        resource = _ERRORS.get(failure.how)
        if resource is not None:
            words = f"{failure.how} with {failure.guests:,} guests"
            text = f"{words}: {failure.evidence}" if failure.evidence else words
            found.append(Evidence(resource, ERROR_WEIGHT, text))
    return list({entry.resource: entry for entry in reversed(found)}.values())


def limit(ramp: Ramp, memory_bytes: float) -> Limit:
    """What gave out in a ramp on a host with this much memory."""
    failures = ramp.experiment.failures
    if ramp.first_failure is None:
        return Limit(None, (), "nothing gave out")
    steps = [step for step in ramp.experiment.steps if step.guests > 0]
    good = ramp.knee.guests if ramp.knee is not None else ramp.most
    # The edge: what did not run well; where the next guest could not be had, the last that ran.
    edge = [step for step in steps if step.guests > good] or [
        step for step in steps if step.guests == max(step.guests for step in steps)
    ]
    found = [
        *_from_failures(failures),
        *_from_fractions(edge),
        *_from_memory(edge, memory_bytes, ramp.setup.budget_memory_bytes),
        *_from_counts(steps, edge),
    ]
    evidence = tuple(sorted((entry for entry in found if entry.weight > 0), key=lambda entry: -entry.weight))
    best: dict[str, float] = {}
    for entry in evidence:
        best[entry.resource] = max(best.get(entry.resource, 0.0), entry.weight)
    ranking = sorted(best.items(), key=lambda pair: -pair[1])
    if not ranking or ranking[0][1] < ENOUGH:
        return Limit(None, evidence, f"{NOT_SETTLED}: no reading stands out")
    if len(ranking) > 1 and ranking[0][1] - ranking[1][1] < CLEARLY:
        close = [resource for resource, heavy in ranking if ranking[0][1] - heavy < CLEARLY]
        return Limit(None, evidence, f"{NOT_SETTLED}: {' and '.join(close)} are equally short")
    resource = ranking[0][0]
    return Limit(resource, evidence, next(entry.text for entry in evidence if entry.resource == resource))
