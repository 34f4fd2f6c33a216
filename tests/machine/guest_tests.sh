#!/bin/busybox sh
# The machine's first process: a system as systemd leaves it, with version 2 cgroups alone, and pytest in it, as a service of it.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 TERM=dumb
export PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis
say() { echo "MACHINE $(busybox cut -d' ' -f1 /proc/uptime) $*"; }

busybox mount -t proc proc /proc
busybox mount -t sysfs -o nosuid,nodev,noexec sys /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /dev/shm /dev/mqueue
busybox mount -t devpts -o gid=5,mode=620 devpts /dev/pts
busybox mount -t mqueue mqueue /dev/mqueue
for folder in /dev/shm /run /tmp /var/tmp /var/lib /root; do busybox mount -t tmpfs tmpfs "$folder"; done
busybox chmod 1777 /dev/shm /tmp /var/tmp
busybox ln -s /proc/self/fd /dev/fd
busybox mkdir /run/lock /run/netns
busybox mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mount --make-rshared /
for module in /lib/modules/*; do busybox insmod "$module"; done
busybox hostname machine
busybox ip link set lo up
busybox ip link set eth0 up
busybox ip address add 10.0.2.15/24 dev eth0
busybox ip route add default via 10.0.2.2

repository=$(busybox cat /opt/repository)
busybox mkdir -p "$repository"
busybox mount -t ext4 -o ro /dev/vdb "$repository"
. "$repository/.machine" # sets $oci_runtime, and "$@" to what pytest is given
if [ "$oci_runtime" = runc ]; then busybox mount -o bind /dev/null /usr/bin/crun; fi
controllers=$(busybox cat /sys/fs/cgroup/cgroup.controllers)
echo "+cpu +io +memory +pids" >/sys/fs/cgroup/cgroup.subtree_control
busybox mkdir -p /sys/fs/cgroup/system.slice/tests.service
say "ready: $(busybox uname -r), cgroup v2 with $controllers; $oci_runtime"
code=0
(
    echo 0 >/sys/fs/cgroup/system.slice/tests.service/cgroup.procs
    cd "$repository"
    exec env PYTHONPATH=tests/machine .venv/bin/python -m pytest -p no:cacheprovider "$@"
) || code=$?
say "exit $code"
busybox poweroff -f
