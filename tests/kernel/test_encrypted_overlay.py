"""Encrypted overlays on two hosts, by the WireGuard that this machine has: what travels on the wire, what does not, and repair."""

import base64
import contextlib
import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from overlay_hosts import TAG, Machine, Server, ask, eventually, in_namespace, machines, request, run, udp_client, view
from underlay_capture import Capture

from pyswarm_common.errors import FailedPrecondition, Unavailable
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import NetworkView, NodeKey
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.naming import secure_interface
from pyswarm_netplugin.secure.records import SecureNetwork
from pyswarm_netplugin.state import State

pytestmark = pytest.mark.kernel

NEAR, FAR = "10.0.1.5", "10.0.1.6"
MARKER = "a-marker-in-plain-text"
SOCKETS = Path("/var/run/wireguard")


class Side:
    """A host with its driver."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.driver = machine.driver()

    async def key(self) -> NodeKey:
        """How others reach it."""
        found = await self.driver.secure.encryption()
        return NodeKey(public_key=found.public_key, port=found.port)

    async def restart(self) -> NetworkDriver:
        """Let go of the driver and start another, as a daemon's next life does."""
        await self.driver.close()
        self.driver = self.machine.driver()
        await self.driver.start()
        return self.driver

    def state(self) -> State:
        """Return what this host's kernel has."""

        def look() -> State:
            kernel = self.machine.kernel()
            try:
                return kernel.observe()
            finally:
                kernel.close()

        return in_namespace(self.machine.netns, look)

    def secure(self) -> SecureNetwork:
        """Return its end of encrypted overlays."""
        found = self.state().secure
        assert found is not None
        return found

    def pids(self) -> list[int]:
        """Return the processes of wireguard-go in this host's namespace."""
        own, found = Path(self.machine.netns).stat().st_ino, []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (folder / "comm").read_text().strip() == "wireguard-go" and (folder / "ns/net").stat().st_ino == own:
                    found.append(int(folder.name))
        return found

    def cut_encryption(self) -> None:
        """Kill what encrypts, or take its interface away where that is the kernel."""
        killed = self.pids()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        if not killed:
            run("nsenter", f"--net={self.secure_netns}", "ip", "link", "delete", "wg0")
        eventually(lambda: "wg0" not in run("nsenter", f"--net={self.secure_netns}", "ip", "-brief", "link"))

    @property
    def secure_netns(self) -> str:
        """The path of the namespace."""
        return str(self.machine.directory / TAG / "run/netns/secure")


@pytest.fixture
async def sides(tmp_path: Path) -> AsyncIterator[list[Side]]:
    """Two hosts whose drivers run. Afterwards nothing of theirs is left."""
    with machines(tmp_path, 2) as hosts:
        made = [Side(host) for host in hosts]
        for side in made:
            await side.driver.start()
        yield made
        for side in made:
            await side.driver.teardown()
            eventually(lambda side=side: side.pids() == [])  # type: ignore[misc]
            assert f"{TAG}w" not in side.machine.listing()
            assert not Path(side.secure_netns).exists()
        assert list(SOCKETS.glob(f"{TAG}w*")) == [], "no socket stays"


def encrypted(sides: list[Side], keys: dict[str, NodeKey], *, version: int = 1) -> NetworkView:
    """Return the view of the network, on which each host has one container."""
    places = {"near": (NEAR, sides[0].machine), "far": (FAR, sides[1].machine)}
    return msgspec.structs.replace(view(places, (FAR,), version=version), is_encrypted=True, node_keys=keys)


@pytest.fixture
async def pair(sides: list[Side]) -> tuple[str, str]:
    """The namespaces of a container on each host."""
    network = encrypted(sides, {side.machine.address: await side.key() for side in sides})
    for side in sides:
        await side.driver.apply_views({"net-a": network})
    near = await sides[0].driver.attach(request("near", NEAR))
    far = await sides[1].driver.attach(request("far", FAR))
    return near.netns_path, far.netns_path


def reaches(netns: str, address: str) -> bool:
    """Whether somebody answers there, quickly."""
    try:
        ask(netns, address, timeout_s=0.4)
    except OSError:
        return False
    return True


async def test_what_travels_is_wireguard_alone(sides: list[Side], pair: tuple[str, str]) -> None:
    near, far = pair
    port = (await sides[0].key()).port
    with Server(far, MARKER), Capture(sides[1].machine) as capture:
        assert ask(near, FAR, payload_bytes=300_000) == (MARKER, NEAR)
        assert ask(near, "10.0.1.2") == (MARKER, NEAR), "the virtual IP, too"
        frames = capture.frames()
    assert sum(map(len, frames)) > 300_000
    assert {(capture.protocol(f), *capture.ports(f)) for f in frames if capture.is_ipv4(f)} == {(17, port, port)}
    assert not [f for f in frames if MARKER.encode() in f or b"x" * 12 in f]
    assert max(map(len, frames)) <= 1514, "nothing is larger than the underlay's packets"


