"""Disks, doorbells, interrupts and networks of one document: what stands beside what, and how near to its limit. Pure.

The limit of a disk is what no batching can take away: the time of one operation on bare, and for each exit that an
operation still makes the price of a doorbell of the same kind, from the same document. The distance is the measured
time of one operation over that limit. Its interval comes from a bootstrap over pairs of processes (vm, bare and exits
ran side by side) and, apart from them, over the rounds of the doorbell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from nestbench_reports import metrics, stats
from nestbench_reports.metrics import BARE, EXITS, FIO, LEAST_EXITS, VM, Metric
from nestbench_reports.model import OK, UNSUPPORTED, Document, Measurement
from nestbench_reports.stats import Estimate, FloatArray
from nestbench_reports.text import bytes_text, number, printable, quantity

SCENARIO = "io"
DISK, DOORBELL, NETWORK = "disk", "doorbell", "network"
SUBSTRATES = (VM, BARE, FIO)
IOPS, BANDWIDTH, CPU, EXITS_METRIC = "iops", "bandwidth", "cpu", "exits"
LATENCIES = {"latency_p50": "p50", "latency_p99": "p99", "latency_p999": "p99.9"}
IOEVENTFD = "ioeventfd"  # with the kernel's help; without it: exit
BY_IRQFD, BY_IOCTL = "lifecycle/irqfd_wake/vm", "lifecycle/irq_line_wake/vm"
INTERRUPTS = {
    BY_IRQFD: "interrupt by irqfd, until the halted guest runs",
    BY_IOCTL: "interrupt by ioctl (KVM_IRQ_LINE), until the halted guest runs",
}
KIOPS, MB_PER_S = "kIOPS", "MB/s"
LEAST_DEPTH = 8  # of a limit
LINE = 1.5  # a distance within it is near
WHY_DEPTH = (
    "Only at depth 8 and more: with fewer operations under way the guest sleeps until each answer arrives, and what it"
    " then waits for (an interrupt, a thread that wakes) is no work that a limit could count."
)
DASH = "\N{EN DASH}"  # what is not there
_DISKS = {"ram": "RAM disk", "file": "file, O_DIRECT", "file_cached": "file, page cache"}
_WITHOUT_HELP = {"exit": "doorbells as exits", IOEVENTFD: "ioeventfd"}
_KNOWN = ("block_bytes", "depth", "disk", "operation", "doorbell", "polling", "metric")


@dataclass(frozen=True, order=True)
class Case:
    """One pattern on one disk: everything of a disk's id but the metric and the substrate."""

    disk: str
    operation: str
    block_bytes: int
    depth: int
    doorbell: str  # "": ioeventfd
    polling: str  # "": never
    more: tuple[tuple[str, str], ...] = ()  # keys that this program does not know

    @property
    def variant(self) -> str:
        """`doorbells as exits, polling`; empty for the plain device."""
        parts = [_WITHOUT_HELP.get(self.doorbell, f"doorbell {self.doorbell}")] if self.doorbell else []
        parts += [f"polling {self.polling}" if self.polling != "always" else "polling"] if self.polling else []
        parts += [f"{key.replace('_', ' ')} {value}" for key, value in self.more]
        return printable(", ".join(parts))

    @property
    def disk_name(self) -> str:
        return disk_name(self.disk)

    @property
    def pattern(self) -> str:
        """`random read, 4 KiB`"""
        return f"{printable(self.operation.replace('_', ' '))}, {bytes_text(self.block_bytes)}"

    @property
    def label(self) -> str:
        """`RAM disk, random read, 4 KiB, depth 32`"""
        parts = [self.disk_name, self.pattern, f"depth {self.depth}", self.variant]
        return ", ".join(part for part in parts if part)

    @property
    def doorbell_kind(self) -> str:
        return self.doorbell or IOEVENTFD


def disk_name(disk: str) -> str:
    return printable(_DISKS.get(disk, disk.replace("_", " ")))


