"""Judges a document against a policy, and alone decides exit codes (DESIGN.md, "Exit codes"). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nestbench_reports import metrics
from nestbench_reports.compare import ABSENT, Comparison, Difference, compare
from nestbench_reports.errors import PolicyError
from nestbench_reports.experiments import CONTAINMENT
from nestbench_reports.gate_io import judge_io
from nestbench_reports.gate_tenants import judge_tenants
from nestbench_reports.judgement import Judgement as Judgement
from nestbench_reports.judgement import Outcome as Outcome
from nestbench_reports.judgement import bounded, outcome_of_status
from nestbench_reports.metrics import Metric
from nestbench_reports.model import OK, UNSUPPORTED, Document, Measurement
from nestbench_reports.policy import BaselineRule, Limit, Policy
from nestbench_reports.stats import Estimate, Verdict
from nestbench_reports.text import interval, number, percent, plural, printable, quantity, ratio


# The gravest outcome decides. Those that are not here do not fail a gate.
EXIT_CODES = {Outcome.REFUSED: 4, Outcome.BROKEN: 6, Outcome.FAIL: 1, Outcome.UNSUPPORTED: 5, Outcome.INCONCLUSIVE: 3}
_BROKEN = ("crashed", "error", "timeout")


@dataclass(frozen=True)
class GateResult:
    document: str
    policy: str
    judgements: tuple[Judgement, ...]
    notes: tuple[str, ...]
    comparison: Comparison | None = None

    @property
    def outcome(self) -> Outcome:
        present = {judgement.outcome for judgement in self.judgements}
        if present == {Outcome.LACKING}:
            return Outcome.UNSUPPORTED  # nothing was required, and nothing could be checked: that is no pass
        return next((outcome for outcome in EXIT_CODES if outcome in present), Outcome.PASS)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES.get(self.outcome, 0)

    def count(self, outcome: Outcome) -> int:
        return sum(judgement.outcome is outcome for judgement in self.judgements)

    @property
    def headline(self) -> str:
        """`pass: 41 of 45 judgements pass, 4 inconclusive (tolerated)`"""
        if self.outcome is Outcome.REFUSED:
            refused = next(entry for entry in self.judgements if entry.outcome is Outcome.REFUSED)
            return f"refused: {refused.text}"
        counts = Counter(judgement.outcome for judgement in self.judgements)
        parts = [f"{counts.pop(Outcome.PASS, 0):,} of {plural(len(self.judgements), 'check')} passed"]
        parts += [f"{counts[outcome]:,} {outcome.value}" for outcome in Outcome if counts[outcome]]
        return f"{self.outcome.value}: " + "; ".join(parts)


def exit_code_of_comparison(comparison: Comparison, tolerate_inconclusive: bool = False) -> int:
    """Exit code of `compare`, which has no policy: 1 with a regression, 3 when something is not settled, else 0."""
    if comparison.with_verdict(Verdict.REGRESSION):
        return 1
    statuses = {entry.status for entry in comparison.not_compared}
    if statuses & set(_BROKEN):
        return 6
    if "failed" in statuses:
        return 1
    if UNSUPPORTED in statuses:
        return 5
    unsettled = bool(comparison.with_verdict(Verdict.INCONCLUSIVE)) or ABSENT in statuses
    return 3 if unsettled and not tolerate_inconclusive else 0


def matches(glob: str, measurement_id: str) -> bool:
    """Whether a glob names a measurement, with its substrate or without."""
    return fnmatchcase(measurement_id, glob) or fnmatchcase(measurement_id.rsplit("/", 1)[0], glob)


def _within(limit: Limit, estimate: Estimate) -> Outcome:
    undecided = Outcome.INCONCLUSIVE if limit.fail_when_inconclusive else Outcome.TOLERATED
    low, high = (estimate.value, estimate.value) if limit.by_value else (estimate.low, estimate.high)
    return bounded(low, high, limit.minimum, limit.maximum, undecided)


def _judge_metric(limit: Limit, metric: Metric) -> Judgement:
    if metric.estimate is None:
        outcome = outcome_of_status(metric.status, limit.required)
        return Judgement(metric.name, limit.text, outcome, metric.status, metric.reason)
    text = f"{ratio(metric.estimate.value)} [{interval(metric.estimate)}]"
    return Judgement(metric.name, limit.text, _within(limit, metric.estimate), text, limit.reason)


def _judge_median(limit: Limit, measurement: Measurement) -> Judgement:
    if measurement.status != OK:
        outcome = outcome_of_status(measurement.status, limit.required)
        return Judgement(measurement.id, limit.text, outcome, measurement.status, measurement.reason)
    if measurement.unit != limit.unit:
        raise PolicyError(f"limit `{limit.text}`: {measurement.id} is measured in {measurement.unit}")
    estimate = metrics.absolute(measurement)
    if estimate is None:
        return Judgement(measurement.id, limit.text, Outcome.BROKEN, "no value", "the median is not positive")
    spread = (
        "no interval"
        if estimate.low is None or estimate.high is None
        else (f"{number(estimate.low)}\N{EN DASH}{number(estimate.high)}")
    )
    text = f"{quantity(estimate.value, measurement.unit)} [{spread}]"
    return Judgement(measurement.id, limit.text, _within(limit, estimate), text, limit.reason)


def _judge_limit(limit: Limit, document: Document, ratios: Iterable[Metric]) -> list[Judgement]:
    if limit.ratio is None:
        return [_judge_median(limit, entry) for entry in document.measurements if fnmatchcase(entry.id, limit.metric)]
    return [
        _judge_metric(limit, metric)
        for metric in ratios
        if metric.ratio_name == limit.ratio and matches(limit.metric, metric.numerator.id)
    ]


def _judge_difference(rule: BaselineRule, difference: Difference) -> Judgement | None:
    text, reason = difference.verdict.value, difference.reason
    if difference.status == ABSENT:
        outcome = Outcome.FAIL if rule.fail_when_missing else Outcome.LACKING
        text = "absent"
    elif difference.status != OK:
        outcome = outcome_of_status(difference.status, rule.fail_when_missing)
        text = difference.status
    else:
        assert difference.ratio is not None
        failing = difference.verdict in rule.fail_on
        inconclusive = difference.verdict is Verdict.INCONCLUSIVE
        if failing:
            outcome = Outcome.INCONCLUSIVE if inconclusive else Outcome.FAIL
        else:
            outcome = Outcome.TOLERATED if inconclusive else Outcome.PASS
        effect = "unknown" if difference.effect is None else percent(difference.effect)
        text = f"{text}: {ratio(difference.ratio.value)} [{interval(difference.ratio)}], minimum effect {effect}"
        if difference.required_rounds is not None:
            reason = f"{reason}; some {difference.required_rounds:,} rounds would settle it"
    return Judgement(difference.id, f"baseline {difference.of}", outcome, text, reason)


def _judge_baseline(rule: BaselineRule, baseline: Document, current: Document) -> tuple[Comparison, list[Judgement]]:
    for glob in rule.metrics:
        if not any(matches(glob, measurement.id) for measurement in baseline.measurements):
            raise PolicyError(f"[baseline]: `{printable(glob)}` matches nothing in {baseline.name}")
    comparison = compare(
        baseline,
        current,
        fdr=rule.fdr,
        of=rule.of,
        largest_effect=rule.largest_effect,
        wanted=lambda id_: any(matches(glob, id_) for glob in rule.metrics),
    )
    judged = (_judge_difference(rule, difference) for difference in comparison.differences)
    return comparison, [judgement for judgement in judged if judgement is not None]


def _judge_statuses(document: Document, judged: set[str]) -> list[Judgement]:
    """What no limit names still fails the gate when it went wrong: a wrong result or a crash is never passed over."""
    return [
        Judgement(entry.id, "status", outcome_of_status(entry.status, required=False), entry.status, entry.reason)
        for entry in document.measurements
        if entry.status not in (OK, UNSUPPORTED) and entry.id not in judged
    ]


def _is_of_absent_scenario(limit: Limit, document: Document) -> bool:
    """Whether a limit is on a scenario of which the document holds nothing: that run was not asked for it."""
    scenario = limit.metric.partition("/")[0]
    present = {entry.scenario for entry in document.measurements} | {entry.scenario for entry in document.experiments}
    return bool(present) and scenario.isidentifier() and scenario not in present


def gate(policy: Policy, document: Document, baseline: Document | None = None, *, whole: bool = True) -> GateResult:
    """PolicyError when the policy does not fit the document, EnvironmentRefusedError when the baseline does not.

    `whole`: the document must hold what the policy requires. Otherwise it may be of a run of other scenarios, and a
    limit on one that it lacks is a note.
    """
    if document.host.has_emulated_clock:
        text = "the clock of this host is emulated: its times mean nothing and no gate accepts them"
        return GateResult(document.name, policy.name, (Judgement("host", "clock", Outcome.REFUSED, text, ""),), ())
    ratios = metrics.metrics(document)
    judgements: list[Judgement] = []
    notes: list[str] = []
    for limit in policy.limits:
        found = _judge_limit(limit, document, ratios)
        if not found and not whole and _is_of_absent_scenario(limit, document):
            notes.append(f"the limit `{limit.text}` is on a scenario that this run did not measure")
            continue
        if not found and limit.required:
            raise PolicyError(
                f"{policy.name}: the limit `{limit.text}` matches nothing in {document.name}; correct the glob, or say"
                " `required = false` if a run may lack it"
            )
        if not found:
            notes.append(f"the limit `{limit.text}` matches nothing here and is not required")
        judgements += found
    of_tenants, remarks = judge_tenants(policy, document)
    of_io, of_disks = judge_io(policy, document, whole)
    judgements += of_tenants + of_io
    notes += remarks + of_disks
    comparison = None
    if baseline is not None:
        comparison, compared = _judge_baseline(policy.baseline, baseline, document)
        judgements += compared
    judgements += _judge_statuses(document, _named(judgements, ratios))
    if not judgements:
        raise PolicyError(
            f"{policy.name} judges nothing in {document.name}"
            + ("" if policy.limits else "; a policy of only a [baseline] needs --baseline")
        )
    if document.run.interrupted:
        notes.append("the run was interrupted: what it finished is judged")
    return GateResult(document.name, policy.name, tuple(judgements), tuple(notes), comparison)


def _named(judgements: list[Judgement], ratios: Iterable[Metric]) -> set[str]:
    """Ids of the measurements whose status a judgement already speaks of."""
    failed = {judgement.id for judgement in judgements if judgement.outcome in (Outcome.FAIL, Outcome.BROKEN)}
    sides = {side.id for metric in ratios if metric.name in failed for side in (metric.numerator, metric.denominator)}
    # The judgement on a fault has the last word on its measurement: that a zone does not contain it may be accepted.
    accepted = {judgement.id for judgement in judgements if judgement.rule == CONTAINMENT}
    return failed | sides | accepted
