"""Ways in which somebody may spoil what the network driver made, with the words in which the audit names each."""

import subprocess

from overlay_hosts import TAG, Machine

from pyswarm_netplugin import naming

BRIDGE, TABLE = naming.egress_bridge(TAG), naming.host_table(TAG)
PORT_A, PORT_HOST = naming.overlay_port("ta", "net-a"), naming.egress_port(TAG, "ta")
PEER, OTHER = "02:42:0a:00:01:06", "02:42:0a:00:01:63"

DRIFTS = {
    "overlay": {
        "ip link set vxlan0 down": "vxlan0: is down",
        "ip link set br0 down": "br0: is down",
        f"ip link set {PORT_A} down": f"{PORT_A}: is down",
        f"ip link set {PORT_A} mtu 1200": f"{PORT_A}: MTU is 1200, was 1450",
        "ip link set vxlan0 mtu 1200": "vxlan0: MTU is 1200, was 1450",
        "ip link set vxlan0 address 02:00:00:00:00:01": "vxlan0: hardware address is 02:00:00:00:00:01",
        "ip link set vxlan0 nomaster": "vxlan0: is a port of nothing, was of br0",
        f"ip link set {PORT_A} nomaster": f"{PORT_A}: is a port of nothing, was of br0",
        f"bridge link set dev {PORT_A} learning on": f"{PORT_A}: its settings were changed",
        "bridge link set dev vxlan0 flood on": "vxlan0: its settings were changed",
        "ip link set vxlan0 type vxlan learning": "vxlan0: its settings were changed",
        "ip link delete vxlan0": "vxlan0 is gone",
        "ip link delete br0": "br0 is gone",
        f"bridge fdb delete {PEER} dev vxlan0 self": f"neighbour {PEER} self of vxlan0 (192.0.2.2) is gone",
        f"bridge fdb delete {PEER} dev vxlan0 master": f"neighbour {PEER} bridge of vxlan0 is gone",
        f"bridge fdb replace {PEER} dev vxlan0 self dst 192.0.2.77": f"neighbour {PEER} self of vxlan0 (192.0.2.77) was changed",
        f"bridge fdb add {OTHER} dev vxlan0 self dst 192.0.2.77": f"neighbour {OTHER} self of vxlan0 (192.0.2.77) is foreign",
        "bridge fdb add 02:11:22:33:44:55 dev vxlan0 self dst 192.0.2.77": "neighbour 02:11:22:33:44:55 self of vxlan0",
        "ip neighbour delete 10.0.1.6 dev vxlan0": f"neighbour 10.0.1.6 of vxlan0 ({PEER}) is gone",
        f"ip neighbour replace 10.0.1.6 lladdr {OTHER} dev vxlan0": f"neighbour 10.0.1.6 of vxlan0 ({OTHER}) was changed",
        f"ip neighbour add 10.0.1.99 lladdr {OTHER} dev vxlan0": f"neighbour 10.0.1.99 of vxlan0 ({OTHER}) is foreign",
        "ip address add 10.9.9.9/24 dev br0": "address 10.9.9.9/24 of br0 is foreign",
        "ip link add evil0 type bridge": "evil0 is foreign",
        "nft add table ip evil": "table ip evil is foreign",
    },
    "sandbox": {
        "ip link set eth0 down": "eth0: is down",
        "ip link set lo down": "lo: is down",
        "ip link set eth0 mtu 900": "eth0: MTU is 900, was 1450",
        "ip link set eth0 address 02:00:00:00:00:01": "eth0: hardware address is 02:00:00:00:00:01",
        "ip link delete eth0": "eth0 is gone",
        "ip link delete eth1": "eth1 is gone",
        "ip address flush dev eth0": "address 10.0.1.5/24 of eth0 is gone",
        "ip route delete default": "route 0.0.0.0/0 table 254 of eth1",
        "ip route delete 10.0.1.0/24": "route 10.0.1.0/24 table 254 of eth0 is gone",
        "nft flush ruleset": "table ip pyswarm is gone",
        "nft flush chain ip pyswarm output": "table ip pyswarm was changed",
        "nft insert rule ip pyswarm output counter drop": "table ip pyswarm was changed",
        "nft delete element ip pyswarm services { 10.0.1.2 }": "table ip pyswarm was changed",
    },
    "host": {
        f"ip link set {BRIDGE} down": f"{BRIDGE}: is down",
        f"ip link set {BRIDGE} mtu 1300": f"{BRIDGE}: MTU is 1300, was 1500",
        f"ip link set {PORT_HOST} down": f"{PORT_HOST}: is down",
        f"ip link set {PORT_HOST} nomaster": f"{PORT_HOST}: is a port of nothing",
        f"ip link delete {PORT_HOST}": f"{PORT_HOST} is gone",
        f"ip link delete {BRIDGE}": f"{BRIDGE} is gone",
        f"bridge link set dev {PORT_HOST} isolated off": f"{PORT_HOST}: its settings were changed",
        f"ip address flush dev {BRIDGE}": "address 172.19.0.1/16",
        "ip route delete 172.19.0.0/16": "route 172.19.0.0/16 table 254",
        "nft flush ruleset": f"table ip {TABLE} is gone",
        f"nft flush chain ip {TABLE} forward": f"table ip {TABLE} was changed",
        f"nft insert rule ip {TABLE} postrouting accept": f"table ip {TABLE} was changed",
        f"nft flush chain ip {TABLE}_ports prerouting": f"table ip {TABLE}_ports was changed",
        f"nft delete table ip {TABLE}_ports": f"table ip {TABLE}_ports is gone",
        "sysctl -qw net.ipv4.ip_forward=0": "ipv4/ip_forward is 0, was 1",
        f"sysctl -qw net.ipv4.conf.{BRIDGE}.route_localnet=0": "route_localnet is 0, was 1",
    },
}


def namespace(machine: Machine, where: str) -> str:
    """Return the path of the namespace that the table's first key names."""
    return {"host": machine.netns, "overlay": machine.overlay("net-a"), "sandbox": machine.sandbox("ta")}[where]


def change(netns: str, command: str, *, may_fail: bool = False) -> None:
    """Run a command in a namespace, as someone who knows nothing of us."""
    subprocess.run(["nsenter", f"--net={netns}", *command.split()], check=not may_fail, capture_output=True, timeout=20)
