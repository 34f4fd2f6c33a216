"""Networks that users make on one node, with the unmodified docker CLI: names, ways out, isolation, connecting what runs."""

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from local_node import IMAGE, LocalNode, bridge_of, local_node
from overlay_hosts import Machine, Server, ask, eventually, in_namespace, machines, run, view
from runtime_harness import RuntimeNode

from pyswarm_agent.local_containers.records import Joined, LocalContainer, OverlayAttachment
from pyswarm_agent.runtime import ContainerConfig
from pyswarm_common.objects import NetworkAttachment
from pyswarm_netplugin.driver import SandboxRequest
from pyswarm_netplugin.host_bridges.trunks import Trunks

pytestmark = pytest.mark.kernel

SERVE = "while true; do echo {} | nc -l -p 80 -w 1; done"


@pytest.fixture
async def box(node: RuntimeNode, tmp_path: Path) -> AsyncIterator[LocalNode]:
    """A node at work."""
    with machines(tmp_path / "hosts", 1) as (machine,):
        async with local_node(node, machine) as started:
            yield started
        left = run("ip", "netns", "exec", machine.name, "nft", "list", "ruleset")
        assert "pyswarm" not in left
        assert "br-" not in run("ip", "-n", machine.name, "-brief", "link")


async def web(box: LocalNode, name: str, *options: str) -> str:
    """Run a container that serves its name at port 80; return its id."""
    shown = await box.docker("run", "-d", "--name", name, *options, IMAGE, "sh", "-c", SERVE.format(name))
    return shown.strip()


async def asks(box: LocalNode, client: str, address: str, port: int = 80, *, tries: int = 3) -> str:
    """Return what a container hears from an address, "" for nothing. Servers are away for a moment after each answer."""
    for _ in range(tries):
        _, output, _ = await box.docker.run("exec", client, "sh", "-c", f"nc -w 1 {address} {port} </dev/null")
        if output:
            return output.strip()
    return ""


async def inspected(box: LocalNode, name: str) -> dict[str, dict[str, object]]:
    """Return a container's networks."""
    networks: dict[str, dict[str, object]] = json.loads(
        await box.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", name)
    )
    return networks


async def test_names_on_a_network(box: LocalNode) -> None:
    network_id = (await box.docker("network", "create", "app")).strip()
    one = await web(box, "one", "--network", "app", "--network-alias", "db")
    await web(box, "two", "--network", "app")
    for name in ("one", "db", one[:12], "172.18.0.2"):
        assert await asks(box, "two", name) == "one", name
    shown = (await inspected(box, "one"))["app"]
    assert (shown["IPAddress"], shown["Gateway"], shown["IPPrefixLen"]) == ("172.18.0.2", "172.18.0.1", 16)
    assert (shown["NetworkID"], shown["MacAddress"]) == (network_id, "02:42:ac:12:00:02")
    members = json.loads(await box.docker("network", "inspect", "-f", "{{json .Containers}}", "app"))
    assert members[one]["IPv4Address"] == "172.18.0.2/16"
    assert len(members) == 2
    await box.docker("rename", "one", "first")
    assert await asks(box, "two", "first") == "one"
    assert await asks(box, "two", "one", tries=1) == ""


async def test_networks_are_apart(box: LocalNode) -> None:
    await box.docker("network", "create", "red")
    await box.docker("network", "create", "blue")
    await web(box, "in-red", "--network", "red")
    await web(box, "in-blue", "--network", "blue")
    await web(box, "on-bridge")
    names = ("in-red", "in-blue", "on-bridge")
    addresses = {name: next(iter((await inspected(box, name)).values()))["IPAddress"] for name in names}
    assert len(set(addresses.values())) == len(names)
    for client in names:
        for server in names:
            heard = await asks(box, client, str(addresses[server]), tries=3 if client == server else 1)
            assert heard == (server if client == server else ""), (client, server)
    assert await asks(box, "in-blue", "in-red", tries=1) == ""


