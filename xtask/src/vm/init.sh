#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0

# Process 1 of the emulated machine. It runs the programs of the plan, reports the exit status of
# each program, and turns the machine off. The prefix "vm:" marks the lines that this script itself
# prints. The plan has passed only if the line "vm: over" has been printed.
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t ext4 -o ro LABEL=limiter-modules /lib/modules
ip link set lo up
# Loads the driver of the network cards, and the module tun with its device file. There is no udev
# that would do this.
modprobe --all virtio_net tun
# Some programs (wrk) reserve more memory than they use.
echo 1 >/proc/sys/vm/overcommit_memory

# The serial line to the host is used in both directions, without processing by the terminal driver.
stty -F /dev/ttyS1 raw -echo
exec <>/dev/ttyS1 >&0 2>&0

if blkid -L limiter-state >/dev/null; then
    mount -t ext4 LABEL=limiter-state /srv
fi
. /mnt/environment
plan=default
for word in $(cat /proc/cmdline); do
    case $word in limiter.plan=*) plan=${word#*=} ;; esac
done

echo "vm: Linux $(uname -r)"
while read -r name arguments; do
    status=0
    # shellcheck disable=SC2086 # words
    (cd /tmp && exec "/mnt/programs/$name" $arguments) </dev/null || status=$?
    echo
    echo "vm: end $name $status"
done <"/mnt/plans/$plan"
if [ -e "$LIMITER_SKIPPED" ]; then
    sed 's/^/vm: skipped /' "$LIMITER_SKIPPED"
fi
if mountpoint -q /srv; then
    umount /srv
fi
echo "vm: over"
# Closing the last descriptor of the serial line waits until all output has been sent.
exec </dev/null >/dev/null 2>&1
exec /mnt/busybox poweroff -f
