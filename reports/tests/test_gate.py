"""Every outcome and every exit code of the gate, and policies that are wrong."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from nestbench_reports.errors import PolicyError
from nestbench_reports.gate import Outcome, gate, matches
from nestbench_reports.load import parse
from nestbench_reports.policy import parse as parse_policy
from tests import synthetic
from tests.conftest import DEFAULT_POLICY, Run
from tests.hostile import hostile_document

Raw = dict[str, Any]
CPU_LIMIT = '[[limit]]\nmetric = "overhead/cpu_*"\nratio = "vm/bare"\nmax = 1.10\n'


def write_policy(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def outcomes(raw: Raw, policy: str) -> dict[str, Outcome]:
    result = gate(parse_policy(policy, "p.toml"), parse(json.dumps(raw), "d.json"))
    return {judgement.id: judgement.outcome for judgement in result.judgements}


def test_globs_match_with_and_without_the_substrate() -> None:
    chase = "overhead/memory_chase/working_set_bytes=16384"
    for glob in ("overhead/*", "overhead/memory_chase/*", chase, "*/vm", "overhead/*/vm"):
        assert matches(glob, f"{chase}/vm"), glob
    assert not matches("overhead/memory_chase", f"{chase}/vm")
    assert not matches("*/bare", "overhead/cpu_integer/vm")


def test_0_when_the_default_policy_holds(result_path: Path, run: Run) -> None:
    result = run("gate", "--policy", DEFAULT_POLICY, result_path)
    assert result.code == 0 and result.out.rstrip().splitlines()[-1].startswith("gate: pass: ")


def test_1_when_a_limit_is_broken(result_path: Path, tmp_path: Path, run: Run) -> None:
    text = '[[limit]]\nmetric = "overhead/memory_first_touch*"\nratio = "vm/bare"\nmax = 1.5\nreason = "paging"\n'
    result = run("gate", "--policy", write_policy(tmp_path, text), result_path)
    assert result.code == 1
    assert "fail: overhead/memory_first_touch/page_bytes=4096 vm/bare: 3." in result.out and "paging" in result.out


def test_1_when_a_result_is_wrong_though_no_limit_names_it(tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    synthetic.set_status(raw, "overhead/memory_gups/vm", "failed", "checksum differs")
    path = synthetic.write(tmp_path / "result.json", raw)
    result = run("gate", "--policy", write_policy(tmp_path, CPU_LIMIT), path)
    assert result.code == 1 and "checksum differs" in result.out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[[limit]]\n",
        "not toml",
        "[[",
        CPU_LIMIT + "maximum = 1\n",
        CPU_LIMIT + "[surprise]\n",
        "limit = 3\n",
        "limit = [1]\n",
        CPU_LIMIT.replace("1.10", '"1.10"'),
        CPU_LIMIT.replace("1.10", "true"),
        CPU_LIMIT.replace("1.10", "nan"),
        CPU_LIMIT.replace("1.10", "-1"),
        CPU_LIMIT.replace("max = 1.10\n", ""),
        CPU_LIMIT + "min = 2\n",
        CPU_LIMIT + 'unit = "ns/op"\n',
        CPU_LIMIT.replace("vm/bare", "bare/vm"),
        CPU_LIMIT.replace('ratio = "vm/bare"\n', ""),
        CPU_LIMIT + 'required = "no"\n',
        CPU_LIMIT + 'on_inconclusive = "maybe"\n',
        CPU_LIMIT.replace("overhead/cpu_*", ""),
        CPU_LIMIT.replace("overhead/cpu_*", "overhead/gpu_*"),
        CPU_LIMIT + CPU_LIMIT.replace("overhead/cpu_*", "overhead/gpu_*"),
        "baseline = 1\n",
        "[baseline]\nfdr = 1.5\n",
        '[baseline]\nfail_on = ["equivalent"]\n',
        "[baseline]\nfail_on = []\n",
        '[baseline]\nof = ["vm"]\n',
        '[baseline]\nmetrics = "x"\n',
        "[baseline]\nmetrics = [1]\n",
        "[baseline]\nsurprise = 1\n",
        '[baseline]\nmetrics = ["*"]\n',
        '[[limit]]\nmetric = "overhead/cpu_integer/vm"\nunit = "GB/s"\nmax = 1\n',
        'x = "\\u0000"\n',
        "limit = " + "[" * 3000 + "\n",
    ],
)
def test_2_when_the_policy_is_wrong_or_matches_nothing(text: str, result_path: Path, tmp_path: Path, run: Run) -> None:
    result = run("gate", "--policy", write_policy(tmp_path, text), result_path)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("nestbench: ") and "policy.toml" in result.err or "limit" in result.err


def test_2_when_a_file_is_missing(result_path: Path, tmp_path: Path, run: Run) -> None:
    assert run("gate", "--policy", tmp_path / "none.toml", result_path).code == 2
    assert run("gate", "--policy", tmp_path, result_path).code == 2
    assert run("gate", "--policy", DEFAULT_POLICY, tmp_path / "none.json").code == 2
    assert run("gate", "--policy", DEFAULT_POLICY, result_path, "--baseline", tmp_path / "none.json").code == 2
    assert run("gate", result_path).code == 2  # no policy


@pytest.mark.parametrize(("word", "code"), [("fail", 3), ("pass", 0)])
def test_3_when_the_interval_straddles_the_limit_and_the_policy_says_so(
    word: str, code: int, result_path: Path, tmp_path: Path, run: Run
) -> None:
    text = f'[[limit]]\nmetric = "overhead/cpu_integer"\nratio = "vm/bare"\nmax = 1.001\non_inconclusive = "{word}"\n'
    result = run("gate", "--policy", write_policy(tmp_path, text), result_path)
    assert result.code == code and "inconclusive" in result.out


def test_3_when_one_round_gives_no_interval(tmp_path: Path, run: Run) -> None:
    path = synthetic.write(tmp_path / "result.json", synthetic.document(rounds=1))
    assert run("gate", "--policy", write_policy(tmp_path, CPU_LIMIT), path).code == 3


def test_4_when_the_clock_is_emulated(tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    raw["nestbench"]["host"]["clock"] = "emulated"
    path = synthetic.write(tmp_path / "result.json", raw)
    result = run("gate", "--policy", DEFAULT_POLICY, path, "--junit", tmp_path / "j.xml")
    assert result.code == 4 and "emulated" in result.out
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("errors") == "1"


def test_4_when_the_baseline_comes_from_another_cpu(result_path: Path, tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    raw["nestbench"]["host"]["cpu"]["model_name"] = "Other"
    baseline = synthetic.write(tmp_path / "old.json", raw)
    result = run("gate", "--policy", DEFAULT_POLICY, result_path, "--baseline", baseline)
    assert result.code == 4 and "Other" in result.err


def test_5_when_something_required_is_unsupported_and_0_when_it_is_not_required(tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    synthetic.set_status(raw, "overhead/cpu_fma/vm", "unsupported", "no AVX2 here")
    path = synthetic.write(tmp_path / "result.json", raw)
    required = run("gate", "--policy", write_policy(tmp_path, CPU_LIMIT), path)
    assert required.code == 5 and "no AVX2 here" in required.out
    optional = run("gate", "--policy", write_policy(tmp_path, CPU_LIMIT + "required = false\n"), path)
    assert optional.code == 0 and "unsupported, not required" in optional.out and "no AVX2 here" in optional.out


def test_5_without_kvm_under_the_default_policy(tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    for entry in raw["nestbench"]["measurements"]:
        if entry["substrate"] != "bare":
            entry.update(status="unsupported", reason="/dev/kvm does not exist", rounds=[])
    result = run("gate", "--policy", DEFAULT_POLICY, synthetic.write(tmp_path / "result.json", raw))
    assert result.code == 5 and "/dev/kvm does not exist" in result.out


@pytest.mark.parametrize("status", ["crashed", "error", "timeout"])
def test_6_when_a_measurement_broke_even_if_another_failed(status: str, tmp_path: Path, run: Run) -> None:
    raw = synthetic.document()
    synthetic.set_status(raw, "overhead/memory_gups/vm", status, "child ended by signal 11", keep_rounds=True)
    synthetic.set_status(raw, "overhead/cpu_fma/vm", "failed", "wrong result")
    result = run("gate", "--policy", DEFAULT_POLICY, synthetic.write(tmp_path / "result.json", raw))
    assert result.code == 6 and "signal 11" in result.out and "wrong result" in result.out


def test_a_limit_is_judged_by_the_whole_interval() -> None:
    def limit(bound: str) -> Outcome:
        text = f'[[limit]]\nmetric = "overhead/memory_first_touch/page_bytes=4096"\nratio = "vm/bare"\n{bound}\n'
        return outcomes(raw, text)["overhead/memory_first_touch/page_bytes=4096 vm/bare"]

    raw = synthetic.document()
    assert limit("max = 3.5") is Outcome.PASS
    assert limit("max = 3.0") is Outcome.FAIL
    assert limit("max = 3.3") is Outcome.INCONCLUSIVE
    assert limit("min = 3.0") is Outcome.PASS
    assert limit("min = 3.6") is Outcome.FAIL
    assert limit("min = 3.3") is Outcome.INCONCLUSIVE
    assert limit("min = 3.0\nmax = 3.6") is Outcome.PASS


def test_limits_on_rates_are_costs_and_limits_on_medians_have_units() -> None:
    text = (
        '[[limit]]\nmetric = "overhead/memory_bandwidth/operation=read"\nratio = "vm/bare"\nmin = 1.01\nmax = 1.05\n'
        '[[limit]]\nmetric = "exits/doorbell_pio/cpl=3/vm"\nunit = "ns/op"\nmax = 30000\n'
    )
    assert set(outcomes(synthetic.document(), text).values()) == {Outcome.PASS}


def test_a_limit_that_matches_nothing_and_is_not_required_is_noted(result_path: Path, tmp_path: Path, run: Run) -> None:
    text = CPU_LIMIT + '[[limit]]\nmetric = "overhead/gpu_*"\nratio = "vm/bare"\nmax = 1\nrequired = false\n'
    result = run("gate", "--policy", write_policy(tmp_path, text), result_path)
    assert result.code == 0 and "overhead/gpu_*" in result.out and "matches nothing here" in result.out


def test_a_policy_that_judges_nothing_is_refused() -> None:
    policy = parse_policy('[[limit]]\nmetric = "x"\nratio = "vm/bare"\nmax = 1\nrequired = false\n', "p.toml")
    with pytest.raises(PolicyError, match="judges nothing"):
        gate(policy, parse(json.dumps(synthetic.document()), "d.json"))


def test_baseline_regression_fails_and_names_the_metric(result_path: Path, tmp_path: Path, run: Run) -> None:
    slower = synthetic.write(tmp_path / "slow.json", synthetic.document(seed=3, vm_factor=1.1))
    same = synthetic.write(tmp_path / "same.json", synthetic.document(seed=4))
    policy = write_policy(tmp_path, '[baseline]\nmetrics = ["overhead/*/vm"]\n')
    assert run("gate", "--policy", policy, same, "--baseline", result_path).code == 0
    result = run("gate", "--policy", policy, slower, "--baseline", result_path)
    found = re.search(r"fail: overhead/cpu_integer vm/bare: regression: (\d\.\d+)", result.out)
    assert result.code == 1 and found and float(found[1]) == pytest.approx(1.1, abs=0.02)
    assert run("gate", "--policy", policy, result_path, "--baseline", slower).code == 0  # an improvement


def test_baseline_metric_that_is_gone_fails_unless_the_policy_lets_it(
    result_path: Path, tmp_path: Path, run: Run
) -> None:
    specs = [spec for spec in synthetic.default_specs() if spec.workload != "cpu_sort"]
    less = synthetic.write(tmp_path / "less.json", synthetic.document(specs=specs))
    strict = write_policy(tmp_path, '[baseline]\nmetrics = ["overhead/cpu_*"]\n')
    result = run("gate", "--policy", strict, less, "--baseline", result_path)
    assert result.code == 1 and "overhead/cpu_sort/vm" in result.out and "absent" in result.out
    lenient = write_policy(tmp_path, '[baseline]\nmetrics = ["overhead/cpu_*"]\non_missing = "pass"\n')
    assert run("gate", "--policy", lenient, less, "--baseline", result_path).code == 0


def test_junit_counts_agree_and_hostile_text_stays_valid_xml(tmp_path: Path, run: Run) -> None:
    path = synthetic.write(tmp_path / "result.json", hostile_document())
    junit = tmp_path / "gate.xml"
    text = '[[limit]]\nmetric = "exits/*"\nratio = "vm/floor"\nmax = 1.1\non_inconclusive = "pass"\n'
    result = run("gate", "--policy", write_policy(tmp_path, text), path, "--junit", junit)
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    assert result.code == 1 and suite is not None
    cases = suite.findall("testcase")
    assert len(cases) == int(suite.get("tests", "0")) == 14
    for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert sum(case.find(tag) is not None for case in cases) == int(suite.get(name, "-1"))
    assert int(suite.get("failures", "0")) == 1 and int(suite.get("errors", "0")) == 1
    # What was escaped is text again once read.
    assert "<script>" in "".join(failure.get("message", "") for failure in suite.iter("failure"))


def test_junit_that_cannot_be_written(result_path: Path, tmp_path: Path, run: Run) -> None:
    arguments = ["gate", "--policy", DEFAULT_POLICY, result_path, "--junit"]
    missing = run(*arguments, tmp_path / "none" / "j.xml")
    assert missing.code == 2 and "cannot write" in missing.err
    assert run(*arguments, tmp_path).code == 2
    full = run(*arguments, "/dev/full")
    assert full.code == 6 and "No space left" in full.err
