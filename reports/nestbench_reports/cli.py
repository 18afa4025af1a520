"""The command line. A module is imported by the command that needs it, so that `--help` starts at once."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from nestbench_reports.errors import BrokenError, OutputError, ReportError

if TYPE_CHECKING:
    from nestbench_reports.conformance import Known
    from nestbench_reports.gate import GateResult
    from nestbench_reports.model import Document
    from nestbench_reports.policy import Policy

KNOWN_FAILURES = Path(__file__).resolve().parent.parent.parent / "conformance" / "known.toml"
DEFAULT_POLICY = Path(__file__).resolve().parent.parent.parent / "ci" / "gate.toml"
INTERRUPTED = 130
EXIT_CODES = """\b
Exit codes: 0 pass; 1 regression or failed limit; 2 usage, or a file that is not what it must be;
3 inconclusive; 4 these times cannot be judged; 5 unsupported here; 6 something broke (a crashed
run, a full disk)."""

_FILE = click.Path(path_type=Path)
_RESULT = click.argument("result", type=_FILE, metavar="RESULT.json")
_POLICY = click.option(
    "--policy",
    type=_FILE,
    default=DEFAULT_POLICY,
    metavar="FILE",
    help="Policy of the verdict line; ci/gate.toml of this release unless given.",
)


def _examples(*lines: str) -> str:
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)]) + f"\n\n{EXIT_CODES}"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_examples(
        "nestbench summary out/result.json",
        "nestbench report out/result.json -o out/report.html",
        "nestbench compare before/result.json after/result.json",
        "nestbench gate --policy ci/gate.toml out/result.json",
    ),
)
def cli() -> None:
    """Judges result documents of nestbench."""


def _load(path: Path) -> Document:
    from nestbench_reports.load import load

    return load(path)


def _load_to_compare(path: Path) -> Document:
    """For a comparison, another schema is a refusal (exit code 4) and not a file that is wrong."""
    from nestbench_reports.errors import EnvironmentRefusedError, SchemaError

    try:
        return _load(path)
    except SchemaError as error:
        raise EnvironmentRefusedError(f"cannot compare: {error}") from error


def _load_policy(path: Path) -> Policy:
    from nestbench_reports import policy
    from nestbench_reports.errors import PolicyError
    from nestbench_reports.load import read_bytes

    try:
        text = read_bytes(path, "a gate policy (TOML)").decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path} is not UTF-8 text: it is not a policy") from error
    return policy.parse(text, str(path))


def _load_known(path: Path) -> Sequence[Known]:
    from nestbench_reports.conformance import parse_known
    from nestbench_reports.errors import PolicyError
    from nestbench_reports.load import read_bytes

    try:
        text = read_bytes(path, "a list of known failures (TOML)").decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path} is not UTF-8 text: it is no list of known failures") from error
    return parse_known(text, str(path))


def _judge(document: Document, policy_path: Path) -> GateResult | str:
    """The gate's result, or in words why this document cannot be judged by that policy."""
    from nestbench_reports.errors import PolicyError
    from nestbench_reports.gate import gate

    policy = _load_policy(policy_path)
    try:
        return gate(policy, document, whole=False)
    except PolicyError as error:
        return f"not judged: {error}"


@cli.command(epilog=_examples("nestbench report out/result.json", "nestbench report out/result.json -o /tmp/page.html"))
@_RESULT
@click.option(
    "-o", "--output", type=_FILE, metavar="FILE.html", help="The page; report.html beside RESULT.json unless given."
)
@_POLICY
def report(result: Path, output: Path | None, policy: Path) -> int:
    """Write one self-contained HTML page: verdict, charts with their tables, environment, what could not run."""
    from nestbench_reports.files import write_atomically
    from nestbench_reports.render import render

    document = _load(result)
    page = render(document, _judge(document, policy), _load_known(KNOWN_FAILURES))
    target = output if output is not None else result.parent / "report.html"
    write_atomically(target, page)
    click.echo(f"report: {target}", err=True)
    return 0


@cli.command(epilog=_examples("nestbench summary out/result.json", "nestbench summary out/result.json | less"))
@_RESULT
@_POLICY
def summary(result: Path, policy: Path) -> int:
    """Print a document: overhead, exits, life cycle, many guests, what was not measured and why, the verdict."""
    from nestbench_reports.summary import outcome_style, print_summary
    from nestbench_reports.terminal import make_console

    document = _load(result)
    judged = _judge(document, policy)
    if isinstance(judged, str):
        print_summary(make_console(), document, f"verdict: {judged}", "yellow")
    else:
        print_summary(make_console(), document, f"verdict: {judged.headline}", outcome_style(judged.outcome))
    return 0


