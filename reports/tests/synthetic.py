"""A seeded, realistic result document to test with: what `nestbench quick` could write on a host that pages slowly."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KIB, MIB = 1 << 10, 1 << 20
CACHES = [("Data", 1, 48 * KIB), ("Instruction", 1, 32 * KIB), ("Unified", 2, 2 * MIB), ("Unified", 3, 36 * MIB)]


@dataclass(frozen=True)
class Noise:
    """Relative spreads: between rounds (shared by all substrates), between processes, between samples."""

    rounds: float = 0.01
    processes: float = 0.002
    samples: float = 0.003


@dataclass(frozen=True)
class Spec:
    scenario: str
    workload: str
    params: dict[str, str | int]
    unit: str
    direction: str
    values: dict[str, float]  # by substrate, in `unit`

    def id(self, substrate: str) -> str:
        params = ",".join(f"{key}={value}" for key, value in sorted(self.params.items()))
        return "/".join(part for part in (self.scenario, self.workload, params, substrate) if part)


def chase_ns(working_set_bytes: int) -> float:
    """Load latency as a machine of CACHES would show it."""
    curve = [
        (16 * KIB, 1.2),
        (48 * KIB, 1.3),
        (128 * KIB, 4.5),
        (2 * MIB, 6.0),
        (8 * MIB, 18),
        (36 * MIB, 32),
        (512 * MIB, 118),
    ]
    x = [math.log(size) for size, _ in curve]
    return float(np.exp(np.interp(math.log(working_set_bytes), x, [math.log(ns) for _, ns in curve])))


def default_specs(vm_factor: float = 1.0) -> list[Spec]:
    """`vm_factor` slows every guest down, for comparisons."""
    specs = []

    def overhead(
        workload: str, unit: str, bare: float, cost: float, params: dict[str, str | int] | None = None
    ) -> None:
        direction = "lower" if unit.startswith("ns") else "higher"
        factor = cost * vm_factor
        vm = bare * factor if direction == "lower" else bare / factor
        specs.append(Spec("overhead", workload, params or {}, unit, direction, {"bare": bare, "vm": vm}))

    overhead("cpu_integer", "ns/op", 1.54, 1.001)
    overhead("cpu_branches", "ns/op", 4.1, 1.004)
    overhead("cpu_fma", "GFLOP/s", 81.5, 1.006)
    overhead("cpu_matmul", "GFLOP/s", 31.2, 1.012)
    overhead("cpu_sha256", "GB/s", 1.92, 1.003)
    overhead("cpu_sort", "ns/op", 71.0, 1.021)
    overhead("cpu_hash", "ns/op", 13.4, 1.035)
    overhead("cpu_cpuid", "ns/op", 3878, 1.017)
    overhead("cpu_rdtsc", "ns/op", 9.1, 1.002)
    for operation, speed in (
        ("read", 14.8),
        ("write", 9.7),
        ("copy", 10.9),
        ("triad", 11.6),
        ("write_nt", 13.1),
        ("copy_nt", 12.7),
        ("triad_nt", 13.3),
    ):
        overhead("memory_bandwidth", "GB/s", speed, 1.03, {"operation": operation})
    size = 16 * KIB
    while size <= 512 * MIB:
        overhead(
            "memory_chase",
            "ns/load",
            chase_ns(size),
            1.0 + 0.004 * math.log2(size / (16 * KIB)),
            {"working_set_bytes": size},
        )
        size *= 2
    overhead("memory_gups", "M/s", 48.0, 1.06)
    for stride in (4096, 65536, 2 * MIB):
        overhead("memory_tlb", "ns/load", 8.0 + stride / 65536, 1.08, {"stride_bytes": stride})
    for page in (4096, 2 * MIB):
        overhead(
            "memory_first_touch",
            "ns/op",
            1307 if page == 4096 else 82000,
            3.3 if page == 4096 else 1.18,
            {"page_bytes": page},
        )
    for cpl, factor in ((0, 0.33), (3, 1.0)):
        for workload, value in (
            ("doorbell_pio", 26600),
            ("doorbell_mmio", 27175),
            ("ioeventfd_pio", 2735),
            ("ioeventfd_mmio", 2790),
            ("cpuid", 3943),
            ("page_fault", 8530),
            ("rdtsc", 9.2),
        ):
            cost = value * factor * vm_factor
            specs.append(
                Spec("exits", workload, {"cpl": cpl}, "ns/op", "lower", {"vm": cost * 1.004, "floor": cost / vm_factor})
            )
    for workload, microseconds in (
        ("create_vm", 167),
        ("create_vcpu", 281),
        ("cold_start", 598),
        ("destroy", 442),
        ("slot_add_remove", 131),
        ("dirty_log_harvest", 61),
        ("kick", 17),
        ("irqfd_wake", 22),
    ):
        cost = microseconds * 1000 * vm_factor
        specs.append(Spec("lifecycle", workload, {}, "ns/op", "lower", {"vm": cost * 1.012, "floor": cost / vm_factor}))
    return specs


def _rounds(
    rng: np.random.Generator, value: float, luck: np.ndarray[Any, Any], samples: int, noise: Noise, first: int
) -> list[dict[str, Any]]:
    rounds = []
    for number, shared in enumerate(luck):
        for arm in ("a", "b"):
            process = value * shared * math.exp(noise.processes * rng.standard_normal())
            kept = process * np.exp(noise.samples * np.abs(rng.standard_normal(samples)))
            rounds.append(
                {
                    "round": number,
                    "order": first + (0 if arm == "a" else 2),
                    "arm": arm,
                    "samples": [float(f"{sample:.6g}") for sample in kept],
                    "iterations": 100000,
                    "voided": int(rng.integers(0, 2)),
                    "steal_ns": 0,
                    "run_queue_wait_ns": int(rng.integers(0, 90000)),
                    "context_switches": int(rng.integers(0, 5)),
                    "migrations": 0,
                    "warmup_batches": 3,
                    "clock_disagreement_max": 0.0004,
                    "huge_page_bytes": 0,
                    "exits": 0,
                }
            )
    return rounds


def _measurements(specs: list[Spec], seed: int, rounds: int, samples: int, noise: Noise) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    measurements = []
    for spec in specs:
        luck = np.exp(noise.rounds * rng.standard_normal(rounds))
        if spec.direction == "higher":
            luck = 1 / luck
        for first, (substrate, value) in enumerate(spec.values.items()):
            is_floor = substrate == "vm" and "floor" in spec.values
            measurements.append(
                {
                    "id": spec.id(substrate),
                    "scenario": spec.scenario,
                    "workload": spec.workload,
                    "substrate": substrate,
                    "params": spec.params,
                    "unit": spec.unit,
                    "direction": spec.direction,
                    "status": "ok",
                    "reason": "",
                    "image": spec.workload if spec.scenario == "overhead" else "",
                    "image_sha256": f"{abs(hash_of(spec.workload)):064x}" if spec.scenario == "overhead" else "",
                    "rounds": _rounds(rng, value, luck, samples, noise, first),
                    "floor_id": spec.id("floor") if is_floor else None,
                }
            )
    return measurements


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode(), "big") % (1 << 250)


def host() -> dict[str, Any]:
    return {
        "cpu": {
            "vendor": "GenuineIntel",
            "model_name": "Sample(R) Xeon(R) 8 @ 2.60GHz",
            "family": 6,
            "model": 143,
            "stepping": 8,
            "microcode": "0x2b000590",
            "flags": ["fpu", "tsc", "avx2", "hypervisor"],
        },
        "kernel": "Linux 6.1.0-18-amd64 #1 SMP Debian 6.1.76-1",
        "cmdline": "BOOT_IMAGE=/vmlinuz quiet",
        "mitigations": {
            "meltdown": "Not affected",
            "spectre_v2": "Mitigation: Enhanced / Automatic IBRS; IBPB: conditional",
        },
        "kvm": {
            "available": True,
            "reason": "",
            "module": "kvm_pvm",
            "parameters": {"kvm.halt_poll_ns": "200000"},
            "api_version": 12,
            "capabilities": {"KVM_CAP_IRQCHIP": 1, "KVM_CAP_NESTED_STATE": 0},
        },
        "topology": {"cpus": 2, "cores": 2, "sockets": 1, "numa_nodes": 1, "memory_bytes": 8 << 30},
        "clock_source": "tsc",
        "tsc_hz": 2596000000,
        "huge_pages": {"thp": "madvise", "hugetlb_2m_free": 0, "hugetlb_1g_free": 0},
        "cgroup": {"layout": "v2", "controllers": ["cpu", "memory", "pids"], "writable": True},
        "level": {
            "value": "L1",
            "confidence": 0.97,
            "evidence": ["CPUID: hypervisor bit set", "CPUID costs 3,878 ns: it leaves the guest"],
        },
        "hypervisor_signature": "KVMKVMKVM",
        "supervisor_execution": "emulated",
        "user_execution": "native",
        "clock": "real",
    }


def document(
    seed: int = 1,
    rounds: int = 6,
    samples: int = 10,
    noise: Noise | None = None,
    specs: list[Spec] | None = None,
    vm_factor: float = 1.0,
) -> dict[str, Any]:
    specs = default_specs(vm_factor) if specs is None else specs
    measurements = _measurements(specs, seed, rounds, samples, noise or Noise())
    images = {entry["image"]: entry["image_sha256"] for entry in measurements if entry["image"]}
    return {
        "context": {
            "date": "2026-01-31T12:00:00+00:00",
            "host_name": "sample",
            "executable": "nestbench",
            "num_cpus": 2,
            "mhz_per_cpu": 2600,
            "cpu_scaling_enabled": False,
            "load_avg": [0.1, 0.1, 0.1],
            "library_build_type": "release",
            "caches": [{"type": kind, "level": level, "size": size, "num_sharing": 1} for kind, level, size in CACHES],
        },
        "benchmarks": [],
        "nestbench": {
            "schema": "nestbench.result/1",
            "host": host(),
            "build": {
                "version": "0.1.0",
                "commit": "0123abc",
                "compiler": "GNU 12.2.0",
                "flags": "-O2",
                "type": "Release",
            },
            "images": images,
            "run": {
                "id": "20260131T120000Z-1a2b3c",
                "started": "2026-01-31T12:00:00Z",
                "profile": "quick",
                "seed": seed,
                "arguments": ["quick"],
                "duration_s": 57.3,
                "interrupted": False,
                "recovered": False,
            },
            "measurements": measurements,
            "findings": [
                {
                    "id": "supervisor-emulated",
                    "severity": "warning",
                    "text": "Guest CPL0 is emulated: about 0.6 us for each instruction.",
                    "evidence": "add loop at CPL0: 612 ns per instruction; insn_emulation 1.00 per instruction",
                },
                {
                    "id": "clock-source",
                    "severity": "info",
                    "text": "The clock source is the TSC.",
                    "evidence": "clocksource0/current_clocksource: tsc",
                },
            ],
            "capability": [
                {"scenario": "overhead", "workload": "cpu_integer", "runnable": True, "reason": "", "remedy": ""},
                {
                    "scenario": "nested",
                    "workload": "cpu_integer",
                    "runnable": False,
                    "reason": "KVM gives guests neither VMX nor SVM (KVM_CAP_NESTED_STATE = 0)",
                    "remedy": "a host whose KVM module has nested=1, or bare metal",
                },
            ],
        },
    }


def set_status(raw: dict[str, Any], measurement_id: str, status: str, reason: str, keep_rounds: bool = False) -> None:
    for entry in raw["nestbench"]["measurements"]:
        if entry["id"] == measurement_id:
            entry.update(status=status, reason=reason)
            if not keep_rounds:
                entry["rounds"] = []
            return
    raise KeyError(measurement_id)


def write(path: Path, raw: dict[str, Any]) -> Path:
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path
