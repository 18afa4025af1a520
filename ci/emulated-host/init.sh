#!/bin/sh
# First process of an emulated host: mounts, loads KVM, runs the command in /out, sends back what it left, switches off.
# /etc/channels.sh says where output goes: OUTPUT, ERRORS, FILES are names of virtio ports or paths of devices.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/opt/nestbench/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname emulated
ip link set lo up

# shellcheck source=/dev/null
. /etc/channels.sh
# shellcheck source=/dev/null
. /etc/modules.sh

device_of() {
  case $1 in /*)
    stty -F "$1" raw -echo 2>/dev/null
    echo "$1"
    return
    ;;
  esac
  for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name")" = "$1" ] && echo "/dev/${port##*/}"
  done
}
output=$(device_of "${OUTPUT:?}")
errors=$(device_of "${ERRORS:?}")
files=$(device_of "${FILES:?}")
echo "emulated host: up after $(cut -d ' ' -f 1 /proc/uptime) s"

cd /out || exit 1
sh /etc/command.sh </dev/null >"$output" 2>"$errors"
echo $? >/exit-code
cd / || exit 1
tar -czf "$files" exit-code out
sync
echo "emulated host: done after $(cut -d ' ' -f 1 /proc/uptime) s"
# The kernel's own words at the end go around the terminal's queue, right into the line above, which must arrive whole.
usleep 20000
reboot -f
