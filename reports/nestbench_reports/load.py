"""Files -> frozen dataclasses. A file that is not what it must be ends in one DocumentError with a clear message."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from nestbench_reports.errors import DocumentError, SchemaError, SetupError
from nestbench_reports.load_experiments import build_experiment, check_amounts, check_experiments, without_amounts
from nestbench_reports.model import OK, Build, Cache, Capability, Document, Finding, Host, Measurement, Round, Run
from nestbench_reports.text import printable

SCHEMA_PATH = Path(__file__).resolve().parent.parent / "schema" / "result.schema.json"
MAX_FILE_BYTES = 1 << 30
# Beyond these a sample is no measurement in any unit; within them no ratio of two overflows.
MAX_SAMPLE = 1e18
MIN_SAMPLE = 1e-18

T = TypeVar("T")


def read_bytes(path: Path, what: str) -> bytes:
    """The whole file, if it is a regular one of a plausible size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(f"{path} is not a regular file: name {what}")
        if status.st_size > MAX_FILE_BYTES:
            raise DocumentError(f"{path} is larger than {MAX_FILE_BYTES} bytes: it is not {what}")
        return path.read_bytes()
    except OSError as error:
        raise DocumentError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL byte in the name
        raise DocumentError(f"cannot read {str(path)!r}: {error}") from error


def load(path: Path) -> Document:
    """Reads and checks a result document."""
    data = read_bytes(path, "a result document (result.json of a run)")
    try:
        return parse(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path} is not UTF-8 text (byte {error.start}): it is not a result document") from error


def parse(text: str, name: str) -> Document:
    """Builds a checked document from its text; `name` is how messages call it."""
    raw = _parse_json(text, name)
    _check_samples(raw, name)
    check_amounts(raw, lambda why: DocumentError(f"{name}: {why}"), _short)
    _check_schema(raw, name)
    document = _build_document(raw, name)
    _cross_check(document)
    return document


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} is too large a number")
    return value


def _parse_json(text: str, name: str) -> Any:
    if not text.strip():
        raise DocumentError(f"{name} is empty: the run that should have written it did not finish")
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise DocumentError(
            f"{name} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; if the file was cut off,"
            " `nestbench recover` on the run's folder builds it again from the journal"
        ) from error
    except RecursionError as error:
        raise DocumentError(f"{name} is nested too deeply to be a result document") from error
    except ValueError as error:  # NaN, Infinity, an integer of thousands of digits
        raise DocumentError(f"{name} is not JSON: {error}") from error


def _check_samples(raw: Any, name: str) -> None:
    """Checks every sample and takes it for the schema's check, which would need a second for each 10,000 of them."""
    for measurement, entry in _raw_rounds(raw):
        samples = entry.get("samples")
        if not isinstance(samples, list):
            continue  # the schema's check says so
        for index, sample in enumerate(samples):
            # type(), not isinstance(): True is an int to Python, and no number to JSON.
            if type(sample) is not float and type(sample) is not int:
                why = "is not a number"
            elif not math.isfinite(sample) or abs(sample) > MAX_SAMPLE or 0 < abs(sample) < MIN_SAMPLE:
                why = "is not a plausible number"
            else:
                continue
            raise DocumentError(
                f"{name}: samples[{index}] of round {_short(entry.get('round'))}, arm {_short(entry.get('arm'))} of"
                f" {_short(measurement.get('id'))} {why}: {_short(sample)}"
            )


