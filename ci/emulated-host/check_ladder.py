#!/usr/bin/python3
"""Does a result document hold one payload image, measured on every rung: a process, a guest, a guest of a guest?

check_ladder.py RESULT.json: exit code 1, and a line for each rung that is missing or not what it must be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RUNGS = ("bare", "vm", "nested", "nested_shadow")


def problems(measurements: list[dict[str, Any]]) -> list[str]:
    found = []
    for rung in RUNGS:
        entries = [entry for entry in measurements if entry["substrate"] == rung]
        if not entries:
            found.append(f"{rung}: not measured")
        for entry in entries:
            rounds = entry["rounds"]
            if entry["status"] != "ok":
                found.append(f"{entry['id']}: {entry['status']}: {entry['reason']}")
            elif not any(record["samples"] for record in rounds):
                found.append(f"{entry['id']}: no samples")
            elif rung.startswith("nested") and not any(record.get("nested_runs") for record in rounds):
                found.append(f"{entry['id']}: KVM counted no entry of a guest of the guest")
    for workload in {entry["workload"] for entry in measurements}:
        digests = {entry["image_sha256"] for entry in measurements if entry["workload"] == workload}
        if len(digests) != 1:
            found.append(f"{workload}: different images: {', '.join(sorted(digests))}")
    return found


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: check_ladder.py RESULT.json", file=sys.stderr)
        return 2
    found = problems(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["nestbench"]["measurements"])
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
