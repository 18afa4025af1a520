"""Reads the JUnit file that ctest wrote and says, in words, how many tests passed, failed and were skipped, and why.

Usage: test_summary.py NAME JUNIT.xml. Exit code 0 when every test that ran passed and at least one did, otherwise 1.
With --counts in place of NAME: prints the numbers of passed and failed tests only, for scripts; exit code 0.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

# What GoogleTest and pytest print as the reason of a skip.
_SKIP_REASONS = (
    re.compile(r"Skipped\n(?P<reason>[^\n]+)"),
    re.compile(r"SKIPPED \[\d+\] [^\n]*?: (?P<reason>[^\n]+)"),
)


@dataclass(frozen=True)
class Summary:
    passed: int
    failed: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]  # name, reason
    seconds: float

    @property
    def ok(self) -> bool:
        return self.passed > 0 and not self.failed


def _skip_reason(case: ElementTree.Element) -> str:
    output = case.findtext("system-out") or ""
    for pattern in _SKIP_REASONS:
        if match := pattern.search(output):
            return match["reason"].strip()
    skipped = case.find("skipped")
    return (skipped.get("message") if skipped is not None else None) or "no reason given"


def summarize(junit: Path) -> Summary:
    suite = ElementTree.parse(junit).getroot()
    failed: list[str] = []
    skipped: list[tuple[str, str]] = []
    passed = 0
    for case in suite.iter("testcase"):
        name = case.get("name", "?")
        status = case.get("status")
        if status == "run":
            passed += 1
        elif case.find("skipped") is not None or status == "notrun":
            skipped.append((name, _skip_reason(case)))
        else:
            failed.append(name)
    return Summary(passed, tuple(failed), tuple(skipped), float(suite.get("time", "0")))


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        summary = summarize(Path(arguments[1]))
    except (OSError, ElementTree.ParseError) as error:
        print(f"test_summary: cannot read {arguments[1]}: {error}", file=sys.stderr)
        return 2
    if arguments[0] == "--counts":
        print(summary.passed, len(summary.failed))
        return 0
    for name, reason in summary.skipped:
        print(f"skipped: {name}: {reason}")
    for name in summary.failed:
        print(f"failed: {name}")
    print(f"{arguments[0]}: {summary.passed} passed, {len(summary.failed)} failed, {len(summary.skipped)} skipped"
          f" in {summary.seconds:.0f} s")
    return 0 if summary.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
