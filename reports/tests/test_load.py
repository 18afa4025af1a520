"""Documents that are whole, and documents that are broken in every way we could think of: never a traceback."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nestbench_reports.errors import DocumentError
from nestbench_reports.load import load, parse, schema
from tests import synthetic
from tests.conftest import DEFAULT_POLICY, Run

Raw = dict[str, Any]


def small(seed: int = 1) -> Raw:
    specs = [
        spec
        for spec in synthetic.default_specs()
        if spec.workload in ("cpu_integer", "cpu_fma", "doorbell_pio", "cold_start")
    ]
    return synthetic.document(seed, rounds=3, samples=3, specs=specs)


def first(raw: Raw) -> Raw:
    entry: Raw = raw["nestbench"]["measurements"][0]
    return entry


def test_a_whole_document_becomes_dataclasses(result_path: Path) -> None:
    document = load(result_path)
    assert document.host.cpu.family == 6
    assert document.by_id["overhead/cpu_integer/vm"].key == "overhead/cpu_integer"
    assert document.by_id["exits/doorbell_pio/cpl=3/vm"].floor_id == "exits/doorbell_pio/cpl=3/floor"
    assert [cache.level for cache in document.caches] == [1, 2, 3]
    rounds = document.by_id["overhead/cpu_integer/vm"].samples_by_round
    assert list(rounds) == [0, 1, 2, 3, 4, 5] and len(rounds[0]) == 20


def test_the_schema_is_a_schema() -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_schema_itself_rejects_bad_samples() -> None:
    """The loader takes samples out before it asks the schema; other readers do not."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema())
    raw = small()
    assert validator.is_valid(raw)
    first(raw)["rounds"][0]["samples"][0] = "1.5"
    assert not validator.is_valid(raw)


@pytest.mark.parametrize("part", ["host", "run", "build", "measurements", "findings", "capability", "images"])
def test_every_part_is_required(part: str) -> None:
    raw = small()
    del raw["nestbench"][part]
    with pytest.raises(DocumentError, match=part):
        parse(json.dumps(raw), "x.json")


@pytest.mark.parametrize(
    "path",
    [(), ("host",), ("host", "cpu"), ("host", "kvm"), ("run",), ("measurements", 0), ("measurements", 0, "rounds", 0)],
)
def test_unknown_keys_are_refused(path: tuple[str | int, ...]) -> None:
    raw = small()
    target: Any = raw["nestbench"]
    for step in path:
        target = target[step]
    target["surprise"] = 1
    with pytest.raises(DocumentError, match="surprise"):
        parse(json.dumps(raw), "x.json")


def test_context_and_benchmarks_are_open() -> None:
    raw = small()
    raw["context"] = {
        "anything": [1, {}],
        "caches": [{"type": "Data"}, 7, {"type": "Unified", "level": True, "size": 5}],
    }
    raw["benchmarks"] = [{"name": "x", "extra": None}]
    raw["also"] = 1
    assert parse(json.dumps(raw), "x.json").caches == ()


def _set(key: str, value: object) -> Callable[[Raw], None]:
    return lambda raw: first(raw).update({key: value})


def _twice(raw: Raw) -> None:
    raw["nestbench"]["measurements"].append(copy.deepcopy(first(raw)))


def _same_order(raw: Raw) -> None:
    first(raw)["rounds"][1].update(round=0, order=first(raw)["rounds"][0]["order"])


def _sample(value: object) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        first(raw)["rounds"][0]["samples"][0] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("status", "failed"), "reason"),
        (_set("reason", "because"), "reason"),
        (lambda raw: first(raw).update(status="failed", reason="  "), "reason"),
        (_set("id", "overhead/cpu_other/bare"), "does not agree"),
        (_set("params", {"size": 1}), "does not agree"),
        (_set("substrate", "zone"), "does not agree"),
        (_twice, "occurs twice"),
        (_set("floor_id", "overhead/nothing/floor"), "floor_id"),
        (_set("floor_id", "overhead/cpu_integer/bare"), "floor_id"),
        (_set("image_sha256", "b" * 64), "image"),
        (_set("image_sha256", "xyz"), "image_sha256"),
        (_set("rounds", []), "single sample"),
        (_same_order, "same round and order"),
        (_set("status", "fine"), "fine"),
        (_set("direction", "up"), "up"),
        (_sample(True), "samples"),
        (_sample("1"), "samples"),
        (_sample(None), "samples"),
        (_sample(1e300), "plausible"),
        (_sample(1e-300), "plausible"),
        (lambda raw: raw["nestbench"].update(schema="nestbench.result/9"), "nestbench.result/9"),
        (lambda raw: raw["nestbench"]["host"].update(clock="sundial"), "sundial"),
        (lambda raw: raw["nestbench"]["run"].update(started="yesterday"), "yesterday"),
        (lambda raw: raw["nestbench"]["run"].update(seed=-1), "seed"),
        (lambda raw: raw.pop("nestbench"), "nestbench"),
        (lambda raw: raw.update(nestbench=[]), "nestbench"),
    ],
)
def test_a_document_that_lies_is_refused(change: Callable[[Raw], object], message: str) -> None:
    raw = small()
    change(raw)
    with pytest.raises(DocumentError, match=message):
        parse(json.dumps(raw), "x.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "{",
        "[]",
        "null",
        "3",
        '"text"',
        "[" * 100000,
        '{"a":' * 5000,
        "NaN",
        '{"nestbench": NaN}',
        "9" * 5000,
        "\x00",
        "{}",
    ],
)
def test_text_that_is_no_document(text: str) -> None:
    with pytest.raises(DocumentError, match="x.json"):
        parse(text, "x.json")


