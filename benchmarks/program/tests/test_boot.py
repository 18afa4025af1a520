"""`nestbench boot`: what is wrong with kernels, files and flags is one message; a kernel boots where one can."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest
from conftest import Program, in_mount_namespace, measurements
from test_broken_hosts import NO_KVM

# mov edx, 3F8h; then for each letter: mov al, letter; out dx, al. mov edx, 604h; mov eax, 3400h; out dx, ax; hlt:
# prints, and switches off by ACPI.
_TEXT = b"hello\n"
_CODE = (
    b"\xba\xf8\x03\x00\x00"
    + b"".join(bytes([0xB0, letter, 0xEE]) for letter in _TEXT)
    + b"\xba\x04\x06\x00\x00\xb8\x00\x34\x00\x00\x66\xef\xf4"
)


def _bzimage(code: bytes = _CODE, **changed: int) -> bytes:
    """Kernel document "The Linux/x86 Boot Protocol": one set-up sector, then a kernel of 4 KiB with a 64-bit entry."""
    fields = {"version": 0x20F, "loadflags64": 1, "syssize": 256, "pref_address": 0x100_0000, **changed}
    image = bytearray(1024 + 4096)
    image[0x1F1] = 1  # set-up sectors
    struct.pack_into("<I", image, 0x1F4, fields["syssize"])
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, fields["version"])
    struct.pack_into("<I", image, 0x22C, 0x7FFF_FFFF)  # the highest address of an initramfs
    struct.pack_into("<H", image, 0x236, fields["loadflags64"])
    struct.pack_into("<I", image, 0x238, 255)  # bytes of a command line
    struct.pack_into("<Q", image, 0x258, fields["pref_address"])
    struct.pack_into("<I", image, 0x260, 0x10_0000)  # what it needs while it starts
    image[1024 + 0x200 : 1024 + 0x200 + len(code)] = code
    return bytes(image)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "bzImage"
    path.write_bytes(_bzimage())
    return path


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("--kernel", "--help")),
        (("--kernel", "{none}"), ("{none}", "No such file")),
        (("--kernel", "{folder}"), ("{folder}", "directory")),
        (("--kernel", "{kernel}", "--initrd", "{none}"), ("{none}", "No such file")),
        (("--kernel", "{kernel}", "--cpus", "0"), ("--cpus", "--help")),
        (("--kernel", "{kernel}", "--cpus", "many"), ("--cpus", "--help")),
        (("--kernel", "{kernel}", "--memory", "lots"), ("--memory", "--help")),
        (("--kernel", "{kernel}", "--timeout", "-1"), ("--timeout", "--help")),
        (("--kernel", "{kernel}", "--timeline", "{none}/file"), ("{none}/file", "No such file")),
        (("--kernel", "{kernel}", "--sideways"), ("--sideways", "--help")),
    ],
)
def test_a_wrong_flag_or_file(
    program: Program, kernel: Path, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    names = {"kernel": kernel, "folder": tmp_path, "none": tmp_path / "none"}
    result = program("boot", *(flag.format(**names) for flag in flags))
    assert result.code == 2, result.err
    result.assert_one_message(*(word.format(**names) for word in words))
    assert len(result.err.splitlines()) == 1 and result.out == ""


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", 2, "neither a bzImage nor an ELF file"),
        (b"#!/bin/sh\n" * 100, 2, "neither a bzImage nor an ELF file"),
        (_bzimage()[:550], 2, "neither a bzImage nor an ELF file"),
        (_bzimage()[:1500], 2, "cut off"),
        (_bzimage()[:4000], 2, "the header promises"),
        (_bzimage(pref_address=1 << 62), 2, "it wants"),
        (_bzimage(version=0x204), 5, "protocol 2.12"),
        (_bzimage(loadflags64=0), 5, "without a 64-bit entry"),
        (b"\x7fELF" + bytes(100), 2, "not an ELF64 file"),
    ],
    ids=["empty", "script", "cut header", "cut entry", "cut kernel", "address", "old", "32 bits", "ELF"],
)
def test_a_kernel_that_is_none(program: Program, tmp_path: Path, content: bytes, code: int, words: str) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(content)
    result = program("boot", "--kernel", path)
    assert result.code == code, result.err
    result.assert_one_message(words)
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--disk", "{none}"), ("{none}", "No such file")),
        (("--disk", "{kernel},sideways"), ("--disk", "FILE[,direct][,ro]")),
        (("--net", "eth0"), ("--net", "tap:NAME or switch")),
        (("--net", "tap:" + "x" * 40), ("1 to 15 characters",)),
    ],
)
def test_a_wrong_device(
    program: Program, kernel: Path, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    names = {"kernel": kernel, "none": tmp_path / "none"}
    result = program("boot", "--kernel", kernel, *(flag.format(**names) for flag in flags))
    assert result.code == 2, result.err
    result.assert_one_message(*(word.format(**names) for word in words))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--memory", "1M"), ("at least",)),
        (("--memory", "65M"), ("multiple of 2 MiB",)),
        (("--append", "x" * 400), ("command line of", "takes 255")),
    ],
)
def test_a_machine_that_cannot_be(
    program: Program, kernel: Path, flags: tuple[str, ...], words: tuple[str, ...], has_guests: bool
) -> None:
    result = program("boot", "--kernel", kernel, *flags)
    if not has_guests:
        assert result.code == 5, result.err
        return
    assert result.code == 2, result.err
    result.assert_one_message(*words)


def test_a_kernel_boots_or_the_instruction_that_is_refused_is_named(
    program: Program, kernel: Path, tmp_path: Path, has_guests: bool
) -> None:
    timeline = tmp_path / "timeline"
    start = time.monotonic()
    result = program("boot", "--kernel", kernel, "--net", "switch", "--ram-disk", "1M", "--timeline", timeline)
    assert time.monotonic() - start < 30
    if result.code == 0:
        assert result.out == _TEXT.decode()
        entries = [json.loads(line) for line in timeline.read_text().splitlines()]
        assert entries[0]["event"] == "entered" and entries[1]["line"] == "hello"
        assert 0 < entries[0]["ns"] < entries[1]["ns"]
        return
    assert result.code == 5 and "unsupported: " in result.err
    if has_guests:
        # The instruction's name and bytes, and where it was.
        assert "INT3 (cc)" in result.err and "rip 0x" in result.err


def test_no_dev_kvm(program: Program, kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    result = program("boot", "--kernel", kernel, prefix=in_mount_namespace(NO_KVM))
    assert result.code == 5, result.err
    result.assert_one_message("unsupported: ", "/dev/kvm")


@pytest.mark.parametrize(
    "arguments", [("linux",), ("linux", "--kernel", "k"), ("exits", "--kernel", "k", "--initrd", "i")]
)
def test_the_scenario_needs_a_guest(program: Program, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = program("run", *arguments, "--out", tmp_path / "out")
    assert result.code == 2, result.err
    result.assert_one_message("--kernel", "--initrd")
    assert not (tmp_path / "out").exists()


def test_the_scenario_measures_the_host_and_says_why_the_guest_was_not(
    program: Program, kernel: Path, tmp_path: Path, has_guests: bool
) -> None:
    """A kernel that only says hello is no guest that measures anything, where it runs at all."""
    (tmp_path / "initramfs").write_bytes(bytes(512))
    guest = ("--kernel", kernel, "--initrd", tmp_path / "initramfs")
    result = program("run", "linux", *guest, "--rounds", "1", "--json-only", "--out", tmp_path / "out")
    assert result.code in (5, 6), result.err
    assert program("validate", tmp_path / "out" / "result.json").code == 0
    found = measurements(tmp_path / "out")
    bare = found["linux/syscall/call=getppid/bare"]
    assert bare["status"] == "ok" and [len(entry["samples"]) for entry in bare["rounds"]] == [11, 11]
    vm = found["linux/syscall/call=getppid/vm"]
    assert not vm["rounds"]
    if result.code == 6:
        assert vm["status"] == "error" and found["linux/boot/part=vmm/vm"]["status"] == "ok"
        return
    assert vm["status"] == "unsupported"
    assert not has_guests or "INT3 (cc)" in vm["reason"]
