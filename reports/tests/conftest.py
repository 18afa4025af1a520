"""What several test files need: documents on disk, the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nestbench_reports.cli import main
from tests import synthetic

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_POLICY = ROOT / "ci" / "gate.toml"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command as `python3 -m nestbench_reports` would; a traceback would fail the test."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def result_path(tmp_path: Path) -> Path:
    """A whole, healthy document."""
    return synthetic.write(tmp_path / "result.json", synthetic.document())
