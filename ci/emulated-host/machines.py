"""The two machines: QEMU's software CPU with SVM, and Bochs with VMX. Each boots a kernel and an initramfs and ends."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from errors import BROKE, USAGE, EmulateError

_KERNEL_ARGUMENTS = "quiet panic=-1 random.trust_cpu=on"
DONE = b"emulated host: done"  # init.sh; after it there is nothing to wait for
_DONE_GRACE_S = 3.0
_POLL_S = 0.05
_TAIL_LINES = 15
_TERMINAL_BYTES = 16384


@dataclass(frozen=True)
class Size:
    cpus: int
    memory_mib: int


@dataclass(frozen=True)
class Boot:
    kernel: Path
    initramfs: Path
    scratch: Path  # for whatever the machine writes
    size: Size
    counted: bool  # guest time is an instruction count


# KVM learns by how much too late its timers are and arms them that much earlier: not the same in two runs.
COUNTED_MODULES: Mapping[str, str] = {"kvm": "lapic_timer_advance_ns=0"}


class Qemu:
    """Debian's qemu-system-x86: `-cpu max` has SVM with nested paging, which kvm_amd then offers its guests."""

    program = "qemu-system-x86_64"
    modules: Mapping[str, str] = {"virtio_pci": "", "virtio_console": "", "kvm_amd": "nested=1"}
    channels: Mapping[str, str] = {"OUTPUT": "output", "ERRORS": "errors", "FILES": "files"}
    size = Size(cpus=1, memory_mib=1024)
    limit_s = 300.0

    def run(self, boot: Boot, limit_s: float) -> Path:
        """Passes output on until the machine has ended; returns the archive of files."""
        console, files = boot.scratch / "console", boot.scratch / "files.tar.gz"
        pipes = {"output": os.pipe(), "errors": os.pipe()}
        command = [
            "setpriv", "--pdeathsig", "KILL", "--",
            self.program, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny",
            "-cpu", "max", "-smp", str(boot.size.cpus), "-m", str(boot.size.memory_mib),
            *self._accelerator(boot.counted),
            "-serial", f"file:{console}",
            "-device", "virtio-serial-pci",
            *self._port("output", f"/dev/fd/{pipes['output'][1]}"),
            *self._port("errors", f"/dev/fd/{pipes['errors'][1]}"),
            *self._port("files", str(files)),
            "-kernel", str(boot.kernel), "-initrd", str(boot.initramfs),
            "-append", f"console=ttyS0 {_KERNEL_ARGUMENTS}",
        ]  # fmt: skip
        process = _start(command, pass_fds=[end for _, end in pipes.values()])
        relays = []
        for (read_end, write_end), target in zip(pipes.values(), (sys.stdout.buffer, sys.stderr.buffer), strict=True):
            os.close(write_end)
            relays.append(threading.Thread(target=_relay, args=(read_end, target), daemon=True))
            relays[-1].start()
        _wait(process, console, limit_s)
        for relay in relays:
            relay.join()
        if process.returncode not in (0, -9):
            said = process.stderr.read().decode("utf-8", "replace").strip() if process.stderr else ""
            raise EmulateError(f"{self.program} ended with code {process.returncode}: {said or 'no message'}")
        return _whole(files, console)

    @staticmethod
    def _accelerator(counted: bool) -> list[str]:
        if not counted:
            return ["-accel", "tcg"]
        return ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]

    @staticmethod
    def _port(name: str, path: str) -> list[str]:
        return ["-chardev", f"file,id={name},path={path}", "-device", f"virtserialport,chardev={name},name={name}"]


