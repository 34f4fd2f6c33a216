"""Isolation, by trying: what a container may not reach, hear, forge or take away, with all privileges in its own namespace."""

import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from overlay_hosts import PORT, Machine, Server, ask, in_namespace, machines, run
from overlay_ipv6 import FAR, FAR6, IPV6_SUBNET, NEAR, NEAR6, Answerer, ask_for, datagrams, inside, network, ping, running, tell

from pyswarm_common.wire import NetworkView
from pyswarm_netplugin import naming
from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel

ATTACKER, OTHER = "10.0.1.66", "10.0.2.5"
BEFORE, AFTER = b"a frame that may pass", b"the frame that must not"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path) as made:
        yield made


@pytest.fixture
async def drivers(hosts: list[Machine]) -> AsyncIterator[list[NetworkDriver]]:
    async with running(hosts) as made:
        yield made


def views(hosts: list[Machine]) -> dict[str, NetworkView]:
    """Return network a with the attacker and the near victim on the first host, the far one on the second; network b on both."""
    places = {"near": (NEAR, hosts[0]), "attacker": (ATTACKER, hosts[0]), "far": (FAR, hosts[1])}
    others = {"b0": (OTHER, hosts[0]), "b1": ("10.0.2.6", hosts[1])}
    return {
        "net-a": network(places, ipv6_subnet=IPV6_SUBNET),
        "net-b": network(others, network_id="net-b", vni=4098, subnet="10.0.2.0/24", gateway="10.0.2.1", services={}),
    }


@pytest.fixture
async def spaces(hosts: list[Machine], drivers: list[NetworkDriver]) -> dict[str, str]:
    """Attach all of them; return their namespaces."""
    for driver in drivers:
        await driver.apply_views(views(hosts))
    asked = [
        (drivers[0], ask_for("near", NEAR)),
        (drivers[0], ask_for("attacker", ATTACKER)),
        (drivers[1], ask_for("far", FAR)),
        (drivers[0], ask_for("b0", OTHER, network_ids=("net-b",))),
        (drivers[1], ask_for("b1", "10.0.2.6", network_ids=("net-b",))),
    ]
    return {request.id: (await driver.attach(request)).netns_path for driver, request in asked}


@contextlib.contextmanager
def raw(netns: str, interface: str = "eth0", kind: int = 0x0003) -> Iterator[socket.socket]:
    """Yield a socket for whole frames, as CAP_NET_RAW gives one; it hears all that the interface does."""
    with in_namespace(netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))) as made:
        made.bind((interface, kind))
        made.settimeout(2)
        yield made


def mac_of_interface(netns: str, interface: str = "eth0") -> bytes:
    """Return an interface's hardware address."""
    return bytes.fromhex(
        inside(netns, "ip", "-oneline", "link", "show", interface).split("link/ether ")[1].split()[0].replace(":", "")
    )


def neighbours(netns: str) -> dict[str, str]:
    """Return the hardware addresses that a container knows of others on its network."""
    known = (line.split() for line in inside(netns, "ip", "neighbour", "show", "dev", "eth0").splitlines())
    return {words[0]: words[2] for words in known if words[1] == "lladdr"}


def heard(sniffer: socket.socket) -> list[bytes]:
    """Return the frames that came in so far."""
    found = []
    sniffer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sniffer.recv(65536))
    return found


