#!/usr/bin/python3
"""Studies of nestbench itself: what vmm-core costs over raw ioctls, how often A/A intervals contain 1, false alarms."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "reports"))

import null_intervals  # noqa: E402  (the report package comes from this source tree)
import null_row  # noqa: E402
import ratios  # noqa: E402
from programs import BROKE, USAGE, ProgramError, find_programs  # noqa: E402

from nestbench_reports.errors import ReportError  # noqa: E402

EXIT_CODES = (
    "exit codes: 0 the targets hold; 1 they do not; 2 usage; 3 the intervals are too wide to say;"
    " 5 unsupported here; 6 a program failed"
)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more")
    return value


def at_least_two(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{text}: an interval needs 2 or more")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 60:
        raise argparse.ArgumentTypeError(f"{text}: more than 0, at most 60")
    return value


def expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    return text


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="study.py", description=__doc__, epilog=EXIT_CODES)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--programs",
        type=Path,
        metavar="DIR",
        help="folder with nestbench and nestbench_micro (default: bin of the newest build in this source tree)",
    )
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")

    ratio = studies.add_parser(
        "ratios",
        parents=[common],
        help="vm/floor of PIO exit, MMIO exit and cold start against their limits",
        description="Runs nestbench_micro in several processes, vm and floor interleaved at random in each, and judges"
        " the paired ratio of medians by its 95 %% interval (bootstrap by process, then repetition).",
        epilog=EXIT_CODES,
    )
    ratio.add_argument("--processes", type=at_least_two, default=20, help="fresh processes (default: %(default)s)")
    ratio.add_argument("--repetitions", type=positive, default=9, help="of each process (default: %(default)s)")
    ratio.add_argument("--min-time", type=seconds, default=0.02, help="seconds a repetition (default: %(default)s)")
    ratio.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="default: the last allowed one")
    ratio.add_argument("--save", type=Path, metavar="FILE", help="write all samples there, as JSON")

    null = studies.add_parser(
        "aa",
        parents=[common],
        help="share of A/A intervals that contain 1",
        description="Repeats `nestbench run` with different seeds and counts, over all measurements of all result"
        " documents, the A/A intervals (arm b over arm a) that contain 1.",
        epilog=EXIT_CODES,
    )
    null.add_argument("--runs", type=positive, default=40, help="of each scenario (default: %(default)s)")
    null.add_argument("--scenarios", nargs="+", choices=["overhead", "exits"], default=["overhead", "exits"])
    null.add_argument(
        "--overhead-filter", type=expression, default=r"/(cpu_integer|cpu_hash|memory_gups)", metavar="REGEX"
    )
    null.add_argument("--exits-filter", type=expression, default=r"^(exits|lifecycle)/", metavar="REGEX")
    null.add_argument("--rounds", type=at_least_two, default=4, help="of each run (default: %(default)s)")
    null.add_argument("--first-seed", type=positive, default=1)
    null.add_argument("--keep", type=Path, metavar="DIR", help="keep the result documents there")
    null.add_argument(
        "--documents", type=Path, nargs="+", metavar="RESULT.json", help="judge these instead of running anything"
    )

    row = studies.add_parser(
        "null-row",
        parents=[common],
        help="share of isolation's null row that is flagged",
        description="Repeats the null row of `nestbench run isolation` (victims beside an aggressor that does nothing)"
        " and counts the cells that their reports would call hurt or helped.",
        epilog=EXIT_CODES,
    )
    row.add_argument("--repeats", type=positive, default=20, help="default: %(default)s")
    row.add_argument("--profile", choices=["quick", "standard", "full"], default="quick")
    row.add_argument("--first-seed", type=positive, default=1)
    row.add_argument("--keep", type=Path, metavar="DIR", help="keep the result documents there")
    row.add_argument(
        "--documents", type=Path, nargs="+", metavar="RESULT.json", help="judge these instead of running anything"
    )
    return parser.parse_args(arguments)


def run_null_study(options: argparse.Namespace) -> int:
    if options.documents:
        return null_intervals.judge(options.documents)
    programs = find_programs(ROOT, options.programs)
    filters = {"overhead": options.overhead_filter, "exits": options.exits_filter}
    plan = null_intervals.Plan(
        filters={name: filters[name] for name in options.scenarios},
        runs=options.runs,
        rounds=options.rounds,
        first_seed=options.first_seed,
    )
    with tempfile.TemporaryDirectory(prefix="nestbench-study-") as scratch:
        return null_intervals.judge(null_intervals.measure(programs, plan, options.keep or Path(scratch)))


def run_null_row_study(options: argparse.Namespace) -> int:
    if options.documents:
        return null_row.judge(options.documents)
    programs = find_programs(ROOT, options.programs)
    with tempfile.TemporaryDirectory(prefix="nestbench-study-") as scratch:
        folder = options.keep or Path(scratch)
        return null_row.judge(
            null_row.measure(programs, options.repeats, options.profile, options.first_seed, folder)
        )


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    try:
        if options.study == "ratios":
            programs = find_programs(ROOT, options.programs)
            effort = ratios.Effort(options.processes, options.repetitions, options.min_time, options.cpu)
            return ratios.study(programs, effort, options.save)
        return run_null_row_study(options) if options.study == "null-row" else run_null_study(options)
    except ProgramError as error:
        print(f"study: {error}", file=sys.stderr)
        return error.exit_code
    except ReportError as error:
        print(f"study: {error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"study: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return BROKE
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