class Bochs:
    """Debian's Bochs: the CPU model corei7_skylake_x has VMX with EPT, which kvm_intel then offers its guests."""

    program = "bochs"
    modules: Mapping[str, str] = {"kvm_intel": "nested=1"}
    channels: Mapping[str, str] = {"OUTPUT": "/dev/ttyS1", "ERRORS": "/dev/ttyS1", "FILES": "/dev/ttyS2"}
    size = Size(cpus=1, memory_mib=1024)
    limit_s = 1200.0

    def run(self, boot: Boot, limit_s: float) -> Path:
        if boot.counted:
            raise EmulateError("--count needs QEMU: emulate svm --count", USAGE)
        console, output, files = (boot.scratch / name for name in ("console", "output", "files.tar.gz"))
        iso = self._image(boot)
        settings = boot.scratch / "bochsrc"
        settings.write_text(
            "\n".join(
                [
                    "display_library: term",
                    "romimage: file=/usr/share/bochs/BIOS-bochs-latest",
                    "vgaromimage: file=/usr/share/vgabios/vgabios.bin",
                    f"megs: {boot.size.memory_mib}",
                    "cpu: model=corei7_skylake_x, ips=100000000, ignore_bad_msrs=1",
                    "clock: sync=none",
                    "boot: cdrom",
                    f"ata0-master: type=cdrom, path={iso}, status=inserted",
                    *(
                        f"com{number}: enabled=1, mode=file, dev={path}"
                        for number, path in enumerate((console, output, files), 1)
                    ),
                    f"log: {boot.scratch / 'bochs.log'}",
                    "panic: action=fatal",
                    "error: action=ignore",
                    "",
                ]
            ),
            encoding="ascii",
        )
        # Its debugger waits for a command before it starts.
        (boot.scratch / "start").write_text("c\n", encoding="ascii")
        master, slave = pty.openpty()
        process = _start(
            ["setpriv", "--pdeathsig", "KILL", "--", self.program, "-q", "-f", str(settings), "-rc",
             str(boot.scratch / "start")],
            terminal=slave,
        )  # fmt: skip
        os.close(slave)
        debugger = _Debugger(master)
        threading.Thread(target=debugger.follow, daemon=True).start()
        follower = threading.Thread(target=_follow, args=(output, process, sys.stdout.buffer), daemon=True)
        follower.start()
        _wait(process, console, limit_s, debugger)
        follower.join()
        return _whole(files, console)

    def _image(self, boot: Boot) -> Path:
        folder = boot.scratch / "iso"
        (folder / "isolinux").mkdir(parents=True)
        for source in ("/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/modules/bios/ldlinux.c32"):
            shutil.copy(source, folder / "isolinux")
        shutil.copy(boot.kernel, folder / "vmlinuz")
        shutil.copy(boot.initramfs, folder / "initrd")
        (folder / "isolinux" / "isolinux.cfg").write_text(
            "default nestbench\nprompt 0\ntimeout 0\nlabel nestbench\n kernel /vmlinuz\n"
            # A processor that halts makes Bochs sleep for a millisecond every few cycles.
            f" append initrd=/initrd console=ttyS0 idle=poll {_KERNEL_ARGUMENTS}\n",
            encoding="ascii",
        )
        image = boot.scratch / "boot.iso"
        done = subprocess.run(
            ["xorriso", "-as", "mkisofs", "-quiet", "-o", str(image), "-b", "isolinux/isolinux.bin", "-c",
             "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise EmulateError(f"xorriso: {done.stderr.strip() or done.returncode}")
        return image


MACHINES: Mapping[str, Qemu | Bochs] = {"svm": Qemu(), "vmx": Bochs()}


def _start(
    command: Sequence[str], pass_fds: Sequence[int] = (), terminal: int | None = None
) -> subprocess.Popen[bytes]:
    """With `terminal`, that is all of its standard streams; else it has none and its errors are a pipe."""
    environment = {**os.environ, "TERM": "linux"} if terminal is not None else None
    try:
        return subprocess.Popen(
            command,
            stdin=terminal if terminal is not None else subprocess.DEVNULL,
            stdout=terminal if terminal is not None else subprocess.DEVNULL,
            stderr=terminal if terminal is not None else subprocess.PIPE,
            pass_fds=pass_fds,
            env=environment,
        )
    except OSError as error:
        raise EmulateError(f"cannot start {command[0]}: {error.strerror}", USAGE) from error


def _relay(source: int, target: BinaryIO) -> None:
    """Until the other end is closed. A reader of ours that is gone does not stop the machine."""
    with os.fdopen(source, "rb", buffering=0) as pipe:
        while block := pipe.read(65536):
            _write(target, block)


def _write(target: BinaryIO, block: bytes) -> None:
    try:
        target.write(block)
        target.flush()
    except OSError:
        pass


class _Debugger:
    """Bochs's debugger. Once it asks for a second command, the machine stands still for good.

    The machine's screen is a terminal of Bochs's own, which it names here and then fills until somebody reads it.
    """

    _PROMPT = re.compile(rb"<bochs:(?!1>)\d+>")
    _SCREEN = re.compile(rb'connected to screen "(/dev/pts/\d+)"')

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._seen = b""
        self._screen_is_read = False
        self.stopped = False

    def follow(self) -> None:
        try:
            while block := os.read(self._terminal, 65536):
                self._seen = (self._seen + block)[-_TERMINAL_BYTES:]
                self.stopped = self.stopped or self._PROMPT.search(self._seen) is not None
                if not self._screen_is_read and (found := self._SCREEN.search(self._seen)):
                    self._screen_is_read = True
                    screen = os.open(found[1], os.O_RDWR | os.O_NOCTTY)
                    tty.setraw(screen)  # no echo, which would be keys, and no waiting for whole lines
                    threading.Thread(target=_discard, args=(screen,), daemon=True).start()
        except OSError:  # EIO: the other side is closed
            os.close(self._terminal)

    def why(self) -> str:
        """The last lines before the prompt."""
        lines = self._seen.decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"  | {line.strip()}" for line in lines if line.strip())


def _discard(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # EIO: the other side is closed
        os.close(terminal)


def _follow(path: Path, process: subprocess.Popen[bytes], target: BinaryIO) -> None:
    """What a growing file holds, until its writer has ended."""
    position = 0
    while True:
        ended = process.poll() is not None
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                block = file.read()
            position += len(block)
            _write(target, block)
        if ended:
            return
        time.sleep(_POLL_S)


def _wait(
    process: subprocess.Popen[bytes], console: Path, limit_s: float, debugger: _Debugger | None = None
) -> None:
    """Until the machine has ended by itself, or is done and is ended here. Whatever happens, it is gone afterwards."""
    end = time.monotonic() + limit_s
    try:
        while process.poll() is None:
            if console.exists() and DONE in console.read_bytes():
                end = min(end, time.monotonic() + _DONE_GRACE_S)
            if time.monotonic() > end or (debugger is not None and debugger.stopped):
                break
            time.sleep(_POLL_S)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    if debugger is not None and debugger.stopped:
        raise EmulateError(f"Bochs stopped the machine for good; its debugger says\n{debugger.why()}", BROKE)
    if process.returncode == -9 and not (console.exists() and DONE in console.read_bytes()):
        raise EmulateError(f"the emulated host was not done after {limit_s:.0f} s (--timeout)\n{_tail(console)}")


def _tail(console: Path) -> str:
    text = console.read_text("utf-8", "replace") if console.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
    if not lines:
        return "its console is empty"
    return "\n".join(["its console ended with:", *(f"  | {line}" for line in lines)])


def _whole(files: Path, console: Path) -> Path:
    if not files.exists() or not console.exists() or DONE not in console.read_bytes():
        raise EmulateError(f"the emulated host ended before its command had\n{_tail(console)}", BROKE)
    return files
