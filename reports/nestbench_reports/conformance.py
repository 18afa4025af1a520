"""The checklist of conformance: every condition with its outcome, beside the failures that are known there. Pure.

A known failure stays a failure and is shown as one, with its reason; it does not fail the run. One that passes is said
so, since its entry is to be taken off the list.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from nestbench_reports.errors import PolicyError
from nestbench_reports.experiments import CONFORMANCE, Condition
from nestbench_reports.model import Document
from nestbench_reports.text import printable

PASS, FAIL, UNSUPPORTED, BROKE = 0, 1, 5, 6


class Status(Enum):
    PASS = "pass"
    FAIL = "fail"
    KNOWN = "known failure"
    FIXED = "passes, though on the list of known failures"
    SKIP = "skip"
    ERROR = "error"
    CRASH = "crash"
    TIMEOUT = "timeout"


BROKEN = (Status.ERROR, Status.CRASH, Status.TIMEOUT)


@dataclass(frozen=True)
class Known:
    """A failure that is known: on hosts of the class `host`, of the conditions that `test` matches."""

    host: str  # glob over host_class()
    test: str  # glob over area/Suite.Name
    reason: str
    link: str
    rarely: bool = False  # most runs pass, so that a pass says nothing about the entry

    def is_of(self, host: str) -> bool:
        return fnmatchcase(host, self.host)

    def covers(self, host: str, test: str) -> bool:
        return self.is_of(host) and fnmatchcase(test, self.test)


@dataclass(frozen=True)
class Entry:
    area: str
    condition: Condition
    status: Status
    known: Known | None

    @property
    def id(self) -> str:
        return f"{self.area}/{self.condition.test}"


@dataclass(frozen=True)
class Checklist:
    entries: tuple[Entry, ...]
    unused: tuple[Known, ...]  # of this host's list, those that no condition of the document has

    def count(self, *statuses: Status) -> int:
        return sum(entry.status in statuses for entry in self.entries)

    @property
    def headline(self) -> str:
        numbers = [f"{self.count(status)} {status.value}" for status in Status if self.count(status)]
        return ", ".join(numbers) if numbers else "no condition was tried"

    @property
    def exit_code(self) -> int:
        if self.count(*BROKEN):
            return BROKE
        if self.count(Status.FAIL):
            return FAIL
        return PASS if self.count(Status.PASS, Status.KNOWN, Status.FIXED) else UNSUPPORTED


MOST_LINES = 5  # of a reason: an expectation, and the two values that differ
MOST_CHARACTERS = 300


def brief(text: str) -> str:
    """The begin of a reason as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = printable(" ".join(lines[:MOST_LINES]))
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."


def words(entry: Entry) -> str:
    """Why a condition has its status; of one that passed, what was observed."""
    said = brief(entry.condition.reason)
    if entry.known is not None and entry.status is Status.KNOWN:
        return f"{entry.known.reason} ({entry.known.link}); {said}"
    if entry.condition.evidence and not said:
        return ", ".join(f"{key} = {printable(str(value))}" for key, value in entry.condition.evidence.items())
    return said


def parse_known(text: str, name: str) -> tuple[Known, ...]:
    """The list of known failures (TOML, tables [[known]])."""
    try:
        raw: Mapping[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name}: {error}") from error
    tables = raw.get("known", [])
    if set(raw) - {"known"} or not isinstance(tables, list):
        raise PolicyError(f"{name}: holds tables [[known]] and nothing else")
    keys = ("host", "test", "reason", "link")
    found = []
    for number, table in enumerate(tables, 1):
        if not isinstance(table, dict) or set(table) - {"rarely"} != set(keys):
            raise PolicyError(f"{name}: [[known]] number {number} must have the keys {', '.join(keys)}; may: rarely")
        if not isinstance(table.get("rarely", False), bool):
            raise PolicyError(f"{name}: [[known]] number {number}: rarely is true or false")
        if not all(isinstance(table[key], str) and table[key].strip() for key in keys):
            raise PolicyError(f"{name}: [[known]] number {number}: every value is a text that is not empty")
        found.append(Known(**table))
    return tuple(found)


def _status(outcome: str, known: Known | None) -> Status:
    if known is None or outcome not in ("pass", "fail"):
        return Status(outcome)
    if outcome == "fail":
        return Status.KNOWN
    return Status.PASS if known.rarely else Status.FIXED


def host_class(document: Document) -> str:
    """The KVM module; on a host that software emulates, whose processor has gaps of its own, "emulated:" before it."""
    module = document.host.kvm.module or "none"
    return f"emulated:{module}" if document.host.has_emulated_clock else module


def checklist(document: Document, known: Sequence[Known]) -> Checklist:
    host = host_class(document)
    entries = []
    used = set()
    for experiment in document.experiments:
        if experiment.scenario != CONFORMANCE:
            continue
        for condition in experiment.conditions:
            name = f"{experiment.workload}/{condition.test}"
            match = next((entry for entry in known if entry.covers(host, name)), None)
            if match is not None:
                used.add(match)
            entries.append(Entry(experiment.workload, condition, _status(condition.outcome, match), match))
    # A part of the conditions lacks most of the list.
    is_part = any(word.startswith(("--filter", "--shard")) for word in document.run.arguments)
    unused = tuple(entry for entry in known if entry.is_of(host) and entry not in used and not is_part)
    return Checklist(tuple(entries), unused)
