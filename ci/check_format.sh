#!/usr/bin/env bash
# Formatting and static checks that need no build. check_format.sh formats C++ in place first; --check changes nothing.
# C++: clang-format-16. Python: pyflakes, mypy --strict, 120 columns. Shell: shellcheck. Exit code 1 on any finding.
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."

mode=${1:-}
if [[ $# -gt 1 || ($mode != "" && $mode != --check) ]]; then
  echo "usage: check_format.sh [--check]" >&2
  exit 2
fi

# Files of the tree: tracked ones and new ones that .gitignore does not name.
files() {
  local file
  git ls-files --cached --others --exclude-standard -z -- "$@" | while IFS= read -r -d '' file; do
    [[ -f $file ]] && printf '%s\0' "$file"
  done
}

failures=0
check() {  # NAME COMMAND...
  local name=$1
  shift
  if "$@"; then
    echo "ok: $name"
  else
    echo "FAILED: $name" >&2
    failures=$((failures + 1))
  fi
}

mapfile -d '' -t cpp < <(files '*.cc' '*.h')
mapfile -d '' -t python < <(files '*.py')
mapfile -d '' -t scripts < <(
  files | while IFS= read -r -d '' file; do
    read -r first <"$file" 2>/dev/null || true
    if [[ ${first:-} == '#!'*sh ]]; then printf '%s\0' "$file"; fi
  done 2>/dev/null
)
((${#cpp[@]} > 0 && ${#python[@]} > 0 && ${#scripts[@]} > 0)) || {
  echo "check_format: no C++, Python or shell files found: not a checkout?" >&2
  exit 1
}

columns() {
  /usr/bin/python3 - "$@" <<'PYTHON'
import sys
long = [(path, number, len(line)) for path in sys.argv[1:]
        for number, line in enumerate(open(path, encoding="utf-8").read().splitlines(), 1) if len(line) > 120]
for path, number, length in long:
    print(f"{path}:{number}: {length} columns, at most 120")
sys.exit(bool(long))
PYTHON
}

# The report package is checked from its own folder, so that its modules have the names they are imported by. Scripts are
# checked one by one: two of the same name in different folders would be the same module to mypy.
types() {
  local status=0 own=() reports=() file
  for file in "${python[@]}"; do
    if [[ $file == reports/* ]]; then reports+=("${file#reports/}"); else own+=("$file"); fi
  done
  for file in "${own[@]}"; do mypy --strict --no-error-summary --config-file ci/mypy.ini "$file" || status=1; done
  if ((${#reports[@]})); then (cd reports && mypy --strict --config-file ../ci/mypy.ini "${reports[@]}") || status=1; fi
  return $status
}

[[ $mode == --check ]] || clang-format-16 -i -- "${cpp[@]}"
check "clang-format: ${#cpp[@]} files" clang-format-16 --dry-run -Werror -- "${cpp[@]}"
check "shellcheck: ${#scripts[@]} scripts" shellcheck -- "${scripts[@]}"
check "pyflakes: ${#python[@]} files" pyflakes3 "${python[@]}"
check "columns: ${#python[@]} Python files" columns "${python[@]}"
check "mypy --strict: ${#python[@]} Python files" types
((failures == 0))
