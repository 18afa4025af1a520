"""The checklist: outcomes, known failures by class of host, exit codes, JUnit and the page."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nestbench_reports import conformance
from nestbench_reports.cli import KNOWN_FAILURES
from nestbench_reports.conformance import Known, Status, parse_known
from nestbench_reports.errors import PolicyError
from nestbench_reports.load import parse
from tests import synthetic
from tests.conftest import Run

SOURCE = "KVM API, KVM_RUN"


def condition(test: str, outcome: str = "pass", reason: str = "", **evidence: str) -> dict[str, Any]:
    return {
        "kind": "condition",
        "test": test,
        "outcome": outcome,
        "reason": reason,
        "source": SOURCE,
        "evidence": evidence,
        "duration_ns": 1_500_000,
    }


def document(*conditions: dict[str, Any], module: str = "kvm_pvm", clock: str = "real") -> dict[str, Any]:
    raw = synthetic.document(specs=[])
    raw["nestbench"]["host"]["kvm"]["module"] = module
    raw["nestbench"]["host"]["clock"] = clock
    raw["nestbench"]["experiments"] = [
        {
            "id": "conformance/kvm_api/vm",
            "scenario": "conformance",
            "workload": "kvm_api",
            "substrate": "vm",
            "setup": {"deadline_ns": 20_000_000_000},
            "records": list(conditions),
        }
    ]
    return raw


def known(host: str = "kvm_pvm", test: str = "kvm_api/Run.Fails") -> Known:
    return Known(host, test, "it never did", "a link")


def checklist(*conditions: dict[str, Any], entries: tuple[Known, ...] = (), **host: str) -> conformance.Checklist:
    return conformance.checklist(parse(json.dumps(document(*conditions, **host)), "d.json"), entries)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (("pass", "skip"), 0),
        (("pass", "fail"), 1),
        (("fail", "error"), 6),
        (("pass", "crash"), 6),
        (("pass", "timeout"), 6),
        (("skip", "skip"), 5),
    ],
)
def test_the_worst_outcome_decides(outcomes: tuple[str, ...], code: int) -> None:
    conditions = [
        condition(f"Run.Number{i}", outcome, "" if outcome == "pass" else "why") for i, outcome in enumerate(outcomes)
    ]
    found = checklist(*conditions)
    assert found.exit_code == code


def test_a_known_failure_is_shown_and_does_not_count() -> None:
    found = checklist(condition("Run.Fails", "fail", "EPERM"), condition("Run.Works"), entries=(known(),))
    assert [entry.status for entry in found.entries] == [Status.KNOWN, Status.PASS]
    assert found.exit_code == 0
    assert "1 known failure" in found.headline
    assert "it never did (a link); EPERM" == conformance.words(found.entries[0])


def test_a_known_failure_that_passes_is_said() -> None:
    found = checklist(condition("Run.Fails"), entries=(known(),))
    assert found.entries[0].status is Status.FIXED
    assert found.exit_code == 0


def test_one_that_fails_rarely_may_pass() -> None:
    rare = replace(known(), rarely=True)
    assert checklist(condition("Run.Fails"), entries=(rare,)).entries[0].status is Status.PASS
    assert checklist(condition("Run.Fails", "fail", "why"), entries=(rare,)).entries[0].status is Status.KNOWN


@pytest.mark.parametrize("outcome", ["crash", "timeout", "error", "skip"])
def test_only_a_failure_can_be_known(outcome: str) -> None:
    assert checklist(condition("Run.Fails", outcome, "why"), entries=(known(),)).entries[0].status.value == outcome


@pytest.mark.parametrize(
    ("host", "covered"),
    [("kvm_amd", False), ("emulated:kvm_amd", True), ("emulated:*", True), ("*", True), ("emulated:kvm_intel", False)],
)
def test_the_list_is_of_a_class_of_hosts(host: str, covered: bool) -> None:
    found = checklist(condition("Run.Fails", "fail", "why"), entries=(known(host),), module="kvm_amd", clock="emulated")
    assert (found.entries[0].status is Status.KNOWN) is covered


def test_an_entry_of_no_condition_is_said() -> None:
    gone = known(test="kvm_api/Run.WasRenamed")
    elsewhere = known(host="kvm_intel", test="kvm_api/Run.WasRenamed")
    assert checklist(condition("Run.Works"), entries=(gone, elsewhere)).unused == (gone,)


def test_the_list_that_is_shipped_can_be_read() -> None:
    entries = parse_known(KNOWN_FAILURES.read_text(encoding="utf-8"), "known.toml")
    assert entries
    assert len({(entry.host, entry.test) for entry in entries}) == len(entries)


@pytest.mark.parametrize(
    "text",
    ["[[known]]\nhost = 'a'\n", "known = 1\n", "[other]\n", "[[known]\n", "known = [1]\n"]
    + ["[[known]]\nhost=''\ntest='t'\nreason='r'\nlink='l'\n", "[[known]]\nhost=1\ntest='t'\nreason='r'\nlink='l'\n"]
    + ["[[known]]\nhost='h'\ntest='t'\nreason='r'\nlink='l'\nrarely='no'\n"],
)
def test_a_broken_list_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="known.toml"):
        parse_known(text, "known.toml")


def test_terminal_page_and_junit(run: Run, tmp_path: Path) -> None:
    raw = document(
        condition("Run.Works", slots="32764"),
        condition("Run.Fails", "fail", "<b>EPERM</b>\x1b[31m\nmore"),
        condition("Run.Hangs", "timeout", "20 s"),
        condition("Run.Lacks", "skip", "KVM_CAP_X is 0"),
    )
    path = synthetic.write(tmp_path / "result.json", raw)
    xml = tmp_path / "out.xml"
    result = run("checklist", path, "--junit", xml)
    assert result.code == 6
    for words in ("fail: kvm_api/Run.Fails", "timeout: kvm_api/Run.Hangs", "KVM_CAP_X is 0", SOURCE):
        assert words in result.out
    assert "\x1b[31m" not in result.out
    suite = ElementTree.parse(xml).getroot()[0]
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    assert "slots = 32764" in run("checklist", path, "-v").out
    assert run("report", path).code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Does KVM behave as documented" in page
    assert "<b>EPERM" not in page
    assert "slots = 32764" in page


def test_without_conditions_there_is_no_section(run: Run, result_path: Path) -> None:
    assert run("report", result_path).code == 0
    assert "Does KVM behave as documented" not in (result_path.parent / "report.html").read_text(encoding="utf-8")
    assert run("checklist", result_path).code == 5
