"""Experiments: what is read, and what is refused with a message that says where."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nestbench_reports.errors import DocumentError
from nestbench_reports.load import parse
from tests import synthetic
from tests import synthetic_tenants as tenants

Raw = dict[str, Any]


def small() -> Raw:
    """A document with one experiment of each kind."""
    raw = synthetic.document(specs=[])
    first = tenants.schedule(0, [tenants.episode(1, 1, 2, 0.2)], [tenants.detection(1, 1.5)])
    ramp = tenants.queue_ramp("vm", 4, repetitions=1)
    ramp["records"].insert(-1, {"kind": "failure", "guests": 5, "how": "EMFILE", "evidence": "open"})
    raw["nestbench"]["experiments"] = [
        ramp,
        tenants.experiment("isolation", "attribution", "vm", {}, [first]),
        tenants.containment("triple_fault", "vm", "guest_fault", [tenants.one_try(0)]),
        tenants.containment_experiments()[-1],
    ]
    return raw


def records_of_each_kind(raw: Raw) -> dict[str, Raw]:
    return {record["kind"]: record for entry in raw["nestbench"]["experiments"] for record in entry["records"]}


def refusal(raw: Raw) -> str:
    with pytest.raises(DocumentError) as caught:
        parse(json.dumps(raw), "d.json")
    message = str(caught.value)
    assert message.startswith("d.json") and "\n" not in message and len(message) < 1000
    return message


def test_every_field_of_every_record_arrives() -> None:
    raw = small()
    document = parse(json.dumps(raw), "d.json")
    ramp, schedules, faults, soak = document.experiments
    kinds = records_of_each_kind(raw)
    first = ramp.records[0]
    assert [type(record).__name__ for record in ramp.records[-2:]] == ["Failure", "End"]
    assert len(ramp.steps) == len(ramp.records) - 2 and first == ramp.steps[0]
    last = ramp.steps[-1]
    for key in ("guests", "repetition", "offered_per_s", "start_rate_per_s", "exits_per_s"):
        assert getattr(last, key) == kinds["step"][key]
    assert last.guest_per_s == tuple(kinds["step"]["guest_per_s"])
    assert vars(last.host) == kinds["step"]["host"] and vars(last.memory) == kinds["step"]["memory"]
    assert ramp.end is not None and ramp.end.left_behind.nothing and ramp.end.reason == "slo"
    assert vars(schedules.schedules[0].episodes[0]) == kinds["schedule"]["episodes"][0]
    assert schedules.schedules[0].detections[0].victims == (0,)
    assert faults.tries[0].evidence == kinds["try"]["evidence"] and faults.tries[0].number == 0
    assert soak.soaks[0].is_clean


def test_documents_of_before_there_were_experiments_stay_readable() -> None:
    raw = synthetic.document()
    assert "experiments" not in raw["nestbench"]
    assert parse(json.dumps(raw), "d.json").experiments == ()


def test_what_the_host_does_not_tell_is_none() -> None:
    raw = small()
    step = records_of_each_kind(raw)["step"]
    step["host"] = {key: None for key in step["host"]}
    step["memory"] = {key: None for key in step["memory"]}
    step["exits_per_s"] = None
    found = parse(json.dumps(raw), "d.json").experiments[0].steps[-1]
    assert set(vars(found.host).values()) == {None} and found.exits_per_s is None


@pytest.mark.parametrize("kind", ["step", "failure", "end", "schedule", "try", "soak"])
def test_every_key_of_every_record_is_needed_and_no_other_is_taken(kind: str) -> None:
    whole = small()
    for key in records_of_each_kind(whole)[kind]:
        raw = copy.deepcopy(whole)
        del records_of_each_kind(raw)[kind][key]
        assert key in refusal(raw), key
    raw = copy.deepcopy(whole)
    records_of_each_kind(raw)[kind]["surprise"] = 1
    assert "surprise" in refusal(raw)


@pytest.mark.parametrize("kind", ["step", "failure", "end", "schedule", "try", "soak"])
def test_every_value_of_a_wrong_type_is_refused(kind: str) -> None:
    whole = small()
    for key in records_of_each_kind(whole)[kind]:
        for wrong in ([[]], {"a": "b"}, -1, True) if key != "evidence" else (1, [[]], True):
            record = records_of_each_kind(whole)[kind]
            if isinstance(record[key], bool) and wrong is True:
                continue
            raw = copy.deepcopy(whole)
            records_of_each_kind(raw)[kind][key] = wrong
            refusal(raw)


Break = Callable[[dict[str, Raw], list[Raw]], object]
CONTRADICTIONS: list[tuple[str, Break, str]] = [
    ("an id of other parts", lambda k, e: e[0].update(substrate="bare"), "does not agree with its parts"),
    ("two of one id", lambda k, e: e.append(e[0]), "occurs twice"),
    ("two of one try", lambda k, e: e[2]["records"].append(dict(k["try"])), "a try occurs twice"),
    ("unordered latency", lambda k, e: k["step"]["latency_ns"].update(p50=9e9), "not in order"),
    ("more guests than there are", lambda k, e: k["step"].update(guests=1), "guest_per_s has"),
    ("a negative amount", lambda k, e: k["step"]["guest_per_s"].append(-1), "guest_per_s["),
    ("a word as an amount", lambda k, e: k["step"]["start_ns"].append("x"), "start_ns["),
    ("an absurd amount", lambda k, e: k["step"]["throughput_per_s"].append(1e30), "throughput_per_s["),
    ("a flag as an amount", lambda k, e: k["step"]["latency_p99_ns"].append(True), "latency_p99_ns["),
    ("a quiet schedule with episodes", lambda k, e: k["schedule"].update(quiet=True), "quiet schedule has episodes"),
    ("more false than quiet", lambda k, e: k["schedule"].update(false_alarm_windows=99), "not in order"),
    ("an episode backwards", lambda k, e: k["schedule"]["episodes"][0].update(end_ns=0), "ends before it begins"),
    ("a guest that is not there", lambda k, e: k["schedule"]["detections"][0].update(guest=8), "guest 8 of 8"),
    ("an impact above all", lambda k, e: k["schedule"]["episodes"][0].update(impact=1.5), "impact"),
    ("right by another name", lambda k, e: k["try"].update(classification="hang"), "is called right where"),
    ("right and never noticed", lambda k, e: k["try"].update(detection_ns=None), "never noticed"),
    ("a class of its own", lambda k, e: k["try"].update(classification="bad luck"), "bad luck"),
    ("a record of another scenario", lambda k, e: e[0]["records"].append(k["soak"]), "soak"),
    ("a record without a kind", lambda k, e: k["end"].pop("kind"), "kind"),
    ("a setup without its objective", lambda k, e: e[0]["setup"].pop("slo_p99_ns"), "slo_p99_ns"),
    ("a setup without its deadline", lambda k, e: e[2]["setup"].pop("deadline_ns"), "deadline_ns"),
    ("a key beside the records", lambda k, e: e[3].update(extra=1), "extra"),
]


@pytest.mark.parametrize(("damage", "words"), [c[1:] for c in CONTRADICTIONS], ids=[c[0] for c in CONTRADICTIONS])
def test_what_cannot_be_is_refused(damage: Break, words: str) -> None:
    raw = small()
    damage(records_of_each_kind(raw), raw["nestbench"]["experiments"])
    assert words in refusal(raw)


@pytest.mark.parametrize("wrong", [None, {}, "x", 1, [1], [None], [[]], [{}], [{"records": 1}], [{"records": [1]}]])
def test_experiments_that_are_none_are_refused(wrong: object) -> None:
    raw = small()
    raw["nestbench"]["experiments"] = wrong
    refusal(raw)


def test_thousands_of_guests_are_read_in_seconds() -> None:
    raw = synthetic.document(specs=[])
    rng = np.random.default_rng(1)
    records = [tenants.step(4096, 3e6, 80000, rng, repetition) for repetition in range(60)]
    for record in records:
        record["start_ns"] = [1.0] * 4096
    setup = tenants.density_setup()
    raw["nestbench"]["experiments"] = [tenants.experiment("density", "steady", "vm", setup, records)]
    text = json.dumps(raw)
    begin = time.monotonic()
    assert len(parse(text, "d.json").experiments[0].steps) == 60
    assert time.monotonic() - begin < 20
