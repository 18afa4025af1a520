"""Runs that somebody ends: signals to the program, kill -9 of it and of its guest process."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, children_of, document, journal_rounds, measurements, wait_for

# Long enough to be ended in its middle: some twenty processes of each workload.
LONG = ("run", "overhead", "--profile", "quick", "--filter", "cpu_(integer|branches)", "--rounds", "40")


def _assert_nothing_else_went_wrong(found: dict[str, dict[str, Any]]) -> None:
    for entry in found.values():
        if entry["rounds"] or entry["status"] == "unsupported":
            assert entry["status"] in ("ok", "unsupported"), entry["reason"]
        else:
            assert "ended before" in entry["reason"]


def _guest_of(process: subprocess.Popen[str]) -> int:
    """The guest process that runs right now."""

    def find() -> int | None:
        for child in children_of(process.pid):
            try:
                if os.readlink(f"/proc/{child}/exe").endswith("/nestbench-guest"):
                    return child
            except OSError:
                continue
        return None

    return int(wait_for(find, "a guest process"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["INT", "TERM", "HUP"])
def test_a_signal_ends_the_run_and_keeps_what_is_finished(
    program: Program, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    with program.started(*LONG, "--json-only", "--out", out) as process:
        wait_for(lambda: journal_rounds(out) >= 3, "three rounds")
        process.send_signal(number)
        _, messages = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert f"signal {number.value}" in messages and "kept" in messages
    run = document(out)["nestbench"]["run"]
    assert run["interrupted"] is True and run["recovered"] is False
    found = measurements(out)
    assert sum(len(entry["rounds"]) for entry in found.values()) >= 3
    _assert_nothing_else_went_wrong(found)


def test_a_signal_to_the_whole_group_as_a_terminal_sends_it(program: Program, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = program.command(*LONG, "--json-only", "--out", out)
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        wait_for(lambda: journal_rounds(out) >= 3, "three rounds")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    _assert_nothing_else_went_wrong(measurements(out))


def test_a_killed_guest_process_is_a_crash_of_that_measurement_alone(
    program: Program, tmp_path: Path, has_guests: bool
) -> None:
    out = tmp_path / "out"
    arguments = [*LONG[:-1], "2", "--json-only", "--out", str(out)]
    with program.started(*arguments) as process:
        wait_for(lambda: journal_rounds(out) >= 1, "a round")
        os.kill(_guest_of(process), signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == 6
    found = measurements(out)
    crashed = [entry for entry in found.values() if entry["status"] == "crashed"]
    assert len(crashed) == 1 and "signal 9" in crashed[0]["reason"]
    others = [entry for entry in found.values() if entry["status"] == "ok"]
    assert len(others) == (3 if has_guests else 1)
    assert all(len(entry["rounds"]) == 4 for entry in others)


def test_kill_9_of_the_program_loses_no_finished_measurement(program: Program, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with program.started(*LONG, "--json-only", "--out", out) as process:
        wait_for(lambda: journal_rounds(out) >= 3, "three rounds")
        _guest_of(process)  # it has a child to leave behind, which the fixture looks for
        process.kill()
        process.communicate(timeout=20)
    finished = journal_rounds(out)
    assert not (out / "result.json").exists()
    result = program("recover", out)
    assert result.code == 0, result.err
    run = document(out)["nestbench"]["run"]
    assert run["recovered"] is True
    assert sum(len(entry["rounds"]) for entry in measurements(out).values()) == finished
    assert program("validate", out / "result.json").code == 0
    # And again: the document there is not overwritten unless asked for.
    assert program("recover", out).code == 2
    assert program("recover", "--replace", out).code == 0


def test_readers_that_go_away_do_not_end_the_run(program: Program, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*LONG[:-1], "1", "--out", str(out)]
    with program.started(*arguments) as process:
        assert process.stderr is not None and process.stdout is not None
        process.stderr.close()
        process.stdout.close()
        process.stderr = process.stdout = None
        process.wait(timeout=60)
    assert document(out)["nestbench"]["run"]["interrupted"] is False
