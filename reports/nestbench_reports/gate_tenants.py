"""Density, isolation, attribution and containment under a policy. Pure; gate alone decides exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from nestbench_reports import attribution, containment, density, isolation
from nestbench_reports.attribution import Attribution, Proportion
from nestbench_reports.containment import Fault
from nestbench_reports.density import Ramp, Ratio
from nestbench_reports.errors import PolicyError
from nestbench_reports.experiments import CONTAINMENT, Experiment, Soak
from nestbench_reports.isolation import Cell, Matrix
from nestbench_reports.judgement import Judgement, Outcome, bounded, outcome_of_status
from nestbench_reports.model import OK, Document
from nestbench_reports.policy import AttributionRule, ContainmentRule, DensityRule, IsolationRule, Policy
from nestbench_reports.text import number, percent, plural, printable, ratio

AnyRule = AttributionRule | ContainmentRule | DensityRule | IsolationRule
Rule = TypeVar("Rule", bound=AnyRule)
MOST_NULL_FLAGGED = 0.05  # of the null row's cells
_RECALL = "recall"


def last_match(rules: Sequence[Rule], identifier: str) -> Rule | None:
    """The rule that decides: of those whose glob names the id, with its substrate or without, the last."""
    names = (identifier, identifier.rsplit("/", 1)[0])
    return next((rule for rule in reversed(rules) if any(fnmatchcase(name, rule.metric) for name in names)), None)


def _undecided(fail_when_inconclusive: bool) -> Outcome:
    return Outcome.INCONCLUSIVE if fail_when_inconclusive else Outcome.TOLERATED


def judge_isolation(policy: Policy, matrix: Matrix) -> list[Judgement]:
    found = []
    for cell in matrix.cells:
        rule = last_match(policy.isolation, cell.measurement.id)
        if rule is not None and not cell.is_null:
            found.append(_judge_cell(rule, cell))
    return found


def _judge_cell(rule: IsolationRule, cell: Cell) -> Judgement:
    name = cell.measurement.id
    if cell.status != OK or cell.isol_01 is None:
        status = cell.status if cell.status != OK else "error"
        reason = cell.reason or "isol-01 needs the throughput of both arms"
        return Judgement(name, rule.text, outcome_of_status(status, rule.required), status, reason)
    share = cell.isol_01
    outcome = bounded(share.low, share.high, rule.minimum, None, _undecided(rule.fail_when_inconclusive))
    if outcome is Outcome.FAIL and not rule.fail_below:
        outcome = Outcome.ACCEPTED
    spread = "no interval" if share.low is None or share.high is None else _spread(share.low, share.high)
    return Judgement(name, rule.text, outcome, f"isol-01 {percent(share.value)} [{spread}]", rule.reason)


def _spread(low: float, high: float) -> str:
    return f"{number(100 * low)}\N{EN DASH}{number(100 * high)} %"


def judge_density(policy: Policy, document: Document) -> list[Judgement]:
    ramps = density.ramps(document)
    ratios = {entry.above.experiment.id: entry for entry in density.density_ratios(ramps)}
    found = []
    for ramp in ramps:
        rule = last_match(policy.density, ramp.experiment.id)
        if rule is not None:
            found += _judge_ramp(rule, ramp, ratios.get(ramp.experiment.id))
    return found


def _judge_ramp(rule: DensityRule, ramp: Ramp, against: Ratio | None) -> list[Judgement]:
    name, undecided = ramp.experiment.id, _undecided(rule.fail_when_inconclusive)
    found = []
    if rule.min_guests is not None:
        low: float | None = ramp.most
        high: float | None = ramp.most
        if ramp.knee is not None:
            low, high = ramp.knee.low, ramp.knee.high
        text = plural(ramp.most, "guest")
        if low is not None and high is not None and low != high:
            text += f" [{low:,.0f}\N{EN DASH}{high:,.0f}]"
        outcome = bounded(low, high, rule.min_guests, None, undecided)
        if outcome is Outcome.FAIL and ramp.knee is not None and ramp.knee.is_open:
            outcome, text = undecided, f"{text}: nothing gave out, but more were not tried"
        found.append(Judgement(name, rule.text, outcome, text, rule.reason))
    if rule.min_ratio is not None:
        if against is None:
            outcome = Outcome.UNSUPPORTED if rule.required else Outcome.LACKING
            found.append(Judgement(name, rule.text, outcome, "no ratio", "no knee, or no ramp on bare beside it"))
        else:
            outcome = bounded(against.low, against.high, rule.min_ratio, None, undecided)
            if against.bound in ("at most", "unknown") and outcome is Outcome.PASS:
                outcome = undecided
            if against.bound in ("at least", "unknown") and outcome is Outcome.FAIL:
                outcome = undecided
            text = f"{against.bound} {ratio(against.value)} of bare".strip()
            found.append(Judgement(name, rule.text, outcome, text, rule.reason))
    return found


def judge_attribution(policy: Policy, document: Document) -> list[Judgement]:
    found = []
    for entry in attribution.attributions(document):
        rule = last_match(policy.attribution, entry.id)
        if rule is not None:
            found += _judge_scores(rule, entry)
    return found


def _judge_scores(rule: AttributionRule, entry: Attribution) -> list[Judgement]:
    rows: tuple[tuple[str, Proportion, float | None, float | None], ...] = (
        ("precision", entry.precision, rule.min_precision, None),
        (_RECALL, entry.recall, rule.min_recall, None),
        ("quiet windows with a false alarm", entry.quiet_alarms, None, rule.max_quiet_alarms),
    )
    found = []
    for words, proportion, least, most in rows:
        if least is None and most is None:
            continue
        text = f"{words} {proportion_text(proportion)}"
        value = proportion.value
        if value is None:
            outcome = Outcome.UNSUPPORTED if rule.required else Outcome.LACKING
        else:
            # Over many schedules the share itself is what is asked for; the interval says how far to trust it.
            is_within = (least is None or value >= least) and (most is None or value <= most)
            outcome = Outcome.PASS if is_within else Outcome.FAIL
        bound = f"{words} \N{GREATER-THAN OR EQUAL TO} {number(least)}" if least is not None else ""
        bound = bound or f"{words} \N{LESS-THAN OR EQUAL TO} {number(most or 0)}"
        found.append(Judgement(entry.id, f"{printable(rule.metric)} {bound}", outcome, text, rule.reason))
    return found


def proportion_text(proportion: Proportion) -> str:
    """`97.2 % (35 of 36), 95 % interval 85.8-99.5 %`"""
    value, interval = proportion.value, proportion.interval
    if value is None or interval is None:
        return "not measured"
    return f"{number(100 * value)} % ({proportion.hits:,} of {proportion.trials:,}) [{_spread(*interval)}]"


def judge_containment(policy: Policy, document: Document) -> list[Judgement]:
    """Without a rule every fault must be contained: a policy can relax that, never forget it."""
    found = [
        _judge_fault(last_match(policy.containment, fault.experiment.id), fault)
        for fault in containment.faults(document)
    ]
    for experiment, soak in containment.soaks(document):
        found.append(_judge_soak(last_match(policy.containment, experiment.id), experiment, soak))
    return found


def _containment_outcome(rule: ContainmentRule | None, ok: bool) -> Outcome:
    if ok:
        return Outcome.PASS
    return Outcome.FAIL if rule is None or rule.fail_when_not_ok else Outcome.ACCEPTED


def _judge_fault(rule: ContainmentRule | None, fault: Fault) -> Judgement:
    tries = plural(len(fault.tries), "try", "tries")
    text = f"contained and classified right in {tries}" if fault.ok else "; ".join(fault.why_not)
    outcome = _containment_outcome(rule, fault.ok)
    return Judgement(fault.experiment.id, CONTAINMENT, outcome, text, rule.reason if rule else "")


def _judge_soak(rule: ContainmentRule | None, experiment: Experiment, soak: Soak) -> Judgement:
    text = (
        f"{plural(soak.faults, 'fault')} among {plural(soak.guests, 'guest')} in {number(soak.duration_ns / 60e9)} min:"
        f" {soak.wrong} wrong, {soak.lost} lost"
    )
    outcome = _containment_outcome(rule, soak.is_clean)
    return Judgement(experiment.id, CONTAINMENT, outcome, text, rule.reason if rule else "")


def _check_rules(policy: Policy, document: Document, matrix: Matrix) -> list[str]:
    """Notes on rules that match nothing; PolicyError when one that is required does."""
    cells = [cell.measurement.id for cell in matrix.cells]
    experiments = [entry.id for entry in document.experiments]
    notes = []
    named: tuple[tuple[Sequence[AnyRule], list[str]], ...] = (
        (policy.isolation, cells),
        (policy.density, experiments),
        (policy.attribution, experiments),
        (policy.containment, experiments),
    )
    for rules, ids in named:
        for rule in rules:
            if any(last_match([rule], identifier) for identifier in ids):
                continue
            if rule.required:
                raise PolicyError(
                    f"{policy.name}: `{rule.text}` matches nothing in {document.name}; correct the glob, or say"
                    " `required = false` if a run may lack it"
                )
            notes.append(f"`{rule.text}` matches nothing here and is not required")
    null = matrix.null
    if null is not None and null.rate > MOST_NULL_FLAGGED:
        notes.append(
            f"isolation's null row: {null.flagged} of {plural(null.cells, 'cell')} flagged although nobody was there:"
            " this host is too unsteady for its verdicts on isolation"
        )
    return notes


def judge_tenants(policy: Policy, document: Document) -> tuple[list[Judgement], list[str]]:
    """Judgements and notes. PolicyError when a rule that is required matches nothing."""
    matrix = isolation.matrix(document)
    notes = _check_rules(policy, document, matrix)
    judgements = [
        *judge_density(policy, document),
        *judge_isolation(policy, matrix),
        *judge_attribution(policy, document),
        *judge_containment(policy, document),
    ]
    return judgements, notes
