"""Kernel, modules and busybox out of Debian's packages: fetched by name, unpacked, never installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import EmulateError

KERNEL = "linux-image-cloud-amd64"  # a metapackage: depends on the image of the present version
BUSYBOX = "busybox-static"
_IMAGE = re.compile(r"\b(linux-image-[0-9][\w.+-]*-cloud-amd64)\b")
_FETCH_LIMIT_S = 300.0


@dataclass(frozen=True)
class Parts:
    kernel: Path  # bzImage
    modules: Path  # /lib/modules/VERSION/kernel
    busybox: Path


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_FETCH_LIMIT_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise EmulateError(f"{command[0]} did not end within {_FETCH_LIMIT_S:.0f} s: {' '.join(command)}") from error
    except OSError as error:
        raise EmulateError(f"cannot start {command[0]}: {error.strerror}; is this a Debian system?") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise EmulateError(f"{' '.join(command)}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


def _image_package() -> str:
    found = _IMAGE.search(_run(["apt-cache", "show", "--no-all-versions", KERNEL]))
    if found is None:
        raise EmulateError(f"apt knows no image that {KERNEL} depends on: run apt-get update")
    return found.group(1)


def _fetch(package: str, cache: Path) -> Path:
    """The unpacked package, from the cache where it is there. Appears there as a whole or not at all."""
    unpacked = cache / package
    if unpacked.is_dir():
        return unpacked
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
        folder = Path(scratch)
        try:
            _run(["apt-get", "-q", "download", package], folder)
        except EmulateError as error:
            raise EmulateError(f"{error}; the network is needed once, and package lists (apt-get update)") from error
        archives = list(folder.glob("*.deb"))
        if len(archives) != 1:
            raise EmulateError(f"apt-get download {package} left {len(archives)} packages")
        _run(["dpkg-deb", "--extract", str(archives[0]), str(folder / "unpacked")])
        try:
            os.rename(folder / "unpacked", unpacked)
        except OSError:
            if not unpacked.is_dir():  # another emulate was faster
                raise
    return unpacked


def _only(found: Sequence[Path], what: str) -> Path:
    if len(found) != 1:
        raise EmulateError(f"{len(found)} files are {what} where one was expected: remove the cache folder")
    return found[0]


def _cached_image(cache: Path) -> Path | None:
    images = [path for path in cache.glob("linux-image-*-cloud-amd64") if path.is_dir()]
    return max(images, key=lambda path: path.stat().st_mtime) if images else None


def fetch(cache: Path, refresh: bool) -> Parts:
    """What an emulated host boots. With `refresh` the cache is emptied first, so that updates are seen."""
    if refresh:
        shutil.rmtree(cache, ignore_errors=True)
    image = _cached_image(cache) or _fetch(_image_package(), cache)
    return Parts(
        kernel=_only(list(image.glob("boot/vmlinuz-*")), "kernels"),
        modules=_only(list(image.glob("lib/modules/*/kernel")), "module folders"),
        busybox=_only(list(_fetch(BUSYBOX, cache).glob("bin/busybox")), "busyboxes"),
    )
