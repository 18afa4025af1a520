"""Runs the built program. NESTBENCH_BUILD names the build tree; it is set by CTest."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_LIMIT_S = 120.0

# The smallest run that has guests, two rounds of one workload; about two seconds.
SMALL = ("run", "overhead", "--profile", "quick", "--filter", "cpu_integer", "--rounds", "2", "--json-only")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def assert_one_message(self, *words: str) -> None:
        """The messages name `words`; nothing of it is a stack trace or a loader's complaint."""
        for word in words:
            assert word in self.err, f"{word!r} is not in:\n{self.err}"
        for line in self.err.splitlines():
            assert line.startswith("nestbench"), f"not a message of ours: {line}"
        assert "Traceback" not in self.err


@dataclass(frozen=True)
class Program:
    path: Path

    def command(self, *arguments: str | Path) -> list[str]:
        return [str(self.path), *map(str, arguments)]

    def __call__(self, *arguments: str | Path, prefix: list[str] | None = None) -> Result:
        command = [*(prefix or []), *self.command(*arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, stdin=subprocess.DEVNULL)
        return Result(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def started(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """The program in the background; killed at the end if it is still there."""
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def build() -> Path:
    folder = os.environ.get("NESTBENCH_BUILD")
    if not folder:
        pytest.exit("NESTBENCH_BUILD is not set: run these tests by ctest", returncode=2)
    return Path(folder)


@pytest.fixture(scope="session")
def program(build: Path) -> Program:
    return Program(build / "bin" / "nestbench")


@pytest.fixture(scope="session")
def has_guests(program: Program) -> bool:
    """Whether guests run on this host: what the tests expect depends on it, none is left out for it."""
    report = json.loads(program("probe", "--json").out)
    return bool(report["host"]["kvm"]["available"])


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program leaves in the temporary folder is its own: other tests run at the same time."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    """Whatever the program starts and leaves behind becomes our child, and fails the test."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    yield
    deadline = time.monotonic() + 5
    while (left := children_of(os.getpid())) and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # those that have ended: a killed parent could not collect them
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "the program left children behind"


def children_of(pid: int) -> list[int]:
    """Also those that have ended and are not collected."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = 60) -> Any:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.002)
    raise TimeoutError(f"not within {limit_s} s: {what}")


def journal_rounds(folder: Path) -> int:
    """Finished rounds in the journal so far."""
    with contextlib.suppress(OSError):
        return (folder / "journal.jsonl").read_text().count('"type":"round"')
    return 0


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def measurements(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in document(folder)["nestbench"]["measurements"]}


def in_mount_namespace(script: str) -> list[str]:
    """A prefix that runs `script` in a mount namespace of its own, and then the command. Skips where there is none.

    `script` is ours, with no word from outside; the command arrives as its arguments.
    """
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("this host gives no mount namespace to this user")
    return [*unshare, "/bin/sh", "-eu", "-c", script + '\nexec "$@"', "sh"]


# In front of a command: root without what makes root more than the owner of files.
WITHOUT_RIGHTS = "setpriv --bounding-set=-all --inh-caps=-all --"
