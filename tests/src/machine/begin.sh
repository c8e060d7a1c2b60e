# sh begin.sh ROOT DIRECTORY CGROUP INIT: starts systemd as process 1 of namespaces and a cgroup of its own,
# on what is in ROOT; what it writes to its files is gone with it. DIRECTORY is there to mount on. INIT is the
# second half, init.sh.
set -eu
mkdir "$3"
echo $$ > "$3/cgroup.procs"
exec unshare --mount --pid --fork --kill-child --ipc --uts --cgroup sh "$4" "$1" "$2"
