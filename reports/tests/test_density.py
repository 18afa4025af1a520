"""Ramps with a known knee, and hosts with a known shortage."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from nestbench_reports import density, limits
from nestbench_reports.load import parse
from nestbench_reports.model import Document
from tests import synthetic
from tests import synthetic_tenants as tenants

GIB = tenants.GIB


def document(*experiments: dict[str, Any]) -> Document:
    raw = synthetic.document(specs=[])
    raw["nestbench"]["experiments"] = list(experiments)
    return parse(json.dumps(raw), "d.json")


def only(*experiments: dict[str, Any]) -> density.Ramp:
    return density.ramps(document(*experiments))[0]


def noisy_ramp(seed: int, spread: float, repetitions: int, knee: int = 64, substrate: str = "vm") -> dict[str, Any]:
    """p99 crosses the objective exactly between `knee` and the next number; each step's p99 has a relative spread."""
    rng = np.random.default_rng(seed)
    records = []
    for guests in (1, 2, 4, 8, 16, 32, 48, 56, 64, 72, 80, 96, 128):
        p99 = tenants.SLO_NS * (guests / (knee + 4)) ** 4
        for repetition in range(repetitions):
            seen = p99 * math.exp(spread * rng.standard_normal())
            records.append(tenants.step(guests, seen, guests * tenants.RATE_PER_S, rng, repetition))
    records.append(tenants.end("slo", 0))
    return tenants.experiment("density", "steady", substrate, tenants.density_setup(), records)


def test_the_knee_is_the_last_number_within_the_objective() -> None:
    ramp = only(tenants.queue_ramp("vm", 120))
    assert ramp.knee is not None
    assert (ramp.knee.guests, ramp.knee.next_bad, ramp.most) == (108, 117, 108)
    assert ramp.first_failure is not None and ramp.first_failure.guests == 117
    assert "p99 400 ms is above 50 ms" in ramp.first_failure.evidence
    good = [point.guests for point in ramp.points if point.good]
    assert good == [1, 2, 4, 8, 16, 32, 64, 96, 108]


def test_the_knees_interval_holds_the_truth() -> None:
    trials, hits, exact = 60, 0, 0
    for seed in range(trials):
        knee = only(noisy_ramp(seed, spread=0.25, repetitions=3)).knee
        assert knee is not None and knee.low is not None and knee.high is not None
        hits += knee.low <= 64 <= knee.high
        exact += knee.guests == 64
        assert knee.low <= knee.guests <= knee.high
    assert hits / trials >= 0.80, hits  # three repetitions show a part of their spread only
    assert exact / trials < 0.95  # the noise does matter: an interval of one number would be wrong


def test_a_calm_ramp_has_a_knee_without_doubt() -> None:
    knee = only(noisy_ramp(1, spread=0.01, repetitions=3)).knee
    assert knee is not None and (knee.low, knee.guests, knee.high) == (64, 64, 64)


def test_one_unlucky_step_far_below_does_not_move_the_knee() -> None:
    raw = tenants.queue_ramp("vm", 120, repetitions=1)
    unlucky = next(record for record in raw["records"] if record.get("guests") == 4)
    unlucky["latency_ns"] = {key: value * 1000 for key, value in unlucky["latency_ns"].items()}
    knee = only(raw).knee
    assert knee is not None and knee.guests == 108


def test_throughput_that_falls_behind_is_no_better_than_latency_that_breaks() -> None:
    rng = np.random.default_rng(1)
    served = {1: 20, 2: 40, 4: 80, 8: 120}
    records = [tenants.step(n, 3 * tenants.MS, rate, rng) for n, rate in served.items()]
    ramp = only(tenants.experiment("density", "steady", "vm", tenants.density_setup(), records))
    assert ramp.knee is not None and (ramp.knee.guests, ramp.knee.next_bad) == (4, 8)
    assert ramp.first_failure is not None and "serves 75 % of what is offered" in ramp.first_failure.evidence


def test_a_ramp_that_never_breaks_has_an_open_knee_and_no_limit() -> None:
    rng = np.random.default_rng(1)
    records = [tenants.step(n, 3 * tenants.MS, n * tenants.RATE_PER_S, rng) for n in (1, 2, 4)]
    ramp = only(tenants.experiment("density", "steady", "vm", tenants.density_setup(), records))
    assert ramp.knee is not None and ramp.knee.is_open and ramp.knee.guests == 4 and ramp.first_failure is None
    assert limits.limit(ramp, 8 * GIB).text == "nothing gave out"


def test_not_even_one_guest() -> None:
    rng = np.random.default_rng(1)
    records = [tenants.step(1, 300 * tenants.MS, tenants.RATE_PER_S, rng)]
    ramp = only(tenants.experiment("density", "steady", "vm", tenants.density_setup(), records))
    assert ramp.knee is not None and (ramp.knee.guests, ramp.knee.next_bad) == (0, 1)


