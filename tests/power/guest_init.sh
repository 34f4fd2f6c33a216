#!/bin/busybox sh
# The machine's first process: mounts, a network, and pyswarmd on the data disk. What goes to the console, the driver outside reads.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin PYTHONPATH=/opt/pyswarm PYTHONDONTWRITEBYTECODE=1 HOME=/root
say() { echo "MACHINE $(busybox cut -d' ' -f1 /proc/uptime) $*"; }

busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t tmpfs tmpfs /run
busybox mount -t tmpfs tmpfs /tmp
busybox mkdir -p /dev/pts
busybox mount -t devpts devpts /dev/pts
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
say "system"
for module in /lib/modules/*; do busybox insmod "$module"; done
say "modules"
busybox hostname power
busybox ip link set lo up
busybox ip link set eth0 up
busybox ip address add 10.0.2.15/24 dev eth0
busybox ip route add default via 10.0.2.2
say "disk $(busybox cat /sys/block/vdb/queue/write_cache)"
# As Debian does at each boot, before it mounts: Linux 6.1 itself refuses a journal whose last commit block was torn between sectors.
repair=0
e2fsck -p /dev/vdb || repair=$?
say "fsck $repair"
if ! busybox mount -t ext4 /dev/vdb /var/lib/pyswarm; then
    say "FAILED the data disk cannot be mounted"
    busybox sleep 86400
fi
say "mounted $(busybox grep /dev/vdb /proc/mounts)"
python3 -S /opt/guest_relay.py /run/pyswarm/pyswarm.sock 2375 &
code=0
python3 -c 'from pyswarm_node.main import main; main()' || code=$?
say "FAILED pyswarmd ended with $code"
busybox sleep 86400