async def test_the_capture_would_see_plain_text(sides: list[Side]) -> None:
    plain = view({"near": (NEAR, sides[0].machine), "far": (FAR, sides[1].machine)}, (FAR,))
    for side in sides:
        await side.driver.apply_views({"net-a": plain})
    near = (await sides[0].driver.attach(request("near", NEAR))).netns_path
    far = (await sides[1].driver.attach(request("far", FAR))).netns_path
    with Server(far, MARKER), Capture(sides[1].machine) as capture:
        assert ask(near, FAR) == (MARKER, NEAR)
        frames = capture.frames()
    assert [f for f in frames if MARKER.encode() in f]
    assert 4789 in {capture.ports(f)[1] for f in frames if capture.is_ipv4(f)}


async def test_the_tunnel_has_no_other_way_out(sides: list[Side], pair: tuple[str, str]) -> None:
    for side in sides:
        tunnel = side.state().overlays["net-a"].tunnel
        assert tunnel is not None
        assert tunnel.is_encrypted
        assert "vxlan" not in run("ip", "-n", side.machine.name, "-details", "link")
        inside = run("nsenter", f"--net={side.secure_netns}", "ip", "-brief", "link").split()
        assert {name for name in inside if name in ("lo", "wg0") or name.startswith("eth")} == {"lo", "wg0"}


async def test_the_private_key_is_roots_alone_and_never_shown(sides: list[Side], pair: tuple[str, str]) -> None:
    (path,) = sides[0].machine.directory.rglob("network/wireguard")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = msgspec.msgpack.decode(path.read_bytes())["private_key"]
    assert len(base64.b64decode(secret)) == 32
    assert secret not in repr(sides[0].driver._desired())


async def test_what_stands_is_what_should_be(sides: list[Side], pair: tuple[str, str]) -> None:
    """So that a look at it finds nothing to repair."""
    for side in sides:
        await side.driver.secure.take_network_key(base64.b64encode(bytes(range(32))).decode())
    with Server(pair[1], "far"):
        assert ask(pair[0], FAR)[0] == "far"
    desired, observed = sides[0].driver._desired(), sides[0].state()
    assert observed.secure == desired.secure
    assert observed.overlays == desired.overlays
    assert await sides[0].driver.auditing.audit() == ()


async def test_who_has_no_key_gets_nothing(sides: list[Side], pair: tuple[str, str]) -> None:
    near, far = pair
    own = {sides[0].machine.address: await sides[0].key()}
    stranger = NodeKey(public_key=base64.b64encode(bytes(range(32))).decode(), port=(await sides[1].key()).port)
    await sides[0].driver.apply_views({"net-a": encrypted(sides, {**own, sides[1].machine.address: stranger}, version=2)})
    with Server(far, "far"):
        assert not reaches(near, FAR)
        assert not reaches(far, NEAR)
    # Nor does a packet that comes as a plain tunnel's get in.
    forged = b"\x08\0\0\0" + (4097).to_bytes(3, "big") + b"\0" + b"\xff" * 6 + b"\x02" * 6 + b"\x08\x00" + b"x" * 50
    with udp_client(sides[1].machine.netns, sides[0].machine.address, 4789) as client:
        client.send(forged)
        with pytest.raises(ConnectionRefusedError):  # nobody listens there
            client.recv(100)


async def test_when_what_encrypts_dies_nothing_leaks_and_it_comes_back(sides: list[Side], pair: tuple[str, str]) -> None:
    (near, far), port = pair, (await sides[0].key()).port
    with Server(far, MARKER), Capture(sides[1].machine) as capture:
        assert reaches(near, FAR)
        sides[0].cut_encryption()
        capture.frames()
        with udp_client(near, FAR) as client, contextlib.suppress(OSError):
            client.send(MARKER.encode() * 10)
        assert not reaches(near, FAR)
        frames = capture.frames()
        assert not [f for f in frames if MARKER.encode() in f]
        udp = [f for f in frames if capture.is_ipv4(f) and capture.protocol(f) == 17]
        assert {capture.ports(f) for f in udp} <= {(port, port)}, "the other host's WireGuard alone"
        drifts = await sides[0].driver.auditing.audit()
        assert [(drift.scope, drift.is_repaired) for drift in drifts or ()] == [("encryption", True)]
        assert ask(near, FAR) == (MARKER, NEAR)


