"""What a check of the gate can end in. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nestbench_reports.model import UNSUPPORTED


class Outcome(Enum):
    """What became of one metric under one limit."""

    PASS = "pass"
    TOLERATED = "inconclusive, tolerated"  # the policy lets an inconclusive one pass
    ACCEPTED = "outside, accepted"  # the policy wants it shown, not failed
    LACKING = "unsupported, not required"
    INCONCLUSIVE = "inconclusive"
    UNSUPPORTED = "unsupported"
    FAIL = "fail"
    BROKEN = "broken"
    REFUSED = "refused"


# Outcomes that do not fail a gate.
HARMLESS = (Outcome.PASS, Outcome.TOLERATED, Outcome.ACCEPTED, Outcome.LACKING)


@dataclass(frozen=True)
class Judgement:
    """One metric under one limit, under the baseline rule, or by its mere status."""

    id: str
    rule: str
    outcome: Outcome
    text: str  # what was seen, in words
    reason: str  # why the limit is as it is; why the metric has no value


def outcome_of_status(status: str, required: bool) -> Outcome:
    if status == UNSUPPORTED:
        return Outcome.UNSUPPORTED if required else Outcome.LACKING
    return Outcome.FAIL if status == "failed" else Outcome.BROKEN


def bounded(
    low: float | None, high: float | None, minimum: float | None, maximum: float | None, undecided: Outcome
) -> Outcome:
    """Pass when the whole interval is within, fail when the whole interval is outside, else undecided."""
    if low is None or high is None:
        return undecided
    if maximum is not None and low > maximum:
        return Outcome.FAIL
    if minimum is not None and high < minimum:
        return Outcome.FAIL
    above = minimum is None or low >= minimum
    below = maximum is None or high <= maximum
    return Outcome.PASS if above and below else undecided
