"""Traffic between two hosts on this machine: throughput, connections a second and round trips, on each way a packet can go.

Both hosts are network namespaces joined by a bridge, so a figure says what this machine's kernel can do on its cores; the ratios
between the ways, measured by turns in one run, are what counts. On a busy machine even those say little: then compare the CPU time
that client and server needed together. It holds what the kernel does for the packets on their way, which it does on behalf of
whoever sends. The client resets its connections, so that none waits for its end and no two ways meet the same pair of ports.
"""

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, MeshPort, NetworkView, ServiceEndpoints
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.linux import LinuxKernel
from pyswarm_netplugin.kernel.namespaces import enter

SERVER = """
import socket, sys, threading
def serve(connection, kind):
    with connection:
        buffer = bytearray(1 << 20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while count := connection.recv_into(buffer):
            if kind == b"P":
                connection.sendall(buffer[:count])
def quietly(connection, kind):
    try:
        serve(connection, kind)
    except OSError:
        pass
listening = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=4096)
print("ready", flush=True)
while True:
    connection, _ = listening.accept()
    if (kind := connection.recv(1)) in (b"T", b"P"):
        threading.Thread(target=quietly, args=(connection, kind), daemon=True).start()
    else:
        connection.close()
"""
CLIENT = """
import json, socket, struct, sys, time
kind, address, port, duration_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
def connected():
    connection = socket.create_connection((address, port), 5)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
begun_s, count, cpu_s = time.monotonic(), 0, time.process_time()
end_s = begun_s + duration_s
if kind == "C":
    while time.monotonic() < end_s:
        with connected() as connection:
            connection.sendall(b"C")
            count += not connection.recv(1)
else:
    with connected() as connection:
        connection.sendall(kind.encode())
        data = bytes(1 << 20) if kind == "T" else b"x" * 56
        while time.monotonic() < end_s:
            connection.sendall(data)
            if kind == "P":
                connection.recv(100)
            count += len(data) if kind == "T" else 1
print(json.dumps([count, time.monotonic() - begun_s, time.process_time() - cpu_s]))
"""
PORT, MESH_PORT = 8000, 8080
NODES = ("node1", "node2")


@dataclass(frozen=True)
class Way:
    """How a client (in a namespace) reaches a server (in another): by this address and port."""

    name: str
    client_netns: str
    server_netns: str
    address: str
    port: int = PORT


def run(*command: str) -> None:
    """Run a command. Raises CalledProcessError."""
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@contextlib.contextmanager
def underlay(tag: str) -> Iterator[tuple[str, ...]]:
    """Make hosts 192.0.2.1 and .2 and a client .9 on one bridge; yields the namespaces' names, the bridge's first."""
    names = tuple(f"{tag}-{part}" for part in ("switch", "one", "two", "client"))
    made: list[str] = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        switch, *others = names
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        run("ip", "netns", "exec", switch, "sh", "-c", "echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables || true")
        for number, name in zip((1, 2, 9), others, strict=True):
            run("ip", "-n", switch, "link", "add", f"h{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", switch, "link", "set", f"h{number}", "master", "br0", "up")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "address", "add", f"192.0.2.{number}/24", "dev", "eth0")
        yield names
    finally:
        for name in made:
            run("ip", "netns", "delete", name)


