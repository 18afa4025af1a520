"""Gate policies: TOML text -> frozen dataclasses. An unknown key or a wrong type is a PolicyError. Pure."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from nestbench_reports import compare, isolation, stats
from nestbench_reports.errors import PolicyError
from nestbench_reports.stats import Verdict
from nestbench_reports.text import number, printable

RATIOS = ("vm/bare", "vm/floor", "vm/fio", "fio/bare")


@dataclass(frozen=True)
class Limit:
    metric: str  # glob over ids, with or without the substrate
    ratio: str | None  # None: the median itself, in `unit`
    unit: str | None
    minimum: float | None
    maximum: float | None
    required: bool  # False: a host may lack it
    fail_when_inconclusive: bool
    reason: str
    by_value: bool = False  # by the value itself, not by its interval: for what is counted and not sampled

    @property
    def text(self) -> str:
        """`overhead/cpu_* vm/bare <= 1.10`"""
        bounds = []
        if self.minimum is not None:
            bounds.append(f"\N{GREATER-THAN OR EQUAL TO} {number(self.minimum)}")
        if self.maximum is not None:
            bounds.append(f"\N{LESS-THAN OR EQUAL TO} {number(self.maximum)}")
        unit = f" {self.unit}" if self.unit else ""
        return printable(f"{self.metric} {self.ratio or 'median'} {' and '.join(bounds)}{unit}")


@dataclass(frozen=True)
class BaselineRule:
    metrics: tuple[str, ...] = ("*",)
    of: tuple[str, ...] = compare.OF
    fail_on: frozenset[Verdict] = frozenset({Verdict.REGRESSION})
    fail_when_missing: bool = True
    fdr: float = compare.FDR
    largest_effect: float = stats.LARGEST_EFFECT


@dataclass(frozen=True)
class IsolationRule:
    """The line for isol-01 of the cells that a glob names; of several rules for one cell the last decides."""

    metric: str
    minimum: float
    fail_below: bool
    required: bool
    fail_when_inconclusive: bool
    reason: str

    @property
    def text(self) -> str:
        return printable(f"{self.metric} isol-01 \N{GREATER-THAN OR EQUAL TO} {number(100 * self.minimum)} %")


@dataclass(frozen=True)
class DensityRule:
    """How many guests a ramp must reach: at its knee, and against the same ramp on bare."""

    metric: str
    min_guests: float | None
    min_ratio: float | None
    required: bool
    fail_when_inconclusive: bool
    reason: str

    @property
    def text(self) -> str:
        bounds = []
        if self.min_guests is not None:
            bounds.append(f"\N{GREATER-THAN OR EQUAL TO} {number(self.min_guests)} guests")
        if self.min_ratio is not None:
            bounds.append(f"\N{GREATER-THAN OR EQUAL TO} {number(self.min_ratio)} of bare")
        return printable(f"{self.metric} {' and '.join(bounds)}")


@dataclass(frozen=True)
class AttributionRule:
    metric: str
    min_precision: float | None
    min_recall: float | None
    max_quiet_alarms: float | None  # fraction of the quiet windows
    required: bool
    reason: str

    @property
    def text(self) -> str:
        return printable(f"{self.metric} scores of the detector")


@dataclass(frozen=True)
class ContainmentRule:
    """Whether a fault that was not contained, or not classified right, fails the gate. Without a rule it does."""

    metric: str
    fail_when_not_ok: bool
    required: bool
    reason: str

    @property
    def text(self) -> str:
        return printable(f"{self.metric} contained")


@dataclass(frozen=True)
class IoRule:
    """How far a disk may be from its limit (io.py): measured time of an operation over what it must take at least."""

    metric: str  # glob over ids of rates: iops, bandwidth
    max_distance: float
    fail_beyond: bool
    required: bool
    fail_when_inconclusive: bool
    reason: str

    @property
    def text(self) -> str:
        return printable(f"{self.metric} distance from the limit \N{LESS-THAN OR EQUAL TO} {number(self.max_distance)}")


@dataclass(frozen=True)
class Policy:
    name: str
    limits: tuple[Limit, ...]
    baseline: BaselineRule
    isolation: tuple[IsolationRule, ...] = ()
    density: tuple[DensityRule, ...] = ()
    attribution: tuple[AttributionRule, ...] = ()
    containment: tuple[ContainmentRule, ...] = ()
    io: tuple[IoRule, ...] = ()


class _Table:
    """Takes keys out of a TOML table one by one; whatever is left at the end is an unknown key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = dict(values)
        self._where = where

    def error(self, why: str) -> PolicyError:
        return PolicyError(f"{self._where}: {why}")

    def has(self, key: str) -> bool:
        return key in self._values

    def take(self, key: str, kind: type | tuple[type, ...], words: str) -> Any:
        value = self._values.pop(key, None)
        if value is None:
            return None
        # bool is an int to Python, never to a policy.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(f"`{key}` must be {words}, not {printable(repr(value))[:80]}")
        return value

    def text(self, key: str) -> str | None:
        value: str | None = self.take(key, str, "a string")
        if value is not None and not value.strip():
            raise self.error(f"`{key}` is empty")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.take(key, bool, "true or false")
        return default if value is None else bool(value)

    def number(self, key: str) -> float | None:
        value = self.take(key, (int, float), "a number")
        if value is not None and (not math.isfinite(value) or value <= 0):
            raise self.error(f"`{key}` must be a positive number")
        return None if value is None else float(value)

    def fraction(self, key: str, default: float) -> float:
        value = self.number(key)
        if value is not None and value >= 1:
            raise self.error(f"`{key}` must be between 0 and 1: 0.05 is 5 %")
        return default if value is None else value

    def word(self, key: str, words: tuple[str, ...]) -> str | None:
        value = self.text(key)
        if value is not None and value not in words:
            raise self.error(f"`{key}` is {printable(value)[:80]!r}; it can be {', '.join(words)}")
        return value

    def texts(self, key: str, default: tuple[str, ...], words: tuple[str, ...] | None = None) -> tuple[str, ...]:
        values = self.take(key, list, "a list of strings")
        if values is None:
            return default
        if not values or not all(isinstance(value, str) and value for value in values):
            raise self.error(f"`{key}` must be a list of strings with at least one")
        for value in values:
            if words is not None and value not in words:
                raise self.error(f"`{key}` holds {printable(value)[:80]!r}; it can hold {', '.join(words)}")
        return tuple(values)

    def finish(self) -> None:
        if self._values:
            raise self.error(f"unknown key `{printable(sorted(self._values)[0])[:80]}`")


