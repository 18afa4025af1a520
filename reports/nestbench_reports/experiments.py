"""Experiments of a result document as frozen dataclasses: what many tenants did, step by step.

Meaning of every field: DESIGN.md, "Density, isolation, containment". None: the host does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nestbench_reports.stats import FloatArray

DENSITY = "density"
ISOLATION = "isolation"
CONTAINMENT = "containment"
CONFORMANCE = "conformance"
ATTRIBUTION = "attribution"  # workload of scenario isolation
SOAK = "soak"  # workload of scenario containment
# Substrates in the order in which they stand side by side.
SUBSTRATES = ("vm", "zone", "bare")


@dataclass(frozen=True)
class Latency:
    p50: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class Memory:
    """Bytes for each guest, split by whose they are."""

    total_bytes: float | None
    guest_ram_bytes: float | None
    vmm_private_bytes: float | None
    kernel_bytes: float | None


@dataclass(frozen=True)
class StepHost:
    """What the host went through during a step; fractions are of the time."""

    cpu_busy: float | None
    steal: float | None
    psi_cpu_some: float | None
    psi_memory_some: float | None
    psi_memory_full: float | None
    psi_io_some: float | None
    run_queue_wait: float | None
    mem_available_bytes: float | None
    budget_memory_left_bytes: float | None
    budget_throttled: float | None
    oom_kills: int | None
    descriptors_left: int | None
    threads_left: int | None


@dataclass(frozen=True)
class Step:
    guests: int
    repetition: int
    duration_ns: float
    offered_per_s: float
    throughput_per_s: tuple[float, ...]  # all guests together, by window
    latency_ns: Latency
    latency_p99_ns: tuple[float, ...]  # by window
    guest_per_s: tuple[float, ...]
    start_ns: tuple[float, ...]
    start_rate_per_s: float | None
    exits_per_s: float | None
    memory: Memory
    host: StepHost

    @cached_property
    def windows(self) -> FloatArray:
        return np.array(self.throughput_per_s, dtype=np.float64)

    @cached_property
    def throughput(self) -> float:
        """All guests' requests in the whole step: windows at its edges may lack some of them."""
        if self.guest_per_s:
            return float(sum(self.guest_per_s))
        return float(np.mean(self.windows)) if self.throughput_per_s else 0.0

    @property
    def fairness(self) -> float | None:
        """Slowest guest over the median guest; None when nobody did anything."""
        middle = float(np.median(self.guest_per_s)) if self.guest_per_s else 0.0
        return min(self.guest_per_s) / middle if middle > 0 else None


@dataclass(frozen=True)
class Failure:
    guests: int  # how many ran: the next one failed
    how: str
    evidence: str


@dataclass(frozen=True)
class LeftBehind:
    processes: int
    cgroups: int
    files: int

    @property
    def nothing(self) -> bool:
        return (self.processes, self.cgroups, self.files) == (0, 0, 0)


@dataclass(frozen=True)
class End:
    reason: str
    guests: int  # the most that ran well
    teardown_ns: float | None
    left_behind: LeftBehind


@dataclass(frozen=True)
class Cgroups:
    layout: str
    own: bool
    missing: tuple[str, ...]


@dataclass(frozen=True)
class DensitySetup:
    rate_per_s: float
    service_ns: float
    slo_p99_ns: float  # 0: no objective
    max_guests: int
    budget_memory_bytes: float | None
    budget_cpus: float | None
    guest_ram_bytes: float
    cgroups: Cgroups


@dataclass(frozen=True)
class Episode:
    """One hidden act of an aggressor."""

    guest: int
    aggressor: str
    intensity: float
    begin_ns: float
    end_ns: float
    impact: float  # fraction that the worst hit victim lost


@dataclass(frozen=True)
class Detection:
    at_ns: float
    guest: int
    score: float
    victims: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    schedule: int
    seed: int
    guests: int
    duration_ns: float
    window_ns: float
    windows: int
    quiet: bool
    episodes: tuple[Episode, ...]
    detections: tuple[Detection, ...]
    quiet_windows: int
    false_alarm_windows: int


@dataclass(frozen=True)
class Quantiles:
    p50: float | None
    p99: float | None


@dataclass(frozen=True)
class NeighbourLatency:
    before: Quantiles
    during: Quantiles
    after: Quantiles


@dataclass(frozen=True)
class Neighbours:
    guests: int
    checksums_wrong: int
    restarted: int
    latency_ns: NeighbourLatency


@dataclass(frozen=True)
class Try:
    number: int
    died: str
    classification: str
    cause: str
    right: bool
    contained: bool
    detection_ns: float | None  # None: never noticed
    evidence: Mapping[str, Any]
    bundle: str
    neighbours: Neighbours


@dataclass(frozen=True)
class Soak:
    duration_ns: float
    guests: int
    faults: int
    wrong: int
    lost: int

    @property
    def is_clean(self) -> bool:
        return self.faults > 0 and (self.wrong, self.lost) == (0, 0)


@dataclass(frozen=True)
class ContainmentSetup:
    expected: str
    deadline_ns: float
    neighbours: int


@dataclass(frozen=True)
class Condition:
    """A documented condition of KVM, and what came of it."""

    test: str
    source: str
    outcome: str  # pass, fail, skip, error, crash, timeout
    reason: str
    evidence: Mapping[str, Any]
    duration_ns: float


Record = Step | Failure | End | Schedule | Try | Soak | Condition


@dataclass(frozen=True)
class Experiment:
    id: str
    scenario: str
    workload: str
    substrate: str
    setup: DensitySetup | ContainmentSetup | Mapping[str, Any]
    records: tuple[Record, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(entry for entry in self.records if isinstance(entry, Step))

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(entry for entry in self.records if isinstance(entry, Failure))

    @property
    def end(self) -> End | None:
        return next((entry for entry in reversed(self.records) if isinstance(entry, End)), None)

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        return tuple(entry for entry in self.records if isinstance(entry, Schedule))

    @property
    def tries(self) -> tuple[Try, ...]:
        return tuple(entry for entry in self.records if isinstance(entry, Try))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(entry for entry in self.records if isinstance(entry, Condition))

    @property
    def soaks(self) -> tuple[Soak, ...]:
        return tuple(entry for entry in self.records if isinstance(entry, Soak))