@contextlib.contextmanager
def plain_vxlan(tag: str, hosts: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Make by hand, on each host, a bridge with a VXLAN device, and a veth into a namespace with 10.9.0.1 or .2."""
    boxes = (f"{tag}-box1", f"{tag}-box2")
    made: list[str] = []
    try:
        for number, (host, box) in enumerate(zip(hosts, boxes, strict=True), 1):
            run("ip", "netns", "add", box)
            made.append(box)
            remote = f"192.0.2.{3 - number}"
            vxlan = ["type", "vxlan", "id", "99", "dstport", "4999", "local", f"192.0.2.{number}", "remote", remote]
            run("ip", "-n", host, "link", "add", "plainbr", "type", "bridge")
            run("ip", "-n", host, "link", "add", "plainvx", *vxlan)
            run("ip", "-n", host, "link", "add", "plainve", "mtu", "1450", "type", "veth", "peer", "name", "eth0", "netns", box)
            for port in ("plainvx", "plainve"):
                run("ip", "-n", host, "link", "set", port, "master", "plainbr", "up")
            run("ip", "-n", host, "link", "set", "plainbr", "up")
            run("ip", "netns", "exec", host, "sh", "-c", "echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables || true")
            run("ip", "-n", box, "link", "set", "eth0", "mtu", "1450", "up")
            run("ip", "-n", box, "address", "add", f"10.9.0.{number}/24", "dev", "eth0")
        yield boxes
    finally:
        for host in hosts:
            for link in ("plainvx", "plainve", "plainbr"):
                subprocess.run(["ip", "-n", host, "link", "delete", link], capture_output=True, check=False)
        for box in made:
            run("ip", "netns", "delete", box)


def views() -> dict[str, NetworkView]:
    """Return an overlay with a task on each host and the service `web` on the second, and the ingress network with its ports."""
    places = {11: ("t1", "192.0.2.1"), 12: ("t2", "192.0.2.2")}
    overlay = NetworkView(
        network_id="net",
        name="net",
        version=1,
        vni=4097,
        subnet="10.1.0.0/24",
        gateway="10.1.0.1",
        endpoints={task: Endpoint(address=f"10.1.0.{n}/24", data_path_address=host) for n, (task, host) in places.items()},
        services={"s1": ServiceEndpoints(names=("web",), virtual_ip="10.1.0.2", backends=("10.1.0.12",))},
    )
    ports = {MESH_PORT: "10.0.0.12", MESH_PORT + 1: "10.0.0.11"}
    ingress = NetworkView(
        network_id="ingress",
        name="ingress",
        version=1,
        vni=4096,
        subnet="10.0.0.0/24",
        gateway="10.0.0.1",
        is_ingress=True,
        gateways={
            node: Endpoint(address=f"10.0.0.{n}/24", data_path_address=f"192.0.2.{n - 1}") for n, node in enumerate(NODES, 2)
        },
        endpoints={task: Endpoint(address=f"10.0.0.{n}/24", data_path_address=host) for n, (task, host) in places.items()},
        services={
            f"s{port}": ServiceEndpoints(names=(), backends=(backend,), ports=(MeshPort(published_port=port, target_port=PORT),))
            for port, backend in ports.items()
        },
    )
    return {"net": overlay, "ingress": ingress}


@contextlib.asynccontextmanager
async def overlays(directory: Path, hosts: tuple[str, str]) -> AsyncIterator[tuple[str, str]]:
    """Bring up a driver on each host with a task on both networks; yields the paths of the tasks' namespaces."""
    drivers = []
    for number, host in enumerate(hosts, 1):

        def kernel(host: str = host, number: int = number) -> LinuxKernel:
            with open(f"/run/netns/{host}") as file:
                enter(file.fileno())
            return LinuxKernel("bench", directory / f"{number}/run/netns")

        drivers.append(
            NetworkDriver(
                instance_tag="bench",
                data_dir=directory / f"{number}/data",
                runtime_dir=directory / f"{number}/run",
                data_path_address=f"192.0.2.{number}",
                dns=FakeDNS(),
                make_kernel=kernel,
                node_id=NODES[number - 1],
            )
        )
    paths = []
    try:
        for number, driver in enumerate(drivers, 1):
            await driver.start()
            await driver.apply_views(views())
            networks = {"net": f"10.1.0.{number + 10}/24", "ingress": f"10.0.0.{number + 10}/24"}
            attachments = tuple(NetworkAttachment(network_id=n, address=a) for n, a in networks.items())
            sandbox = await driver.attach(SandboxRequest(id=f"t{number}", hostname="t", attachments=attachments))
            paths.append(sandbox.netns_path)
        yield paths[0], paths[1]
    finally:
        for driver in drivers:
            await driver.teardown()


class Figure(NamedTuple):
    """Bytes (T), round trips (P) or connections (C) a second, and the CPU seconds of client and server for each."""

    rate: float
    cpu_s: float


def measured(way: Way, kind: str, duration_s: float, server: int) -> Figure:
    """Measure a way once. Raises CalledProcessError."""
    arguments = [kind, way.address, str(way.port), str(duration_s)]
    command = ["nsenter", f"--net={way.client_netns}", sys.executable, "-c", CLIENT, *arguments]
    before_s = process_cpu_s(server)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=duration_s + 20)
    if done.returncode:
        raise SystemExit(f"{way.name}, {kind}: {done.stderr}")
    count, took_s, cpu_s = json.loads(done.stdout)
    return Figure(count / took_s, (cpu_s + process_cpu_s(server) - before_s) / count)