def test_infinite_numbers_are_refused() -> None:
    text = json.dumps(small()).replace('"duration_s": 57.3', '"duration_s": 1e999')
    assert "1e999" in text
    with pytest.raises(DocumentError):
        parse(text, "x.json")


def test_files_that_cannot_be_documents(tmp_path: Path, run: Run) -> None:
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe{}")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, tmp_path / "missing.json", binary, fifo, Path("/dev/zero")):
        result = run("validate", path)
        assert result.code == 2, path
        assert result.err.startswith("nestbench: ") and result.err.count("\n") == 1
    with pytest.raises(DocumentError):
        load(Path("a\0b"))


@pytest.mark.parametrize("command", ["validate", "summary", "report", "gate", "compare", "compare with it"])
def test_every_command_refuses_a_file_that_is_no_document_in_one_line(
    command: str, result_path: Path, tmp_path: Path, run: Run
) -> None:
    truncated = result_path.read_bytes()[:-200]
    contents = [b"", truncated, b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 50_000, b"\x00" * 100]
    broken = []
    for index, content in enumerate(contents):
        broken.append(tmp_path / f"broken-{index}.json")
        broken[-1].write_bytes(content)
    for path in (tmp_path / "missing.json", tmp_path, *broken):
        arguments: dict[str, list[object]] = {
            "gate": ["gate", "--policy", DEFAULT_POLICY, path],
            "compare": ["compare", path, result_path],
            "compare with it": ["compare", result_path, path],
        }
        result = run(*arguments.get(command, [command, path]))
        assert (result.code, result.out) == (2, ""), path
        assert result.err.startswith("nestbench: ") and result.err.count("\n") == 1 and path.name in result.err, path
    assert not (tmp_path / "report.html").exists()


def test_every_truncation_is_refused(tmp_path: Path, run: Run) -> None:
    text = json.dumps(small())
    path = tmp_path / "result.json"
    for end in range(0, len(text), max(1, len(text) // 150)):
        path.write_text(text[:end], encoding="utf-8")
        result = run("validate", path)
        assert (result.code, result.out) == (2, ""), end


VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    1e18,
    "",
    "x",
    "<b>",
    "\ud800",
    "\x1b[2J",
    "a/b",
    [],
    {},
    [[]],
    {"a": 1},
    2**70,
    "0" * 300,
]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        container = stack.pop()
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            found.append((container, key))
            if isinstance(container[key], dict | list):
                stack.append(container[key])
    return found


def _mutate(raw: Raw, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 5])):
        container, key = rng.choice(_places(raw))
        action = rng.random()
        if action < 0.6:
            container[key] = copy.deepcopy(rng.choice(VALUES))
        elif action < 0.8:
            del container[key]
        elif isinstance(container, dict):
            container[rng.choice(["extra", "", "id", "status"])] = rng.choice(VALUES)
        else:
            container.append(copy.deepcopy(container[key]))


@pytest.mark.parametrize("command", ["validate", "summary", "gate", "report", "compare"])
def test_mutated_documents_end_in_a_message_or_a_judgement(command: str, tmp_path: Path, run: Run) -> None:
    rng = random.Random(command)
    path, whole = tmp_path / "result.json", synthetic.write(tmp_path / "whole.json", small(2))
    policy = tmp_path / "policy.toml"
    policy.write_text('[[limit]]\nmetric = "*"\nratio = "vm/bare"\nmax = 2\n', encoding="utf-8")
    extra: dict[str, list[object]] = {
        "gate": ["--policy", policy],
        "compare": [whole],
        "report": ["-o", tmp_path / "r.html"],
    }
    arguments = extra.get(command, [])
    codes = set()
    for _ in range(60 if command == "report" else 150):
        raw = small()
        _mutate(raw, rng)
        synthetic.write(path, raw)
        result = run(command, path, *arguments)
        codes.add(result.code)
        assert "internal error" not in result.err, (result.err, raw)
        assert result.code in ((0, 1, 2, 3, 4, 5, 6) if command in ("gate", "compare") else (0, 2))
        if result.code == 2:
            assert result.err.count("\n") == 1 and result.out == ""
    assert 2 in codes and len(codes) > 1