def _limit(values: Any, where: str) -> Limit:
    if not isinstance(values, dict):
        raise PolicyError(f"{where}: must be a table ([[limit]])")
    table = _Table(values, where)
    metric = table.text("metric")
    if metric is None:
        raise table.error('`metric` is missing: a glob over ids such as "overhead/cpu_*"')
    table = _Table(values, f"{where} ({printable(metric)[:80]})")
    table.text("metric")
    ratio, unit = table.word("ratio", RATIOS), table.text("unit")
    if (ratio is None) == (unit is None):
        known = ", ".join(f'"{name}"' for name in RATIOS)
        raise table.error(f"give either `ratio` ({known}) or `unit`, the unit of a limit on the median")
    minimum, maximum = table.number("min"), table.number("max")
    if minimum is None and maximum is None:
        raise table.error("give `min`, `max` or both")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise table.error("`min` is above `max`")
    limit = Limit(
        metric,
        ratio,
        unit,
        minimum,
        maximum,
        required=table.flag("required", default=True),
        fail_when_inconclusive=table.word("on_inconclusive", ("fail", "pass")) != "pass",
        reason=table.text("reason") or "",
        by_value=table.word("judge", ("interval", "value")) == "value",
    )
    table.finish()
    return limit


def _rule_table(values: Any, where: str, example: str) -> tuple[_Table, str]:
    if not isinstance(values, dict):
        raise PolicyError(f"{where}: must be a table")
    metric = _Table(values, where).text("metric")
    if metric is None:
        raise PolicyError(f'{where}: `metric` is missing: a glob over ids such as "{example}"')
    table = _Table(values, f"{where} ({printable(metric)[:80]})")
    table.text("metric")
    return table, metric


def _isolation_rule(values: Any, where: str) -> IsolationRule:
    table, metric = _rule_table(values, where, "isolation/*/vm")
    minimum = table.number("min_isol_01")
    if minimum is not None and minimum > 1:
        raise table.error("`min_isol_01` is a share of the alone figure: 0.90 is 90 %")
    rule = IsolationRule(
        metric,
        isolation.PASS_LINE if minimum is None else minimum,
        fail_below=table.word("on_below", ("fail", "pass")) != "pass",
        required=table.flag("required", default=False),
        fail_when_inconclusive=table.word("on_inconclusive", ("fail", "pass")) != "pass",
        reason=table.text("reason") or "",
    )
    table.finish()
    return rule


