"""The result document as frozen dataclasses. Meaning of every field: DESIGN.md, "Result document"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nestbench_reports.experiments import ISOLATION, Experiment
from nestbench_reports.stats import FloatArray

OK = "ok"
UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class Round:
    """One process: one arm of one round."""

    round: int
    order: int
    arm: str
    samples: tuple[float, ...]
    iterations: int
    voided: int
    steal_ns: int
    run_queue_wait_ns: int
    context_switches: int
    migrations: int
    warmup_batches: int
    clock_disagreement_max: float
    huge_page_bytes: int
    exits: int
    nested_runs: int = 0


@dataclass(frozen=True)
class Measurement:
    id: str
    scenario: str
    workload: str
    substrate: str
    params: Mapping[str, str | int]
    unit: str
    direction: str
    status: str
    reason: str
    image: str
    image_sha256: str
    rounds: tuple[Round, ...]
    floor_id: str | None

    @property
    def key(self) -> str:
        """The id without its substrate: what pairs `vm` with `bare`."""
        return self.id.rsplit("/", 1)[0]

    @property
    def is_isolation(self) -> bool:
        """Whether its arms are two conditions (a alone, b with the aggressor) and not two of the same."""
        return self.scenario == ISOLATION

    @property
    def parameters(self) -> str:
        """`key=value, key=value`, as the id has it."""
        return ", ".join(f"{name}={value}" for name, value in sorted(self.params.items()))

    @cached_property
    def samples_by_round(self) -> dict[int, FloatArray]:
        """Samples of both arms, by round number; rounds without a sample are left out."""
        return _by_round(self.rounds)

    @cached_property
    def samples_by_pair(self) -> dict[tuple[int, str], FloatArray]:
        """Samples by round and arm: one process each. Its partner of another substrate ran right beside it."""
        return {
            (number, arm): samples for arm in ("a", "b") for number, samples in self.samples_of_arm(arm).items()
        }

    def samples_of_arm(self, arm: str) -> dict[int, FloatArray]:
        return _by_round(tuple(entry for entry in self.rounds if entry.arm == arm))


def _by_round(rounds: tuple[Round, ...]) -> dict[int, FloatArray]:
    merged: dict[int, list[float]] = {}
    for entry in rounds:
        if entry.samples:
            merged.setdefault(entry.round, []).extend(entry.samples)
    return {number: np.array(merged[number], dtype=np.float64) for number in sorted(merged)}


@dataclass(frozen=True)
class Cpu:
    vendor: str
    model_name: str
    family: int
    model: int
    stepping: int
    microcode: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Kvm:
    available: bool
    reason: str
    module: str
    parameters: Mapping[str, str]
    api_version: int
    capabilities: Mapping[str, int]


@dataclass(frozen=True)
class Topology:
    cpus: int
    cores: int
    sockets: int
    numa_nodes: int
    memory_bytes: int


@dataclass(frozen=True)
class HugePages:
    thp: str
    hugetlb_2m_free: int
    hugetlb_1g_free: int


@dataclass(frozen=True)
class Cgroup:
    layout: str
    controllers: tuple[str, ...]
    writable: bool


@dataclass(frozen=True)
class Level:
    value: str
    confidence: float
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Host:
    cpu: Cpu
    kernel: str
    cmdline: str
    mitigations: Mapping[str, str]
    kvm: Kvm
    topology: Topology
    clock_source: str
    tsc_hz: float
    huge_pages: HugePages
    cgroup: Cgroup
    level: Level
    hypervisor_signature: str
    supervisor_execution: str
    user_execution: str
    clock: str

    @property
    def has_emulated_clock(self) -> bool:
        return self.clock == "emulated"


@dataclass(frozen=True)
class Build:
    version: str
    commit: str
    compiler: str
    flags: str
    type: str


@dataclass(frozen=True)
class Run:
    id: str
    started: str
    profile: str
    seed: int
    arguments: tuple[str, ...]
    duration_s: float
    interrupted: bool
    recovered: bool


@dataclass(frozen=True)
class Finding:
    id: str
    severity: str
    text: str
    evidence: str


@dataclass(frozen=True)
class Capability:
    scenario: str
    workload: str
    runnable: bool
    reason: str
    remedy: str


@dataclass(frozen=True)
class Cache:
    """A data or unified cache of the host, from Google Benchmark's context."""

    level: int
    type: str
    size_bytes: int


@dataclass(frozen=True)
class Document:
    name: str  # how messages call it: the path it was read from
    schema: str
    host: Host
    build: Build
    images: Mapping[str, str]
    run: Run
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...]
    capability: tuple[Capability, ...]
    caches: tuple[Cache, ...]
    experiments: tuple[Experiment, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Measurement]:
        return {measurement.id: measurement for measurement in self.measurements}