async def test_a_port_and_the_way_out(node: RuntimeNode, tmp_path: Path) -> None:
    with machines(tmp_path / "hosts", 2) as (machine, other):
        async with local_node(node, machine) as box:
            await box.docker("network", "create", "app")
            await web(box, "one", "--network", "app", "-p", "8080:80")
            for source, address in (
                (other, machine.address),
                (machine, machine.address),
                (machine, "127.0.0.1"),
                (machine, "172.18.0.2"),
            ):
                port = 80 if address == "172.18.0.2" else 8080
                eventually(lambda source=source, address=address, port=port: _hears(source, address, port) == "one")
            assert _hears(other, "172.18.0.2", 80) == ""
            assert await asks(box, "one", machine.address, 8080) == "one"
            served = in_namespace(other.netns, lambda: socket.create_server((other.address, 9000)))
            with served:
                await box.docker("exec", "-d", "one", "nc", "-w", "3", other.address, "9000")
                served.settimeout(5)
                connection, peer = served.accept()
                connection.close()
            assert peer[0] == machine.address, "masqueraded"
            assert (await box.docker("port", "one")).splitlines()[0] == "80/tcp -> 0.0.0.0:8080"
            _, _, errors = await box.docker.run("run", "-d", "--network", "app", "-p", "8080:80", IMAGE, "true")
            assert "Bind for 0.0.0.0:8080 failed: port is already allocated" in errors


def _hears(source: Machine, address: str, port: int) -> str:
    def ask() -> str:
        try:
            with socket.create_connection((address, port), 1) as connection:
                return connection.recv(100).decode().strip()
        except OSError:
            return ""

    return in_namespace(source.netns, ask)


async def test_connecting_what_runs(box: LocalNode) -> None:
    await box.docker("network", "create", "app")
    await web(box, "server", "--network", "app")
    await web(box, "tool")
    assert await asks(box, "tool", "server", tries=1) == ""
    await box.docker("network", "connect", "--alias", "helper", "app", "tool")
    assert await asks(box, "tool", "server") == "server"
    assert await asks(box, "server", "helper") == "tool"
    links = await box.docker("exec", "tool", "ip", "-o", "-4", "addr")
    assert "eth0    inet 172.17.0.2/16" in links
    assert "eth1    inet 172.18.0.3/16" in links
    assert sorted(await inspected(box, "tool")) == ["app", "bridge"]
    _, _, errors = await box.docker.run("network", "connect", "app", "tool")
    assert "endpoint with name tool already exists in network app" in errors
    code, _, errors = await box.docker.run("network", "rm", "app")
    assert (code, "has active endpoints" in errors) == (1, True)
    await box.docker("network", "disconnect", "bridge", "tool")
    links = await box.docker("exec", "tool", "ip", "-o", "-4", "addr")
    assert "eth0" not in links
    assert "default via 172.18.0.1 dev eth1" in await box.docker("exec", "tool", "ip", "route")
    assert await asks(box, "tool", "server") == "server"
    await box.docker("restart", "-t", "0", "tool")
    assert sorted(await inspected(box, "tool")) == ["app"]
    assert await asks(box, "server", "helper") == "tool"
    await box.docker("network", "disconnect", "app", "tool")
    assert await asks(box, "server", "helper", tries=1) == ""
    assert "eth" not in await box.docker("exec", "tool", "ip", "-o", "-4", "addr")


async def test_several_networks_from_the_start(box: LocalNode) -> None:
    await box.docker("network", "create", "--subnet", "10.98.0.0/24", "--gateway", "10.98.0.254", "first")
    await box.docker("network", "create", "--internal", "back")
    asked = {"IPAMConfig": {"IPv4Address": "10.98.0.7"}, "MacAddress": "02:00:00:00:00:07"}
    body = {
        "Image": IMAGE,
        "Cmd": ["sh", "-c", SERVE.format("both")],
        "HostConfig": {"NetworkMode": "first"},
        "NetworkingConfig": {"EndpointsConfig": {"first": asked, "back": {}}},
    }
    await box.agent.local.create("both", body)
    await box.docker("start", "both")
    await web(box, "behind", "--network", "back")
    networks = await inspected(box, "both")
    assert (networks["first"]["IPAddress"], networks["first"]["Gateway"]) == ("10.98.0.7", "10.98.0.254")
    assert "default via 10.98.0.254" in await box.docker("exec", "both", "ip", "route")
    assert "default" not in await box.docker("exec", "behind", "ip", "route")
    assert await asks(box, "behind", "both") == "both"
    assert "02:00:00:00:00:07" in await box.docker("exec", "both", "ip", "link")
    _, _, errors = await box.docker.run("run", "-d", "--network", "first", "--ip", "10.98.0.7", IMAGE, "true")
    assert "Address already in use" in errors