@dataclass(frozen=True)
class Disk:
    """All metrics of one case, by metric and substrate."""

    case: Case
    measurements: tuple[Measurement, ...]

    def get(self, metric: str, substrate: str) -> Measurement | None:
        return next(
            (m for m in self.measurements if m.substrate == substrate and m.params.get("metric") == metric), None
        )

    def rate(self, substrate: str) -> Measurement | None:
        """Its IOPS, or the bandwidth where blocks are large."""
        return self.get(IOPS, substrate) or self.get(BANDWIDTH, substrate)


@dataclass(frozen=True, order=True)
class Path:
    """One way of frames: everything of a network's id but the metric and the substrate."""

    operation: str
    peer: str
    frame_bytes: int
    more: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """`ping pong, 64 B, with the host`"""
        parts = [self.operation.replace("_", " "), f"{self.frame_bytes:,} B"]
        parts.append(self.peer_text)
        parts += [f"{key.replace('_', ' ')} {value}" for key, value in self.more]
        return printable(", ".join(parts))

    @property
    def peer_text(self) -> str:
        return printable({"host": "with the host", "guest": "with another guest"}.get(self.peer, self.peer))


@dataclass(frozen=True)
class Network:
    path: Path
    measurements: tuple[Measurement, ...]

    def get(self, metric: str, substrate: str) -> Measurement | None:
        return next(
            (m for m in self.measurements if m.substrate == substrate and m.params.get("metric") == metric), None
        )


class Near(Enum):
    WITHIN = "within"
    BEYOND = "beyond"
    NOT_SETTLED = "not settled"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Limit:
    """How near one disk is to what it must cost at least. Times are for one operation."""

    case: Case
    rate: Measurement  # of vm
    status: str
    reason: str  # why there is no distance
    measured_ns: float | None
    bare_ns: float | None
    exits: float | None  # for each operation
    doorbell_ns: float | None
    distance: Estimate | None  # None unless status is ok

    @property
    def limit_ns(self) -> float | None:
        if self.bare_ns is None or self.exits is None or self.doorbell_ns is None:
            return None
        return self.bare_ns + self.exits * self.doorbell_ns

    def near(self, line: float = LINE) -> Near:
        if self.distance is None:
            return Near.UNKNOWN
        if self.distance.low is None or self.distance.high is None:
            return Near.NOT_SETTLED
        if self.distance.high <= line:
            return Near.WITHIN
        return Near.BEYOND if self.distance.low > line else Near.NOT_SETTLED


def _more(measurement: Measurement, known: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, str(value)) for key, value in sorted(measurement.params.items()) if key not in known)


def _disk_case(measurement: Measurement) -> Case | None:
    params = measurement.params
    block, depth = params.get("block_bytes"), params.get("depth")
    if measurement.scenario != SCENARIO or measurement.workload != DISK or "metric" not in params:
        return None
    if not isinstance(block, int) or not isinstance(depth, int) or block <= 0 or depth <= 0:
        return None
    disk, operation, doorbell, polling = (
        str(params.get(key, "")) for key in ("disk", "operation", "doorbell", "polling")
    )
    return Case(disk, operation, block, depth, doorbell, polling, _more(measurement, _KNOWN))


def _path(measurement: Measurement) -> Path | None:
    params = measurement.params
    frame = params.get("frame_bytes")
    if measurement.scenario != SCENARIO or measurement.workload != NETWORK or "metric" not in params:
        return None
    if not isinstance(frame, int) or frame <= 0:
        return None
    known = ("frame_bytes", "metric", "operation", "peer")
    return Path(str(params.get("operation", "")), str(params.get("peer", "")), frame, _more(measurement, known))


def disks(document: Document) -> tuple[Disk, ...]:
    """Every case, disks and operations together, in the order of the document; depths ascend."""
    groups: dict[Case, list[Measurement]] = {}
    for measurement in document.measurements:
        if (case := _disk_case(measurement)) is not None:
            groups.setdefault(case, []).append(measurement)
    names = [list(dict.fromkeys(getattr(case, key) for case in groups)) for key in ("disk", "operation")]

    def place(case: Case) -> tuple[object, ...]:
        where = names[0].index(case.disk), names[1].index(case.operation)
        return *where, case.block_bytes, case.variant, case.depth

    return tuple(Disk(case, tuple(groups[case])) for case in sorted(groups, key=place))


