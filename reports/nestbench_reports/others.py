"""Scenarios without a section of their own: what a document measures is shown, with ratios where it has any. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestbench_reports import io, metrics
from nestbench_reports.counted import SCENARIO as COSTS
from nestbench_reports.experiments import CONFORMANCE
from nestbench_reports.metrics import BARE, EXPERIMENTAL, VM, Metric
from nestbench_reports.model import Document, Measurement

OVERHEAD = "overhead"
# Scenarios whose times stand beside a floor, in the order they are shown.
FLOORED = {
    "exits": "Exits: cost of leaving the guest",
    "lifecycle": "Life cycle of a virtual machine",
    "hotpath": "Hot paths of the VMM library, without a guest",
}
_SHOWN_ELSEWHERE = (OVERHEAD, *FLOORED, COSTS, CONFORMANCE, *EXPERIMENTAL)
_TITLES = {"io": "I/O, more", "linux": "A Linux guest"}


@dataclass(frozen=True)
class Other:
    scenario: str
    title: str
    ratios: tuple[Metric, ...]  # vm/bare
    alone: tuple[Measurement, ...]  # measured, and in none of these ratios


def _is_other(measurement: Measurement) -> bool:
    return measurement.scenario not in _SHOWN_ELSEWHERE and not io.is_shown(measurement)


def others(document: Document, ratios: Sequence[Metric]) -> tuple[Other, ...]:
    names = dict.fromkeys(entry.scenario for entry in document.measurements if _is_other(entry))
    found = []
    for name in names:
        of_scenario = tuple(
            metric
            for metric in ratios
            if metric.numerator.scenario == name
            and _is_other(metric.numerator)
            and metric.ratio_name == f"{VM}/{BARE}"
            and metric.estimate is not None
        )
        paired = {side.id for metric in of_scenario for side in (metric.numerator, metric.denominator)}
        alone = tuple(
            entry
            for entry in document.measurements
            if entry.scenario == name
            and _is_other(entry)
            and entry.id not in paired
            and metrics.absolute(entry) is not None
        )
        if of_scenario or alone:
            title = _TITLES.get(name, name.replace("_", " ").replace("-", " ").capitalize())
            found.append(Other(name, title, of_scenario, alone))
    return tuple(found)
