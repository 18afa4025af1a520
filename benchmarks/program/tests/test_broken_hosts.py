"""Hosts that lack something: no /dev/kvm, no right to open it, a full disk, an image that is not what it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import SMALL, WITHOUT_RIGHTS, Program, document, in_mount_namespace, measurements

BARE = "overhead/cpu_integer/bare"
VM = "overhead/cpu_integer/vm"

# A /dev that has everything the program uses except /dev/kvm.
NO_KVM = """
mkdir "$TMPDIR/dev"
mount -t tmpfs nestbench-test "$TMPDIR/dev"
for name in null zero urandom; do touch "$TMPDIR/dev/$name"; mount --bind /dev/$name "$TMPDIR/dev/$name"; done
mount --move "$TMPDIR/dev" /dev
"""
# A /dev/kvm that belongs to somebody else, and no capability to open it all the same.
_NO_RIGHT = """
touch "$TMPDIR/kvm"
chmod 000 "$TMPDIR/kvm"
mount --bind "$TMPDIR/kvm" /dev/kvm
"""
_FULL_DISK = """
mkdir "$TMPDIR/disk"
mount -t tmpfs -o size=%s nestbench-test "$TMPDIR/disk"
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def _assert_bare_only(folder: Path, reason: str) -> None:
    found = measurements(folder)
    assert found[BARE]["status"] == "ok" and found[BARE]["rounds"]
    assert found[VM]["status"] == "unsupported" and reason in found[VM]["reason"] and not found[VM]["rounds"]


def test_no_dev_kvm_measures_what_runs_without(program: Program, tmp_path: Path) -> None:
    result = program(*SMALL, "--out", tmp_path / "out", prefix=in_mount_namespace(NO_KVM))
    assert result.code == 5, result.err
    result.assert_one_message("/dev/kvm")
    _assert_bare_only(tmp_path / "out", "/dev/kvm")


def test_no_right_to_dev_kvm_says_how_to_get_it(program: Program, tmp_path: Path) -> None:
    if not Path("/dev/kvm").exists():
        pytest.skip("this host has no /dev/kvm to take the right away from")
    prefix = [*in_mount_namespace(_NO_RIGHT), *WITHOUT_RIGHTS.split()]
    result = program(*SMALL, "--out", tmp_path / "out", prefix=prefix)
    assert result.code == 5, result.err
    result.assert_one_message("/dev/kvm", "kvm")
    _assert_bare_only(tmp_path / "out", "/dev/kvm")


def test_probe_of_a_host_without_kvm(program: Program) -> None:
    result = program("probe", prefix=in_mount_namespace(NO_KVM))
    assert result.code == 0 and "/dev/kvm" in result.out


@pytest.mark.parametrize("size", ["8k", "48k"])
def test_a_full_disk_keeps_what_was_finished(program: Program, tmp_path: Path, size: str) -> None:
    script = _FULL_DISK % size
    keep = 'cp -r "$TMPDIR/disk" "$TMPDIR/kept"'
    # The namespace ends with the command, so what was written is copied out by a shell around it.
    around = [*in_mount_namespace(script), "/bin/sh", "-c", f'"$@"; code=$?; {keep}; exit $code', "sh"]
    arguments = [*SMALL, "--out", str(tmp_path / "disk" / "out")]
    arguments[arguments.index("--rounds") + 1] = "400"
    result = program(*arguments, prefix=around)
    assert result.code == 6, result.err
    result.assert_one_message("No space left on device")
    assert not (tmp_path / "kept" / "out" / "result.json").exists()
    if size == "8k":
        return  # not even the header fits
    result = program("recover", tmp_path / "kept" / "out")
    assert result.code == 0, result.err
    assert document(tmp_path / "kept" / "out")["nestbench"]["run"]["recovered"] is True
    assert measurements(tmp_path / "kept" / "out")[BARE]["rounds"]


def _installed_copy(build: Path, prefix: Path) -> Program:
    """The program with images of its own, to break them."""
    (prefix / "libexec").mkdir(parents=True)
    (prefix / "bin").mkdir()
    shutil.copy(build / "bin" / "nestbench", prefix / "bin")
    shutil.copytree(build / "images", prefix / "libexec" / "nestbench" / "images")
    for name in ("nestbench-guest", "nestbench_micro"):
        shutil.copy(build / "bin" / name, prefix / "libexec" / "nestbench")
    return Program(prefix / "bin" / "nestbench")


@pytest.mark.parametrize("damage", ["truncated", "other machine", "empty", "gone"])
def test_a_corrupted_image_is_named_and_the_others_are_measured(build: Path, tmp_path: Path, damage: str) -> None:
    program = _installed_copy(build, tmp_path / "prefix")
    image = tmp_path / "prefix" / "libexec" / "nestbench" / "images" / "cpu_branches.elf"
    content = bytearray(image.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")  # e_machine: EM_AARCH64
    image.unlink()
    if damage != "gone":
        damaged = {"truncated": content[:200], "other machine": content, "empty": b""}
        image.write_bytes(damaged[damage])
    arguments = ("run", "overhead", "--filter", "cpu_(integer|branches)", "--rounds", "1", "--json-only")
    result = program(*arguments, "--profile", "quick", "--out", tmp_path / "out")
    assert result.code == 6, result.err
    found = measurements(tmp_path / "out")
    assert found[BARE]["status"] == "ok" and found[BARE]["rounds"]
    broken = found["overhead/cpu_branches/bare"]
    assert broken["status"] == "error" and broken["reason"] and not broken["rounds"]
    assert "cpu_branches" in broken["reason"]


def test_a_guest_program_that_is_gone(build: Path, tmp_path: Path) -> None:
    program = _installed_copy(build, tmp_path / "prefix")
    (tmp_path / "prefix" / "libexec" / "nestbench" / "nestbench-guest").unlink()
    result = program(*SMALL, "--out", tmp_path / "out")
    assert result.code == 6
    result.assert_one_message("nestbench-guest", "build or install again")
