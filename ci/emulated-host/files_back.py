"""What comes back from an emulated host: an archive that a guest wrote, so nothing in it is believed."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from errors import EmulateError

MOST_BYTES = 2 << 30
MOST_FILES = 100_000
_CODE = "exit-code"
_OUT = "out"


@dataclass(frozen=True)
class Result:
    exit_code: int
    files: int


def _inside(name: str) -> PurePosixPath | None:
    """The path below the out folder; None for anything else. Nothing may point out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0] != _OUT:
        return None
    return PurePosixPath(*path.parts[1:])


def _read_code(archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = archive.extractfile(member) if member.isreg() and member.size < 16 else None
    text = file.read().decode("ascii", "replace").strip() if file else ""
    if not text.isdigit() or int(text) > 255:
        raise EmulateError(f"the emulated host sent no exit code but {text!r}")
    return int(text)


def unpack(path: Path, out: Path | None) -> Result:
    """Files and folders only, below `out`; None: only the exit code. EmulateError when the archive is not whole."""
    code: int | None = None
    files = 0
    left = MOST_BYTES
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                if member.name == _CODE:
                    code = _read_code(archive, member)
                    continue
                inside = _inside(member.name)
                if inside is None or out is None:
                    continue
                files += 1
                left -= max(member.size, 0)
                if left < 0 or files > MOST_FILES:
                    raise EmulateError("the emulated host sent more than 2 GiB or 100,000 files")
                target = out / inside
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif member.isreg():
                    content = archive.extractfile(member)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as file:
                        while content and (block := content.read(1 << 20)):
                            file.write(block)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise EmulateError(f"what the emulated host sent back cannot be taken: {error}") from error
    if code is None:
        raise EmulateError("the emulated host ended without an exit code")
    return Result(code, files)
