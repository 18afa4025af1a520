"""Runs with many guests: what they leave behind, however they end, and what they make of hosts that lack something."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, Result, children_of, document, in_mount_namespace, measurements, wait_for

# No group can be made, whatever the layout.
_READ_ONLY_CGROUPS = """
awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts |
  while read -r folder; do mount -o remount,bind,ro "$folder"; done
"""
_NO_KVM = "mount --bind /dev/null /dev/kvm"
# Only what the program itself needs: no bubblewrap.
_EMPTY_PATH = ["/usr/bin/env", "PATH=/nonexistent"]

FAULTS = ("run", "containment", "--tries", "1", "--profile", "quick", "--json-only", "--filter")
IDLE = ("run", "density", "--idle", "--json-only", "--guests")


def _groups() -> list[Path]:
    """The cgroups of every run of nestbench on this host."""
    return [Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup") if Path(folder).name.startswith("nestbench-")]


def _can_make_groups() -> bool:
    found = subprocess.run(
        ["awk", '$3 == "cgroup" && $4 ~ /^rw/ && $4 ~ /memory/', "/proc/mounts"], capture_output=True, text=True
    )
    return os.geteuid() == 0 and bool(found.stdout)


def _experiments(folder: Path) -> dict[str, Any]:
    return {entry["id"]: entry for entry in document(folder)["nestbench"]["experiments"]}


@pytest.fixture(autouse=True)
def no_group_left() -> Any:
    before = set(_groups())
    yield
    assert not set(_groups()) - before, "the program left cgroups behind"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("density", "--guests", "0"), ("--guests",)),
        (("density", "--guests", "100001"), ("--guests",)),
        (("density", "--guests", "many"), ("--guests",)),
        (("density", "--budget-memory", "1X"), ("--budget-memory",)),
        (("density", "--budget-cpus", "0"), ("--budget-cpus",)),
        (("density", "--slo-p99", "-1"), ("--slo-p99",)),
        (("isolation", "--schedules", "-1"), ("--schedules",)),
        (("containment", "--tries", "0"), ("--tries",)),
        (("containment", "--soak", "soon"), ("--soak",)),
        (("containment", "--filter", "no_such_fault"), ("selects nothing",)),
    ],
)
def test_a_wrong_choice(program: Program, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    result = program("run", *arguments, "--out", tmp_path / "out")
    assert result.code == 2
    result.assert_one_message(*words)
    assert not (tmp_path / "out").exists()


def test_idle_guests_are_measured_beside_their_floor(program: Program, tmp_path: Path, has_guests: bool) -> None:
    result = program(*IDLE, "20", "--out", tmp_path / "out")
    assert result.code == (0 if has_guests else 5), result.err
    found = measurements(tmp_path / "out")
    for quantity in ("start_rate/guests=20,load=idle", "memory_per_guest/guests=20,load=idle,part=total"):
        for substrate in ("vm", "floor"):
            entry = found[f"density/{quantity}/{substrate}"]
            assert entry["status"] == ("ok" if has_guests else "unsupported"), entry
    if has_guests:
        end = _experiments(tmp_path / "out")["density/idle/vm"]["records"][-1]
        assert end["kind"] == "end" and not any(end["left_behind"].values()), end
    assert program("validate", tmp_path / "out" / "result.json").code == 0


def test_faults_on_both_substrates(program: Program, tmp_path: Path, has_guests: bool) -> None:
    result = program(*FAULTS, "containment/(triple_fault|vmm_abort|memory_bomb)", "--out", tmp_path / "out")
    assert result.code == (0 if has_guests else 5), result.err
    found = measurements(tmp_path / "out")
    expected = "ok" if has_guests else "unsupported"
    assert found["containment/triple_fault/vm"]["status"] == expected
    assert found["containment/vmm_abort/vm"]["status"] == expected
    assert found["containment/vmm_abort/zone"]["status"] in ("ok", "unsupported")
    if _can_make_groups():
        assert found["containment/memory_bomb/vm"]["status"] == expected


def test_without_cgroups_what_needs_none_is_measured(program: Program, tmp_path: Path, has_guests: bool) -> None:
    arguments: list[str | Path] = [*FAULTS, "containment/(vmm_abort|memory_bomb)/vm", "--out", tmp_path / "out"]
    result = program(*arguments, prefix=in_mount_namespace(_READ_ONLY_CGROUPS))
    found = measurements(tmp_path / "out")
    bomb = found["containment/memory_bomb/vm"]
    assert bomb["status"] == "unsupported" and "cgroups" in bomb["reason"]
    if has_guests:
        assert result.code == 0, result.err
        assert found["containment/vmm_abort/vm"]["status"] == "ok"
        assert "memory" in result.err and "run as root" in result.err


def test_a_budget_without_cgroups_is_refused(program: Program, tmp_path: Path) -> None:
    arguments: list[str | Path] = [*IDLE, "2", "--budget-memory", "256M", "--out", tmp_path / "out"]
    result = program(*arguments, prefix=in_mount_namespace(_READ_ONLY_CGROUPS))
    assert result.code == 5
    assert "a budget needs cgroups" in result.err
    assert not (tmp_path / "out" / "result.json").exists()


def test_without_kvm_zones_and_processes_are_measured(program: Program, tmp_path: Path) -> None:
    if not Path("/dev/kvm").exists():
        pytest.skip("this host has no /dev/kvm to hide")
    arguments: list[str | Path] = [*FAULTS, "containment/vmm_abort", "--out", tmp_path / "out"]
    result = program(*arguments, prefix=in_mount_namespace(_NO_KVM))
    assert result.code == 5, result.err
    found = measurements(tmp_path / "out")
    assert found["containment/vmm_abort/vm"]["status"] == "unsupported"
    assert "/dev/kvm" in found["containment/vmm_abort/vm"]["reason"]
    zone = found["containment/vmm_abort/zone"]
    assert zone["status"] == "ok" or "bwrap" in zone["reason"] or "namespace" in zone["reason"]


def test_without_a_zone_runtime_the_reason_names_it(program: Program, tmp_path: Path) -> None:
    result = program(*FAULTS, "containment/vmm_abort", "--out", tmp_path / "out", prefix=_EMPTY_PATH)
    zone = measurements(tmp_path / "out")["containment/vmm_abort/zone"]
    assert zone["status"] == "unsupported" and "bubblewrap" in zone["reason"], result.err


def _records(folder: Path) -> int:
    try:
        return (folder / "journal.jsonl").read_text().count("\n")
    except OSError:
        return 0


@pytest.mark.parametrize("scenario", ["density", "isolation", "containment"])
def test_a_signal_ends_it_and_leaves_nothing(program: Program, tmp_path: Path, scenario: str) -> None:
    out = tmp_path / "out"
    with program.started("run", scenario, "--profile", "quick", "--json-only", "--out", out) as process:
        wait_for(lambda: len(children_of(process.pid)) > 0 and _records(out) >= 2, "the first records")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert document(out)["nestbench"]["run"]["interrupted"] is True
    assert program("validate", out / "result.json").code == 0


def test_kill_9_leaves_no_guest_and_no_group_after_the_next_start(
    program: Program, tmp_path: Path, has_guests: bool
) -> None:
    if not has_guests:
        pytest.skip("no guests here")
    out = tmp_path / "out"
    with program.started(*IDLE, "300", "--out", out) as process:

        def guests() -> bool:
            return any(len(children_of(child)) >= 100 for child in children_of(process.pid))

        wait_for(guests, "a hundred guests")
        process.kill()
        process.communicate(timeout=20)
    # The fixture finds every process that stays alive. The groups go with the next start.
    after = program(*IDLE, "2", "--out", tmp_path / "next")
    assert after.code == 0, (after, (tmp_path / "next" / "result.json").read_text(encoding="utf-8")[-4000:])
    assert not _groups()
    assert program("recover", out).code == 0
    assert program("validate", out / "result.json").code == 0


def test_watch_names_what_it_cannot_watch(program: Program) -> None:
    result = program("watch", "--pid", "4194304", "--duration", "1")
    assert result.code == 2
    result.assert_one_message("no process 4194304")


def test_watch_of_guests_that_are_there(program: Program, tmp_path: Path, has_guests: bool) -> None:
    if not has_guests:
        pytest.skip("no guests here")
    out = tmp_path / "out"
    ramp = ("run", "density", "--json-only", "--max", "4", "--filter", "density/.*/vm", "--out", out)
    with program.started(*ramp) as run:

        def watched() -> Result | None:
            found = program("watch", "--duration", "1")
            return found if "nestbench-tenan" in found.out else None  # at first there is only the probe's VM

        result = wait_for(watched, "guests")
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=30)
    # Whether one is found noisy is the host's matter here; that they are found is not.
    assert result.code in (0, 1), result.err
    assert result.out.startswith("watching ")
