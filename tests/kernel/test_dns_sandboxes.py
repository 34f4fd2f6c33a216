"""Real resolvers in real network namespaces, answered by a real pyswarm-dns."""

import asyncio
import os
import signal
import socket
import struct
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyswarm_netplugin.dns.client import DNSClient, SandboxConfig
from pyswarm_netplugin.dns.message import encode_query
from pyswarm_netplugin.dns.sockets import _enter_namespace

pytestmark = pytest.mark.kernel

REDIRECT = """
table ip dns {
  chain output {
    type nat hook output priority -100;
    ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:5353
    ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:5353
  }
}
"""


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def namespaces() -> Iterator[Callable[[], str]]:
    """Make network namespaces; each is a path, gone after the test."""
    names: list[str] = []

    def make() -> str:
        name = f"dnstest-{uuid.uuid4().hex[:10]}"
        run("ip", "netns", "add", name)
        names.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        return f"/run/netns/{name}"

    yield make
    for name in names:
        run("ip", "netns", "delete", name)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[DNSClient]:
    (tmp_path / "resolv.conf").write_text("")
    arguments = ("--resolv-conf", str(tmp_path / "resolv.conf"), "--upstream-port", str(free_port()))
    client = DNSClient(tmp_path / "dns.sock", instance_tag="k1", log_path=tmp_path / "log", arguments=arguments)
    await client.ensure_running()
    await client.feed({}, {})
    yield client
    await client.stop()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def in_namespace(path: str, kind: socket.SocketKind) -> socket.socket:
    """Return a socket in the namespace, connected to the sandbox's resolver."""

    def make() -> socket.socket:
        with open(path) as file:
            _enter_namespace(file.fileno(), path)
        sock = socket.socket(socket.AF_INET, kind)
        sock.settimeout(10)
        sock.connect(("127.0.0.11", 5353))
        return sock

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(make).result()


def ask(path: str, name: str, type_: int = 1, *, over_tcp: bool = False, packet: bytes | None = None) -> bytes:
    packet = packet or encode_query(4321, name, type_)
    with in_namespace(path, socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM) as sock:
        if not over_tcp:
            sock.send(packet)
            return sock.recv(65535)
        sock.sendall(len(packet).to_bytes(2, "big") + packet)
        with sock.makefile("rb") as file:
            return file.read(int.from_bytes(file.read(2), "big"))


def addresses(reply: bytes) -> list[str]:
    """Return the addresses of a reply to a question for A records."""
    count, end = struct.unpack_from(">H", reply, 6)[0], len(reply)
    return [socket.inet_ntoa(reply[o + 12 : o + 16]) for o in range(end - 16 * count, end, 16)]


async def test_names_over_udp_and_tcp(client: DNSClient, namespaces: Callable[[], str]) -> None:
    path = namespaces()
    await client.set_network("n1", {"web": ("10.0.1.2/24",), "tasks.web": tuple(f"10.0.2.{i}" for i in range(1, 101))})
    await client.add_sandbox("s1", path, ["n1"], ["corp.example"])

    def check() -> None:
        for over_tcp in (False, True):
            assert addresses(ask(path, "web", over_tcp=over_tcp)) == ["10.0.1.2"]
            assert addresses(ask(path, "WEB.corp.example.", over_tcp=over_tcp)) == ["10.0.1.2"]
            assert ask(path, "web", 28, over_tcp=over_tcp)[3:8] == b"\x80\0\1\0\0"
            assert ask(path, "nosuch", over_tcp=over_tcp)[3] & 15 == 3
            assert ask(path, "no.upstream.example", over_tcp=over_tcp)[3] & 15 == 2
        cut, whole = ask(path, "tasks.web"), ask(path, "tasks.web", over_tcp=True)
        assert cut[2] & 2
        assert len(cut) <= 512
        assert len(addresses(cut)) == (512 - 12 - 15) // 16
        assert not whole[2] & 2
        assert sorted(addresses(whole)) == sorted(f"10.0.2.{i}" for i in range(1, 101))
        assert len({tuple(addresses(ask(path, "tasks.web"))) for _ in range(5)}) > 1, "not shuffled"
        assert ask(path, "", packet=b"\0\1\0\0\0\0\0\0\0\0\0\0")[3] & 15 == 1

    await asyncio.to_thread(check)


async def test_busybox_resolves_through_the_redirect(client: DNSClient, namespaces: Callable[[], str], tmp_path: Path) -> None:
    path = namespaces()
    name = Path(path).name
    await asyncio.to_thread(run, "ip", "netns", "exec", name, "nft", "-f", "-", input=REDIRECT)
    await client.set_network("n1", {"web": ("10.0.1.2",)})
    await client.add_sandbox("s1", path, ["n1"])
    lookup = ("ip", "netns", "exec", name, "busybox", "nslookup")
    assert "Address: 10.0.1.2" in (await asyncio.to_thread(run, *lookup, "web", "127.0.0.11")).stdout
    assert "name = web" in (await asyncio.to_thread(run, *lookup, "10.0.1.2", "127.0.0.11")).stdout
    await client.set_network("n1", {"web": ("10.0.1.77",)})
    assert "Address: 10.0.1.77" in (await asyncio.to_thread(run, *lookup, "web", "127.0.0.11")).stdout


