#!/usr/bin/env bash
# Installs the release build into a temporary folder, runs the installed program, and builds the VMM library's examples
# against the installed CMake package only. Needs a release build of the target nestbench_run.
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
build=$PWD/build/release
examples=$PWD/vmm-core/examples

scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
prefix=$scratch/prefix

fail() {
  echo "test_install: $*" >&2
  exit 1
}

ninja -C "$build" >"$scratch/log" 2>&1 || { tail -n 20 "$scratch/log"; fail "the release build failed"; }
cmake --install "$build" --prefix "$prefix" >"$scratch/log" || { tail -n 20 "$scratch/log"; fail "cmake --install failed"; }

for path in bin/nestbench libexec/nestbench/nestbench-guest libexec/nestbench/nestbench_micro \
  libexec/nestbench/nestbench-tenant libexec/nestbench/nestbench_density_floor \
  share/nestbench/ci/gate.toml share/nestbench/reports/nestbench_reports/cli.py \
  share/doc/nestbench/LICENSE; do
  [[ -s $prefix/$path ]] || fail "not installed: $path"
done
compgen -G "$prefix/libexec/nestbench/images/*.elf" >/dev/null || fail "no payload image was installed"

# The installed program must find its parts from its own place: the source tree's are out of reach from here.
cd "$scratch"
version=$("$prefix/bin/nestbench" --version) || fail "the installed nestbench --version failed"
"$prefix/bin/nestbench" list >"$scratch/list" || fail "the installed nestbench list failed"
[[ -s $scratch/list ]] || fail "the installed nestbench list printed nothing"
if grep -rlF -- "$build" "$prefix/lib" "$prefix/include" >"$scratch/leaks" 2>/dev/null; then
  grep -q '\.cmake$' "$scratch/leaks" && fail "the installed CMake package names the build tree: $(grep '\.cmake$' "$scratch/leaks")"
fi

mkdir "$scratch/examples"
cp -- "$examples"/*.cc "$scratch/examples/"
cat >"$scratch/examples/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(examples CXX)
find_package(nestbench_vmm 0.1 REQUIRED)
file(GLOB sources *.cc)
foreach(source IN LISTS sources)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE nestbench::vmm_machine)
endforeach()
CMAKE
cmake -S "$scratch/examples" -B "$scratch/examples/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" >"$scratch/log" 2>&1 ||
  { tail -n 20 "$scratch/log"; fail "find_package(nestbench_vmm) failed"; }
cmake --build "$scratch/examples/build" >"$scratch/log" 2>&1 || { tail -n 30 "$scratch/log"; fail "the examples do not build"; }
if { exec 8<>/dev/kvm; } 2>/dev/null; then
  "$scratch/examples/build/hello_exit" >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "the example failed"; }
  grep -q 'hello from a guest' "$scratch/log" || { cat "$scratch/log"; fail "the example's guest said nothing"; }
fi
echo "installed: $version; the examples build against the installed package"
