#!/busybox sh
# SPDX-License-Identifier: MIT OR Apache-2.0

# Process 1 of the initial file system. It mounts the root disk, and switches to it.
set -e
for directory in dev proc system; do
    /busybox mkdir -p /$directory
done
/busybox mount -t devtmpfs dev /dev
/busybox mount -t proc proc /proc
for module in /modules/*; do
    /busybox insmod "$module"
done
/busybox mount -t ext4 "$(/busybox findfs LABEL=limiter-root)" /system
/busybox mount -t ext4 -o ro "$(/busybox findfs LABEL=limiter-job)" /system/mnt
exec /busybox switch_root /system /mnt/init
