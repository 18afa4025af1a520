"""Runs clang-tidy 16 over the C++ files of a build tree; files that passed and have not changed since are skipped.

Most of clang-tidy's time goes into the system headers of each file, so files of one target are checked together, as one
translation unit that includes them. Those that cannot stand together (the same name twice) are checked alone: CMake
lists them (nestbench_compile_alone). Of a group where one was forgotten, each file is.
A file counts as unchanged when its compile command, its text, the text of every project header that it includes
(directly or not), .clang-tidy and clang-tidy itself are those of its last clean run. The record is in the build tree.
Usage: clang_tidy.py --build DIR [--changed] [--deep] [--jobs N] [FILES ...]. Exit code 0 clean, 1 findings, 2 usage.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_TIDY = "clang-tidy-16"
_FINDING = re.compile(r"^(/[^:\n]+):\d+:\d+: (?:error|warning): ", re.MULTILINE)
_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


_GROUP = 8  # files checked together at most: enough to share the headers, few enough to keep every processor busy


@dataclass(frozen=True)
class Unit:
    """One entry of compile_commands.json."""

    file: Path
    directory: str
    command: str

    @property
    def flags(self) -> str:
        """The command without its input and output: equal for files that may be checked together."""
        return re.sub(r" -o \S+ -c .*$", "", self.command)

    @property
    def target(self) -> str:
        found = re.search(r" -o (\S+\.dir)/", self.command)
        return found.group(1) if found else ""


def _units(build: Path) -> list[Unit]:
    entries = json.loads((build / "compile_commands.json").read_text())
    units: dict[Path, Unit] = {}
    for entry in entries:
        file = (Path(entry["directory"]) / entry["file"]).resolve()
        # Generated files (header-set verification, say) only repeat project headers; assembly is not clang-tidy's.
        if file.is_relative_to(_ROOT) and not file.is_relative_to(_ROOT / "build") and file.suffix in (".cc", ".cpp"):
            units.setdefault(file, Unit(file, entry["directory"], entry["command"]))
    return list(units.values())


@cache
def _tracked_by_suffix() -> dict[str, list[Path]]:
    """Project headers by every trailing part of their path, as an include may name them."""
    table: dict[str, list[Path]] = {}
    for folder in ("vmm-core", "workloads", "benchmarks", "conformance"):
        for header in sorted((_ROOT / folder).rglob("*.h")):
            parts = header.relative_to(_ROOT).parts
            for start in range(len(parts)):
                table.setdefault("/".join(parts[start:]), []).append(header)
    return table


@cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def _includes(file: Path) -> tuple[Path, ...]:
    found: list[Path] = []
    for name in _INCLUDE.findall(file.read_text(encoding="utf-8", errors="replace")):
        # A name that fits several headers counts as all of them: at worst, a file is checked once too often.
        found += _tracked_by_suffix().get(os.path.normpath(name).removeprefix("../"), [])
    return tuple(found)


def _dependencies(file: Path) -> list[Path]:
    seen = {file}
    stack = [file]
    while stack:
        for header in _includes(stack.pop()):
            if header not in seen:
                seen.add(header)
                stack.append(header)
    return sorted(seen)


def _key(unit: Unit, common: str) -> str:
    state = hashlib.sha256(f"{common}\n{unit.command}\n".encode())
    for file in _dependencies(unit.file):
        state.update(f"{file} {_digest(file)}\n".encode())
    return state.hexdigest()


def _changed_files() -> set[Path]:
    """Files that differ from the point where this branch left main, uncommitted and new ones included."""
    def git(*arguments: str) -> list[str]:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    base = next((git("merge-base", "HEAD", name)[0] for name in ("origin/main", "main")
                 if subprocess.run(["git", "-C", str(_ROOT), "rev-parse", "--verify", "--quiet", name],
                                   capture_output=True).returncode == 0), "HEAD")
    names = git("diff", "--name-only", base) + git("ls-files", "--others", "--exclude-standard")
    return {_ROOT / name for name in names}


def _grouped(units: list[Unit], alone: set[Path]) -> list[list[Unit]]:
    """Files of one target and one set of flags, cut into groups of about equal size, the costliest first."""
    by_flags: dict[tuple[str, str], list[Unit]] = {}
    for unit in units:
        if unit.file not in alone:
            by_flags.setdefault((unit.target, unit.flags), []).append(unit)
    groups = [[unit] for unit in units if unit.file in alone]
    for members in by_flags.values():
        count = -(-len(members) // _GROUP)
        groups += [members[index::count] for index in range(count)]
    return sorted(groups, key=lambda group: -len(group) * 10 - max(len(_dependencies(unit.file)) for unit in group))


def _write_groups(folder: Path, groups: list[list[Unit]], units: list[Unit]) -> list[Path]:
    """The files to give to clang-tidy, one for each group, with a compile_commands.json for them and for every unit."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{"directory": unit.directory, "command": unit.command, "file": str(unit.file)} for unit in units]
    inputs = []
    for number, group in enumerate(groups):
        if len(group) == 1:
            inputs.append(group[0].file)
            continue
        together = folder / f"group_{number}.cc"
        lines = [f'#include "{unit.file}"  // NOLINT(bugprone-suspicious-include)\n' for unit in group]
        together.write_text("".join(lines))
        command = f"{group[0].flags} -o {together.with_suffix('.o')} -c {together}"
        entries.append({"directory": group[0].directory, "command": command, "file": str(together)})
        inputs.append(together)
    (folder / "compile_commands.json").write_text(json.dumps(entries))
    return inputs


