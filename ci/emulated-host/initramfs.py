"""The initramfs of an emulated host. Format: kernel document driver-api/early-userspace/buffer-format ("newc")."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from debian import Parts
from errors import EmulateError

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_DEPENDS = re.compile(rb"\0depends=([\w,-]*)\0")
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)$")
PREFIX = PurePosixPath("opt/nestbench")
OUT = PurePosixPath("out")  # the command's current folder


@dataclass
class Archive:
    """Files by their path in the initramfs. Folders above a file appear by themselves."""

    entries: dict[PurePosixPath, tuple[int, bytes]] = field(default_factory=dict)

    def folder(self, path: PurePosixPath) -> None:
        for parent in [*reversed(path.parents), path]:
            if str(parent) != ".":
                self.entries.setdefault(parent, (stat.S_IFDIR | 0o755, b""))

    def file(self, path: PurePosixPath, content: bytes, mode: int = 0o644) -> None:
        self.folder(path.parent)
        self.entries[path] = (stat.S_IFREG | mode, content)

    def link(self, path: PurePosixPath, target: str) -> None:
        self.folder(path.parent)
        self.entries[path] = (stat.S_IFLNK | 0o777, target.encode())

    def pack(self) -> bytes:
        return b"".join(self._records())

    def _records(self) -> Iterator[bytes]:
        items = [(str(path), mode, content) for path, (mode, content) in self.entries.items()]
        for number, (name, mode, content) in enumerate([*items, (_TRAILER, 0, b"")], 1):
            encoded = name.encode() + b"\0"
            # inode, mode, uid, gid, links, time, size, device twice, the node's device twice, name size, check
            values = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
            header = _MAGIC + b"".join(b"%08x" % value for value in values)
            yield _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def module_order(folder: Path, wanted: Sequence[str]) -> list[Path]:
    """The modules and all that they depend on, each after what it needs. Names use '_' for '-', as the kernel does."""
    files = {path.name.removesuffix(".ko").replace("-", "_"): path for path in folder.rglob("*.ko")}
    order: list[str] = []

    def add(name: str) -> None:
        if name in order:
            return
        if name not in files:
            raise EmulateError(f"the kernel package has no module {name}")
        found = _DEPENDS.search(files[name].read_bytes())
        for need in found.group(1).decode().split(",") if found else []:
            if need:
                add(need.replace("-", "_"))
        order.append(name)

    for name in wanted:
        add(name)
    return [files[name] for name in order]


def libraries(program: Path) -> list[Path]:
    """The shared libraries of one of our own programs, the loader included."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    if done.returncode != 0 and "statically linked" not in done.stdout + done.stderr:
        if "not a dynamic executable" in done.stderr:
            return []
        raise EmulateError(f"ldd {program}: {done.stderr.strip()}")
    lines = (line.strip() for line in done.stdout.splitlines())
    return [Path(found.group(1)) for line in lines if (found := _LIBRARY.search(line))]


def _is_program(path: Path) -> bool:
    if not path.stat().st_mode & stat.S_IXUSR:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def build(
    parts: Parts,
    programs: Path,
    modules: Mapping[str, str],
    channels: Mapping[str, str],
    command: Sequence[str],
    counted: bool,
    files: Mapping[PurePosixPath, Path],
) -> bytes:
    """`programs`: an installation of nestbench. `modules`: by name, with their parameters. `channels`: variables that
    init.sh reads. `command`: what runs there. `counted`: the time stamp counter counts instructions. `files`: what else
    is there, by its path there; programs come with their libraries."""
    archive = Archive()
    for name in ("dev", "proc", "sys", "tmp", "run", "root", str(OUT)):
        archive.folder(PurePosixPath(name))
    archive.file(PurePosixPath("bin/busybox"), parts.busybox.read_bytes(), 0o755)
    archive.link(PurePosixPath("bin/sh"), "busybox")
    archive.file(PurePosixPath("init"), (Path(__file__).parent / "init.sh").read_bytes(), 0o755)
    installed = sorted([*(programs / "bin").rglob("*"), *(programs / "libexec").rglob("*")])
    everything = {PREFIX / path.relative_to(programs).as_posix(): path for path in installed if path.is_file()}
    for inside, path in {**everything, **files}.items():
        archive.file(inside, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for library in libraries(path) if _is_program(path) else []:
            archive.file(PurePosixPath(str(library).lstrip("/")), library.read_bytes(), 0o755)
    lines = []
    for module in module_order(parts.modules, list(modules)):
        archive.file(PurePosixPath("modules") / module.name, module.read_bytes())
        parameters = modules.get(module.name.removesuffix(".ko").replace("-", "_"), "")
        lines.append(f"insmod /modules/{module.name} {parameters}".rstrip())
    archive.file(PurePosixPath("etc/modules.sh"), "\n".join([*lines, ""]).encode())
    variables = [f"{name}={shlex.quote(value)}" for name, value in channels.items()]
    archive.file(PurePosixPath("etc/channels.sh"), "\n".join([*variables, ""]).encode())
    clock = "export NESTBENCH_COST_CLOCK=instructions\n" if counted else ""
    archive.file(PurePosixPath("etc/command.sh"), f"{clock}exec {shlex.join(command)}\n".encode())
    return archive.pack()
