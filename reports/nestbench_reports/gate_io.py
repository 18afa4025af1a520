"""How near disks are to their limit, under a policy. Pure; gate alone decides exit codes."""

from __future__ import annotations

from fnmatch import fnmatchcase

from nestbench_reports import io
from nestbench_reports.errors import PolicyError
from nestbench_reports.io import Limit
from nestbench_reports.judgement import Judgement, Outcome, bounded, outcome_of_status
from nestbench_reports.model import Document
from nestbench_reports.policy import IoRule, Policy
from nestbench_reports.text import interval, ratio


def _names(rule: IoRule, limit: Limit) -> bool:
    return any(fnmatchcase(name, rule.metric) for name in (limit.rate.id, limit.rate.key))


def _judge(rule: IoRule, limit: Limit) -> Judgement:
    name = f"{limit.rate.key} vm/limit"
    if limit.distance is None:
        outcome = outcome_of_status(limit.status, rule.required)
        return Judgement(name, rule.text, outcome, limit.status, limit.reason)
    undecided = Outcome.INCONCLUSIVE if rule.fail_when_inconclusive else Outcome.TOLERATED
    outcome = bounded(limit.distance.low, limit.distance.high, None, rule.max_distance, undecided)
    if outcome is Outcome.FAIL and not rule.fail_beyond:
        outcome = Outcome.ACCEPTED
    text = f"{ratio(limit.distance.value)} [{interval(limit.distance)}]"
    return Judgement(name, rule.text, outcome, text, rule.reason)


def judge_io(policy: Policy, document: Document, whole: bool) -> tuple[list[Judgement], list[str]]:
    """Judgements and notes; of several rules for one disk the last decides.

    PolicyError when one that is required matches nothing, unless the document is of a run without the scenario and need
    not be `whole`.
    """
    if not policy.io:
        return [], []
    limits = io.limits(document)
    notes = []
    absent = not any(entry.scenario == io.SCENARIO for entry in document.measurements)
    for rule in policy.io:
        if any(_names(rule, limit) for limit in limits):
            continue
        if rule.required and (whole or not absent):
            raise PolicyError(
                f"{policy.name}: `{rule.text}` matches nothing in {document.name}; correct the glob, or say"
                " `required = false` if a run may lack it"
            )
        notes.append(f"`{rule.text}` matches nothing here" + (" and is not required" if not rule.required else ""))
    found = []
    for limit in limits:
        rule_ = next((rule for rule in reversed(policy.io) if _names(rule, limit)), None)
        if rule_ is not None:
            found.append(_judge(rule_, limit))
    return found, notes
