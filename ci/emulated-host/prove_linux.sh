#!/bin/sh
# shellcheck shell=dash
# Do the virtual devices satisfy drivers that we did not write? Boots Debian's kernel with 1 and with 2 vCPUs, by its
# 64-bit entry: it writes files to ext4 until its VMM is killed; the file system must then be clean once its journal is
# replayed. Boots it again, by its PVH entry: every file that the guest called safe is whole, 100 MiB go through the
# network, 8 of them back, and our own guests run beside it. For an emulated host: emulate svm --linux --script.
set -u
readonly mib=100 safe_files=40 boot_limit_s=90
work=/tmp/linux
mkdir -p $work
cd $work || exit 1

began() { cut -d ' ' -f 1 /proc/uptime; }
say() { echo "$(began) s: $*"; }
fail() {
  say "FAILED: $*"
  tail -n 20 console vmm 2>/dev/null
  exit 1
}
sum() { sha256sum | cut -d ' ' -f 1; }

# wait_for SECONDS COMMAND...: until it succeeds
wait_for() {
  left=$(($1 * 5))
  shift
  while ! "$@"; do
    left=$((left - 1))
    [ $left -gt 0 ] || return 1
    kill -0 "$vmm" 2>/dev/null || return 1
    usleep 200000
  done
}

boot() {  # TASK KERNEL ARGUMENTS...: in the background; its console is the file `console`
  task=$1
  kernel=$2
  shift 2
  nestbench boot --kernel "/guest/$kernel" --initrd /guest/initramfs --memory 256M --disk disk \
    --append "quiet task=$task" "$@" >console 2>vmm </dev/null &
  vmm=$!
}

wrote_enough() { [ "$(grep -c '^guest: safe' console)" -ge $safe_files ]; }
tap_is_there() { [ -e /sys/class/net/tap0 ]; }

write_and_cut() {  # CPUS
  boot write vmlinuz --cpus "$1"
  wait_for $boot_limit_s grep -q '^guest: init' console || fail "no init within $boot_limit_s s"
  say "$1 vCPUs: $(grep -a '^guest: init' console)"
  wait_for 60 wrote_enough || fail "files are not written"
  kill -9 "$vmm"
  wait "$vmm"
  # A line that was cut off is no promise.
  tr -d '\r' <console | grep -aE '^guest: safe [0-9a-f]{64} /mnt/[ab]/[0-9]+$' | cut -d ' ' -f 3- | sed 's/ /  /' >safe
  say "$1 vCPUs: $(wc -l <safe) files were safe when the power was cut"
}

# The superblock's counts of what is free are only written now and then, and set right by whoever reads the journal: that
# is all that the second run may find. The third changes nothing and must find nothing.
check_disk() {
  e2fsck -p -E journal_only disk >fsck 2>&1
  grep -q 'recovering journal' fsck && say "the journal was replayed"
  e2fsck -f -p disk >fsck 2>&1
  code=$?
  if [ $code -gt 1 ] || grep -vE '^(disk: )?$|files \(|Free (blocks|inodes) count' fsck; then
    fail "fsck -p: exit code $code: $(cat fsck)"
  fi
  e2fsck -f -n disk >fsck 2>&1
  code=$?
  if [ $code -ne 0 ] || grep -qi 'wrong\|fix?' fsck; then fail "fsck -n: exit code $code: $(cat fsck)"; fi
  say "fsck: $(tail -n 1 fsck)"
}

check_and_transfer() {  # CPUS
  boot check vmlinux --cpus "$1" --net tap:tap0
  wait_for 10 tap_is_there || fail "no tap device: $(cat vmm)"
  { ip addr add 10.9.0.1/24 dev tap0 && ip link set tap0 up; } || fail "the tap device has no address"
  nc -l -p 9001 <safe >/dev/null &
  nc -l -p 9002 <bytes >/dev/null &
  nc -l -p 9003 <>never >back &
  wait_for $boot_limit_s grep -q '^guest: intact' console || fail "the files were not checked"
  say "$1 vCPUs: $(grep -a '^guest: intact' console)"
  start=$(began)
  beside
  wait "$vmm" || fail "the guest ended with exit code $?: $(cat vmm)"
  grep -q "^guest: passed on $1 CPUs" console || fail "the guest did not pass"
  grep -q "^guest: received $(stat -c %s bytes) $bytes_sum" console || fail "what came to the guest is not what was sent"
  [ "$(sum <back)" = "$first_sum" ] || fail "what came back is not what was sent"
  say "$1 vCPUs: $mib MiB there and 8 MiB back are right (since $start s)"
}

# Guests of our own while the Linux guest runs.
beside() {
  nestbench run exits --filter '^exits/doorbell_pio' --profile quick --rounds 1 --json-only --out beside >beside.log 2>&1
  code=$?
  [ $code -eq 0 ] || fail "our own guests beside it: exit code $code: $(cat beside.log)"
  kill -0 "$vmm" 2>/dev/null && say "our own guests ran beside it"
  rm -rf beside
}

mkfifo never  # to be read from, without an end
dd if=/dev/urandom of=bytes bs=1M count=$mib 2>/dev/null
bytes_sum=$(sum <bytes)
first_sum=$(head -c 8388608 bytes | sum)
say "$mib MiB of random bytes"
for cpus in 1 2; do
  dd if=/dev/zero of=disk bs=1M count=0 seek=128 2>/dev/null
  /sbin/mke2fs -q -F -t ext4 disk || fail "mke2fs"
  write_and_cut $cpus
  check_disk
  check_and_transfer $cpus
  check_disk
  rm disk
done
say "passed"