def test_a_ramp_without_a_single_guest_is_judged_and_shown() -> None:
    failure = {"kind": "failure", "guests": 0, "how": "EMFILE", "evidence": "open /dev/kvm"}
    setup = tenants.density_setup()
    ramp = only(tenants.experiment("density", "steady", "vm", setup, [failure, tenants.end("exhaustion", 0)]))
    assert (ramp.knee, ramp.points, ramp.most) == (None, (), 0)
    assert ramp.first_failure is not None and (ramp.first_failure.guests, ramp.first_failure.how) == (1, "EMFILE")
    assert limits.limit(ramp, 8 * GIB).resource == limits.DESCRIPTORS


def test_fairness_is_the_slowest_guest_over_the_median() -> None:
    raw = tenants.queue_ramp("vm", 120, repetitions=1)
    record = next(record for record in raw["records"] if record.get("guests") == 4)
    record["guest_per_s"] = [5.0, 20.0, 20.0, 20.0]
    point = next(point for point in only(raw).points if point.guests == 4)
    assert point.fairness == 0.25


def test_density_ratios_stand_against_bare_and_hold_the_truth() -> None:
    ramps = density.ramps(document(noisy_ramp(1, 0.1, 3, 32), noisy_ramp(2, 0.1, 3, 64, "bare")))
    (ratio,) = density.density_ratios(ramps)
    assert ratio.above.substrate == "vm" and ratio.bound == "" and ratio.low is not None and ratio.high is not None
    assert ratio.low <= 0.5 <= ratio.high and 0.3 < ratio.value < 0.8


def test_a_ratio_with_an_open_end_says_so() -> None:
    rng = np.random.default_rng(1)
    records = [tenants.step(n, 3 * tenants.MS, n * tenants.RATE_PER_S, rng) for n in (1, 2, 4)]
    bare = tenants.experiment("density", "steady", "bare", tenants.density_setup(), records)
    (ratio,) = density.density_ratios(density.ramps(document(tenants.queue_ramp("vm", 120), bare)))
    assert ratio.bound == "at most"


EDGES = [
    ("cpu_busy", {"cpu_busy": 0.99, "psi_cpu_some": 0.8}, limits.CPU),
    ("steal", {"steal": 0.4, "cpu_busy": 0.5}, limits.CPU),
    ("throttled", {"budget_throttled": 0.5}, limits.CPU),
    ("available", {"mem_available_bytes": 0.1 * GIB}, limits.MEMORY),
    ("budget", {"budget_memory_left_bytes": 1.0 * tenants.MIB}, limits.MEMORY),
    ("psi", {"psi_memory_some": 0.4, "psi_memory_full": 0.2}, limits.MEMORY),
    ("io", {"psi_io_some": 0.6}, limits.IO),
    ("descriptors", {"descriptors_left": 3}, limits.DESCRIPTORS),
    ("threads", {"threads_left": 0}, limits.THREADS),
    ("oom beside a busy CPU", {"cpu_busy": 0.99, "oom_kills": 2}, limits.MEMORY),
]


@pytest.mark.parametrize(("host", "resource"), [edge[1:] for edge in EDGES], ids=[edge[0] for edge in EDGES])
def test_the_limiting_resource_is_named_by_its_evidence(host: dict[str, Any], resource: str) -> None:
    raw = tenants.failing_ramp("crashed", host)
    raw["setup"]["budget_memory_bytes"] = 1.0 * GIB
    found = limits.limit(only(raw), 8 * GIB)
    assert found.resource == resource and found.evidence[0].resource == resource, found


@pytest.mark.parametrize(
    ("how", "resource"),
    [
        ("ENOMEM", limits.MEMORY),
        ("oom_kill", limits.MEMORY),
        ("EMFILE", limits.DESCRIPTORS),
        ("ENFILE", limits.DESCRIPTORS),
        ("EAGAIN", limits.THREADS),
    ],
)
def test_an_error_that_names_a_resource_outweighs_a_reading(how: str, resource: str) -> None:
    found = limits.limit(only(tenants.failing_ramp(how, {"cpu_busy": 1.0})), 8 * GIB)
    assert found.resource == resource and how in found.text


def test_what_does_not_stand_out_is_not_settled() -> None:
    calm = limits.limit(only(tenants.failing_ramp("missed_heartbeat", {})), 8 * GIB)
    assert (calm.resource, calm.is_settled) == (None, False) and "no reading stands out" in calm.text
    both = {"cpu_busy": 0.99, "mem_available_bytes": 0.05 * GIB}
    two = limits.limit(only(tenants.failing_ramp("crashed", both)), 8 * GIB)
    assert two.resource is None and "cpu and memory" in two.text and len(two.evidence) >= 2


def test_a_host_that_tells_nothing_settles_nothing() -> None:
    silent = {key: None for key in tenants.QUIET_HOST}
    raw = tenants.failing_ramp("crashed", silent)
    for record in raw["records"]:
        if record["kind"] == "step":
            record["host"] = dict(silent)
            record["memory"] = {key: None for key in record["memory"]}
    found = limits.limit(only(raw), 8 * GIB)
    assert found.resource is None and found.evidence == ()
