"""Questions go from one nameserver to the next and always come back with an answer."""

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyswarm_netplugin.dns import forwarder as forwarder_module
from pyswarm_netplugin.dns.event_loop import EventLoop
from pyswarm_netplugin.dns.forwarder import Forwarder, Nameservers, parse_nameservers
from pyswarm_netplugin.dns.framing import DNS_LENGTH, FramedConnection
from pyswarm_netplugin.dns.message import NOERROR, REFUSED, SERVFAIL, encode_empty, encode_query, parse_query

PACKET = encode_query(77, "example.com", 1)
QUERY = parse_query(PACKET)


class Upstream:
    """A nameserver on loopback, UDP and TCP, that answers what `respond` returns (None: nothing)."""

    def __init__(self, loop: EventLoop, respond: Callable[[bytes], bytes | None]) -> None:
        self.loop, self.respond, self.asked = loop, respond, 0
        self.udp, self.tcp = one_port_for_both()
        self.address: tuple[str, int] = self.udp.getsockname()
        self.connections: list[FramedConnection] = []
        loop.watch(self.udp.fileno(), self.datagram)
        loop.watch(self.tcp.fileno(), self.accept)

    def datagram(self) -> None:
        packet, peer = self.udp.recvfrom(4096)
        self.asked += 1
        reply = self.respond(packet)
        if reply is not None:
            self.udp.sendto(reply, peer)

    def accept(self) -> None:
        sock, _ = self.tcp.accept()
        self.connections.append(
            FramedConnection(
                self.loop, sock, DNS_LENGTH, max_message_bytes=65535, on_message=self.message, on_closed=lambda _: None
            )
        )

    def message(self, connection: FramedConnection, packet: bytes) -> None:
        reply = self.respond(packet)
        if reply is not None:
            connection.send(reply)
        else:
            connection.close()

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        self.udp.close()
        self.tcp.close()


def one_port_for_both() -> tuple[socket.socket, socket.socket]:
    """Return sockets for UDP and TCP on a port that was free for both."""
    while True:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError as error:
            udp.close()
            tcp.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return udp, tcp


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture
def upstream(loop: EventLoop) -> Iterator[Callable[..., Upstream]]:
    made: list[Upstream] = []

    def make(respond: Callable[[bytes], bytes | None]) -> Upstream:
        made.append(Upstream(loop, respond))
        return made[-1]

    yield make
    for each in made:
        each.close()


def empty(rcode: int) -> Callable[[bytes], bytes]:
    return lambda packet: encode_empty(parse_query(packet), rcode)


def ask(loop: EventLoop, *servers: tuple[str, int], over_tcp: bool = False) -> bytes:
    answers: list[bytes] = []

    def reply(packet: bytes) -> None:
        answers.append(packet)
        loop.stop()

    forwarder = Forwarder(loop, lambda: servers)
    # From within the loop, as the server does, so that an answer given at once stops it too.
    loop.call_later(0, lambda: forwarder.forward("s", QUERY, PACKET, reply, over_tcp=over_tcp))
    loop.run()
    assert not forwarder._under_way
    assert not forwarder._count_of_sandbox
    assert len(answers) == 1
    assert answers[0][:2] == PACKET[:2]
    return answers[0]


def refused_address() -> tuple[str, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address: tuple[str, int] = sock.getsockname()
        return address


@pytest.mark.parametrize("over_tcp", [False, True])
def test_the_answer_comes_back_under_the_clients_id(loop: EventLoop, upstream: Callable[..., Upstream], over_tcp: bool) -> None:
    server = upstream(empty(NOERROR))
    assert ask(loop, server.address, over_tcp=over_tcp)[3] & 15 == NOERROR


@pytest.mark.parametrize("over_tcp", [False, True])
def test_a_server_that_refuses_connections_is_passed_over_at_once(
    loop: EventLoop, upstream: Callable[..., Upstream], over_tcp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder_module, "TRY_TIMEOUT_S", 3600.0)
    server = upstream(empty(NOERROR))
    assert ask(loop, refused_address(), server.address, over_tcp=over_tcp)[3] & 15 == NOERROR
    assert ask(loop, refused_address(), over_tcp=over_tcp)[3] & 15 == SERVFAIL


def test_a_server_that_fails_is_passed_over_and_its_refusal_kept(loop: EventLoop, upstream: Callable[..., Upstream]) -> None:
    refusing = upstream(empty(REFUSED))
    assert ask(loop, refusing.address, upstream(empty(NOERROR)).address)[3] & 15 == NOERROR
    assert ask(loop, refusing.address)[3] & 15 == REFUSED


def test_silence_ends_in_servfail(loop: EventLoop, upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "TRY_TIMEOUT_S", 0.02)
    silent = upstream(lambda _: None)
    assert ask(loop, silent.address)[3] & 15 == SERVFAIL
    assert silent.asked == forwarder_module.MAX_TRIES


def test_a_closed_connection_ends_in_servfail(loop: EventLoop, upstream: Callable[..., Upstream]) -> None:
    assert ask(loop, upstream(lambda _: None).address, over_tcp=True)[3] & 15 == SERVFAIL


def test_forged_answers_are_ignored(loop: EventLoop, upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "TRY_TIMEOUT_S", 0.02)

    def forge(packet: bytes) -> bytes:
        return struct.pack(">H", (packet[0] << 8 | packet[1]) ^ 1) + encode_empty(parse_query(packet), NOERROR)[2:]

    assert ask(loop, upstream(forge).address)[3] & 15 == SERVFAIL


def test_without_nameservers_the_answer_is_servfail_at_once(loop: EventLoop) -> None:
    assert ask(loop)[3] & 15 == SERVFAIL


def test_one_sandbox_cannot_take_all_forwards(loop: EventLoop, upstream: Callable[..., Upstream]) -> None:
    silent = upstream(lambda _: None)
    forwarder = Forwarder(loop, lambda: (silent.address,))
    refused: list[bytes] = []
    for _ in range(forwarder_module.MAX_FORWARDS_PER_SANDBOX + 3):
        forwarder.forward("greedy", QUERY, PACKET, refused.append, over_tcp=False)
    assert len(refused) == 3
    forwarder.forward("modest", QUERY, PACKET, refused.append, over_tcp=False)
    assert len(refused) == 3
    for forward in list(forwarder._under_way):
        forward._drop()


def test_resolv_conf_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    nameservers = Nameservers(path)
    assert nameservers.addresses() == ()
    path.write_text("# comment\nsearch x.y\nnameserver 192.0.2.1\n nameserver\t192.0.2.2 # two\nnameserver\n")
    assert nameservers.addresses() == (("192.0.2.1", 53), ("192.0.2.2", 53))
    (tmp_path / "new").write_text("nameserver fe80::1%eth0\n")
    (tmp_path / "new").rename(path)
    assert nameservers.addresses() == (("fe80::1%eth0", 53),)
    path.unlink()
    assert nameservers.addresses() == ()
    assert parse_nameservers("") == []
