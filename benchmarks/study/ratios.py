"""What vmm-core adds to the same loop in raw ioctls: vm/floor of three benchmarks against their limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nestbench_reports import stats
from nestbench_reports.stats import Estimate, FloatArray
from programs import BROKE, FAIL, INCONCLUSIVE, PASS, UNSUPPORTED, ProgramError, Programs, last_line, run, show_progress

# The goals, by benchmark: vm may cost at most so many times its floor.
LIMITS = {"exits/doorbell_pio": 1.02, "exits/doorbell_mmio": 1.02, "lifecycle/cold_start": 1.10}
SUBSTRATES = ("vm", "floor")

Samples = Mapping[str, Sequence[FloatArray]]  # id -> the samples of each process, ns


@dataclass(frozen=True)
class Effort:
    processes: int
    repetitions: int
    min_time_s: float
    cpu: int


def samples_of_process(output: str) -> dict[str, FloatArray]:
    """Real time of every repetition in ns, by id, from Google Benchmark's JSON."""
    try:
        entries: list[dict[str, Any]] = json.loads(output)["benchmarks"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProgramError(f"nestbench_micro printed no JSON of Google Benchmark: {error}", BROKE) from error
    found: dict[str, list[float]] = {}
    for entry in entries:
        if entry.get("error_occurred"):
            message = str(entry.get("error_message"))
            code = UNSUPPORTED if message.startswith("unsupported: ") else BROKE
            raise ProgramError(f"{entry['run_name']}: {message}", code)
        if entry.get("run_type") == "iteration":
            identity = "/".join(entry["run_name"].split("/")[:3])
            found.setdefault(identity, []).append(float(entry["real_time"]))
    return {identity: np.array(values, dtype=np.float64) for identity, values in found.items()}


def measure(programs: Programs, effort: Effort) -> Samples:
    """Every benchmark of LIMITS on both substrates in each of several processes, in random order."""
    wanted = [f"{name}/{substrate}" for name in LIMITS for substrate in SUBSTRATES]
    command = [
        str(programs.micro),
        f"--cpu={effort.cpu}",
        f"--benchmark_filter=^({'|'.join(LIMITS)})/({'|'.join(SUBSTRATES)})/",
        f"--benchmark_repetitions={effort.repetitions}",
        f"--benchmark_min_time={effort.min_time_s}",
        "--benchmark_enable_random_interleaving=true",
        "--benchmark_format=json",
    ]
    samples: dict[str, list[FloatArray]] = {identity: [] for identity in wanted}
    for number in range(effort.processes):
        done = run(command, 60 + 40 * len(wanted) * effort.repetitions * effort.min_time_s)
        if done.returncode != 0:
            raise ProgramError(f"nestbench_micro, exit code {done.returncode}: {last_line(done.stderr)}", BROKE)
        process = samples_of_process(done.stdout)
        for identity in wanted:
            if identity not in process:
                raise ProgramError(f"nestbench_micro has no benchmark {identity}", BROKE)
            samples[identity].append(process[identity])
        show_progress(f"process {number + 1} of {effort.processes}")
    show_progress("")
    return samples


def verdict(estimate: Estimate, limit: float) -> str:
    if estimate.low is None or estimate.high is None:
        return "too few processes"
    if estimate.high <= limit:
        return "holds"
    return "BROKEN" if estimate.low > limit else "undecided"


def table(samples: Samples) -> tuple[list[str], list[str]]:
    """The printed lines, and the verdict of each benchmark."""
    lines = [f"{'benchmark':<22}{'vm':>12}{'floor':>12}{'vm/floor':>10}  {'95 % interval':<18}{'best':>8}{'limit':>7}"]
    verdicts = []
    for name, limit in LIMITS.items():
        above, below = (samples[f"{name}/{substrate}"] for substrate in SUBSTRATES)
        estimate = stats.paired_ratio(above, below)
        if estimate is None:
            raise ProgramError(f"{name}: a median is not positive", BROKE)
        verdicts.append(verdict(estimate, limit))
        best = float(np.concatenate(above).min()) / float(np.concatenate(below).min())
        interval = "-" if estimate.low is None else f"{estimate.low:.4f} to {estimate.high:.4f}"
        lines.append(
            f"{name:<22}{stats.location(above):>9,.0f} ns{stats.location(below):>9,.0f} ns{estimate.value:>10.4f}"
            f"  {interval:<18}{best:>8.4f}{limit:>7.2f}  {verdicts[-1]}"
        )
    return lines, verdicts


def study(programs: Programs, effort: Effort, save: Path | None) -> int:
    samples = measure(programs, effort)
    if save is not None:
        raw = {identity: [values.tolist() for values in processes] for identity, processes in samples.items()}
        save.write_text(json.dumps({"limits": LIMITS, "samples_ns": raw}), encoding="utf-8")
    lines, verdicts = table(samples)
    print("\n".join(lines))
    print("best: the fastest vm repetition over the fastest floor repetition; not judged")
    if "BROKEN" in verdicts:
        return FAIL
    return PASS if all(word == "holds" for word in verdicts) else INCONCLUSIVE