@cli.command(
    epilog=_examples(
        "nestbench compare before/result.json after/result.json",
        "nestbench compare a.json b.json --json | jq '.differences[] | select(.verdict==\"regression\")'",
    )
)
@click.argument("baseline", type=_FILE, metavar="A.json")
@click.argument("current", type=_FILE, metavar="B.json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--fdr",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="False discovery rate over all metrics (Benjamini-Hochberg).",
)
@click.option(
    "--allow-inconclusive", is_flag=True, help="End with 0, not 3, when nothing worse than inconclusive was found."
)
def compare(baseline: Path, current: Path, as_json: bool, fdr: float, allow_inconclusive: bool) -> int:
    """Say for each metric whether B is better or worse than A: regression, improvement, equivalent or inconclusive."""
    from nestbench_reports import counted
    from nestbench_reports.compare import compare as compare_documents
    from nestbench_reports.compare import to_json
    from nestbench_reports.gate import exit_code_of_comparison
    from nestbench_reports.summary import print_comparison
    from nestbench_reports.terminal import make_console

    before, after = _load_to_compare(baseline), _load_to_compare(current)
    if counted.is_counted(before) and counted.is_counted(after) and not as_json:
        found = counted.differences(before, after)
        counted.print_differences(make_console(), found)
        return counted.exit_code(found, allow_inconclusive)
    comparison = compare_documents(before, after, fdr=fdr)
    code = exit_code_of_comparison(comparison, allow_inconclusive)
    if as_json:
        click.echo(json.dumps({**to_json(comparison), "exit_code": code}, indent=1, allow_nan=False))
    else:
        print_comparison(make_console(), comparison)
    return code


@cli.command(
    epilog=_examples(
        "nestbench gate --policy ci/gate.toml out/result.json",
        "nestbench gate --policy ci/gate.toml out/result.json --baseline main.json --junit gate.xml",
    )
)
@_RESULT
@click.option("--policy", type=_FILE, required=True, metavar="FILE", help="Limits and baseline rules (TOML).")
@click.option("--baseline", type=_FILE, metavar="FILE", help="An earlier result document to compare with.")
@click.option("--junit", "junit_path", type=_FILE, metavar="FILE", help="Write the checks as JUnit XML.")
@click.option("-v", "--verbose", is_flag=True, help="Print the checks that passed, too.")
def gate(result: Path, policy: Path, baseline: Path | None, junit_path: Path | None, verbose: bool) -> int:
    """Judge a document against the limits of a policy and, if given, against a baseline."""
    from nestbench_reports.files import write_atomically
    from nestbench_reports.gate import gate as judge
    from nestbench_reports.junit import junit
    from nestbench_reports.summary import print_gate
    from nestbench_reports.terminal import make_console

    rules = _load_policy(policy)
    before = _load_to_compare(baseline) if baseline is not None else None
    outcome = judge(rules, _load(result) if before is None else _load_to_compare(result), before)
    if junit_path is not None:
        write_atomically(junit_path, junit(outcome))
    print_gate(make_console(), outcome, verbose)
    return outcome.exit_code


@cli.command(
    epilog=_examples("nestbench checklist out/result.json -v", "nestbench checklist out/result.json --junit out.xml")
)
@_RESULT
@click.option("--known", type=_FILE, default=KNOWN_FAILURES, metavar="FILE", help="List of known failures (TOML).")
@click.option("--junit", "junit_path", type=_FILE, metavar="FILE", help="Write the outcomes as JUnit XML.")
@click.option("-v", "--verbose", is_flag=True, help="Every condition, with its source and evidence.")
def checklist(result: Path, known: Path, junit_path: Path | None, verbose: bool) -> int:
    """Show what came of each documented condition of a conformance run."""
    from nestbench_reports import conformance
    from nestbench_reports.files import write_atomically
    from nestbench_reports.summary_conformance import junit, print_checklist
    from nestbench_reports.terminal import make_console

    found = conformance.checklist(_load(result), _load_known(known))
    if junit_path is not None:
        write_atomically(junit_path, junit(found))
    print_checklist(make_console(), found, verbose)
    return found.exit_code


@cli.command(epilog=_examples("nestbench validate out/result.json"))
@_RESULT
def validate(result: Path) -> int:
    """Check a document against the schema and the rules that a schema cannot say."""
    document = _load(result)
    ok = sum(measurement.status == "ok" for measurement in document.measurements)
    click.echo(f"{result}: valid, {len(document.measurements)} measurements ({ok} ok)")
    return 0


def _say(message: str) -> None:
    try:
        print(f"nestbench: {message}", file=sys.stderr)
    except OSError:
        pass  # standard error is gone: the exit code still says it


def _flush() -> None:
    """What a full disk or a closed pipe did to standard output comes to light here, not at the interpreter's end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try, and complain, once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise error


def _run(arguments: Sequence[str]) -> int:
    try:
        code = cast(int, cli.main(args=list(arguments), prog_name="nestbench", standalone_mode=False) or 0)
        _flush()
        return code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "nestbench")
        _say(f"{error.format_message()}; `{command} --help` shows what there is")
        return 2
    except (click.exceptions.Abort, KeyboardInterrupt):
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0  # the reader (head, less) has seen what it wanted
    except OSError as error:
        broken = error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT)
        kind = BrokenError if broken else OutputError
        raise kind(f"cannot write the output: {error.strerror or error}") from error


def main(arguments: Sequence[str]) -> int:
    """Runs one command; every failure is one message on standard error and the exit code of DESIGN.md."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a question mark, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return _run(arguments)
    except ReportError as error:
        from nestbench_reports.text import printable

        _say(printable(str(error)))
        return error.exit_code
    except Exception as error:
        if os.environ.get("NESTBENCH_DEBUG"):
            traceback.print_exc()
        _say(f"internal error, a defect of nestbench: {type(error).__name__}: {error}; NESTBENCH_DEBUG=1 shows where")
        return 6
