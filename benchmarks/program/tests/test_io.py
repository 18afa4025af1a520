"""`nestbench run io`: a disk behind a guest and beside it, and what it says where there is no room for one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import Program, in_mount_namespace, measurements

_SMALL_DISK = """
mkdir "$TMPDIR/disk"
mount -t tmpfs -o size=8m nestbench-test "$TMPDIR/disk"
"""
ONE = ("--rounds", "1", "--json-only", "--seed", "1")
DEPTH_32 = "io/disk/block_bytes=4096,depth=32,disk={disk},metric={metric},operation=random_read/{substrate}"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_disk_in_memory_tells_every_metric_of_both_sides(program: Program, tmp_path: Path, has_guests: bool) -> None:
    result = program("run", "io", "--filter", "depth=32,disk=ram", *ONE, "--out", tmp_path / "out")
    assert result.code == (0 if has_guests else 5), result.err
    found = measurements(tmp_path / "out")
    metrics = {"iops", "latency_p50", "latency_p99", "latency_p999", "cpu"}
    for substrate, expected in (("bare", metrics), ("vm", metrics | {"exits"})):
        seen = {entry["params"]["metric"] for entry in found.values() if entry["substrate"] == substrate}
        assert seen == expected
    for name, entry in found.items():
        if entry["substrate"] == "vm" and not has_guests:
            assert entry["status"] == "unsupported" and "/dev/kvm" in entry["reason"]
            continue
        assert entry["status"] == "ok", (name, entry["reason"])
        assert all(sample > 0 for one in entry["rounds"] for sample in one["samples"])
        assert entry["image"] == ("io_disk" if entry["substrate"] == "vm" else "")
    assert program("validate", tmp_path / "out" / "result.json").code == 0


def test_a_run_leaves_no_disk_behind(program: Program, tmp_path: Path, has_guests: bool) -> None:
    result = program("run", "io", "--filter", "depth=1,disk=file,metric=iops", *ONE, "--out", tmp_path / "out")
    assert result.code == (0 if has_guests else 5), result.err
    assert sorted(os.listdir(tmp_path / "out")) == ["journal.jsonl", "result.json"]


def test_no_room_for_the_file_leaves_the_disk_in_memory(program: Program, tmp_path: Path) -> None:
    # The namespace ends with the command, so what was written is copied out by a shell around it.
    keep = 'cp "$TMPDIR/disk/out/result.json" "$TMPDIR/"'
    around = [*in_mount_namespace(_SMALL_DISK), "/bin/sh", "-c", f'"$@"; code=$?; {keep}; exit $code', "sh"]
    arguments = ("run", "io", "--filter", "depth=32,disk=(ram|file),metric=iops", *ONE)
    result = program(*arguments, "--out", tmp_path / "disk" / "out", prefix=around)
    assert result.code == 6, result.err
    found = measurements(tmp_path)
    file = found[DEPTH_32.format(disk="file", metric="iops", substrate="bare")]
    ram = found[DEPTH_32.format(disk="ram", metric="iops", substrate="bare")]
    assert file["status"] == "error" and "a disk of 64 MiB" in file["reason"]
    assert ram["status"] == "ok"


def test_a_reference_that_is_not_installed_is_named(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_path = tmp_path / "bin"
    bare_path.mkdir()
    monkeypatch.setenv("PATH", str(bare_path))
    arguments = ("--filter", "depth=1,disk=ram,metric=iops.*/(bare|fio)$", *ONE, "--out", tmp_path / "out")
    program("run", "io", "--reference", "fio", *arguments)
    entry = measurements(tmp_path / "out")[
        "io/disk/block_bytes=4096,depth=1,disk=ram,metric=iops,operation=random_read/fio"
    ]
    assert entry["status"] == "unsupported" and "apt-get install fio" in entry["reason"]


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
def test_fio_stands_beside_the_twin(program: Program, tmp_path: Path) -> None:
    chosen = "depth=32,disk=ram,metric=(iops|latency_p50).*/(bare|fio)$"
    arguments = ("--filter", chosen, *ONE, "--out", tmp_path / "out")
    result = program("run", "io", "--reference", "fio", *arguments)
    assert result.code in (0, 5), result.err
    for metric in ("iops", "latency_p50"):
        entry = measurements(tmp_path / "out")[DEPTH_32.format(disk="ram", metric=metric, substrate="fio")]
        assert entry["status"] == "ok" and entry["rounds"][0]["samples"][0] > 0


NETWORK = "io/network/frame_bytes={frame},metric={metric},operation={operation},peer={peer}/{substrate}"


def test_networks_tell_their_metrics_on_both_sides(program: Program, tmp_path: Path, has_guests: bool) -> None:
    result = program("run", "io", "--filter", "io/network", *ONE, "--out", tmp_path / "out")
    found = measurements(tmp_path / "out")
    assert {entry["params"]["operation"] for entry in found.values()} == {"ping_pong", "stream"}
    expected = {
        NETWORK.format(frame=64, metric="latency_p50", operation="ping_pong", peer="host", substrate="bare"): "ns",
        NETWORK.format(frame=64, metric="cpu", operation="ping_pong", peer="host", substrate="vm"): "ns/op",
        NETWORK.format(frame=64, metric="exits", operation="ping_pong", peer="host", substrate="vm"): "exits/op",
        NETWORK.format(frame=1514, metric="bandwidth", operation="stream", peer="guest", substrate="vm"): "MB/s",
        NETWORK.format(frame=1514, metric="cpu", operation="stream", peer="guest", substrate="bare"): "ns/packet",
    }
    assert {name: found[name]["unit"] for name in expected} == expected
    for name, entry in found.items():
        if entry["status"] == "unsupported":  # no guests, no right to make namespaces, or no tap
            assert entry["reason"] and result.code == 5, name
            continue
        assert entry["status"] == "ok", (name, entry["reason"])
        assert entry["image"] == ("io_net" if entry["substrate"] == "vm" else "")
        assert all(sample > 0 for one in entry["rounds"] for sample in one["samples"])


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
def test_iperf3_stands_beside_the_stream(program: Program, tmp_path: Path) -> None:
    arguments = ("--filter", "stream.*/iperf3$", *ONE, "--out", tmp_path / "out")
    result = program("run", "io", "--reference", "fio,iperf3", *arguments)
    assert result.code in (0, 5), result.err
    (entry,) = measurements(tmp_path / "out").values()
    assert entry["unit"] == "MB/s" and entry["params"]["metric"] == "bandwidth"
    if entry["status"] == "unsupported":
        assert "namespace" in entry["reason"]
    else:
        assert entry["status"] == "ok" and entry["rounds"][0]["samples"][0] > 0


def test_what_is_no_reference_is_a_wrong_choice(program: Program) -> None:
    result = program("run", "io", "--reference", "dd")
    assert result.code == 2 and "dd" in result.err
