#!/bin/sh
# Process 1 of the machine: runs the programs of its plan, says how each ended, and turns it off. What
# it says begins with "vm: ". It does not say "vm: over" unless it got there: that is the verdict.
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
# What udev would load for the cards, and make a device of.
modprobe --all virtio_net tun
# Some programs reserve more than they use (wrk).
echo 1 >/proc/sys/vm/overcommit_memory

# What is said here goes to the host, and what the host answers comes from here.
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
# The last close waits until all is sent.
exec </dev/null >/dev/null 2>&1
exec /mnt/busybox poweroff -f