async def test_it_outlives_the_daemon_and_is_found_again(sides: list[Side], pair: tuple[str, str]) -> None:
    near, far = pair
    processes, key = sides[0].pids(), await sides[0].key()
    with Server(far, "far"):
        await sides[0].driver.close()
        assert ask(near, FAR)[0] == "far", "without a daemon"
        sides[0].driver = sides[0].machine.driver()
        await sides[0].driver.start()
        assert ask(near, FAR)[0] == "far"
    assert (sides[0].pids(), await sides[0].key()) == (processes, key)


async def test_another_cluster_key_keeps_connections(sides: list[Side], pair: tuple[str, str]) -> None:
    near, far = pair
    keys = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
    with Server(far, "far"), udp_client(near, FAR) as client:
        assert ask(near, FAR)[0] == "far"
        for key in keys:
            for side in sides:  # one after the other: what was agreed on before goes on
                await side.driver.secure.take_network_key(key)
                client.send(b"x")
                assert client.recv(100) == f"far {NEAR}".encode()
        assert {peer.preshared_mark for side in sides for peer in side.secure().peers.values()} != {""}
        # Agreed on anew with the key that both have; and with one that only one has, not at all.
        sides[0].cut_encryption()
        await sides[0].restart()
        assert ask(near, FAR)[0] == "far"
        await sides[0].driver.secure.take_network_key(base64.b64encode(bytes([3]) * 32).decode())
        sides[0].cut_encryption()
        await sides[0].restart()
        assert not reaches(near, FAR)


async def test_a_half_made_interface_is_cleared_away(sides: list[Side], pair: tuple[str, str]) -> None:
    """As a daemon leaves it that is killed before the interface has its address, or is in its namespace."""
    near, far = pair
    inside = ["nsenter", f"--net={sides[0].secure_netns}", "ip"]
    run(*inside, "address", "flush", "dev", "wg0")
    await sides[0].restart()
    with Server(far, "far"):
        assert ask(near, FAR)[0] == "far"
    name = secure_interface(TAG, str(Path(sides[0].secure_netns).parent))
    run(*inside, "link", "set", "wg0", "name", name, "netns", sides[0].machine.netns)
    await sides[0].restart()
    assert name not in run("ip", "-n", sides[0].machine.name, "link")
    with Server(far, "far"):
        assert ask(near, FAR)[0] == "far"


async def test_it_goes_with_the_last_encrypted_network(sides: list[Side], pair: tuple[str, str]) -> None:
    await sides[0].driver.detach("near")
    await sides[0].driver.apply_views({})
    assert sides[0].state().secure is None
    eventually(lambda: sides[0].pids() == [])


async def test_a_plain_network_beside_it_stays_plain(sides: list[Side], pair: tuple[str, str]) -> None:
    plain = view({"p": ("10.0.1.9", sides[0].machine)}, network_id="net-b", vni=4098)
    network = encrypted(sides, {side.machine.address: await side.key() for side in sides})
    await sides[0].driver.apply_views({"net-a": network, "net-b": plain})
    overlays = sides[0].state().overlays
    assert {name: overlay.tunnel.is_encrypted for name, overlay in overlays.items() if overlay.tunnel} == {
        "net-a": True,
        "net-b": False,
    }
    # A network that becomes plain, or encrypted, gets another tunnel.
    await sides[0].driver.apply_views({"net-b": msgspec.structs.replace(plain, is_encrypted=True), "net-a": network})
    assert sides[0].state().overlays["net-b"].tunnel.is_encrypted  # type: ignore[union-attr]


async def test_without_wireguard_the_network_is_refused(sides: list[Side], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("pyswarm_netplugin.secure.detection._has_family", lambda: False)
    await sides[0].restart()
    assert (await sides[0].driver.secure.encryption()).kind == ""
    network = encrypted(sides, {})
    with pytest.raises(Unavailable, match="encrypted overlays are not possible on this node: the kernel has no WireGuard"):
        await sides[0].driver.apply_views({"net-a": network})
    attachment = NetworkAttachment(network_id="net-a", address=f"{NEAR}/24")
    with pytest.raises(FailedPrecondition, match="wireguard-go is not installed"):
        await sides[0].driver.attach(SandboxRequest(id="near", hostname="near", attachments=(attachment,)))
    monkeypatch.undo()
    assert all(overlay.tunnel is None for overlay in sides[0].state().overlays.values()), "not a plain one instead"
