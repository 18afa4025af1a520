"""Seeded disks, doorbells, interrupts and networks with a known truth, to add to a synthetic document."""

from __future__ import annotations

from typing import Any

from tests import synthetic
from tests.synthetic import KIB, MIB, Spec

Raw = dict[str, Any]
DOORBELL_NS = {"ioeventfd": 2735.0, "exit": 26600.0}
INTERRUPT_NS = {"irqfd_wake": 4200.0, "irq_line_wake": 9100.0}
EXACT = synthetic.Noise(rounds=0, processes=0, samples=0)
# ns of one operation alone, and the least when many are under way.
HOST_NS = {"ram": (4100.0, 1150.0), "file": (96000.0, 6400.0), "file_cached": (5200.0, 1900.0)}


def params(
    disk: str, operation: str, metric: str, depth: int, block: int = 4096, **more: str | int
) -> dict[str, str | int]:
    return {"disk": disk, "operation": operation, "metric": metric, "depth": depth, "block_bytes": block, **more}


def disk_specs(
    disk: str,
    operation: str,
    depth: int,
    block: int = 4096,
    exits: float | None = None,
    distance: float = 1.2,
    fio: bool = False,
    **more: str | int,
) -> list[Spec]:
    """All metrics of one case: vm takes `distance` times its limit."""
    alone, least = HOST_NS[disk]
    size = max(1.0, block / (16 * KIB))
    slower = {"random_write": 1.3, "sequential_read": 0.9, "write_flush": 4.0}.get(operation, 1.0)
    bare = max(alone / depth, least) * size * slower
    kind = str(more.get("doorbell", "ioeventfd"))
    made = (1.0 / depth if exits is None else exits) * (0.0 if more.get("polling") else 1.0)
    sleeps = 0.0 if depth >= 8 else 14000.0 / depth
    vm = distance * (bare + made * DOORBELL_NS[kind]) + sleeps
    times = {"bare": bare, "vm": vm} | ({"fio": 1.15 * bare} if fio else {})
    large = block >= 64 * KIB
    rates = {name: block * 1e3 / ns if large else 1e6 / ns for name, ns in times.items()}

    def spec(metric: str, unit: str, direction: str, values: dict[str, float]) -> Spec:
        return Spec("io", "disk", params(disk, operation, metric, depth, block, **more), unit, direction, values)

    found = [spec("bandwidth" if large else "iops", "MB/s" if large else "kIOPS", "higher", rates)]
    for metric, factor in (("latency_p50", 0.95), ("latency_p99", 1.9), ("latency_p999", 4.1)):
        waits = {name: factor * ns * depth for name, ns in times.items()}
        found.append(spec(metric, "ns", "lower", waits))
    costs = {name: ns * (1.7 if name == "vm" else 0.8) for name, ns in times.items() if name != "fio"}
    found.append(spec("cpu", "ns/op", "lower", costs))
    found.append(spec("exits", "exits/op", "lower", {"vm": made}))
    return found


def signal_specs() -> list[Spec]:
    found = [Spec("io", "doorbell", {"kind": kind}, "ns/op", "lower", {"vm": ns}) for kind, ns in DOORBELL_NS.items()]
    interrupts = [Spec("lifecycle", name, {}, "ns/op", "lower", {"vm": ns}) for name, ns in INTERRUPT_NS.items()]
    return found + interrupts


def network_specs() -> list[Spec]:
    found = []
    for peer, factor in (("host", 1.0), ("guest", 1.7)):

        def add(metric: str, operation: str, frame: int, unit: str, bare: float | None, vm: float) -> None:
            named: dict[str, str | int] = {"frame_bytes": frame, "metric": metric, "operation": operation, "peer": peer}
            direction = "higher" if metric in ("bandwidth", "packets") else "lower"
            values = {"vm": vm} if bare is None else {"bare": bare, "vm": vm}
            found.append(Spec("io", "network", named, unit, direction, values))

        for metric, tail in (("latency_p50", 1.0), ("latency_p99", 1.6), ("latency_p999", 3.5)):
            add(metric, "ping_pong", 64, "ns", 21000 * tail, 58000 * tail * factor)
        add("exits", "ping_pong", 64, "exits/op", None, 2.0)
        add("bandwidth", "stream", 1500, "MB/s", 1900, 1240 / factor)
        add("cpu", "stream", 1500, "ns/packet", 700, 1400 * factor)
        add("exits", "stream", 1500, "exits/op", None, 0.0)
        add("bandwidth", "receive", 1500, "MB/s", 1700, 1190 / factor)
        add("cpu", "receive", 1500, "ns/packet", 800, 1500 * factor)
        add("exits", "receive", 1500, "exits/op", None, 0.0)
        add("packets", "packets", 64, "kpackets/s", 640, 410 / factor)
        add("cpu", "packets", 64, "ns/packet", 1500, 3100 * factor)
    return found


DEPTHS = (1, 2, 4, 8, 16, 32, 64, 128)


def specs(fio: bool = False, depths: tuple[int, ...] = DEPTHS) -> list[Spec]:
    """What the standard profile could measure."""
    found = []
    for disk in HOST_NS:
        for operation in ("random_read", "random_write", "sequential_read"):
            for depth in depths:
                beyond = disk == "ram" and operation == "random_write"
                with_fio = fio and disk == "file" and operation == "random_read"
                found += disk_specs(disk, operation, depth, fio=with_fio, distance=1.9 if beyond else 1.2)
        found += disk_specs(disk, "write_flush", 1)
        for block in (64 * KIB, 256 * KIB, MIB):
            found += disk_specs(disk, "sequential_read", 32, block)
    for depth in (1, 8, 32):
        found += disk_specs("ram", "random_read", depth, doorbell="exit")
        found += disk_specs("ram", "random_read", depth, polling="always")
    return found + signal_specs() + network_specs()


def document(fio: bool = False, rounds: int = 4, samples: int = 5, depths: tuple[int, ...] = DEPTHS) -> Raw:
    raw = synthetic.document(rounds=rounds, samples=samples, specs=specs(fio, depths))
    for entry in raw["nestbench"]["measurements"]:
        if "latency" in str(entry["params"].get("metric")) or entry["unit"] == "exits/op":
            for part in entry["rounds"]:
                part["samples"] = part["samples"][:1]  # one for each process
    if fio:
        entry = next(e for e in raw["nestbench"]["measurements"] if e["substrate"] == "fio")
        entry.update(status="unsupported", reason="fio is not installed: apt-get install fio", rounds=[])
    return raw


def take(raw: Raw, *prefixes: str) -> None:
    """Takes the measurements away whose ids begin so."""
    body = raw["nestbench"]
    body["measurements"] = [entry for entry in body["measurements"] if not entry["id"].startswith(prefixes)]