def _tidy(file: Path, folder: Path, extra: list[str]) -> tuple[bool, str]:
    # Named, not searched for: in a build tree outside the source tree, groups would be checked by other rules.
    command = [_TIDY, "--quiet", f"--config-file={_ROOT / '.clang-tidy'}", "-p", str(folder), *extra, str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout
    if done.returncode != 0 and not output.strip():
        output = done.stderr
    return done.returncode == 0, output


def _suspects(group: list[Unit], output: str) -> list[Unit]:
    """The files of a group that its findings concern: all when it did not compile, or when findings lie elsewhere."""
    found = {Path(name).resolve() for name in _FINDING.findall(output)}
    concerned = [unit for unit in group if found.intersection(_dependencies(unit.file))]
    known = {file for unit in concerned for file in _dependencies(unit.file)}
    return concerned if found and found <= known and "clang-diagnostic-error" not in output else group


def _check(group: list[Unit], file: Path, folder: Path, extra: list[str]) -> tuple[dict[Unit, bool], str, float]:
    """Which files of the group are clean, what was found, and how long it took."""
    start = time.monotonic()
    ok, output = _tidy(file, folder, extra)
    clean = dict.fromkeys(group, ok)
    if not ok and len(group) > 1:
        # Findings in a group may stem from the grouping: every file that they concern is looked at alone.
        suspects = _suspects(group, output)
        output = ""
        for unit in group:
            clean[unit], text = _tidy(unit.file, folder, extra) if unit in suspects else (True, "")
            output += text
    return clean, output, time.monotonic() - start


def _is_test(file: Path) -> bool:
    parts = file.relative_to(_ROOT).parts
    return "tests" in parts or parts[0] == "conformance" or file.stem.endswith("_test")


def main() -> int:
    parser = argparse.ArgumentParser(description="clang-tidy over the project's C++ files; unchanged files are skipped")
    parser.add_argument("--build", type=Path, required=True, help="tree with compile_commands.json (preset clang)")
    parser.add_argument("--changed", action="store_true",
                        help="only files that differ from the main branch, themselves or in a header")
    parser.add_argument("--no-tests", action="store_true",
                        help="leave out the tests' own files, whose macros take half of the time")
    parser.add_argument("--deep", action="store_true", help="the path-sensitive clang-analyzer checks as well (slow)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("files", nargs="*", type=Path, help="only these files")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs must be 1 or more")
    build: Path = options.build.resolve()
    try:
        units = _units(build)
        alone = {Path(name) for name in (build / "compile_alone.txt").read_text().splitlines() if name}
    except (OSError, ValueError, KeyError) as error:
        print(f"clang_tidy: no usable compile_commands.json and compile_alone.txt in {build} ({error}): "
              "cmake --preset clang writes them", file=sys.stderr)
        return 2
    if not units:
        print(f"clang_tidy: {build}/compile_commands.json names no project file", file=sys.stderr)
        return 2
    if options.files:
        wanted = {file.resolve() for file in options.files}
        if unknown := wanted - {unit.file for unit in units}:
            print(f"clang_tidy: not compiled by this build: {', '.join(map(str, sorted(unknown)))}", file=sys.stderr)
            return 2
        units = [unit for unit in units if unit.file in wanted]
    if options.no_tests:
        units = [unit for unit in units if not _is_test(unit.file)]
    if options.changed:
        changed = _changed_files()
        units = [unit for unit in units if changed.intersection(_dependencies(unit.file))]

    version = subprocess.run([_TIDY, "--version"], capture_output=True, text=True, check=True).stdout
    extra = ["--checks=clang-analyzer-core.*,clang-analyzer-cplusplus.*,clang-analyzer-unix.*"] if options.deep else []
    common = version + " ".join(extra) + (_ROOT / ".clang-tidy").read_text()
    record_file = build / "clang-tidy-clean.json"
    try:
        record: dict[str, str] = json.loads(record_file.read_text())
    except (OSError, ValueError):
        record = {}
    keys = {unit.file: _key(unit, common) for unit in units}
    todo = [unit for unit in units if record.get(str(unit.file)) != keys[unit.file]]
    groups = _grouped(todo, alone)
    folder = build / "clang-tidy"
    inputs = _write_groups(folder, groups, units)
    print(f"clang-tidy: {len(todo)} files to check, {len(units) - len(todo)} unchanged since their last clean run",
          flush=True)

    failed = 0
    try:
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            running = [pool.submit(_check, group, file, folder, extra) for group, file in zip(groups, inputs)]
            for done in concurrent.futures.as_completed(running):
                clean, output, seconds = done.result()
                for unit, ok in clean.items():
                    if ok:
                        record[str(unit.file)] = keys[unit.file]
                    else:
                        failed += 1
                        record.pop(str(unit.file), None)
                    print(f"{'ok' if ok else 'FAILED'}: {unit.file.relative_to(_ROOT)}", flush=True)
                print(f"  ({len(clean)} files in {seconds:.1f} s)", flush=True)
                if not all(clean.values()):
                    print(output.rstrip(), flush=True)
    finally:
        record_file.write_text(json.dumps(record, indent=0, sort_keys=True))
    print(f"clang-tidy: {len(todo) - failed} files clean, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
