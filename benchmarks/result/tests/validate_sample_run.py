"""Validates documents of write_sample_run: validate_sample_run.py PROGRAM SCHEMA REPORTS_FOLDER.

Against the JSON schema, and through the reader of the reports, which checks what a schema cannot say.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema


def refusal(reports_folder: str, path: Path) -> str:
    """What the reader of the reports says against a document; empty when it takes it."""
    environment = {**os.environ, "PYTHONPATH": reports_folder, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "nestbench_reports", "validate", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode} without a message"


def main(program: str, schema_path: str, reports_folder: str) -> int:
    schema = json.loads(Path(schema_path).read_text(encoding="utf-8"))
    validator_class = jsonschema.validators.validator_for(schema)
    validator_class.check_schema(schema)
    validator = validator_class(schema)
    failures = 0
    for mode in ("live", "recovered"):
        with tempfile.TemporaryDirectory(prefix="nestbench-test.") as folder:
            subprocess.run([program, folder, mode], check=True, timeout=30)
            path = Path(folder) / "result.json"
            document = json.loads(path.read_text(encoding="utf-8"))
            for error in validator.iter_errors(document):
                failures += 1
                print(f"{mode}: {error.json_path}: {error.message[:300]}")
            if message := refusal(reports_folder, path):
                failures += 1
                print(f"{mode}: the reports refuse the document: {message}")
            # Checks that accept anything prove nothing.
            del document["nestbench"]["schema"]
            path.write_text(json.dumps(document), encoding="utf-8")
            if validator.is_valid(document):
                failures += 1
                print(f"{mode}: the schema accepts a document without `nestbench.schema`")
            if not refusal(reports_folder, path):
                failures += 1
                print(f"{mode}: the reports accept a document without `nestbench.schema`")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3]))
