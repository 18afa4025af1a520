"""Holds the probe's JSON against the parts of the result document's schema: validate_probe.py PROGRAM SCHEMA."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema


def main(program: str, schema_path: str) -> int:
    schema = json.loads(Path(schema_path).read_text(encoding="utf-8"))
    output = subprocess.run([program], check=True, timeout=30, capture_output=True, text=True).stdout
    found = json.loads(output)
    failures = 0
    parts = [("host", found["host"])]
    parts += [("finding", entry) for entry in found["findings"]]
    parts += [("capability", entry) for entry in found["capability"]]
    for name, value in parts:
        part = {"$schema": schema["$schema"], "$defs": schema["$defs"], "$ref": f"#/$defs/{name}"}
        for error in jsonschema.Draft202012Validator(part).iter_errors(value):
            failures += 1
            print(f"{name}{error.json_path[1:]}: {error.message[:300]}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
