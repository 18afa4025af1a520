"""A document in which every open string holds an attack on HTML, scripts, SVG, terminals and tables."""

from __future__ import annotations

from typing import Any

from tests import synthetic, synthetic_tenants

SCRIPT_MARK = "nestbench_was_here"
ATTACK = (
    f"</script><script>window.{SCRIPT_MARK}=1;console.log('{SCRIPT_MARK}')</script>"
    f'<img src=x onerror="console.log(1)"><svg/onload=console.log(2)>"\'>{{{{7*7}}}}<!--'
    "\x1b[31m\x07\u202e\u2028[bold]x[/bold]]]>&lt;http://example.invalid/x"
)


def _poison(value: Any) -> Any:
    """Every string that is a value, and every key of an open map."""
    if isinstance(value, str):
        return ATTACK
    if isinstance(value, list):
        return [_poison(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _poison(entry) for key, entry in value.items()}
    return value


def hostile_tenants() -> dict[str, Any]:
    """The same for experiments: every open string of theirs, and evidence nested as deep as JSON goes here."""
    raw = hostile_document()
    body = raw["nestbench"]
    setup = synthetic_tenants.density_setup(cgroups={"layout": ATTACK, "own": False, "missing": [ATTACK]})
    ramp = synthetic_tenants.queue_ramp("vm", 8, repetitions=1)
    ramp["setup"] = setup
    ramp["records"].append({"kind": "failure", "guests": 9, "how": ATTACK, "evidence": ATTACK})
    episode = synthetic_tenants.episode(1, 1, 2, 0.5, ATTACK)
    answers = [synthetic_tenants.detection(1, 1.5), synthetic_tenants.detection(2, 1.5)]
    nested: Any = ATTACK
    for _ in range(50):
        nested = {ATTACK: [nested]}
    texts: dict[str, Any] = {"died": ATTACK, "cause": ATTACK, "bundle": ATTACK}
    bad = synthetic_tenants.one_try(0, contained=False, evidence={ATTACK: ATTACK, "nested": nested}, **texts)
    body["experiments"] = [
        ramp,
        synthetic_tenants.experiment(
            "isolation", "attribution", "vm", {ATTACK: ATTACK}, [synthetic_tenants.schedule(0, [episode], answers)]
        ),
        synthetic_tenants.containment("triple_fault", "vm", "guest_fault", [bad]),
    ]
    rows = synthetic_tenants.isolation_matrix()
    for row in rows:
        if row["status"] == "unsupported":
            row["reason"] = ATTACK
    body["measurements"] += rows
    return raw


def hostile_document() -> dict[str, Any]:
    """Valid by the schema, hostile wherever the schema lets any text stand."""
    raw = synthetic.document(rounds=3, samples=3)
    body = raw["nestbench"]
    host = _poison(body["host"])
    for key in ("supervisor_execution", "user_execution", "clock"):
        host[key] = body["host"][key]
    host["mitigations"] = {ATTACK: ATTACK}
    host["kvm"]["parameters"] = {ATTACK: ATTACK}
    host["kvm"]["capabilities"] = {ATTACK: 1}
    started = body["run"]["started"]
    body.update(
        host=host,
        build=_poison(body["build"]),
        images={ATTACK: "0" * 64},
        run={**_poison(body["run"]), "started": started},
        findings=[{"id": ATTACK, "severity": "error", "text": ATTACK, "evidence": ATTACK}],
        capability=[{"scenario": ATTACK, "workload": ATTACK, "runnable": False, "reason": ATTACK, "remedy": ATTACK}],
    )
    raw["context"] = {"date": ATTACK, "host_name": ATTACK, "caches": raw["context"]["caches"]}
    for entry in body["measurements"]:
        entry["image"] = ATTACK
        if entry["scenario"] == "overhead":
            chase = entry["workload"] == "memory_chase"
            entry["unit"] = "ns/<b>load</b>" if chase else "</script><script>alert(1)</script>"
    synthetic.set_status(raw, "exits/cpuid/cpl=3/vm", "failed", ATTACK)
    synthetic.set_status(raw, "exits/rdtsc/cpl=3/vm", "unsupported", ATTACK)
    return raw
