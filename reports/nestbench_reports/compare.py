"""Two documents: is the second better or worse than the first, metric by metric. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nestbench_reports import isolation, metrics, stats
from nestbench_reports.errors import EnvironmentRefusedError
from nestbench_reports.metrics import Metric
from nestbench_reports.model import OK, Document, Measurement
from nestbench_reports.stats import Estimate, Verdict

MEDIAN = "median"
OF = (MEDIAN, "vm/bare", "vm/floor")  # what is compared unless something else is asked for
FDR = 0.05
ABSENT = "absent"


@dataclass(frozen=True)
class EnvironmentDifference:
    what: str
    baseline: str
    current: str


@dataclass(frozen=True)
class Difference:
    """One metric in both documents. `ratio` is current over baseline as a cost: above 1 is worse."""

    id: str  # id of the measurement, or `key vm/bare` for a ratio
    of: str  # "median", "vm/bare", ...
    unit: str  # "x" for ratios
    status: str  # ok, absent, or the status that kept the current document from having it
    reason: str
    baseline: Estimate | None
    current: Estimate | None
    ratio: Estimate | None
    effect: float | None
    p_value: float
    adjusted_p: float
    verdict: Verdict
    required_rounds: int | None  # rounds that would settle an inconclusive one


@dataclass(frozen=True)
class Comparison:
    baseline: str
    current: str
    fdr: float
    environment: tuple[EnvironmentDifference, ...]
    differences: tuple[Difference, ...]

    def with_verdict(self, verdict: Verdict) -> tuple[Difference, ...]:
        return tuple(entry for entry in self.differences if entry.status == OK and entry.verdict is verdict)

    @property
    def not_compared(self) -> tuple[Difference, ...]:
        return tuple(entry for entry in self.differences if entry.status != OK)


def _environment(document: Document) -> dict[str, str]:
    host, build = document.host, document.build
    described = {
        "microcode": host.cpu.microcode,
        "CPU stepping": str(host.cpu.stepping),
        "kernel": host.kernel,
        "kernel command line": host.cmdline,
        "KVM module": host.kvm.module,
        "CPUs": str(host.topology.cpus),
        "NUMA nodes": str(host.topology.numa_nodes),
        "memory bytes": str(host.topology.memory_bytes),
        "clock source": host.clock_source,
        "transparent huge pages": host.huge_pages.thp,
        "level": host.level.value,
        "hypervisor": host.hypervisor_signature,
        "guest kernel mode": host.supervisor_execution,
        "guest user mode": host.user_execution,
        "profile": document.run.profile,
        "nestbench version": f"{build.version} ({build.commit})",
        "compiler": f"{build.compiler} {build.flags} {build.type}",
    }
    described.update({f"mitigation {name}": text for name, text in host.mitigations.items()})
    described.update({f"parameter {name}": text for name, text in host.kvm.parameters.items()})
    described.update({f"image {name}": digest for name, digest in document.images.items()})
    return described


def environment_differences(baseline: Document, current: Document) -> tuple[EnvironmentDifference, ...]:
    """What differs between the two and may explain a difference in the times."""
    before, after = _environment(baseline), _environment(current)
    return tuple(
        EnvironmentDifference(what, before.get(what, "(none)"), after.get(what, "(none)"))
        for what in sorted(before.keys() | after.keys())
        if before.get(what) != after.get(what)
    )


def check_comparable(baseline: Document, current: Document) -> None:
    """Raises EnvironmentRefusedError when no comparison of these two means anything."""
    for document in (baseline, current):
        if document.host.has_emulated_clock:
            raise EnvironmentRefusedError(f"{document.name} was measured on an emulated clock: its times mean nothing")
    if baseline.schema != current.schema:
        raise EnvironmentRefusedError(f"the documents differ in schema: {baseline.schema} and {current.schema}")
    models = [
        (d.host.cpu.vendor, d.host.cpu.model_name, d.host.cpu.family, d.host.cpu.model) for d in (baseline, current)
    ]
    if models[0] != models[1]:
        names = ["{} {} (family {}, model {})".format(*model) for model in models]
        raise EnvironmentRefusedError(f"the documents come from different CPU models: {names[0]} and {names[1]}")


@dataclass(frozen=True)
class _Side:
    """One metric of one document, as compare needs it."""

    status: str
    reason: str
    estimate: Estimate | None
    nulls: tuple[Estimate | None, ...]
    unit: str
    direction: str


def _impact_side(document: Document, measurement: Measurement) -> _Side:
    """How much the aggressor costs the victim: an absolute figure of two conditions would mix them."""
    estimate = isolation.impact_ratio(measurement)
    status, reason = measurement.status, measurement.reason
    if status == OK and estimate is None:
        status, reason = "error", "no round has both arms with a figure above zero"
    nulls = isolation.null_impacts(document, measurement) or (None,)
    return _Side(status, reason, estimate, nulls, "x", "lower")


def _measurement_side(measurement: Measurement) -> _Side:
    estimate = metrics.absolute(measurement)
    status, reason = measurement.status, measurement.reason
    if status == OK and estimate is None:
        status, reason = "error", "the median is not positive"
    return _Side(status, reason, estimate, (metrics.null_ratio(measurement),), measurement.unit, measurement.direction)


def _metric_side(metric: Metric) -> _Side:
    nulls = (metric.numerator_null, metric.denominator_null)
    return _Side(metric.status, metric.reason, metric.estimate, nulls, "x", "lower")


def _sides(document: Document, of: Iterable[str], wanted: Callable[[str], bool]) -> dict[tuple[str, str], _Side]:
    """Metrics by (what, id), in the order of the document."""
    chosen = set(of)
    sides: dict[tuple[str, str], _Side] = {}
    for measurement in document.measurements:
        if MEDIAN in chosen and wanted(measurement.id):
            is_isolation = measurement.is_isolation
            side = _impact_side(document, measurement) if is_isolation else _measurement_side(measurement)
            sides[MEDIAN, measurement.id] = side
        for below in metrics.denominators(document, measurement):
            name = f"{measurement.substrate}/{below.substrate}"
            if name in chosen and wanted(measurement.id):
                sides[name, f"{measurement.key} {name}"] = _metric_side(metrics.metric(measurement, below))
    return sides


@dataclass(frozen=True)
class _Pair:
    of: str
    id: str
    baseline: _Side
    current: _Side | None
    ratio: Estimate | None
    effect: float | None

    @property
    def p_value(self) -> float:
        return 1.0 if self.ratio is None or self.effect is None else stats.p_value(self.ratio, self.effect)


def _pair(of: str, name: str, before: _Side, after: _Side | None) -> _Pair:
    if after is None or before.estimate is None or after.estimate is None or before.unit != after.unit:
        return _Pair(of, name, before, after, None, None)
    ratio = metrics.cost(stats.independent_ratio(after.estimate, before.estimate), before.direction)
    return _Pair(of, name, before, after, ratio, stats.minimum_effect((*before.nulls, *after.nulls)))


def _status(pair: _Pair) -> tuple[str, str]:
    if pair.current is None:
        return ABSENT, "measured in the baseline, not in this document"
    if pair.current.status != OK:
        return pair.current.status, pair.current.reason
    if pair.baseline.unit != pair.current.unit:
        return "error", f"the unit was {pair.baseline.unit} and is {pair.current.unit}"
    return OK, ""


def _difference(pair: _Pair, adjusted_p: float, fdr: float, largest_effect: float) -> Difference:
    status, reason = _status(pair)
    verdict, rounds = Verdict.INCONCLUSIVE, None
    if pair.ratio is not None:
        verdict = stats.verdict(pair.ratio, pair.effect, adjusted_p, fdr, largest_effect)
        if verdict is Verdict.INCONCLUSIVE:
            reason, rounds = _why_inconclusive(pair.ratio, pair.effect, largest_effect)
    return Difference(
        pair.id,
        pair.of,
        pair.baseline.unit,
        status,
        reason,
        pair.baseline.estimate,
        pair.current.estimate if pair.current else None,
        pair.ratio,
        pair.effect,
        pair.p_value,
        adjusted_p,
        verdict,
        rounds,
    )


def _why_inconclusive(ratio: Estimate, effect: float | None, largest_effect: float) -> tuple[str, int | None]:
    if ratio.low is None:
        return "fewer than two rounds on a side: nothing is known about the spread", None
    if effect is None:
        return "no A/A interval: nothing is known about what identical runs differ by here", None
    rounds = stats.required_rounds(ratio, effect)
    if effect > largest_effect:
        return (
            f"identical runs differ by up to {100 * effect:.0f} % here: too noisy to call anything equivalent",
            rounds,
        )
    if rounds is None:
        return "the difference lies at the minimum effect itself: more rounds would not settle it", None
    if rounds <= ratio.rounds:
        return "does not stand against the number of metrics (false discovery rate)", rounds
    return "the interval straddles the minimum effect", rounds


def compare(
    baseline: Document,
    current: Document,
    *,
    fdr: float = FDR,
    of: Iterable[str] = OF,
    largest_effect: float = stats.LARGEST_EFFECT,
    wanted: Callable[[str], bool] = lambda _id: True,
) -> Comparison:
    """Judges every metric that the baseline measured. EnvironmentRefusedError when the two cannot be compared."""
    check_comparable(baseline, current)
    kinds = tuple(of)
    before, after = _sides(baseline, kinds, wanted), _sides(current, kinds, wanted)
    pairs = [
        _pair(of_, name, side, after.get((of_, name))) for (of_, name), side in before.items() if side.status == OK
    ]
    if not any(pair.ratio is not None for pair in pairs):
        raise EnvironmentRefusedError(f"{baseline.name} and {current.name} have no measured metric in common")
    judged = [index for index, pair in enumerate(pairs) if pair.ratio is not None]
    adjusted = dict(zip(judged, stats.benjamini_hochberg([pairs[index].p_value for index in judged]), strict=True))
    differences = tuple(
        _difference(pair, adjusted.get(index, 1.0), fdr, largest_effect) for index, pair in enumerate(pairs)
    )
    return Comparison(baseline.name, current.name, fdr, environment_differences(baseline, current), differences)


def _estimate_to_json(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "rounds": estimate.rounds,
        "samples": estimate.samples,
    }


def to_json(comparison: Comparison) -> dict[str, object]:
    """What `compare --json` prints."""
    return {
        "schema": "nestbench.comparison/1",
        "baseline": comparison.baseline,
        "current": comparison.current,
        "fdr": comparison.fdr,
        "environment": [
            {"what": entry.what, "baseline": entry.baseline, "current": entry.current}
            for entry in comparison.environment
        ],
        "counts": {verdict.value: len(comparison.with_verdict(verdict)) for verdict in Verdict},
        "differences": [
            {
                "id": entry.id,
                "of": entry.of,
                "unit": entry.unit,
                "status": entry.status,
                "verdict": entry.verdict.value if entry.status == OK else None,
                "reason": entry.reason,
                "baseline": _estimate_to_json(entry.baseline),
                "current": _estimate_to_json(entry.current),
                "cost_ratio": _estimate_to_json(entry.ratio),
                "minimum_effect": entry.effect,
                "p_value": entry.p_value,
                "adjusted_p_value": entry.adjusted_p,
                "required_rounds": entry.required_rounds,
            }
            for entry in comparison.differences
        ],
    }
