#!/usr/bin/python3
"""A Linux guest for `nestbench boot`: Debian's cloud kernel, whole and unpacked, and an initramfs of its own."""

from __future__ import annotations

import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

import debian  # noqa: E402
from errors import USAGE, EmulateError  # noqa: E402
from initramfs import Archive, module_order  # noqa: E402

# What Debian's cloud kernel does not have built in. ext4 it has.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "virtio_balloon")
# What an emulated host needs besides KVM to run the guest.
HOST_MODULES: Mapping[str, str] = {"tun": ""}
_HOST_PROGRAMS = ("mke2fs", "e2fsck")
_HOST_FOLDER = PurePosixPath("guest")
COSTS = "nestbench-linux-costs"

# Kernel document "The Linux/x86 Boot Protocol", section "The Real-Mode Kernel Header".
_SETUP_SECTORS = 0x1F1
_PAYLOAD = 0x248  # payload_offset, payload_length; from the end of the set-up code
_SECTOR_BYTES = 512
_LZ4_LEGACY = b"\x02\x21\x4c\x18"


def initramfs(parts: debian.Parts, programs: Sequence[Path]) -> bytes:
    """`programs`: static ones, for /bin."""
    archive = Archive()
    for name in ("dev", "proc", "sys", "tmp", "mnt", "root"):
        archive.folder(PurePosixPath(name))
    archive.file(PurePosixPath("bin/busybox"), parts.busybox.read_bytes(), 0o755)
    archive.link(PurePosixPath("bin/sh"), "busybox")
    archive.file(PurePosixPath("init"), (Path(__file__).parent / "guest_init.sh").read_bytes(), 0o755)
    for program in programs:
        archive.file(PurePosixPath("bin") / program.name, program.read_bytes(), stat.S_IMODE(program.stat().st_mode))
    lines = []
    for module in module_order(parts.modules, MODULES):
        archive.file(PurePosixPath("modules") / module.name, module.read_bytes())
        lines.append(f"insmod /modules/{module.name}")
    archive.file(PurePosixPath("etc/modules.sh"), "\n".join([*lines, ""]).encode())
    return archive.pack()


def vmlinux(kernel: bytes) -> bytes:
    """The ELF file in a bzImage, which has the PVH entry."""
    start, size = struct.unpack_from("<II", kernel, _PAYLOAD)
    start += (kernel[_SETUP_SECTORS] + 1) * _SECTOR_BYTES
    packed = kernel[start : start + size]
    if not packed.startswith(_LZ4_LEGACY):
        raise EmulateError("this kernel is not packed with LZ4 as Debian's cloud kernels are: vmlinux was not unpacked")
    try:
        # The size that the kernel's build appends is not LZ4's, which says so with its exit code.
        done = subprocess.run(["lz4", "-d", "-c"], input=packed, capture_output=True, check=False)
    except OSError as error:
        raise EmulateError(f"cannot start lz4: {error.strerror}; apt-get install lz4", USAGE) from error
    if not done.stdout.startswith(b"\x7fELF"):
        raise EmulateError(f"unpacking the kernel: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout


def make(parts: debian.Parts, costs: Path, folder: Path) -> dict[str, Path]:
    """Writes kernel and initramfs there; `costs`: the program COSTS. By name: vmlinuz, initramfs."""
    kernel, packed = folder / "vmlinuz", folder / "initramfs"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(parts.kernel, kernel)
    packed.write_bytes(initramfs(parts, [costs]))
    return {"vmlinuz": kernel, "initramfs": packed}


def host_files(parts: debian.Parts, programs: Path, scratch: Path) -> dict[PurePosixPath, Path]:
    """What an emulated host needs to run the guest, by its path there. `programs`: an installation of nestbench."""
    made = make(parts, programs / "libexec" / "nestbench" / COSTS, scratch / "guest")
    made["vmlinux"] = scratch / "guest" / "vmlinux"
    made["vmlinux"].write_bytes(vmlinux(made["vmlinuz"].read_bytes()))
    files = {_HOST_FOLDER / name: path for name, path in made.items()}
    for name in _HOST_PROGRAMS:
        found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
        if found is None:
            raise EmulateError(f"{name} is missing: apt-get install e2fsprogs", USAGE)
        files[PurePosixPath("sbin") / name] = Path(found)
    return files


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--build", type=click.Path(path_type=Path, file_okay=False, exists=True), required=True, hidden=True)
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), required=True, hidden=True)
def main(folder: Path, build: Path, cache: Path) -> None:
    """Writes Debian's cloud kernel and an initramfs for it to FOLDER: vmlinuz, vmlinux and initramfs."""
    try:
        parts = debian.fetch(cache, refresh=False)
        made = make(parts, build / "bin" / COSTS, folder)
        (folder / "vmlinux").write_bytes(vmlinux(made["vmlinuz"].read_bytes()))
    except EmulateError as error:
        click.echo(f"nestbench linux-guest: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"nestbench linux-guest: {error.filename or ''}: {error.strerror or error}", err=True)
        sys.exit(USAGE)
    click.echo(f"nestbench boot --kernel {folder / 'vmlinuz'} --initrd {folder / 'initramfs'}")


if __name__ == "__main__":
    main()
