"""Who was the noisy neighbour: a detector's answers scored on hidden schedules. Pure.

An episode counts when the worst hit victim lost at least 10 % to it. It is found when a detection names its guest while
it lasts, or within GRACE windows of its end. Precision counts each episode once, however often it was named, and every
wrong detection: repetition cannot improve it. A detection that names an aggressor whose impact was below the line is
neither right nor wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nestbench_reports import stats
from nestbench_reports.experiments import ATTRIBUTION, ISOLATION, Detection, Episode, Schedule
from nestbench_reports.model import Document

LEAST_IMPACT = 0.10
GRACE = 2  # windows after an episode's end in which what it did is still seen
NS_PER_HOUR = 3600e9


@dataclass(frozen=True)
class Proportion:
    """hits of trials, with Wilson's 95 % interval."""

    hits: int
    trials: int

    @property
    def value(self) -> float | None:
        return self.hits / self.trials if self.trials else None

    @property
    def interval(self) -> tuple[float, float] | None:
        if not self.trials:
            return None
        z = 1.959964
        n, p = self.trials, self.hits / self.trials
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - reach), min(1.0, centre + reach)


@dataclass(frozen=True)
class Hit:
    episode: Episode
    first: Detection | None  # None: missed

    @property
    def delay_ns(self) -> float | None:
        return None if self.first is None else max(0.0, self.first.at_ns - self.episode.begin_ns)


@dataclass(frozen=True)
class Scored:
    """One schedule with its answers."""

    schedule: Schedule
    hits: tuple[Hit, ...]  # every episode that counts
    faint: tuple[Hit, ...]  # episodes below the line
    wrong: tuple[Detection, ...]


@dataclass(frozen=True)
class Group:
    """Episodes of one aggressor at one intensity."""

    aggressor: str
    intensity: float
    episodes: int
    counting: int
    recall: Proportion
    median_impact: float
    delay_median_ns: float | None


@dataclass(frozen=True)
class Attribution:
    id: str
    substrate: str
    scored: tuple[Scored, ...]
    precision: Proportion
    recall: Proportion
    quiet_alarms: Proportion  # quiet windows with a false alarm
    false_alarms_per_hour: float | None
    quiet_false_alarms_per_hour: float | None  # in schedules without any episode
    delay_median_ns: float | None
    delay_p95_ns: float | None
    groups: tuple[Group, ...]


def _names(detection: Detection, episode: Episode, grace_ns: float) -> bool:
    return detection.guest == episode.guest and episode.begin_ns <= detection.at_ns <= episode.end_ns + grace_ns


def score(schedule: Schedule) -> Scored:
    grace_ns = GRACE * schedule.window_ns
    hits: list[Hit] = []
    faint: list[Hit] = []
    for episode in schedule.episodes:
        first = min(
            (entry for entry in schedule.detections if _names(entry, episode, grace_ns)),
            key=lambda entry: entry.at_ns,
            default=None,
        )
        (hits if episode.impact >= LEAST_IMPACT else faint).append(Hit(episode, first))
    wrong = tuple(
        detection
        for detection in schedule.detections
        if not any(_names(detection, episode, grace_ns) for episode in schedule.episodes)
    )
    return Scored(schedule, tuple(hits), tuple(faint), wrong)


def _delays(hits: Iterable[Hit]) -> list[float]:
    return [delay for hit in hits if (delay := hit.delay_ns) is not None]


def _quantile(values: Sequence[float], quantile: float) -> float | None:
    return float(np.quantile(values, quantile)) if values else None


def _per_hour(scored: Sequence[Scored], chosen: Callable[[Schedule], bool]) -> float | None:
    of = [entry for entry in scored if chosen(entry.schedule)]
    hours = sum(entry.schedule.duration_ns for entry in of) / NS_PER_HOUR
    return sum(len(entry.wrong) for entry in of) / hours if hours > 0 else None


def _groups(scored: Sequence[Scored]) -> tuple[Group, ...]:
    by_kind: dict[tuple[str, float], list[tuple[Hit, bool]]] = {}
    for entry in scored:
        for hits, counts in ((entry.hits, True), (entry.faint, False)):
            for hit in hits:
                by_kind.setdefault((hit.episode.aggressor, hit.episode.intensity), []).append((hit, counts))
    groups = []
    for (aggressor, intensity), members in sorted(by_kind.items()):
        counting = [hit for hit, counts in members if counts]
        groups.append(
            Group(
                aggressor,
                intensity,
                len(members),
                len(counting),
                Proportion(sum(hit.first is not None for hit in counting), len(counting)),
                float(np.median([hit.episode.impact for hit, _ in members])),
                _quantile(_delays(counting), 0.5),
            )
        )
    return tuple(groups)


def judge(identifier: str, substrate: str, schedules: Sequence[Schedule]) -> Attribution:
    scored = tuple(map(score, schedules))
    hits = [hit for entry in scored for hit in entry.hits]
    found = sum(hit.first is not None for hit in hits)
    wrong = sum(len(entry.wrong) for entry in scored)
    delays = _delays(hits)
    return Attribution(
        id=identifier,
        substrate=substrate,
        scored=scored,
        precision=Proportion(found, found + wrong),
        recall=Proportion(found, len(hits)),
        quiet_alarms=Proportion(
            sum(entry.false_alarm_windows for entry in schedules), sum(entry.quiet_windows for entry in schedules)
        ),
        false_alarms_per_hour=_per_hour(scored, lambda _schedule: True),
        quiet_false_alarms_per_hour=_per_hour(scored, lambda schedule: schedule.quiet),
        delay_median_ns=_quantile(delays, 0.5),
        delay_p95_ns=_quantile(delays, 1 - (1 - stats.CONFIDENCE)),
        groups=_groups(scored),
    )


def attributions(document: Document) -> tuple[Attribution, ...]:
    return tuple(
        judge(entry.id, entry.substrate, entry.schedules)
        for entry in document.experiments
        if (entry.scenario, entry.workload) == (ISOLATION, ATTRIBUTION) and entry.schedules
    )


def telling(found: Attribution) -> Scored | None:
    """The schedule to show: the one with the most episodes that count, then the most wrong answers."""
    if not found.scored:
        return None
    return max(found.scored, key=lambda entry: (len(entry.hits), len(entry.wrong), len(entry.faint)))