def process_cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    return time.clock_gettime((~pid << 3) | 2)  # the kernel's name for the CPU clock of another process


@contextlib.contextmanager
def servers(namespaces: Collection[str]) -> Iterator[dict[str, int]]:
    """Run a server in each namespace; yields their process ids."""
    running = []
    try:
        for path in namespaces:
            command = ["nsenter", f"--net={path}", sys.executable, "-c", SERVER, str(PORT)]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for server in running:
            if server.stdout is not None:
                server.stdout.readline()
        yield {path: server.pid for path, server in zip(namespaces, running, strict=True)}
    finally:
        for server in running:
            server.kill()
            server.communicate()


async def measure_traffic(rounds: int, duration_s: float) -> None:
    """Measure every way by turns and print medians, and what they are of the first and of the hand-made overlay."""
    tag = f"bt{os.getpid() % 10_000}"
    with tempfile.TemporaryDirectory() as folder, underlay(tag) as (_, one, two, client), plain_vxlan(tag, (one, two)) as boxes:
        async with overlays(Path(folder), (one, two)) as tasks:
            netns = {name: f"/run/netns/{name}" for name in (one, two, client, *boxes)}
            ways = [
                Way("raw veth", netns[one], netns[two], "192.0.2.2"),
                Way("plain VXLAN", netns[boxes[0]], netns[boxes[1]], "10.9.0.2"),
                Way("overlay", tasks[0], tasks[1], "10.1.0.12"),
                Way("overlay, VIP", tasks[0], tasks[1], "10.1.0.2"),
                Way("mesh, task here", netns[client], tasks[1], "192.0.2.2", MESH_PORT),
                Way("mesh, task elsewhere", netns[client], tasks[1], "192.0.2.1", MESH_PORT),
            ]
            with servers({way.server_netns for way in ways}) as pids:
                figures: dict[tuple[str, str], list[Figure]] = {}
                for _, kind, way in itertools.product(range(rounds), "TCP", ways):
                    figure = await asyncio.to_thread(measured, way, kind, duration_s, pids[way.server_netns])
                    figures.setdefault((way.name, kind), []).append(figure)
    print_table([way.name for way in ways], figures)


def print_table(names: list[str], figures: dict[tuple[str, str], list[Figure]]) -> None:
    """Print medians, and what they are of the hand-made overlay and of a connection without virtual IP."""
    rates = {key: statistics.median(figure.rate for figure in each) for key, each in figures.items()}
    cpu_s = {key: statistics.median(figure.cpu_s for figure in each) for key, each in figures.items()}
    print("of plain, of overlay: by rate / by CPU time for the same work")
    print(f"{'':22}{'Gbit/s':>8}{'of plain':>13}{'conn/s':>9}{'of overlay':>13}{'CPU µs/conn':>13}{'round trip µs':>15}")
    for name in names:
        plain, direct = ("plain VXLAN", "T"), ("overlay", "C")
        of_plain = f"{rates[name, 'T'] / rates[plain]:.2f} / {cpu_s[plain] / cpu_s[name, 'T']:.2f}"
        of_direct = f"{rates[name, 'C'] / rates[direct]:.2f} / {cpu_s[direct] / cpu_s[name, 'C']:.2f}"
        print(
            f"{name:22}{rates[name, 'T'] * 8e-9:8.2f}{of_plain:>13}{rates[name, 'C']:9.0f}{of_direct:>13}"
            f"{1e6 * cpu_s[name, 'C']:13.1f}{1e6 / rates[name, 'P']:15.1f}"
        )
