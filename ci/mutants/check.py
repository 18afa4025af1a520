#!/usr/bin/python3
"""Whether each fault that is built into the VMM library on purpose is noticed by the test that is named for it."""

from __future__ import annotations

import concurrent.futures
import enum
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

_ROOT = Path(__file__).resolve().parent.parent.parent
_LIST = Path(__file__).resolve().parent / "mutants.toml"
_SOURCES = _ROOT / "vmm-core"
_VARIABLE = "NESTBENCH_MUTANT"
_CONFORMANCE = "nestbench-conformance"
_CALL = re.compile(r'\bMutated\("([^"]*)"\)')
# Neither can hold what GoogleTest's filter takes for a pattern: one name is one test.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TEST = re.compile(r"[A-Za-z0-9_/]+\.[A-Za-z0-9_/]+")
_USAGE = 2
_TEXT_COLUMNS = 100  # of what a test or a loader said


class MutantError(Exception):
    """The list and the sources do not agree, or the build lacks what the list names."""


@dataclass(frozen=True, order=True)
class Test:
    program: str
    name: str

    def __str__(self) -> str:
        return f"{self.program} {self.name}"


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    fault: str
    test: Test


class Outcome(enum.Enum):
    PASS = "passes"
    FAIL = "fails"
    CRASH = "crashes"
    HANG = "hangs"
    SKIP = "is skipped"
    ERROR = "has no result"


_NOTICED = (Outcome.FAIL, Outcome.CRASH, Outcome.HANG)


@dataclass(frozen=True)
class Run:
    outcome: Outcome
    text: str = ""  # where it failed, why it was skipped
    seconds: float = 0

    def __str__(self) -> str:
        return f"{self.outcome.value}: {self.text}" if self.text else self.outcome.value


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    word: str  # caught, survived, error
    how: str
    seconds: float = field(default=0)


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:_TEXT_COLUMNS] if lines else ""