def checksum(data: bytes) -> int:
    """Return the internet checksum."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_frame(source_mac: bytes, source: str, target_mac: bytes, target: str, payload: bytes, port: int = 8080) -> bytes:
    """Return an Ethernet frame with a datagram."""
    datagram = struct.pack("!HHHH", 5555, port, 8 + len(payload), 0) + payload
    head = (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0) + socket.inet_aton(source) + socket.inet_aton(target)
    )
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return target_mac + source_mac + b"\x08\x00" + head + datagram


def advertisement(source_mac: bytes, target_mac: bytes, claimed: str, to: str, *, is_hidden: bool = False) -> bytes:
    """Return a frame in which `claimed` is said to be at `source_mac`: solicited, to override what is known."""
    source, target = (socket.inet_pton(socket.AF_INET6, address) for address in (claimed, to))
    body = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + source + b"\x02\x01" + source_mac
    sum_ = checksum(source + target + struct.pack("!II", len(body), 58) + body)
    body = body[:2] + struct.pack("!H", sum_) + body[4:]
    hidden = bytes([58, 0, 1, 4, 0, 0, 0, 0])
    payload = hidden + body if is_hidden else body
    head = struct.pack("!IHBB", 6 << 28, len(payload), 60 if is_hidden else 58, 255) + source + target
    return target_mac + source_mac + b"\x86\xdd" + head + payload


def test_a_container_reaches_none_of_another_network(spaces: dict[str, str], hosts: list[Machine]) -> None:
    run("nsenter", f"--net={spaces['attacker']}", "ip", "route", "add", "10.0.2.0/24", "dev", "eth0")
    with Server(spaces["b0"], "b0"), Server(spaces["b1"], "b1"):
        assert ask(spaces["b0"], "10.0.2.6")[0] == "b1", "they are there"
        for address in (OTHER, "10.0.2.6"):
            with pytest.raises(OSError, match=r"unreachable|No route|timed out"):
                ask(spaces["attacker"], address, timeout_s=1)
        run("nsenter", f"--net={spaces['attacker']}", "ip", "route", "delete", "10.0.2.0/24")
        for address in (OTHER, "10.0.2.6"):
            with pytest.raises(OSError, match=r"unreachable|No route|timed out"):
                ask(spaces["attacker"], address, timeout_s=1)  # by the way out
        with raw(spaces["attacker"]) as attacker, raw(spaces["b0"]) as b0:
            attacker.send(udp_frame(mac_of_interface(spaces["attacker"]), ATTACKER, mac_of_interface(spaces["b0"]), OTHER, AFTER))
            assert not any(AFTER in frame for frame in heard(b0))


def test_the_overlay_does_not_lead_to_the_hosts_services(spaces: dict[str, str], hosts: list[Machine]) -> None:
    run("ip", "-n", hosts[0].name, "link", "add", "eth1", "up", "type", "bridge")
    run("ip", "-n", hosts[0].name, "address", "add", "198.51.100.1/32", "dev", "eth1")
    with Server(hosts[0].netns, "host", port=9000):
        for address in (hosts[0].address, "198.51.100.1", "10.0.1.1"):
            run("nsenter", f"--net={spaces['attacker']}", "ip", "route", "replace", f"{address}/32", "dev", "eth0")
            with pytest.raises(OSError, match=r"unreachable|No route|timed out"):
                ask(spaces["attacker"], address, 9000, timeout_s=1)
    with Server(spaces["near"], "near"), pytest.raises(OSError, match=r"unreachable|No route|timed out"):
        ask(hosts[0].netns, NEAR, timeout_s=1)


@pytest.mark.parametrize("victim_host", [0, 1])
def test_a_container_cannot_send_into_tunnels(spaces: dict[str, str], hosts: list[Machine], victim_host: int) -> None:
    """What arrives at a host's VXLAN port is taken for an overlay's, and what a container sends out has its host's address."""
    victim, address = (("b0", OTHER), ("b1", "10.0.2.6"))[victim_host]
    frame = udp_frame(b"\x02\x42\x0a\x00\x02\x07", "10.0.2.7", mac_of_interface(spaces[victim]), address, AFTER)
    packet = struct.pack("!II", 0x08000000, 4098 << 8) + frame
    with raw(spaces[victim]) as sniffer:
        for target in {hosts[victim_host].address, "172.19.0.1" if victim_host == 0 else hosts[1].address}:
            with datagrams(spaces["attacker"], target, PORT) as client:
                client.send(packet)
        assert not any(AFTER in seen for seen in heard(sniffer))
    if victim_host == 1:  # the same packet from the host itself arrives: the frame was not refused for another reason
        with raw(spaces[victim]) as sniffer:
            with datagrams(hosts[0].netns, hosts[1].address, PORT) as client:
                client.send(packet)
            frames = [sniffer.recv(2048)]
            assert any(AFTER in seen for seen in frames)


def test_containers_do_not_hear_each_other(spaces: dict[str, str]) -> None:
    with raw(spaces["attacker"]) as sniffer, Answerer(spaces["near"], "near"), Answerer(spaces["far"], "far"):
        assert tell(spaces["near"], FAR)[0] == "far"
        assert tell(spaces["far"], NEAR6)[0] == "near"
        unicast = [frame for frame in heard(sniffer) if not frame[0] & 1]
    assert unicast == []


def test_another_hosts_containers_do_not_believe_false_claims_to_an_address(spaces: dict[str, str]) -> None:
    attacker, victim = mac_of_interface(spaces["attacker"]), mac_of_interface(spaces["far"])
    claimed, to = socket.inet_aton(NEAR), socket.inet_aton(FAR)
    assert ping(spaces["far"], NEAR)
    assert ping(spaces["far"], NEAR6, "-6")
    before = neighbours(spaces["far"])
    with raw(spaces["attacker"]) as forger, raw(spaces["far"]) as sniffer:
        for operation in (1, 2):
            for target in (victim, b"\xff" * 6):
                claim = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + attacker + claimed + victim + to
                forger.send(target + attacker + b"\x08\x06" + claim)
        for is_hidden in (False, True):
            forger.send(advertisement(attacker, victim, NEAR6, FAR6, is_hidden=is_hidden))
        forger.send(udp_frame(attacker, ATTACKER, victim, FAR, BEFORE))
        frames = [sniffer.recv(65536)]
        while BEFORE not in frames[-1]:
            frames.append(sniffer.recv(65536))
    assert [frame for frame in frames if attacker in frame and BEFORE not in frame] == []
    after = neighbours(spaces["far"])
    assert (after[NEAR], after[NEAR6]) == (before[NEAR], before[NEAR6]) == (naming.mac_of(NEAR).hex(":"),) * 2


def test_a_hardware_address_cannot_be_taken_away(spaces: dict[str, str]) -> None:
    near = mac_of_interface(spaces["near"])
    with raw(spaces["attacker"]) as forger, raw(spaces["attacker"]) as sniffer, Answerer(spaces["near"], "near"):
        for _ in range(3):
            forger.send(udp_frame(near, ATTACKER, mac_of_interface(spaces["far"]), FAR, BEFORE))
        assert tell(spaces["far"], NEAR)[0] == "near"
        assert not any(frame[:6] == near for frame in heard(sniffer) if BEFORE not in frame)
