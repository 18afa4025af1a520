"""Disks, doorbells, networks: ratios and limits against numbers worked out by hand; documents that lack something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestbench_reports import io, isolation, metrics, stats
from nestbench_reports.errors import DocumentError, PolicyError
from nestbench_reports.gate import GateResult, Outcome, gate
from nestbench_reports.io import Limit, Near
from nestbench_reports.load import parse
from nestbench_reports.model import Document
from nestbench_reports.others import others
from nestbench_reports.policy import parse as parse_policy
from nestbench_reports.stats import FloatArray
from nestbench_reports.view import page
from tests import synthetic, synthetic_io, synthetic_tenants
from tests.conftest import DEFAULT_POLICY, Run
from tests.hostile import ATTACK
from tests.synthetic import KIB, Spec
from tests.synthetic_io import EXACT, params

Raw = dict[str, Any]
RATE = "io/disk/block_bytes=4096,depth=32,disk=ram,metric=iops,operation=random_read"
RULE = '[[io]]\nmetric = "io/disk/*"\nmax_distance = 1.5\n'
FEW = (1, 16, 32)  # depths
EXITS_LIMIT = '[[limit]]\nmetric = "io/disk/*metric=exits*"\nunit = "exits/op"\nmax = 0.2\n'


def spec(metric: str, unit: str, values: dict[str, float], depth: int = 32, block: int = 4096, **more: str) -> Spec:
    direction = "higher" if metric in ("iops", "bandwidth") else "lower"
    return Spec("io", "disk", params("ram", "random_read", metric, depth, block, **more), unit, direction, values)


def by_hand(exits: float = 0.1, vm: float = 200.0, noise: synthetic.Noise = EXACT, rounds: int = 4) -> Raw:
    """200 kIOPS in a guest are 5,000 ns, 400 on bare 2,500; an exit in ten operations at 3,000 ns: a limit of 2,800."""
    found = [
        spec("iops", "kIOPS", {"bare": 400.0, "vm": vm, "fio": 250.0}),
        spec("exits", "exits/op", {"vm": exits}),
        Spec("io", "doorbell", {"kind": "ioeventfd"}, "ns/op", "lower", {"vm": 3000.0}),
        Spec("io", "doorbell", {"kind": "exit"}, "ns/op", "lower", {"vm": 30000.0}),
    ]
    return synthetic.document(rounds=rounds, samples=3, noise=noise, specs=found)


def document(raw: Raw) -> Document:
    return parse(json.dumps(raw), "d.json")


def only_limit(raw: Raw) -> Limit:
    (found,) = io.limits(document(raw))
    return found


def judged(raw: Raw, policy: str, whole: bool = True) -> GateResult:
    return gate(parse_policy(policy, "p.toml"), document(raw), whole=whole)


def entry(raw: Raw, measurement_id: str) -> Raw:
    found: Raw = next(e for e in raw["nestbench"]["measurements"] if e["id"] == measurement_id)
    return found


# ---- arithmetic ----


def test_ratios_of_vm_bare_and_fio_are_costs_by_pair() -> None:
    found = {m.name: m for m in metrics.metrics(document(by_hand()))}
    values = {name.rpartition(" ")[2]: m.estimate.value for name, m in found.items() if m.estimate and RATE in name}
    assert values.keys() == {"vm/bare", "vm/fio", "fio/bare"}
    assert [values[name] for name in ("vm/bare", "vm/fio", "fio/bare")] == pytest.approx([400 / 200, 250 / 200, 1.6])


def test_the_limit_is_bare_plus_what_the_exits_cost() -> None:
    found = only_limit(by_hand())
    assert (found.measured_ns, found.bare_ns, found.doorbell_ns) == pytest.approx((5000, 2500, 3000), rel=1e-5)
    assert found.exits == pytest.approx(0.1) and found.limit_ns == pytest.approx(2800, rel=1e-5)
    assert found.distance is not None and found.distance.value == pytest.approx(5000 / 2800, rel=1e-5)
    assert found.near() is Near.BEYOND and found.near(1.8) is Near.WITHIN
    assert io.near_text(found) == "not within 1.5\N{MULTIPLICATION SIGN}"


def test_large_blocks_take_their_time_from_the_bandwidth() -> None:
    """1,024 MB/s of 64 KiB blocks: 64,000 ns each; 2,048 on bare: 32,000; two exits of 8,000 ns: 48,000 at least."""
    raw = synthetic.document(
        rounds=3,
        noise=EXACT,
        specs=[
            spec("bandwidth", "MB/s", {"bare": 2048.0, "vm": 1024.0}, block=64 * KIB),
            spec("exits", "exits/op", {"vm": 2.0}, block=64 * KIB),
            Spec("io", "doorbell", {"kind": "ioeventfd"}, "ns/op", "lower", {"vm": 8000.0}),
        ],
    )
    found = only_limit(raw)
    assert (found.measured_ns, found.limit_ns) == pytest.approx((64000, 48000), rel=1e-5)
    assert found.distance is not None and found.distance.value == pytest.approx(4 / 3, rel=1e-5)


def test_a_disk_whose_doorbells_are_exits_pays_for_those() -> None:
    raw = by_hand()
    for measurement in raw["nestbench"]["measurements"]:
        if measurement["workload"] == "disk":
            measurement["params"]["doorbell"] = "exit"
            named = ",".join(f"{k}={v}" for k, v in sorted(measurement["params"].items()))
            measurement["id"] = f"io/disk/{named}/{measurement['substrate']}"
    assert only_limit(raw).limit_ns == pytest.approx(2500 + 0.1 * 30000, rel=1e-5)


def test_without_an_exit_the_limit_is_bare_itself() -> None:
    raw = by_hand(exits=0.0, vm=400.0)
    found = only_limit(raw)
    assert found.limit_ns == pytest.approx(2500, rel=1e-5) and found.near() is Near.WITHIN
    assert found.distance is not None and found.distance.value == pytest.approx(1.0)
    exits = next(m for m in document(raw).measurements if m.unit == "exits/op")
    assert io.median_text(exits) == "none" and metrics.null_ratio(exits) is not None
    assert judged(raw, EXITS_LIMIT).outcome is Outcome.PASS


def test_intervals_of_distances_hold_the_truth() -> None:
    hits = 0
    for seed in range(100):
        raw = synthetic.document(
            seed,
            rounds=4,
            samples=5,
            noise=synthetic.Noise(rounds=0.05, processes=0.03, samples=1e-9),
            specs=[
                spec("iops", "kIOPS", {"bare": 400.0, "vm": 200.0}),
                spec("exits", "exits/op", {"vm": 1.0}),
                Spec("io", "doorbell", {"kind": "ioeventfd"}, "ns/op", "lower", {"vm": 3000.0}),
            ],
        )
        distance = only_limit(raw).distance
        assert distance is not None and distance.low is not None and distance.high is not None
        hits += distance.low <= 5000 / 5500 <= distance.high
    assert hits >= 90


def test_a_scattered_doorbell_widens_the_interval_of_the_distance() -> None:
    raw = by_hand(exits=1.0)
    steady = only_limit(raw).distance
    doorbell = entry(raw, "io/doorbell/kind=ioeventfd/vm")
    for part in doorbell["rounds"]:
        part["samples"] = [3000.0 * (0.7 + 0.2 * part["round"])]
    scattered = only_limit(raw).distance
    assert steady is not None and steady.low is not None and steady.high is not None
    assert scattered is not None and scattered.low is not None and scattered.high is not None
    assert steady.high / steady.low < 1.001 < 1.1 < scattered.high / scattered.low


def test_paired_value_is_a_ratio_where_the_formula_is_one() -> None:
    rng = np.random.default_rng(7)
    above: list[FloatArray] = [np.array([2.0, 2.1]) * np.exp(0.05 * rng.standard_normal()) for _ in range(6)]
    below: list[FloatArray] = [np.array([1.0, 1.1]) * np.exp(0.05 * rng.standard_normal()) for _ in range(6)]
    shared: list[FloatArray] = [np.ones(3)] * 6
    ratio = stats.paired_ratio(above, below)

    def formula(over: FloatArray, under: FloatArray, one: FloatArray) -> FloatArray:
        quotient: FloatArray = over / (under * one)
        return quotient

    value = stats.paired_value(formula, [above, below], shared, rounds=6)
    assert ratio is not None and value is not None and ratio.low and ratio.high and value.low and value.high
    assert value.value == pytest.approx(ratio.value)
    assert (value.low, value.high) == pytest.approx((ratio.low, ratio.high), rel=0.02)
    single = stats.paired_value(formula, [above[:1], below[:1]], shared[:1], rounds=1)
    assert single is not None and single.low is None
    assert stats.paired_value(lambda over, one: np.zeros_like(over), [above], shared, rounds=6) is None
    with pytest.raises(ValueError, match="same pairs"):
        stats.paired_value(formula, [above, below[:2]], shared, rounds=6)


def test_signals_without_the_kernels_help_are_set_against_those_with_it() -> None:
    (found,) = io.without_help(document(by_hand()))
    assert found[0] == "a doorbell" and found[1].value == pytest.approx(10.0)


# ---- what is missing ----


def test_below_depth_8_there_is_no_limit() -> None:
    for depth, count in ((7, 0), (8, 1)):
        found = [spec("iops", "kIOPS", {"bare": 400.0, "vm": 200.0}, depth=depth)]
        assert len(io.limits(document(synthetic.document(rounds=2, specs=found)))) == count


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        (f"{RATE}/bare", "bare was not measured"),
        ("io/doorbell/kind=ioeventfd", "the doorbell by ioeventfd was not measured"),
        (RATE.replace("iops", "exits"), "exits for each operation was not measured"),
    ],
)
def test_a_part_that_is_missing_leaves_no_limit_and_is_no_pass(prefix: str, why: str, tmp_path: Path, run: Run) -> None:
    raw = by_hand(vm=400.0)
    synthetic_io.take(raw, prefix)
    found = only_limit(raw)
    assert (found.distance, found.status, found.reason) == (None, "unsupported", why)
    result = judged(raw, RULE)
    assert result.outcome is Outcome.UNSUPPORTED and result.exit_code == 5
    assert why in result.judgements[0].reason
    lenient = judged(raw, RULE + "required = false\n")
    assert lenient.judgements[0].outcome is Outcome.LACKING
    assert lenient.exit_code == 5  # a gate of which no check could be made does not pass
    path = synthetic.write(tmp_path / "result.json", raw)
    out = run("summary", path).out
    assert why in " ".join(out.split()) and "Without a limit" in out
    assert run("report", path).code == 0


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("unsupported", Outcome.UNSUPPORTED), ("crashed", Outcome.BROKEN), ("failed", Outcome.FAIL)],
)
def test_a_part_that_went_wrong_is_no_pass_either(status: str, outcome: Outcome) -> None:
    raw = by_hand(vm=400.0)
    synthetic.set_status(raw, f"{RATE}/bare", status, "io_uring is not allowed here")
    found = only_limit(raw)
    assert found.status == status and found.reason == "bare: io_uring is not allowed here"
    assert judged(raw, RULE).outcome is outcome


def test_no_sample_is_refused_and_a_rate_of_zero_is_an_error() -> None:
    raw = by_hand()
    for part in entry(raw, f"{RATE}/vm")["rounds"]:
        part["samples"] = []
    with pytest.raises(DocumentError, match="without a single sample"):
        document(raw)
    for part in entry(raw, f"{RATE}/vm")["rounds"]:
        part["samples"] = [0.0]
    found = only_limit(raw)
    assert found.status == "error" and "not positive" in found.reason
    assert judged(raw, RULE).outcome is Outcome.BROKEN
    assert page(document(raw), "not judged", ()).sections


def test_units_that_are_not_those_of_the_contract_give_no_limit() -> None:
    raw = by_hand()
    for substrate in ("vm", "bare", "fio"):
        entry(raw, f"{RATE}/{substrate}")["unit"] = "op/s"
    found = only_limit(raw)
    assert found.status == "error" and found.reason == "vm is in op/s, not kIOPS or MB/s"


def test_sides_of_other_rounds_have_no_distance_and_one_round_has_no_interval() -> None:
    raw = by_hand()
    for part in entry(raw, RATE.replace("iops", "exits") + "/vm")["rounds"]:
        part["round"] += 100
    assert "side by side" in only_limit(raw).reason
    single = only_limit(by_hand(rounds=1))
    assert single.distance is not None and single.distance.low is None and single.near() is Near.NOT_SETTLED


def test_a_document_with_fio_and_strange_keys_is_valid_and_one_with_a_strange_name_is_not() -> None:
    raw = by_hand()
    assert {m.substrate for m in document(raw).measurements} == {"bare", "vm", "fio"}
    odd = entry(raw, "io/doorbell/kind=exit/vm")
    odd.update(workload="teleport", params={}, id="io/teleport/vm")
    found = document(raw)
    assert [other.alone[0].workload for other in others(found, metrics.metrics(found))] == ["teleport"]
    entry(raw, "io/teleport/vm").update(substrate="FIO 3", id="io/teleport/FIO 3")
    with pytest.raises(DocumentError, match="FIO 3"):
        document(raw)


def test_params_of_the_wrong_kind_are_shown_elsewhere_and_break_nothing(tmp_path: Path, run: Run) -> None:
    raw = by_hand()
    bad = [
        Spec("io", "disk", {"metric": "iops", "depth": "deep", "block_bytes": 0}, "kIOPS", "higher", {"vm": 1.0}),
        Spec("io", "disk", {"disk": "ram"}, "kIOPS", "higher", {"vm": 1.0, "bare": 2.0}),
        Spec("io", "network", {"metric": "packets", "frame_bytes": -1}, "kpackets/s", "higher", {"vm": 1.0}),
        Spec("io", "disk", params("x-y_z", "dance", "iops", 1, future="7"), "kIOPS", "higher", {"vm": 1.0}),
        Spec("io", "interrupt", {}, "bananas", "lower", {"vm": 1.0}),
    ]
    raw["nestbench"]["measurements"] += synthetic.document(specs=bad, rounds=2)["nestbench"]["measurements"]
    path = synthetic.write(tmp_path / "result.json", raw)
    result = run("summary", path)
    assert result.code == 0 and "I/O, more" in result.out and "x-y z, dance, 4 KiB, depth 1, future 7" in result.out
    assert run("report", path).code == 0


def test_hostile_reasons_and_units_are_shown_as_text(tmp_path: Path, run: Run) -> None:
    raw = synthetic_io.document(fio=True, rounds=2, samples=2, depths=FEW)
    for measurement in raw["nestbench"]["measurements"]:
        if measurement["workload"] == "network":
            measurement["unit"] = "<b>" + ATTACK[:40]
        if measurement["substrate"] == "bare" and measurement["params"].get("depth") == 16:
            measurement.update(status="unsupported", reason=ATTACK, rounds=[])
    path = synthetic.write(tmp_path / "result.json", raw)
    out = run("summary", path).out
    assert "\x1b" not in out and "\u202e" not in out and "Without a limit" in out
    assert run("report", path).code == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ATTACK[:30] not in text and "&lt;b&gt;" in text


# ---- policy ----


def test_the_default_policy_judges_exits_distances_and_ratios(tmp_path: Path) -> None:
    policy = parse_policy(DEFAULT_POLICY.read_text(encoding="utf-8"), "gate.toml")
    result = gate(policy, document(synthetic_io.document(fio=True)), whole=False)
    exits = [j for j in result.judgements if "metric=exits" in j.id]
    assert len(exits) == 3 and all(j.outcome is Outcome.PASS for j in exits)
    beyond = [j for j in result.judgements if j.outcome is Outcome.FAIL]
    assert len(beyond) == 5 and all("random_write" in j.id and "distance" in j.rule for j in beyond)
    assert all("disk=ram" in j.id for j in beyond) and result.exit_code == 1
    lacking = "io/disk/block_bytes=4096,depth=1,disk=file,metric=iops,operation=random_read fio/bare"
    assert [j.outcome for j in result.judgements if j.id == lacking] == [Outcome.LACKING]


def test_too_many_exits_fail_and_undecided_ones_are_not_passed() -> None:
    assert judged(by_hand(exits=0.5), EXITS_LIMIT).outcome is Outcome.FAIL
    unsteady = by_hand(exits=0.2, noise=synthetic.Noise(processes=0.3))
    assert judged(unsteady, EXITS_LIMIT).outcome is Outcome.INCONCLUSIVE
    raw = by_hand()
    synthetic.set_status(raw, RATE.replace("iops", "exits") + "/vm", "unsupported", "KVM counts no exits")
    assert judged(raw, EXITS_LIMIT).outcome is Outcome.UNSUPPORTED


def test_the_last_rule_decides_and_a_policy_can_show_without_failing() -> None:
    raw = by_hand()
    assert judged(raw, RULE).outcome is Outcome.FAIL
    assert judged(raw, RULE + RULE.replace("1.5", "2")).outcome is Outcome.PASS
    shown = judged(raw, RULE + 'on_beyond = "pass"\n')
    assert shown.judgements[0].outcome is Outcome.ACCEPTED and shown.exit_code == 0


def test_a_rule_that_matches_nothing_is_refused_unless_the_run_was_of_something_else() -> None:
    other = synthetic.document(rounds=2, samples=2, specs=synthetic.default_specs()[:2])
    with pytest.raises(PolicyError, match="matches nothing"):
        judged(other, RULE)
    limit = '[[limit]]\nmetric = "overhead/*"\nratio = "vm/bare"\nmax = 2\non_inconclusive = "pass"\n'
    assert any("io/disk" in note for note in judged(other, limit + RULE, whole=False).notes)
    with pytest.raises(PolicyError, match="matches nothing"):
        judged(by_hand(), RULE.replace("disk", "tape"), whole=False)


@pytest.mark.parametrize(
    "text",
    [
        "[[io]]\n",
        '[[io]]\nmetric = "io/*"\n',
        RULE + "limit = 3\n",
        RULE.replace("1.5", '"1.5"'),
        RULE + 'on_beyond = "shrug"\n',
        "io = 3\n",
    ],
)
def test_wrong_policies_are_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text, "p.toml")


def test_an_emulated_clock_is_refused_and_junit_names_the_distance(tmp_path: Path, run: Run) -> None:
    raw = by_hand()
    policy = tmp_path / "policy.toml"
    policy.write_text(RULE, encoding="utf-8")
    junit = tmp_path / "gate.xml"
    path = synthetic.write(tmp_path / "result.json", raw)
    assert run("gate", "--policy", policy, path, "--junit", junit).code == 1
    text = junit.read_text(encoding="utf-8")
    assert 'classname="nestbench.io"' in text and "distance from the limit" in text and "<failure" in text
    raw["nestbench"]["host"]["clock"] = "emulated"
    assert run("gate", "--policy", policy, synthetic.write(path, raw)).code == 4


def test_compare_takes_rates_exits_and_fio_and_an_exit_less_is_no_error(tmp_path: Path, run: Run) -> None:
    noise = synthetic.Noise(0.002, 0.001, 0.001)
    before = synthetic.write(tmp_path / "a.json", by_hand(noise=noise, rounds=8))
    slower = synthetic.write(tmp_path / "b.json", by_hand(vm=150.0, noise=noise, rounds=8))
    result = run("compare", before, slower)
    assert result.code == 1 and "vm/bare" in result.out
    none = synthetic.write(tmp_path / "c.json", by_hand(exits=0.0, noise=noise, rounds=8))
    assert "improvement" in run("compare", before, none).out
    policy = tmp_path / "policy.toml"
    policy.write_text('[baseline]\nof = ["vm/fio"]\n', encoding="utf-8")
    assert run("gate", "--policy", policy, slower, "--baseline", before).code == 1


# ---- what people read ----


def test_the_summary_shows_every_part(tmp_path: Path, run: Run) -> None:
    out = run("summary", synthetic.write(tmp_path / "result.json", synthetic_io.document(fio=True))).out
    for text in (
        "Disk: the same pattern in a guest and on the host",
        "RAM disk, random read, 4 KiB, depth 32, doorbells as exits",
        "more rows of other depths: the report shows all",
        "Disk: how near to the limit",
        "53 of 58 are within 1.5\N{MULTIPLICATION SIGN} of their limit, 5 are not",
        "Only at depth 8 and more",
        "interrupt by ioctl (KVM_IRQ_LINE)",
        "an interrupt without the kernel's help costs 2.1",
        "Network: virtio-net beside a veth pair",
        "stream, 1,500 B, with another guest",
        "Disk: fio beside it, on the same file",
        "fio is not installed: apt-get install fio",
    ):
        assert text in out, text
    assert "Overhead:" not in out and "Io:" not in out


@pytest.mark.parametrize("columns", [40, 80, 110, 200])
def test_tables_fit_every_terminal(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path = synthetic.write(tmp_path / "result.json", synthetic_io.document(fio=True, rounds=2, samples=2, depths=FEW))
    out = run("summary", path).out
    assert max(map(len, out.splitlines())) <= columns
    words = " ".join(out.split())
    assert "measured/limit" in words and "random read" in words


def test_the_page_has_the_sections_and_every_number_of_a_limit(tmp_path: Path) -> None:
    shown = page(document(by_hand()), "not judged", ())
    sections = {section.id: section for section in shown.sections}
    assert {"io", "io-limit", "io-signals-section", "io-reference"} <= sections.keys()
    (row,) = sections["io-limit"].tables[0].rows
    assert row[1:7] == ("5.00 µs", "2.50 µs", "0.10", "3.00 µs", "2.80 µs", "1.786")
    assert "Only at depth 8 and more" in sections["io-limit"].notes[0]
    assert any(tile.label == "Random reads in a guest" and "0.10 exits/op" in tile.note for tile in shown.tiles)


def test_documents_without_io_have_none_of_its_parts(result_path: Path, tmp_path: Path, run: Run) -> None:
    out = run("summary", result_path).out
    assert run("report", result_path, "-o", tmp_path / "page.html").code == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Disk:" not in out and 'id="io' not in text and "chart-io" not in text and 'id="overhead"' in text


# ---- scenarios and names that are new ----


def test_a_scenario_of_the_future_is_shown_with_its_ratios(tmp_path: Path, run: Run) -> None:
    found = [
        Spec("linux", "syscall", {"call": "getpid"}, "ns/op", "lower", {"bare": 90.0, "vm": 99.0}),
        Spec("linux", "boot", {"part": "kernel"}, "ns/op", "lower", {"vm": 2.5e9}),
        Spec("environment", "stroll", {}, "bananas", "higher", {"vm": 2.0}),
    ]
    raw = synthetic.document(rounds=4, noise=EXACT, specs=[*synthetic.default_specs()[:2], *found])
    path = synthetic.write(tmp_path / "result.json", raw)
    out = run("summary", path).out
    assert "A Linux guest: in a guest and on the host" in out and "syscall, call getpid" in out
    assert "boot, part kernel" in out and "2.50 s/op" in out and "2.00 bananas" in out
    ladder = out[out.index("Overhead:") : out.index("A Linux guest")]
    assert "syscall" not in ladder
    shown = {section.id: section for section in page(document(raw), "not judged", ()).sections}
    assert [figure.id for figure in shown["scenario-linux"].figures] == ["scenario-linux-cost"]
    assert "scenario-environment" in shown and len(shown["overhead"].figures) == 1


def test_isolation_copes_with_victims_and_aggressors_of_io() -> None:
    rows: list[Raw] = []
    rng = synthetic_tenants.rng(3)
    pairs = ("network", "disk_write", 1.5), ("disk_read", "network", 1.0), ("disk_read", "none", 1.0)
    for victim, aggressor, cost in pairs:
        rows += synthetic_tenants.cell(victim, aggressor, 0 if aggressor == "none" else 50, "vm", cost, rng)
    raw = synthetic.document(specs=[])
    raw["nestbench"]["measurements"] = rows
    cells = {(cell.victim, cell.aggressor): cell for cell in isolation.matrix(document(raw)).cells}
    assert cells["network", "disk_write"].verdict is isolation.Hurt.HURT
    assert cells["disk_read", "network"].verdict is isolation.Hurt.UNHURT
    assert [section.id for section in page(document(raw), "not judged", ()).sections] == ["isolation"]


def test_iperf3_is_shown_beside_the_networks_it_ran_on(tmp_path: Path, run: Run) -> None:
    named: dict[str, str | int] = {"frame_bytes": 1514, "metric": "bandwidth", "operation": "stream"}
    named["peer"] = "guest"
    raw = by_hand()
    specs = [Spec("io", "network", named, "MB/s", "higher", {"bare": 200.0, "vm": 300.0, "iperf3": 172.0})]
    raw["nestbench"]["measurements"] += synthetic.document(specs=specs, rounds=3)["nestbench"]["measurements"]
    path = synthetic.write(tmp_path / "result.json", raw)
    result = run("summary", path)
    assert result.code == 0
    assert "iperf3 over a veth pair of its own, stream, 1,514 B, with another guest: 17" in result.out
    assert run("report", path).code == 0
    assert "iperf3" in (tmp_path / "report.html").read_text()