async def test_unknown_names_go_upstream_from_the_hosts_namespace(
    client: DNSClient, namespaces: Callable[[], str], tmp_path: Path
) -> None:
    path = namespaces()
    await client.add_sandbox("s1", path, [])
    port = int(client._arguments[-1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream, socket.create_server(("127.0.0.1", port)) as upstream_tcp:
        upstream.bind(("127.0.0.1", port))
        thread = threading.Thread(target=answer_upstream, args=(upstream, upstream_tcp))
        thread.start()
        (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        for over_tcp in (False, True):
            reply = await asyncio.to_thread(ask, path, "example.com", over_tcp=over_tcp)
            assert addresses(reply) == ["192.0.2.80"]
            assert reply[:2] == struct.pack(">H", 4321)
        thread.join()
    assert (await client.status()).forwarded == 2
    assert (await asyncio.to_thread(ask, path, "example.com"))[3] & 15 == 2


def answer_upstream(udp: socket.socket, tcp: socket.socket) -> None:
    """Answer one question over each transport."""

    def respond(packet: bytes) -> bytes:
        record = b"\xc0\x0c\0\1\0\1\0\0\1\0\0\4\xc0\0\2\x50"
        return packet[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + packet[12:] + record

    packet, peer = udp.recvfrom(4096)
    udp.sendto(respond(packet), peer)
    connection, _ = tcp.accept()
    with connection, connection.makefile("rb") as file:
        reply = respond(file.read(int.from_bytes(file.read(2), "big")))
        connection.sendall(len(reply).to_bytes(2, "big") + reply)


async def test_fifty_sandboxes_see_their_own_networks_and_keep_their_sockets_over_a_feed(
    client: DNSClient, namespaces: Callable[[], str]
) -> None:
    paths = await asyncio.to_thread(lambda: [namespaces() for _ in range(50)])
    networks = {f"n{i}": {"web": (f"10.0.{i}.2",)} for i in range(50)}
    sandboxes = {f"s{i}": SandboxConfig(path, (f"n{i}",)) for i, path in enumerate(paths)}
    assert await client.feed(networks, sandboxes) == {}

    def answers() -> list[list[str]]:
        with ThreadPoolExecutor(8) as executor:
            return list(executor.map(lambda path: addresses(ask(path, "web")), paths))

    assert await asyncio.to_thread(answers) == [[f"10.0.{i}.2"] for i in range(50)]

    kept = await asyncio.to_thread(in_namespace, paths[0], socket.SOCK_STREAM)
    await client.close()
    restarted = DNSClient(client._socket_path, instance_tag="k1")
    assert await restarted.ensure_running()
    del networks["n1"]
    assert await restarted.feed(networks, {k: v for k, v in sandboxes.items() if k != "s2"}) == {}
    with kept:
        kept.sendall(struct.pack(">H", len(encode_query(1, "web", 1))) + encode_query(1, "web", 1))
        assert addresses((await asyncio.to_thread(kept.recv, 512))[2:]) == ["10.0.0.2"]
    assert (await asyncio.to_thread(ask, paths[1], "web"))[3] & 15 == 3
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(ask, paths[2], "web")
    await restarted.close()
    await client.ensure_running()


async def test_it_answers_while_nobody_feeds_it(client: DNSClient, namespaces: Callable[[], str]) -> None:
    path = namespaces()
    await client.set_network("n1", {"web": ("10.0.1.2",)})
    await client.add_sandbox("s1", path, ["n1"])
    await client.close()
    assert addresses(await asyncio.to_thread(ask, path, "web")) == ["10.0.1.2"]
    await client.ensure_running()


async def test_a_new_namespace_under_the_same_id_gets_new_sockets(client: DNSClient, namespaces: Callable[[], str]) -> None:
    first, second = namespaces(), namespaces()
    await client.set_network("n1", {"web": ("10.0.1.2",)})
    await client.add_sandbox("s1", first, ["n1"])
    await client.add_sandbox("s1", second, ["n1"])
    assert addresses(await asyncio.to_thread(ask, second, "web")) == ["10.0.1.2"]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(ask, first, "web")


async def test_lo_is_brought_up(client: DNSClient, namespaces: Callable[[], str]) -> None:
    path = namespaces()
    await asyncio.to_thread(run, "ip", "-n", Path(path).name, "link", "set", "lo", "down")
    await client.set_network("n1", {"web": ("10.0.1.2",)})
    await client.add_sandbox("s1", path, ["n1"])
    assert addresses(await asyncio.to_thread(ask, path, "web")) == ["10.0.1.2"]


async def test_a_removed_sandbox_lets_its_namespace_go(client: DNSClient, namespaces: Callable[[], str]) -> None:
    path = namespaces()
    await client.add_sandbox("s1", path, [])
    inode = os.stat(path).st_ino
    descriptors = Path(f"/proc/{client.pid}/fd")
    before = len(list(descriptors.iterdir()))
    await client.remove_sandbox("s1")
    assert len(list(descriptors.iterdir())) == before - 2
    assert os.stat(path).st_ino == inode


async def test_a_killed_process_is_replaced_and_fed_again(client: DNSClient, namespaces: Callable[[], str]) -> None:
    path = namespaces()
    networks, sandboxes = {"n1": {"web": ("10.0.1.2",)}}, {"s1": SandboxConfig(path, ("n1",))}
    await client.feed(networks, sandboxes)
    os.kill(client.pid, signal.SIGKILL)
    await asyncio.wait_for(client.wait_disconnected(), 5)
    assert await client.ensure_running()
    assert await client.feed(networks, sandboxes) == {}
    assert addresses(await asyncio.to_thread(ask, path, "web")) == ["10.0.1.2"]
