"""Validates documents of write_sample_run: validate_sample_run.py PROGRAM SCHEMA REPORTS_FOLDER.

Against the JSON schema, and through the reader of the reports, which checks what a schema cannot say.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema


def main(program: str, schema_path: str, reports_folder: str) -> int:
    sys.path.insert(0, reports_folder)
    from nestbench_reports.load import DocumentError, parse

    schema = json.loads(Path(schema_path).read_text(encoding="utf-8"))
    validator_class = jsonschema.validators.validator_for(schema)
    validator_class.check_schema(schema)
    validator = validator_class(schema)
    failures = 0
    for mode in ("live", "recovered"):
        with tempfile.TemporaryDirectory(prefix="nestbench-test.") as folder:
            subprocess.run([program, folder, mode], check=True, timeout=30)
            document = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
        for error in validator.iter_errors(document):
            failures += 1
            print(f"{mode}: {error.json_path}: {error.message[:300]}")
#A validator that accepts anything proves nothing.
        del document["nestbench"]["schema"]
        if validator.is_valid(document):
            failures += 1
            print(f"{mode}: the schema accepts a document without `nestbench.schema`")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3]))
