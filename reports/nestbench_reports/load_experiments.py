"""Experiments of a document: raw JSON that the schema has accepted -> dataclasses, and what a schema cannot say."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from nestbench_reports.errors import DocumentError
from nestbench_reports.experiments import (
    CONTAINMENT,
    DENSITY,
    SOAK,
    Condition,
    ContainmentSetup,
    DensitySetup,
    End,
    Experiment,
    Failure,
    Record,
    Schedule,
    Soak,
    Step,
    Try,
)

T = TypeVar("T")
# Long lists of numbers in records: one for each guest or each window. Checked here, since the schema's check would need
# a second for each 10,000 of them.
AMOUNTS = ("throughput_per_s", "latency_p99_ns", "guest_per_s", "start_ns")
MAX_AMOUNT = 1e18

_KINDS: dict[str, type] = {
    "step": Step,
    "failure": Failure,
    "end": End,
    "schedule": Schedule,
    "try": Try,
    "soak": Soak,
    "condition": Condition,
}
_KEYS: dict[tuple[type, str], str] = {(Try, "number"): "try"}  # a field that cannot have its key's name


def raw_records(raw: Any) -> list[tuple[Any, dict[str, Any]]]:
    """(id, record) for all that have the right shape; whatever has not is for the schema's check to say."""
    experiments = raw.get("nestbench") if isinstance(raw, dict) else None
    experiments = experiments.get("experiments") if isinstance(experiments, dict) else None
    return [
        (experiment.get("id"), record)
        for experiment in (experiments if isinstance(experiments, list) else [])
        if isinstance(experiment, dict) and isinstance(experiment.get("records"), list)
        for record in experiment["records"]
        if isinstance(record, dict)
    ]


def check_amounts(raw: Any, refuse: Callable[[str], DocumentError], short: Callable[[Any], str]) -> None:
    for identifier, record in raw_records(raw):
        for key in AMOUNTS:
            values = record.get(key)
            for index, value in enumerate(values if isinstance(values, list) else []):
                # type(), not isinstance(): True is an int to Python, and no number to JSON.
                if type(value) not in (float, int) or not math.isfinite(value) or not 0 <= value <= MAX_AMOUNT:
                    raise refuse(f"{key}[{index}] of a record of {short(identifier)} is no amount: {short(value)}")


def without_amounts(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy of the key `nestbench`, as deep as needed, in which every checked list is empty."""
    experiments = body.get("experiments")
    if not isinstance(experiments, list):
        return body
    copies = []
    for experiment in experiments:
        if isinstance(experiment, dict) and isinstance(experiment.get("records"), list):
            records = [
                {key: [] if key in AMOUNTS and isinstance(value, list) else value for key, value in record.items()}
                if isinstance(record, dict)
                else record
                for record in experiment["records"]
            ]
            experiment = {**experiment, "records": records}
        copies.append(experiment)
    return {**body, "experiments": copies}


@lru_cache(maxsize=64)
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _convert(hint: Any, value: Any) -> Any:
    """A value of the schema's type as the field's: objects become dataclasses, lists tuples, whole numbers int."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value)
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if item is float:
            return tuple(map(float, value))
        return tuple(_convert(item, entry) for entry in value)
    if hint is int:  # 3.0 is an integer to JSON Schema
        return int(value)
    return float(value) if hint is float else value


def _build(kind: type[T], raw: Mapping[str, Any]) -> T:
    described: Any = kind  # mypy: a type variable is not hashable to it
    hints = _hints(described)
    return kind(
        **{
            field.name: _convert(hints[field.name], raw[_KEYS.get((kind, field.name), field.name)])
            for field in fields(described)
        }
    )


def _setup(raw: Mapping[str, Any]) -> DensitySetup | ContainmentSetup | Mapping[str, Any]:
    setup: Mapping[str, Any] = raw["setup"]
    if raw["scenario"] == DENSITY:
        return _build(DensitySetup, setup)
    if raw["scenario"] == CONTAINMENT and raw["workload"] != SOAK:
        return _build(ContainmentSetup, setup)
    return setup


def build_experiment(raw: Mapping[str, Any]) -> Experiment:
    records: tuple[Record, ...] = tuple(_build(_KINDS[record["kind"]], record) for record in raw["records"])
    return Experiment(raw["id"], raw["scenario"], raw["workload"], raw["substrate"], _setup(raw), records)


def check_experiments(experiments: tuple[Experiment, ...], refuse: Callable[[str, str], DocumentError]) -> None:
    """What JSON Schema cannot say. `refuse`: an error from an id and words."""
    seen: set[str] = set()
    for experiment in experiments:
        expected = f"{experiment.scenario}/{experiment.workload}/{experiment.substrate}"
        if experiment.id != expected:
            raise refuse(experiment.id, f"the id of the experiment does not agree with its parts, `{expected}`")
        if experiment.id in seen:
            raise refuse(experiment.id, "the experiment occurs twice")
        seen.add(experiment.id)
        for number, record in enumerate(experiment.records):
            why = _contradiction(experiment, record)
            if why:
                raise refuse(experiment.id, f"records[{number}]: {why}")
        tries = [entry.number for entry in experiment.tries]
        if len(set(tries)) != len(tries):
            raise refuse(experiment.id, "a try occurs twice")


def _contradiction(experiment: Experiment, record: Record) -> str:
    """In which way a record contradicts itself; empty when it does not."""
    if isinstance(record, Step):
        latency = record.latency_ns
        if not latency.p50 <= latency.p99 <= latency.p999 <= latency.max:
            return "latency_ns is not in order: p50, p99, p999, max"
        if len(record.guest_per_s) > record.guests:
            return f"guest_per_s has {len(record.guest_per_s)} entries for {record.guests} guests"
    elif isinstance(record, Schedule):
        if record.quiet and record.episodes:
            return "a quiet schedule has episodes"
        if not record.false_alarm_windows <= record.quiet_windows <= record.windows:
            return "not in order: false_alarm_windows, quiet_windows, windows"
        if any(episode.begin_ns > episode.end_ns for episode in record.episodes):
            return "an episode ends before it begins"
        named = [episode.guest for episode in record.episodes] + [entry.guest for entry in record.detections]
        if any(guest >= record.guests for guest in named):
            return f"guest {max(named)} of {record.guests}: they count from 0"
    elif isinstance(record, Try) and isinstance(experiment.setup, ContainmentSetup):
        if record.right and record.classification != experiment.setup.expected:
            return f"`{record.classification}` is called right where `{experiment.setup.expected}` is expected"
        if record.right and record.detection_ns is None:
            return "is called right and was never noticed"
    return ""
