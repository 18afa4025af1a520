"""Finds and runs the programs of a build. Everything that goes wrong is one ProgramError with the exit code to give."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PASS, FAIL, USAGE, INCONCLUSIVE, UNSUPPORTED, BROKE = 0, 1, 2, 3, 5, 6
RUN_LIMIT_S = 900.0
# Exit codes of `nestbench run` with which there is a document: some of what was asked for may be unsupported.
WITH_DOCUMENT = (PASS, UNSUPPORTED)


class ProgramError(Exception):
    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Programs:
    nestbench: Path
    micro: Path


def find_programs(root: Path, folder: Path | None) -> Programs:
    """From `folder`, or from the newest build/*/bin under `root`."""
    if folder is None:
        built = [path.parent for path in root.glob("build/*/bin/nestbench_micro")]
        if not built:
            why = f"no build in {root / 'build'}: run ./nestbench once, or name one with --programs DIR"
            raise ProgramError(why, USAGE)
        folder = max(built, key=lambda path: (path / "nestbench_micro").stat().st_mtime)
    programs = Programs(folder / "nestbench", folder / "nestbench_micro")
    if not programs.nestbench.is_file():
        raise ProgramError(f"{programs.nestbench} does not exist: name the folder of a build: --programs DIR", USAGE)
    return programs


def run(command: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    """Runs to the end; output and errors are kept. Raises when it cannot start or does not end in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"{' '.join(command)} did not end within {limit_s:.0f} s", BROKE) from error
    except OSError as error:
        raise ProgramError(f"cannot start {command[0]}: {error.strerror}", USAGE) from error


def run_for_document(programs: Programs, scenario: str, options: Sequence[str], seed: int, out: Path) -> Path:
    """`nestbench run`; the document that it leaves in `out`."""
    command = [str(programs.nestbench), "run", scenario, *options, f"--seed={seed}", f"--out={out}", "--json-only"]
    done = run(command, RUN_LIMIT_S)
    if done.returncode not in WITH_DOCUMENT:
        why = f"nestbench run {scenario}, exit code {done.returncode}: {last_line(done.stderr)}"
        raise ProgramError(why, USAGE if done.returncode == USAGE else BROKE)
    return out / "result.json"


def show_progress(text: str) -> None:
    """One line that rewrites itself, for a person only; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
