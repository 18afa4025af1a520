"""Writes files so that a reader sees the old one or the whole new one. Used by render and cli only."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from nestbench_reports.errors import BrokenError, OutputError, ReportError

# What is wrong with the disk; everything else is wrong with the name that was given.
_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def _error(path: Path, error: OSError) -> ReportError:
    kind = BrokenError if error.errno in _BROKEN else OutputError
    return kind(f"cannot write {path}: {error.strerror or error}")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a temporary file in the same folder, syncs it and renames it. On failure the old file is as it was."""
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    if path.exists() and not path.is_file():  # /dev/stdout, a FIFO: there is nothing to rename
        try:
            with path.open("wb") as stream:
                stream.write(content)
        except OSError as error:
            raise _error(path, error) from error
        return
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise _error(path, error) from error
    except ValueError as error:  # a NUL byte in the name
        raise OutputError(f"cannot write {str(path)!r}: {error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