def _density_rule(values: Any, where: str) -> DensityRule:
    table, metric = _rule_table(values, where, "density/steady/vm")
    rule = DensityRule(
        metric,
        table.number("min_guests"),
        table.number("min_ratio"),
        required=table.flag("required", default=True),
        fail_when_inconclusive=table.word("on_inconclusive", ("fail", "pass")) != "pass",
        reason=table.text("reason") or "",
    )
    if rule.min_guests is None and rule.min_ratio is None:
        raise table.error("give `min_guests` (at the knee), `min_ratio` (against bare) or both")
    table.finish()
    return rule


def _attribution_rule(values: Any, where: str) -> AttributionRule:
    table, metric = _rule_table(values, where, "isolation/attribution/*")
    rule = AttributionRule(
        metric,
        table.number("min_precision"),
        table.number("min_recall"),
        table.number("max_quiet_alarms"),
        required=table.flag("required", default=True),
        reason=table.text("reason") or "",
    )
    scores = [s for s in (rule.min_precision, rule.min_recall, rule.max_quiet_alarms) if s is not None]
    if not scores:
        raise table.error("give `min_precision`, `min_recall` or `max_quiet_alarms`")
    if max(scores) > 1:
        raise table.error("scores are fractions: 0.95 is 95 %")
    table.finish()
    return rule


def _containment_rule(values: Any, where: str) -> ContainmentRule:
    table, metric = _rule_table(values, where, "containment/*/vm")
    rule = ContainmentRule(
        metric,
        fail_when_not_ok=table.word("on_not_contained", ("fail", "pass")) != "pass",
        required=table.flag("required", default=False),
        reason=table.text("reason") or "",
    )
    table.finish()
    return rule


def _io_rule(values: Any, where: str) -> IoRule:
    table, metric = _rule_table(values, where, "io/disk/*/vm")
    most = table.number("max_distance")
    if most is None:
        raise table.error("give `max_distance`: 1.5 is half as much again as the limit")
    rule = IoRule(
        metric,
        most,
        fail_beyond=table.word("on_beyond", ("fail", "pass")) != "pass",
        required=table.flag("required", default=True),
        fail_when_inconclusive=table.word("on_inconclusive", ("fail", "pass")) != "pass",
        reason=table.text("reason") or "",
    )
    table.finish()
    return rule


Rule = TypeVar("Rule")


def _rules(table: _Table, name: str, key: str, build: Callable[[Any, str], Rule]) -> tuple[Rule, ...]:
    raw = table.take(key, list, f"an array of tables ([[{key}]])") or []
    return tuple(build(values, f"{name}: {key} {index}") for index, values in enumerate(raw, start=1))


def _baseline(values: Any, where: str) -> BaselineRule:
    if not isinstance(values, dict):
        raise PolicyError(f"{where}: must be a table")
    table = _Table(values, where)
    default = BaselineRule()
    verdicts = tuple(verdict.value for verdict in Verdict if verdict is not Verdict.EQUIVALENT)
    rule = BaselineRule(
        metrics=table.texts("metrics", default.metrics),
        of=table.texts("of", default.of, (compare.MEDIAN, *RATIOS)),
        fail_on=frozenset(map(Verdict, table.texts("fail_on", tuple(v.value for v in default.fail_on), verdicts))),
        fail_when_missing=table.word("on_missing", ("fail", "pass")) != "pass",
        fdr=table.fraction("fdr", default.fdr),
        largest_effect=table.fraction("largest_effect", default.largest_effect),
    )
    table.finish()
    return rule


def parse(text: str, name: str) -> Policy:
    """A policy from its TOML text; `name` is how messages call it."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise PolicyError(f"{name} is not TOML: {printable(str(error)) or 'nested too deeply'}") from error
    table = _Table(values, name)
    raw_limits = table.take("limit", list, "an array of tables ([[limit]])") or []
    limits = tuple(_limit(raw, f"{name}: limit {index}") for index, raw in enumerate(raw_limits, start=1))
    raw_baseline = table.take("baseline", dict, "a table ([baseline])")
    baseline = _baseline(raw_baseline, f"{name}: [baseline]") if raw_baseline is not None else BaselineRule()
    policy = Policy(
        name,
        limits,
        baseline,
        isolation=_rules(table, name, "isolation", _isolation_rule),
        density=_rules(table, name, "density", _density_rule),
        attribution=_rules(table, name, "attribution", _attribution_rule),
        containment=_rules(table, name, "containment", _containment_rule),
        io=_rules(table, name, "io", _io_rule),
    )
    table.finish()
    rules = (limits, policy.isolation, policy.density, policy.attribution, policy.containment, policy.io)
    if not any(rules) and raw_baseline is None:
        raise PolicyError(f"{name} holds neither a [[limit]] nor a [baseline]: it would pass everything")
    return policy