async def test_a_daemon_that_starts_again(node: RuntimeNode, tmp_path: Path) -> None:
    with machines(tmp_path / "hosts", 1) as (machine,):
        async with local_node(node, machine, is_last_life=False) as box:
            await box.docker("network", "create", "app")
            await web(box, "one", "--network", "app", "-p", "8080:80")
            await web(box, "two")
            await box.docker("network", "connect", "app", "two")
        eventually(lambda: _hears(machine, "127.0.0.1", 8080) == "one")
        await node.runtime.close()
        node.runtime = node.new_runtime()
        await node.runtime.start()
        async with local_node(node, machine) as box:
            assert await asks(box, "two", "one") == "one"
            assert sorted(await inspected(box, "two")) == ["app", "bridge"]
            await web(box, "three", "--network", "app")
            assert await asks(box, "three", "two") == "two"
            assert (await inspected(box, "three"))["app"]["IPAddress"] == "172.18.0.4"


async def test_a_network_of_the_cluster_beside_the_bridge(node: RuntimeNode, tmp_path: Path) -> None:
    with machines(tmp_path / "hosts", 2) as (here, there):
        near, far = here.driver(), there.driver()
        places = {"tool": ("10.0.1.5/24", here), "far": ("10.0.1.6/24", there), "near": ("10.0.1.7/24", here)}
        shown = view(places, ("10.0.1.6/24",))
        for driver, name in ((near, "near"), (far, "far")):
            await driver.start()
            await driver.apply_views({"net-a": shown})
            place = NetworkAttachment(network_id="net-a", address=places[name][0])
            await driver.attach(SandboxRequest(id=name, hostname=name, attachments=(place,)))
        trunks = Trunks(node.runtime_dir / "local-network/netns", Path(here.overlay("net-a")).parent)
        bridge = bridge_of(node, here, clusters=near.views, trunks=trunks)
        on_both = LocalContainer(id="tool", name="tool", joined=(Joined(network="bridge"), Joined(network="net-a")))
        config = ContainerConfig(id="tool", name="tool", hostname="tool")
        address = OverlayAttachment(id="one", network_id="net-a", network_name="net-a", address="10.0.1.5/24")
        tool = await bridge.attach(on_both, config, {on_both.joins[1]: address})
        sandbox = str(tool.netns_path)
        try:
            with (
                Server(sandbox, "tool", 80),
                Server(here.sandbox("near"), "near", 80),
                Server(there.sandbox("far"), "far", 80),
                Server(there.netns, "host", 9000),
            ):
                assert ask(sandbox, "10.0.1.6", 80, payload_bytes=300_000) == ("far", "10.0.1.5")
                assert ask(sandbox, "10.0.1.7", 80) == ("near", "10.0.1.5")
                assert ask(sandbox, "10.0.1.2", 80)[0] == "far", "by the virtual address"
                assert ask(sandbox, there.address, 9000) == ("host", here.address), "out by the bridge"
                for other in (here.sandbox("near"), there.sandbox("far")):
                    assert ask(other, "10.0.1.5", 80)[0] == "tool"
                await near.close()
                near = here.driver()
                await near.start()
                assert ask(there.sandbox("far"), "10.0.1.5", 80)[0] == "tool", "a daemon that starts again leaves it alone"
                alone = LocalContainer(id="tool", name="tool")
                after = await bridge.attach(alone, config)
                assert (after.networks, after.address) == ((), tool.address)
                with pytest.raises(OSError):
                    ask(there.sandbox("far"), "10.0.1.5", 80, timeout_s=0.5)
        finally:
            await bridge.teardown()
            await near.teardown()
            await far.teardown()


async def test_prune_and_filters(box: LocalNode) -> None:
    await box.docker("network", "create", "--label", "a=b", "used")
    await box.docker("network", "create", "unused")
    await web(box, "one", "--network", "used")
    names = (await box.docker("network", "ls", "--filter", "dangling=true", "--format", "{{.Name}}")).split()
    assert names == ["unused"]
    assert (await box.docker("network", "ls", "-f", "type=custom", "-f", "label=a", "--format", "{{.Name}}")).split() == ["used"]
    assert (await box.docker("network", "prune", "-f")).split() == ["Deleted", "Networks:", "unused"]
    assert "used" in await box.docker("network", "ls")
    _, _, errors = await box.docker.run("network", "create", "used")
    assert "network with name used already exists" in errors