def _raw_rounds(raw: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(measurement, round) for all that have the right shape; whatever has not is for the schema's check to say."""
    measurements = raw.get("nestbench") if isinstance(raw, dict) else None
    measurements = measurements.get("measurements") if isinstance(measurements, dict) else None
    return [
        (measurement, entry)
        for measurement in (measurements if isinstance(measurements, list) else [])
        if isinstance(measurement, dict) and isinstance(measurement.get("rounds"), list)
        for entry in measurement["rounds"]
        if isinstance(entry, dict)
    ]


def _short(value: Any, most: int = 120) -> str:
    text = printable(str(value) if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= most else text[:most] + "..."


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The JSON Schema of the result document."""
    try:
        loaded: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot read the schema {SCHEMA_PATH}: {error}; install nestbench again") from error
    return loaded


def _without_samples(raw: Any) -> Any:
    """A copy, as deep as needed, in which every checked list of samples is empty."""
    if not isinstance(raw, dict) or not isinstance(raw.get("nestbench"), dict):
        return raw
    body = without_amounts(raw["nestbench"])
    if not _raw_rounds(raw):
        return {**raw, "nestbench": body}
    measurements = []
    for measurement in raw["nestbench"]["measurements"]:
        if isinstance(measurement, dict) and isinstance(measurement.get("rounds"), list):
            rounds = [
                {**entry, "samples": []}
                if isinstance(entry, dict) and isinstance(entry.get("samples"), list)
                else entry
                for entry in measurement["rounds"]
            ]
            measurement = {**measurement, "rounds": rounds}
        measurements.append(measurement)
    return {**raw, "nestbench": {**body, "measurements": measurements}}


def _check_schema(raw: Any, name: str) -> None:
    import jsonschema

    found = raw.get("nestbench") if isinstance(raw, dict) else None
    if isinstance(raw, dict) and found is None:
        raise DocumentError(
            f"{name} has no key `nestbench`: it is not a result document"
            + (" (Google Benchmark's own JSON holds no rounds to judge)" if "benchmarks" in raw else "")
        )
    expected = schema()["properties"]["nestbench"]["properties"]["schema"]["const"]
    if isinstance(found, dict) and isinstance(found.get("schema"), str) and found["schema"] != expected:
        raise SchemaError(f"{name} is of schema `{_short(found['schema'])}`; this program reads `{expected}`")
    try:
        error = jsonschema.exceptions.best_match(
            jsonschema.Draft202012Validator(schema()).iter_errors(_without_samples(raw))
        )
    except RecursionError as broken:
        raise DocumentError(f"{name} is nested too deeply to be a result document") from broken
    if error is not None:
        raise DocumentError(
            f"{name} is not a valid result document: {_short(error.json_path)}: {_short(error.message)}"
        )


def _build(kind: type[T], raw: Mapping[str, Any]) -> T:
    """A dataclass from an object that the schema has accepted: same keys, lists become tuples."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = raw[field.name]
        if is_dataclass(hints[field.name]):
            value = _build(hints[field.name], value)
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    return kind(**values)


_ROUND_INTEGERS = tuple(name for name, kind in get_type_hints(Round).items() if kind is int)


def _build_round(raw: Mapping[str, Any]) -> Round:
    values = dict(raw)
    values["samples"] = tuple(map(float, raw["samples"]))
    for name in _ROUND_INTEGERS:  # 3.0 is an integer to JSON Schema
        values[name] = int(raw.get(name, 0))  # the schema knows which may be missing
    return Round(**values)


def _build_measurement(raw: Mapping[str, Any]) -> Measurement:
    rounds = tuple(_build_round(entry) for entry in raw["rounds"])
    params = {key: int(value) if isinstance(value, float) else value for key, value in raw["params"].items()}
    values: dict[str, Any] = {**raw, "rounds": rounds, "params": params}
    return Measurement(**values)


def _build_caches(context: Mapping[str, Any]) -> tuple[Cache, ...]:
    """The caches of Google Benchmark's context; that part is open, so whatever does not fit is left out."""
    caches = []
    entries = context.get("caches")
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or entry.get("type") not in ("Data", "Unified"):
            continue
        level, size_bytes = entry.get("level"), entry.get("size")
        if type(level) is int and type(size_bytes) is int and 0 < level < 10 and 0 < size_bytes < 1 << 50:
            caches.append(Cache(level, entry["type"], size_bytes))
    return tuple(sorted(caches, key=lambda cache: cache.level))


def _build_document(raw: Mapping[str, Any], name: str) -> Document:
    body = raw["nestbench"]
    return Document(
        name=name,
        schema=body["schema"],
        host=_build(Host, body["host"]),
        build=_build(Build, body["build"]),
        images=body["images"],
        run=_build(Run, body["run"]),
        measurements=tuple(_build_measurement(entry) for entry in body["measurements"]),
        findings=tuple(_build(Finding, entry) for entry in body["findings"]),
        capability=tuple(_build(Capability, entry) for entry in body["capability"]),
        caches=_build_caches(raw["context"]),
        experiments=tuple(build_experiment(entry) for entry in body.get("experiments", ())),
    )


def expected_id(measurement: Measurement) -> str:
    """`scenario/workload[/key=value[,key=value...]]/substrate`, keys sorted."""
    params = ",".join(f"{key}={value}" for key, value in sorted(measurement.params.items()))
    parts = [measurement.scenario, measurement.workload, params, measurement.substrate]
    return "/".join(part for part in parts if part)


def _cross_check(document: Document) -> None:
    """What JSON Schema cannot say."""

    def refuse(measurement: Measurement, why: str) -> DocumentError:
        return DocumentError(f"{document.name} is not a valid result document: {_short(measurement.id, 512)}: {why}")

    seen: set[str] = set()
    digests: dict[str, Measurement] = {}
    ids = {measurement.id for measurement in document.measurements}
    for measurement in document.measurements:
        if measurement.id != expected_id(measurement):
            raise refuse(measurement, f"the id does not agree with its parts, which make `{expected_id(measurement)}`")
        if not measurement.id.isprintable():
            raise refuse(measurement, "the id holds a character that cannot be printed")
        if measurement.id in seen:
            raise refuse(measurement, "the id occurs twice")
        seen.add(measurement.id)
        if (measurement.status == OK) != (measurement.reason.strip() == ""):
            raise refuse(
                measurement,
                f"status `{measurement.status}` with reason {_short(measurement.reason)!r};"
                " a reason is needed exactly when the status is not ok",
            )
        if measurement.status == OK and not measurement.samples_by_round:
            raise refuse(measurement, "status `ok` without a single sample")
        processes = [(entry.round, entry.order) for entry in measurement.rounds]
        if len(set(processes)) != len(processes):
            raise refuse(measurement, "two processes have the same round and order")
        if measurement.floor_id is not None and (
            measurement.floor_id not in ids or measurement.floor_id == measurement.id
        ):
            raise refuse(
                measurement, f"floor_id `{_short(measurement.floor_id)}` is no other measurement of this document"
            )
        if measurement.image_sha256:
            other = digests.setdefault(measurement.key, measurement)
            if other.image_sha256 != measurement.image_sha256:
                raise refuse(measurement, f"did not run the image that {other.id} ran (image_sha256 differs)")
    check_experiments(
        document.experiments,
        lambda id_, why: DocumentError(f"{document.name} is not a valid result document: {_short(id_, 512)}: {why}"),
    )