def _text_of(table: dict[str, Any], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise MutantError(f"{where}: `{key}` must be a text")
    return value


def read_list(path: Path) -> list[Mutant]:
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file).get("mutant", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise MutantError(f"{path}: {error}") from error
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise MutantError(f"{path.name}: `mutant` must be [[mutant]] tables")
    mutants: list[Mutant] = []
    for number, table in enumerate(tables, 1):
        where = f"{path.name}: mutant {number}"
        if unknown := set(table) - {"name", "file", "fault", "program", "test"}:
            raise MutantError(f"{where}: unknown: {', '.join(sorted(unknown))}")
        test = Test(_text_of(table, "program", where), _text_of(table, "test", where))
        mutant = Mutant(_text_of(table, "name", where), _text_of(table, "file", where),
                        _text_of(table, "fault", where), test)
        if not _NAME.fullmatch(mutant.name):
            raise MutantError(f"{where}: `{mutant.name}` is not lower-case words with hyphens")
        if not _TEST.fullmatch(test.name) or "/" in test.program:
            raise MutantError(f"{where}: `{test}` is not a program and one test of it, Suite.Name")
        if mutant.name in (other.name for other in mutants):
            raise MutantError(f"{where}: `{mutant.name}` is there twice")
        mutants.append(mutant)
    if not mutants:
        raise MutantError(f"{path.name} holds no mutant: nothing would be checked")
    return mutants


def names_in(sources: Path) -> dict[str, list[str]]:
    """Each name that the sources ask for, with the files (relative to the tree) where they do."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(sources.rglob("*")):
        if path.suffix in (".cc", ".h"):
            for name in _CALL.findall(path.read_text(encoding="utf-8")):
                places[name].append(str(path.relative_to(sources.parent)))
    return places


def disagreements(mutants: list[Mutant], places: dict[str, list[str]]) -> list[str]:
    found = [f'{files[0]}: Mutated("{name}") is not in {_LIST.name}'
             for name, files in places.items() if name not in {mutant.name for mutant in mutants}]
    for mutant in mutants:
        files = places.get(mutant.name, [])
        if not files:
            found.append(f'{mutant.name}: there is no Mutated("{mutant.name}") under {_SOURCES.name}')
        elif len(files) > 1:
            found.append(f"{mutant.name}: one fault is one place, but it stands in {', '.join(files)}")
        elif files[0] != mutant.file:
            found.append(f"{mutant.name}: it stands in {files[0]}, not in {mutant.file}")
    return found


def _gtest_result(report: Path) -> Run:
    try:
        suites = json.loads(report.read_text(encoding="utf-8", errors="replace"))["testsuites"]
    except (OSError, ValueError, KeyError) as error:
        return Run(Outcome.ERROR, f"it wrote no report: {error}")
    tests = [test for suite in suites for test in suite["testsuite"] if test["status"] == "RUN"]
    if len(tests) != 1:
        return Run(Outcome.ERROR, f"{len(tests)} tests have that name")
    if failures := tests[0].get("failures"):
        place = _one_line(failures[0]["failure"])
        return Run(Outcome.FAIL, place.rsplit("/", 1)[-1])
    if tests[0]["result"] == "SKIPPED":
        return Run(Outcome.SKIP)
    return Run(Outcome.PASS)


def _conformance_result(output: str) -> Run:
    try:
        answer = json.loads(output)
        outcome = {"pass": Outcome.PASS, "fail": Outcome.FAIL, "skip": Outcome.SKIP}[answer["outcome"]]
        return Run(outcome, " ".join("; ".join(answer["messages"]).split())[:_TEXT_COLUMNS])
    except (ValueError, KeyError, TypeError):
        return Run(Outcome.ERROR, f"it did not answer with a result: {_one_line(output)}")


def run_test(build: Path, test: Test, limit_s: float, mutant: str | None = None) -> Run:
    conformance = test.program == _CONFORMANCE
    program = build / ("bin" if conformance else "tests") / test.program
    environment = {key: value for key, value in os.environ.items()
                   if key != _VARIABLE and not key.startswith(("GTEST_", "TESTBRIDGE_"))}
    if mutant is not None:
        environment[_VARIABLE] = mutant
    with tempfile.TemporaryDirectory(prefix="nestbench-mutants-") as folder:
        report = Path(folder) / "report.json"
        arguments = (["--run", test.name] if conformance
                     else [f"--gtest_filter={test.name}", f"--gtest_output=json:{report}"])
        start = time.monotonic()
        try:
            done = subprocess.run([program, *arguments], env=environment, cwd=folder, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, errors="replace", timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            return Run(Outcome.HANG, f"ended after {limit_s:g} s", limit_s)
        seconds = time.monotonic() - start
        if done.returncode < 0:
            run = Run(Outcome.CRASH, signal.Signals(-done.returncode).name)
        elif conformance:
            run = _conformance_result(done.stdout) if done.returncode == 0 else Run(Outcome.ERROR,
                                                                                    _one_line(done.stderr))
        else:
            run = _gtest_result(report)
            if run.outcome is Outcome.SKIP and (reason := re.search(r"Skipped\n(.+)", done.stdout)):
                run = Run(Outcome.SKIP, _one_line(reason[1]))
        return Run(run.outcome, run.text, seconds)


def judge(mutant: Mutant, without: Run, with_it: Run | None) -> Verdict:
    if with_it is None:
        return Verdict(mutant, "error", f"without the fault the test {without}")
    if with_it.outcome in _NOTICED:
        return Verdict(mutant, "caught", str(with_it), with_it.seconds)
    word = "survived" if with_it.outcome is Outcome.PASS else "error"
    return Verdict(mutant, word, f"with the fault the test {with_it}", with_it.seconds)


def check(build: Path, mutants: list[Mutant], limit_s: float, jobs: int) -> list[Verdict]:
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        tests = sorted({mutant.test for mutant in mutants})
        without = dict(zip(tests, pool.map(lambda test: run_test(build, test, limit_s), tests)))

        def one(mutant: Mutant) -> Verdict:
            before = without[mutant.test]
            passed = before.outcome is Outcome.PASS
            return judge(mutant, before, run_test(build, mutant.test, limit_s, mutant.name) if passed else None)

        return list(pool.map(one, mutants))


def table(verdicts: list[Verdict]) -> str:
    names = max(len(verdict.mutant.name) for verdict in verdicts)
    lines: list[str] = []
    for verdict in verdicts:
        lines.append(f"{verdict.word:8}  {verdict.mutant.name:{names}}  {verdict.seconds:5.1f} s  "
                     f"{verdict.mutant.test}: {verdict.how}")
        if verdict.word != "caught":
            lines.append(f"{'':8}  {verdict.mutant.file}: {verdict.mutant.fault}")
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[MUTANT]...")
@click.option("--timeout", type=click.FloatRange(1, 3600), default=10, metavar="SECONDS", show_default=True,
              help="A test that runs longer hangs.")
@click.option("--jobs", type=click.IntRange(1, 256), default=2 * len(os.sched_getaffinity(0)), metavar="N",
              help="Tests at a time; two for each CPU, because most of the time goes into waiting for a deadline.")
@click.option("--build", type=click.Path(path_type=Path, file_okay=False, exists=True), required=True, hidden=True)
def main(names: tuple[str, ...], timeout: float, jobs: int, build: Path) -> None:
    """Breaks the VMM library in one way at a time and expects the test named for it to notice; ci/mutants/README.md.

    Exit code 0: every fault was caught (the test failed, crashed or hung); 1: one was not; 2: usage.
    """
    try:
        mutants = read_list(_LIST)
        if found := disagreements(mutants, names_in(_SOURCES)):
            raise MutantError("\n".join(found))
        if unknown := set(names) - {mutant.name for mutant in mutants}:
            click.echo(f"nestbench mutants: there is no {', '.join(sorted(unknown))} in {_LIST.name}", err=True)
            sys.exit(_USAGE)
        verdicts = check(build.resolve(), [m for m in mutants if not names or m.name in names], timeout, jobs)
    except (MutantError, OSError) as error:
        click.echo(f"nestbench mutants: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    click.echo(table(verdicts))
    caught = sum(verdict.word == "caught" for verdict in verdicts)
    click.echo(f"{caught} of {len(verdicts)} faults caught")
    sys.exit(0 if caught == len(verdicts) else 1)


if __name__ == "__main__":
    main()
