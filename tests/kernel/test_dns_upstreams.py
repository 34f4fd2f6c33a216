"""Nameservers of a container's own are asked from its namespace, by a real pyswarm-dns."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_dns_sandboxes import addresses, ask, free_port, namespaces

from pyswarm_netplugin.dns.client import DNSClient
from pyswarm_netplugin.dns.message import encode_addresses, encode_query, parse_query
from pyswarm_netplugin.dns.sockets import _enter_namespace

pytestmark = pytest.mark.kernel
__all__ = ["namespaces"]

UPSTREAM = "127.0.0.9"


@contextlib.contextmanager
def nameserver(path: str, port: int, address: str) -> Iterator[None]:
    """Answer every question in a namespace with one address, over UDP and TCP, until the end."""

    def bound() -> tuple[socket.socket, socket.socket]:
        with open(path) as file:
            _enter_namespace(file.fileno(), path)
        datagrams, listening = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        for sock in (datagrams, listening):
            sock.bind((UPSTREAM, port))
        listening.listen()
        return datagrams, listening

    def answered(packet: bytes) -> bytes:
        return encode_addresses(parse_query(packet), [socket.inet_aton(address)], 512)

    def over_udp(sock: socket.socket) -> None:
        while packet := (received := sock.recvfrom(512))[0]:
            sock.sendto(answered(packet), received[1])

    def over_tcp(listening: socket.socket) -> None:
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rwb") as file:
                if not (length := int.from_bytes(file.read(2), "big")):
                    return
                answer = answered(file.read(length))
                file.write(len(answer).to_bytes(2, "big") + answer)

    with ThreadPoolExecutor(1) as executor:
        datagrams, listening = executor.submit(bound).result()
    threads = [threading.Thread(target=over_udp, args=(datagrams,)), threading.Thread(target=over_tcp, args=(listening,))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(_end, path, port).result()
        for thread in threads:
            thread.join(10)
        datagrams.close()
        listening.close()


def _end(path: str, port: int) -> None:
    with open(path) as file:
        _enter_namespace(file.fileno(), path)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", (UPSTREAM, port))
    with socket.create_connection((UPSTREAM, port)):
        pass


async def test_a_sandboxs_own_nameservers(namespaces: Callable[[], str], tmp_path: Path) -> None:
    port, first, second = free_port(), namespaces(), namespaces()
    (tmp_path / "resolv.conf").write_text("")
    arguments = ("--resolv-conf", str(tmp_path / "resolv.conf"), "--upstream-port", str(port))
    client = DNSClient(tmp_path / "dns.sock", instance_tag="k1", log_path=tmp_path / "log", arguments=arguments)
    await client.ensure_running()
    try:
        await client.feed({"n1": {"web": ("10.0.1.2",)}}, {})
        await client.add_sandbox("s1", first, ["n1"], (), [UPSTREAM])
        await client.add_sandbox("s2", second, ["n1"])
        with nameserver(first, port, "198.51.100.7"):
            for over_tcp in (False, True):
                assert addresses(await asyncio.to_thread(ask, first, "elsewhere.example", over_tcp=over_tcp)) == ["198.51.100.7"]
            assert addresses(await asyncio.to_thread(ask, first, "web")) == ["10.0.1.2"]
            refused = await asyncio.to_thread(ask, second, "elsewhere.example")
            assert refused[3] & 15 == 2, "the host's nameservers are those of the other one"
            await client.add_sandbox("s1", first, ["n1"])
            refused = await asyncio.to_thread(ask, first, "elsewhere.example", packet=encode_query(7, "elsewhere.example", 1))
            assert refused[3] & 15 == 2, "they are taken back"
    finally:
        await client.stop()
