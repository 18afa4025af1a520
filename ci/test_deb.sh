#!/usr/bin/env bash
# Builds the .deb from the release build, checks its control data and contents, and runs the program from an unpacked
# copy. Needs a release build of the target nestbench_run.
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
root=$PWD

scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT

fail() {
  echo "test_deb: $*" >&2
  exit 1
}

ninja -C build/release >"$scratch/log" 2>&1 || { tail -n 20 "$scratch/log"; fail "the release build failed"; }
(cd "$scratch" && cpack --config "$root/build/release/CPackConfig.cmake" -G DEB -B "$scratch/out" >"$scratch/log" 2>&1) ||
  { tail -n 20 "$scratch/log"; fail "cpack failed"; }
packages=("$scratch"/out/*.deb)
[[ ${#packages[@]} == 1 && -f ${packages[0]} ]] || fail "expected one .deb, found: ${packages[*]}"
deb=${packages[0]}

[[ ${deb##*/} =~ ^nestbench_[0-9.]+_amd64\.deb$ ]] || fail "unexpected file name ${deb##*/}"
field() { dpkg-deb --field "$deb" "$1"; }
[[ $(field Package) == nestbench && $(field Section) == utils && $(field Architecture) == amd64 ]] ||
  fail "wrong Package, Section or Architecture"
[[ -n $(field Maintainer) && -n $(field Installed-Size) ]] || fail "Maintainer or Installed-Size is missing"
(($(field Description | wc -l) >= 2)) || fail "Description has no long text"
depends=$(field Depends)
for package in libc6 libstdc++6 libfmt9 libhwloc15 bubblewrap python3 python3-jinja2 python3-jsonschema python3-numpy; do
  [[ ", $depends" =~ ,\ "$package"(,|\ |$) ]] || fail "Depends lacks $package: $depends"
done

dpkg-deb --contents "$deb" >"$scratch/contents"
for path in usr/bin/nestbench usr/libexec/nestbench/nestbench-guest usr/libexec/nestbench/nestbench_micro \
  usr/libexec/nestbench/nestbench-tenant usr/libexec/nestbench/nestbench_density_floor \
  usr/share/nestbench/ci/gate.toml usr/share/nestbench/reports/nestbench_reports/cli.py usr/share/doc/nestbench/copyright; do
  grep -q " \./$path\$" "$scratch/contents" || fail "the package lacks $path"
done
if grep -E '__pycache__|\.pyc$| \./(home|root|tmp|usr/local)/' "$scratch/contents"; then fail "these do not belong in the package"; fi
if grep -vE '^[-dl]' "$scratch/contents" || grep -E '^.{5}w|^.{8}w' "$scratch/contents"; then fail "special or writable files in the package"; fi
if awk '$2 != "root/root" { print; bad = 1 } END { exit !bad }' "$scratch/contents"; then fail "files not owned by root"; fi

dpkg-deb --extract "$deb" "$scratch/root"
cd "$scratch"
version=$("$scratch/root/usr/bin/nestbench" --version) || fail "nestbench --version from the unpacked package failed"
"$scratch/root/usr/bin/nestbench" list >"$scratch/list" || fail "nestbench list from the unpacked package failed"
echo "${deb##*/}: $(stat -c %s "$deb") bytes, runs unpacked: $version"
