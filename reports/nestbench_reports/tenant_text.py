"""Density, isolation, attribution and containment in words, as the terminal and the page both say them. Pure."""

from __future__ import annotations

from nestbench_reports.attribution import Proportion
from nestbench_reports.containment import Fault, NeighbourChange
from nestbench_reports.density import Knee, Ramp, Ratio
from nestbench_reports.isolation import Cell, Impact, NullRow, Share
from nestbench_reports.limits import Limit
from nestbench_reports.text import bytes_text, interval, number, percent, plural, quantity, ratio

DASH = "\N{EN DASH}"
LOADS = {
    "steady": "serving requests at a steady rate",
    "idle": "idle",
    "memory": "holding memory",
}


def time_text(nanoseconds: float | None) -> str:
    return DASH if nanoseconds is None else quantity(nanoseconds, "ns")


def count_range(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "no interval"
    return f"{low:,.0f}{DASH}{high:,.0f}"


def knee_text(ramp: Ramp) -> str:
    """`108`, `at least 64`; the most that ran where there is no objective."""
    if ramp.knee is None:
        return f"{ramp.most:,}"
    return f"at least {ramp.knee.guests:,}" if ramp.knee.is_open else f"{ramp.knee.guests:,}"


def knee_interval(knee: Knee | None) -> str:
    return DASH if knee is None else count_range(knee.low, knee.high)


def failure_text(ramp: Ramp) -> str:
    first = ramp.first_failure
    if first is None:
        return "none"
    how = first.evidence if first.how == "slo" else f"{first.how}: {first.evidence}".removesuffix(": ")
    return f"{first.guests:,}: {how}"


def limit_text(limit: Limit) -> str:
    return f"{limit.resource}: {limit.text}" if limit.resource else limit.text


def memory_text(value: float | None) -> str:
    return DASH if value is None else bytes_text(value)


def density_ratio_text(entry: Ratio) -> str:
    """`0.844 (0.81-0.87) of bare`"""
    spread = ""
    if entry.low is not None and entry.high is not None and entry.low < entry.high:
        spread = f" ({number(entry.low)}{DASH}{number(entry.high)})"
    if entry.bound == "unknown":
        return "neither knee was reached: no ratio"
    return f"{entry.bound} {ratio(entry.value)}{spread} of {entry.below.substrate}".strip()


def teardown_text(ramp: Ramp) -> str:
    end = ramp.end
    if end is None:
        return "did not end"
    left = end.left_behind
    gone = "nothing left" if left.nothing else f"left: {left.processes} processes, {left.cgroups} cgroups"
    if not left.nothing:
        gone += f", {left.files} files"
    return f"{time_text(end.teardown_ns)}, {gone}"


def share_text(share: Share | None) -> str:
    return DASH if share is None else f"{number(100 * share.value)} %"


def share_interval(share: Share | None) -> str:
    if share is None or share.low is None or share.high is None:
        return "no interval"
    return f"{number(100 * share.low)}{DASH}{number(100 * share.high)} %"


def impact_text(impact: Impact | None) -> str:
    return DASH if impact is None else f"{ratio(impact.ratio.value)} ({interval(impact.ratio)})"


def cell_name(cell: Cell) -> str:
    """`cpu_hog 100 %`"""
    return "nobody (null row)" if cell.is_null else f"{cell.aggressor} {cell.intensity} %"


def placement_text(placement: str) -> str:
    """`same CPU`"""
    return placement.replace("_", " ").replace("cpu", "CPU") or "any CPU"


def null_text(null: NullRow) -> str:
    if not null.cells:
        return f"Null row: {plural(null.single, 'cell')} of a single round each: no verdict that could be false"
    return (
        f"Null row: {null.flagged} of {plural(null.cells, 'cell')} with an idle neighbour flagged"
        f" ({percent(null.rate) if null.flagged else '0 %'} false positives; {null.beyond} of"
        f" {plural(null.ratios, 'ratio')} before the correction for their number)"
    )


def proportion_text(proportion: Proportion) -> str:
    """`96.7 % (58 of 60)`"""
    if proportion.value is None:
        return "nothing to score"
    return f"{number(100 * proportion.value)} % ({proportion.hits:,} of {proportion.trials:,})"


def proportion_interval(proportion: Proportion) -> str:
    found = proportion.interval
    return DASH if found is None else f"{number(100 * found[0])}{DASH}{number(100 * found[1])} %"


def per_hour_text(rate: float | None) -> str:
    return DASH if rate is None else f"{number(rate)} per hour"


def change_text(change: NeighbourChange | None) -> str:
    """`1.60 (1.58-1.62), hurt`"""
    if change is None:
        return DASH
    return f"{ratio(change.ratio.value)} ({interval(change.ratio)}), {change.verdict.value}"


def fault_verdict(fault: Fault) -> str:
    return "ok" if fault.ok else "not ok"


def called_text(fault: Fault) -> str:
    """`guest fault`, or `guest fault 18x, hang 2x (should be guest fault)`"""
    found = [(word.replace("_", " "), times) for word, times in fault.classifications]
    words = found[0][0] if len(found) == 1 else ", ".join(f"{word} {times}x" for word, times in found)
    expected = fault.setup.expected.replace("_", " ")
    return words if words == expected else f"{words} (should be {expected})"


def neighbours_text(fault: Fault) -> str:
    """`intact`, or what they lost."""
    lost = []
    if fault.checksums_wrong:
        lost.append(plural(fault.checksums_wrong, "wrong checksum"))
    if fault.restarted:
        lost.append(f"{fault.restarted:,} lost or restarted")
    return ", ".join(lost) or "intact"


def detection_text(fault: Fault) -> str:
    """The median, and the longest where it differs."""
    middle, most = time_text(fault.detection_median_ns), time_text(fault.detection_max_ns)
    return middle if middle == most else f"{middle}, at most {most}"
