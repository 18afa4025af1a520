"""What the user typed, or handed over, is wrong: one message that says what to do, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SMALL, Program


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "overhead", "--filter", "cpu_[", "--out"), ("--filter", "cpu_[", "not a regular expression")),
        (("run", "overhead", "--profile", "fast", "--out"), ("fast", "quick, standard or full")),
        (("run", "overhead", "--filter", "no_such_workload", "--out"), ("selects nothing", "nestbench list")),
        (("run", "overhead", "--rounds", "0", "--out"), ("--rounds", "1 or more")),
    ],
    ids=["regex", "profile", "nothing selected", "no rounds"],
)
def test_a_wrong_choice(program: Program, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    result = program(*arguments, out)
    assert result.code == 2
    result.assert_one_message(*words)
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [(), ("fly",), ("run", "sideways"), ("quick", "--seed", "many"), ("quick", "--no-such-flag"), ("recover",)],
    ids=["none", "command", "scenario", "number", "flag", "missing argument"],
)
def test_what_is_no_command_line(program: Program, arguments: tuple[str, ...]) -> None:
    result = program(*arguments)
    assert result.code == 2
    result.assert_one_message("--help")


@pytest.mark.parametrize("command", ["quick", "run", "list", "probe", "recover"])
def test_help_has_examples(program: Program, command: str) -> None:
    result = program(command, "--help")
    assert result.code == 0
    assert "Examples:" in result.out and f"nestbench {command}" in result.out and "Exit codes" in result.out


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_list_says_of_everything_what_it_is(program: Program, profile: str) -> None:
    result = program("list", "--profile", profile)
    assert result.code == 0
    lines = [line.split(maxsplit=2) for line in result.out.splitlines()]
    assert {line[0].split("/")[0] for line in lines} >= {"overhead", "exits", "density", "isolation", "containment"}
    assert [line for line in lines if len(line) != 3] == []


def test_an_out_folder_below_a_file(program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = program(*SMALL, "--out", tmp_path / "file" / "out")
    assert result.code == 2
    result.assert_one_message(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_an_out_folder_where_nothing_can_be_made(program: Program) -> None:
    result = program(*SMALL, "--out", "/proc/nestbench-out")
    assert result.code == 2
    result.assert_one_message("/proc/nestbench-out")


def test_an_out_folder_that_holds_a_result(program: Program, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    result = program(*SMALL, "--out", tmp_path)
    assert result.code == 2
    result.assert_one_message("result.json")
    assert (tmp_path / "result.json").read_text() == "{}"


@pytest.mark.parametrize("command", ["report", "summary", "compare", "gate", "validate"])
@pytest.mark.parametrize("text", ["", '{"context": {', "[]", "\x00\x01", '{"nestbench": {"schema": "other/1"}}'])
def test_a_document_that_is_none(program: Program, tmp_path: Path, command: str, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    operands: list[str | Path] = [path]
    if command == "compare":
        operands = [path, path]
    if command == "gate":
        operands = ["--policy", tmp_path / "policy.toml", path]
    (tmp_path / "policy.toml").write_text("")
    result = program(command, *operands)
    assert result.code in (2, 4)  # 4: a document of another schema cannot be compared
    assert "Traceback" not in result.err and len(result.err.strip().splitlines()) <= 3


def test_a_journal_that_is_none(program: Program, tmp_path: Path) -> None:
    result = program("recover", tmp_path)
    assert result.code == 2
    result.assert_one_message("journal.jsonl")
    (tmp_path / "journal.jsonl").write_text('{"type":"round"}\n')
    result = program("recover", tmp_path)
    assert result.code == 2
    result.assert_one_message("the journal holds no whole record")
