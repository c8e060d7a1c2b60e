# SPDX-License-Identifier: MIT OR Apache-2.0

# sh begin.sh ROOT DIRECTORY CGROUP INIT starts systemd as process 1 in its own namespaces and
# cgroup, with the files in ROOT. All changes to files are lost when systemd ends. DIRECTORY is used
# as a mount point. INIT is the second script, init.sh.
set -eu
mkdir "$3"
echo $$ > "$3/cgroup.procs"
exec unshare --mount --pid --fork --kill-child --ipc --uts --cgroup sh "$4" "$1" "$2"
