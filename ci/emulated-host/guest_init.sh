#!/bin/sh
# shellcheck shell=dash
# First process of the Linux guest. What it does stands on the kernel's command line: task=NAME, and what that needs;
# without a task, a shell on the console. Lines that begin with "guest: " are for whoever reads the console.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=dumb
mount -t proc proc /proc
echo "guest: init after $(cut -d ' ' -f 1 /proc/uptime) s"
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
hostname guest
ip link set lo up
# shellcheck source=/dev/null
. /etc/modules.sh

readonly host=10.9.0.1

value_of() {  # NAME: its value on the command line
  sed -n "s/.*\b$1=\([^ ]*\).*/\1/p" /proc/cmdline
}

say() { echo "guest: $*"; }

end() {  # how it went
  say "$1"
  poweroff -f
  sleep 1000
}

disk() { mount -t ext4 /dev/vda /mnt || end "failed: /dev/vda cannot be mounted"; }

network() {
  { ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up; } || end "failed: there is no network"
}

# nc ends when its peer does, and its peer when nothing more can come: so its input never ends.
mkfifo /tmp/never
receive() { nc "$host" "$1" <>/tmp/never; }  # PORT

sum() { sha256sum | cut -d ' ' -f 1; }

# Files of random size and content, each safe (fsync) under its last name before it is named on the console; and beside
# them files that come and go, so that the journal always has something unfinished in it.
write_files() {  # WRITER
  local number=0 name size
  mkdir -p "/mnt/$1"
  while :; do
    number=$((number + 1))
    name=/mnt/$1/$number
    size=$((4 + $(od -An -N1 -tu1 /dev/urandom) * 2))
    dd if=/dev/urandom of="$name.part" bs=1k count="$size" conv=fsync 2>/dev/null || end "failed: cannot write"
    { mv "$name.part" "$name" && sync "$name"; } || end "failed: cannot fsync"
    say "safe $(sum <"$name") $name"
  done
}
churn() {
  local number=0
  mkdir -p /mnt/churn
  while :; do
    number=$((number + 1))
    dd if=/dev/zero of="/mnt/churn/$((number % 50))" bs=16k count=$((number % 7)) 2>/dev/null
    rm -f "/mnt/churn/$((number * 7 % 50))"
  done
}

# What was safe must be there, whole.
check_files() {
  receive 9001 >/tmp/safe || end "failed: no list of files came"
  sha256sum -c /tmp/safe >/tmp/checked 2>&1 || end "failed: $(grep -v ': OK$' /tmp/checked)"
  say "intact $(grep -c ': OK$' /tmp/checked) files"
}

say "up after $(cut -d ' ' -f 1 /proc/uptime) s on $(nproc) CPUs"
case $(value_of task) in
  '')
    setsid cttyhack sh
    end "the shell has ended"
    ;;
  costs)
    nestbench-linux-costs "$(value_of samples)" "$(value_of batch_us)" | sed 's/^/guest: cost /'
    end "costs are measured"
    ;;
  write)
    disk
    write_files a &
    write_files b &
    churn &
    wait
    ;;
  check)
    disk
    network
    check_files
    # Random bytes from there, and the first 8 MiB of them back. Not through a pipe: nc's small pieces would be as many
    # switches.
    receive 9002 >/tmp/bytes
    say "received $(wc -c </tmp/bytes) $(sum </tmp/bytes)"
    head -c 8388608 /tmp/bytes >/tmp/first
    nc "$host" 9003 </tmp/first
    umount /mnt || end "failed: cannot unmount"
    end "passed on $(nproc) CPUs"
    ;;
esac
end "failed: no task \"$(value_of task)\""