def networks(document: Document) -> tuple[Network, ...]:
    groups: dict[Path, list[Measurement]] = {}
    for measurement in document.measurements:
        if (path := _path(measurement)) is not None:
            groups.setdefault(path, []).append(measurement)
    return tuple(Network(path, tuple(found)) for path, found in groups.items())


def signals(document: Document) -> tuple[Measurement, ...]:
    """Doorbells that were measured, and beside them the interrupts of the scenario `exits`."""
    measured = [entry for entry in document.measurements if entry.status == OK]
    doorbells = [entry for entry in measured if entry.scenario == SCENARIO and entry.workload == DOORBELL]
    interrupts = [entry for entry in measured if entry.id in INTERRUPTS]
    return (*doorbells, *interrupts) if doorbells else ()


def is_shown(measurement: Measurement) -> bool:
    """Whether it is of a kind that has its place in the tables and charts of this scenario."""
    if measurement.scenario != SCENARIO:
        return False
    return measurement.workload == DOORBELL or _disk_case(measurement) is not None or _path(measurement) is not None


def signal_name(measurement: Measurement) -> str:
    """`doorbell by ioeventfd`"""
    if measurement.id in INTERRUPTS:
        return INTERRUPTS[measurement.id]
    kind = str(measurement.params.get("kind", "?"))
    words = {"exit": "exit to user space"}.get(kind, kind)
    return printable(f"{measurement.workload} by {words}")


def without_help(document: Document) -> tuple[tuple[str, Estimate], ...]:
    """(`a doorbell`, cost of one without the kernel's help over one with it)."""
    found = []
    for what, plain, helped in (
        ("a doorbell", f"{SCENARIO}/{DOORBELL}/kind=exit/{VM}", f"{SCENARIO}/{DOORBELL}/kind={IOEVENTFD}/{VM}"),
        ("an interrupt", BY_IOCTL, BY_IRQFD),
    ):
        above, below = document.by_id.get(plain), document.by_id.get(helped)
        if above is None or below is None or (metric := metrics.metric(above, below)).estimate is None:
            continue
        found.append((what, metric.estimate))
    return tuple(found)


