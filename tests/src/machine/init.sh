# SPDX-License-Identifier: MIT OR Apache-2.0

# sh init.sh ROOT DIRECTORY runs as process 1 of new namespaces, prepares the file systems as
# systemd-nspawn does, and becomes systemd.
set -eu
mount -t tmpfs tmpfs "$2"
cd "$2"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" root
cd root
mount -t proc proc proc
# This system shares the kernel with the host, so it must not set the kernel's variables.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf -o mode=0700 bpf sys/fs/bpf
mount -t tmpfs tmpfs run
# systemd writes to this variable. A private copy of it is mounted, because this system shares the
# kernel with the host.
echo 0 > run/rcu_expedited
mount --bind run/rcu_expedited sys/kernel/rcu_expedited
mount -t tmpfs tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for device in full null random tty urandom zero; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
pivot_root . mnt
umount -l mnt
exec env -i container=limiter-tests PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=journal
