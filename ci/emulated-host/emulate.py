#!/usr/bin/python3
"""Runs a command of nestbench on an emulated host that has nested virtualization."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

import debian  # noqa: E402
import files_back  # noqa: E402
import guest  # noqa: E402
import initramfs  # noqa: E402
from errors import BROKE, USAGE, EmulateError  # noqa: E402
from machines import COUNTED_MODULES, MACHINES, Boot, Size  # noqa: E402

_SCRIPT = PurePosixPath("etc/script.sh")
_EPILOG = """\b
Examples:
  nestbench emulate svm -- probe
  nestbench emulate svm --out host -- run exits --json-only --out .
  nestbench emulate svm --count --out host -- run costs --json-only --out .
  nestbench emulate svm --linux -- boot --kernel /guest/vmlinuz --initrd /guest/initramfs
  nestbench emulate svm --linux --script ci/emulated-host/prove_linux.sh

\b
The exit code is the command's own; 2: usage; 6: the emulated host did not come to its end."""


def _prepare_out(out: Path | None) -> None:
    if out is None:
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise EmulateError(f"--out {out}: must be new or an empty folder", USAGE)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmulateError(f"--out {out}: {error.strerror}", USAGE) from error


def _install(build: Path, scratch: Path) -> Path:
    """The programs of a build as they would be installed."""
    programs = scratch / "programs"
    command = ["cmake", "--install", str(build), "--prefix", str(programs), "--strip"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EmulateError(f"{' '.join(command)}: {done.stderr.strip()}")
    return programs


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.argument("machine", type=click.Choice(list(MACHINES)))
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the files that it leaves go.")
@click.option("--cpus", type=click.IntRange(1, 64), help="Of the emulated host; 1 unless given.")
@click.option("--memory", type=click.IntRange(256, 1 << 20), metavar="MIB", help="Of the emulated host; 1024 MiB.")
@click.option("--count", "counted", is_flag=True, help="Guest time is an instruction count (svm only).")
@click.option("--linux", "with_guest", is_flag=True, help="With a Linux guest in /guest, tap devices and e2fsprogs.")
@click.option("--script", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
              help="Run this shell script there; COMMAND then is its arguments.")
@click.option("--timeout", type=click.FloatRange(1, 86400), metavar="SECONDS", help="svm: 300, vmx: 1200.")
@click.option("--refresh", is_flag=True, help="Fetch kernel and busybox again.")
@click.option("--build", type=click.Path(path_type=Path, file_okay=False, exists=True), required=True, hidden=True)
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), required=True, hidden=True)
def main(
    machine: str,
    command: tuple[str, ...],
    out: Path | None,
    cpus: int | None,
    memory: int | None,
    counted: bool,
    with_guest: bool,
    script: Path | None,
    timeout: float | None,
    refresh: bool,
    build: Path,
    cache: Path,
) -> None:
    """Boots Debian's cloud kernel in software and runs nestbench COMMAND there.

    MACHINE svm is QEMU (kvm_amd nested=1), vmx is Bochs (kvm_intel nested=1).
    """
    chosen = MACHINES[machine]
    try:
        if not command and script is None:
            raise EmulateError("a COMMAND of nestbench is needed, or a --script", USAGE)
        _prepare_out(out)
        parts = debian.fetch(cache, refresh)
        with tempfile.TemporaryDirectory(prefix="nestbench-emulate-") as folder:
            scratch = Path(folder)
            packed = scratch / "initramfs"
            tree = _install(build, scratch)
            modules = {**chosen.modules, **(COUNTED_MODULES if counted else {})}
            files: dict[PurePosixPath, Path] = {}
            program = [f"/{initramfs.PREFIX}/bin/nestbench"]
            if with_guest:
                modules.update(guest.HOST_MODULES)
                files.update(guest.host_files(parts, tree, scratch))
            if script is not None:
                files[_SCRIPT] = script
                program = ["sh", f"/{_SCRIPT}"]
            packed.write_bytes(
                initramfs.build(parts, tree, modules, chosen.channels, [*program, *command], counted, files)
            )
            size = Size(cpus or chosen.size.cpus, memory or chosen.size.memory_mib)
            archive = chosen.run(Boot(parts.kernel, packed, scratch, size, counted), timeout or chosen.limit_s)
            result = files_back.unpack(archive, out)
    except EmulateError as error:
        click.echo(f"nestbench emulate: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"nestbench emulate: {error.filename or ''}: {error.strerror or error}", err=True)
        sys.exit(BROKE)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