def time_of(rate: FloatArray, unit: str, block_bytes: int) -> FloatArray:
    """ns for one operation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        each: FloatArray = 1e6 / rate if unit == KIOPS else block_bytes * 1e3 / rate
    return each


def _fault(parts: Iterable[tuple[str, Measurement | None, tuple[str, ...]]]) -> tuple[str, str]:
    """Status and reason of the first part that is of no use: (what, measurement, units it may have)."""
    for what, part, units in parts:
        if part is None:
            return UNSUPPORTED, f"{what} was not measured"
        if part.status != OK:
            return part.status, f"{what}: {part.reason}"
        if part.unit not in units:
            return "error", f"{what} is in {part.unit}, not {' or '.join(units)}"
    return OK, ""


def _clamped(samples: FloatArray) -> FloatArray:
    return np.maximum(samples, 0.0)


def limit(document: Document, disk: Disk, rate: Measurement) -> Limit:
    """`rate`: of vm."""
    case = disk.case
    bare = disk.get(str(rate.params["metric"]), BARE)
    exits = disk.get(EXITS_METRIC, VM)
    kind = case.doorbell_kind
    doorbell = document.by_id.get(f"{SCENARIO}/{DOORBELL}/kind={kind}/{VM}")
    status, reason = _fault(
        (
            ("vm", rate, (KIOPS, MB_PER_S)),
            ("bare", bare, (rate.unit,)),
            ("exits for each operation", exits, (EXITS,)),
            (f"the doorbell by {kind}", doorbell, ("ns/op",)),
        )
    )
    if status != OK or bare is None or exits is None or doorbell is None:
        return Limit(case, rate, status, reason, None, None, None, None, None)
    medians = [metrics.absolute(entry) for entry in (rate, bare, doorbell)]
    if any(entry is None for entry in medians):
        return Limit(case, rate, "error", "a median is not positive", None, None, None, None, None)
    measured_ns, bare_ns = (
        float(time_of(np.array(entry.value), rate.unit, case.block_bytes)) for entry in medians[:2] if entry
    )
    per_operation = stats.location([_clamped(samples) for samples in exits.samples_by_round.values()])
    doorbell_ns = medians[2].value if medians[2] is not None else None
    sides = [entry.samples_by_pair for entry in (rate, bare, exits)]
    common = sorted(sides[0].keys() & sides[1].keys() & sides[2].keys())
    distance = None
    if common:

        def formula(vm: FloatArray, host: FloatArray, made: FloatArray, ring: FloatArray) -> FloatArray:
            least = time_of(host, rate.unit, case.block_bytes) + _clamped(made) * ring
            return time_of(vm, rate.unit, case.block_bytes) / least

        distance = stats.paired_value(
            formula,
            [[side[pair] for pair in common] for side in sides],
            list(doorbell.samples_by_round.values()),
            rounds=len({number_ for number_, _arm in common}),
        )
    if distance is None:
        why = "vm, bare and exits were not measured side by side" if not common else "a median is not positive"
        return Limit(case, rate, "error", why, measured_ns, bare_ns, per_operation, doorbell_ns, None)
    return Limit(case, rate, OK, "", measured_ns, bare_ns, per_operation, doorbell_ns, distance)


def limits(document: Document) -> tuple[Limit, ...]:
    """Of every case of depth 8 or more whose rate was asked for in a guest, also where no limit can be told."""
    found = []
    for disk in disks(document):
        rate = disk.rate(VM)
        if disk.case.depth >= LEAST_DEPTH and rate is not None:
            found.append(limit(document, disk, rate))
    return tuple(found)


def ratios_by_id(ratios: Iterable[Metric], name: str = f"{VM}/{BARE}") -> dict[str, Metric]:
    """Ratios of the scenario, by the id of their numerator."""
    return {m.numerator.id: m for m in ratios if m.numerator.scenario == SCENARIO and m.ratio_name == name}


# ---- words ----


def median_text(measurement: Measurement | None) -> str:
    """The median in its unit; few exits as what they are."""
    estimate = None if measurement is None else metrics.absolute(measurement)
    if measurement is None or estimate is None:
        return DASH
    if metrics.is_of_exits(measurement):
        return exits_text(estimate.value, measurement.unit)
    return quantity(estimate.value, measurement.unit)


def exits_text(value: float, unit: str = EXITS) -> str:
    """`0.083 exits/op`; `none` below one in a thousand."""
    return "none" if value <= LEAST_EXITS * 1.000001 else f"{number(value, 2)} {printable(unit)}"


def near_text(found: Limit, line: float = LINE) -> str:
    words = {
        Near.WITHIN: f"within {number(line, 2)}\N{MULTIPLICATION SIGN}",
        Near.BEYOND: f"not within {number(line, 2)}\N{MULTIPLICATION SIGN}",
        Near.NOT_SETTLED: "not settled",
        Near.UNKNOWN: f"{found.status}: {found.reason}",
    }
    return printable(words[found.near(line)])


def within_text(found: Sequence[Limit]) -> str:
    """`53 of 58 are within 1.5x of their limit, 5 are not`; what is not settled counts as neither."""
    known = [limit.near() for limit in found if limit.distance is not None]
    line = f"{number(LINE, 2)}\N{MULTIPLICATION SIGN}"
    parts = [
        f"{known.count(Near.WITHIN)} of {len(known)} are within {line} of their limit",
        f"{known.count(Near.BEYOND)} are not" if Near.BEYOND in known else "",
        f"{known.count(Near.NOT_SETTLED)} are not settled" if Near.NOT_SETTLED in known else "",
    ]
    return ", ".join(part for part in parts if part)


def metric_name(measurement: Measurement) -> str:
    """`p99.9` for latency_p999."""
    metric = str(measurement.params.get("metric", ""))
    return printable(LATENCIES.get(metric, metric.replace("_", " ")))
