"""What a manager knows of the others: by the words of peers in memory, and over real TLS."""

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pyswarm_common import pki
from pyswarm_common.clock import ManualClock
from pyswarm_common.engine_api.responses import JSONResponse
from pyswarm_common.errors import Unavailable
from pyswarm_common.objects import ManagerStatus, Node
from pyswarm_common.wire import HEALTH_PATH, ManagerHealth
from pyswarm_manager.peer_health import SILENCE_S, HealthClient, PeerHealth
from pyswarm_manager.store.memory import MemoryCluster, memory_store
from pyswarm_node.http_protocol import peer_certificate
from pyswarm_node.serving import bind_tcp, serve


class Peers:
    """Managers in memory, whose addresses are their names: those in `down` do not answer, those in `idle` do not serve.

    `leaders`: whom they name as leader.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down: set[str] = set()
        self.idle: set[str] = set()
        self.leaders: dict[str, str] = {}

    async def ask(self, address: str) -> ManagerHealth:
        self.asked.append(address)
        if address in self.down:
            raise Unavailable("refused")
        leader = self.leaders.get(address, "")
        return ManagerHealth(node_id=address, is_serving=address not in self.idle, leader_node_id=leader)

    async def close(self) -> None:
        self.asked.append("close")


class Bench:
    """A manager `m1` with peers m2 and m3, that answer what the test says."""

    def __init__(self, clock: ManualClock, health: PeerHealth, peers: Peers) -> None:
        self.clock = clock
        self.health = health
        self.peers = peers

    def shown(self) -> dict[str, str]:
        return {node_id: self.health.reachability(node_id) for node_id in ("m1", "m2", "m3")}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock, cluster = ManualClock(), MemoryCluster()
    peers = Peers()
    async with memory_store(clock, cluster, "m1") as store:
        for node_id in ("m1", "m2", "m3"):
            node = Node(id=node_id, role="manager", manager=ManagerStatus(address=node_id))
            await store.update(lambda tx, node=node: tx.create(node))  # type: ignore[misc]
        await store.update(lambda tx: tx.create(Node(id="w1")))
        yield Bench(clock, PeerHealth(store, "m1", peers, clock), peers)


@contextlib.asynccontextmanager
async def running(health: PeerHealth) -> AsyncIterator[None]:
    task = asyncio.ensure_future(health.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_manager_that_was_not_asked_yet_is_unknown(bench: Bench) -> None:
    assert bench.shown() == {"m1": "reachable", "m2": "unknown", "m3": "unknown"}
    assert bench.health.reachability("w1") == "unknown"


async def test_each_other_manager_is_asked_once_a_second(bench: Bench) -> None:
    async with running(bench.health):
        await bench.clock.advance(3.5)
    assert sorted(bench.peers.asked) == ["close"] + ["m2"] * 4 + ["m3"] * 4


async def test_a_manager_that_falls_silent_becomes_unreachable_after_a_while_and_reachable_at_its_next_word(bench: Bench) -> None:
    async with running(bench.health):
        await bench.clock.advance(0.1)
        bench.peers.down.add("m3")
        await bench.clock.advance(1.5)
        assert bench.shown()["m3"] == "reachable"
        await bench.clock.advance(SILENCE_S - 1.0)
        assert bench.shown() == {"m1": "reachable", "m2": "reachable", "m3": "unreachable"}
        bench.peers.down.clear()
        await bench.clock.advance(1.0)
        assert bench.shown()["m3"] == "reachable"


async def test_a_manager_that_never_answered_is_unreachable(bench: Bench) -> None:
    bench.peers.down.add("m2")
    async with running(bench.health):
        await bench.clock.advance(0.1)
        assert bench.shown()["m2"] == "unreachable"


async def test_a_manager_whose_member_does_not_serve_is_unreachable_at_once(bench: Bench) -> None:
    async with running(bench.health):
        await bench.clock.advance(0.1)
        bench.peers.idle.add("m2")
        await bench.clock.advance(1.0)
        assert bench.shown() == {"m1": "reachable", "m2": "unreachable", "m3": "reachable"}


async def test_what_it_says_of_itself(bench: Bench) -> None:
    assert bench.health.own() == ManagerHealth(node_id="m1", is_serving=True, leader_node_id="m1")


class Port:
    """A node port over real TLS that answers health questions of those who show a certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        now = datetime.datetime.now(datetime.UTC)
        root, root_key = pki.new_root(now)
        key = pki.new_private_key_pem()
        identity = pki.NodeIdentity(node_id="m2", role="manager", cluster_id="c1")
        certificate = pki.sign_node_certificate(root, root_key, pki.new_signing_request(key), identity, ("127.0.0.1",), now)
        for name, pem in (("root.pem", root), ("node.pem", certificate), ("node.key", key)):
            (folder / name).write_text(pem)
        self.connections: set[tuple[str, int]] = set()
        self.answers = 0
        self.app = Starlette(routes=[Route(HEALTH_PATH, self._answer)])

    def server_tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "node.pem", self.folder / "node.key")
        context.load_verify_locations(self.folder / "root.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client_tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "root.pem"))
        context.load_cert_chain(self.folder / "node.pem", self.folder / "node.key")
        return context

    async def _answer(self, request: Request) -> Response:
        certificate = peer_certificate(request.scope)
        assert request.client is not None
        self.connections.add((request.client.host, request.client.port))
        self.answers += 1
        if certificate is None or pki.identity_of(certificate).role != "manager":
            return Response(status_code=403)
        return JSONResponse(ManagerHealth(node_id="m2", is_serving=True, leader_node_id="m3"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def serving(port: Port, address: str) -> AsyncIterator[None]:
    with bind_tcp(address) as listener:
        task = asyncio.ensure_future(serve(port.app, [listener], port.server_tls()))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_peers_are_asked_over_mutual_tls_on_one_connection(tmp_path: Path) -> None:
    port, address = Port(tmp_path), f"127.0.0.1:{free_port()}"
    client = HealthClient(port.client_tls)
    async with serving(port, address):
        for _ in range(3):
            assert await client.ask(address) == ManagerHealth(node_id="m2", is_serving=True, leader_node_id="m3")
        assert (port.answers, len(port.connections)) == (3, 1)
        await client.close()


async def test_a_peer_that_came_back_is_asked_with_the_certificates_of_then(tmp_path: Path) -> None:
    port, address = Port(tmp_path), f"127.0.0.1:{free_port()}"
    made: list[int] = []

    def tls() -> ssl.SSLContext:
        made.append(1)
        return port.client_tls()

    client = HealthClient(tls)
    with pytest.raises(Unavailable):
        await client.ask(address)
    async with serving(port, address):
        assert (await client.ask(address)).is_serving
        assert len(made) == 2
        await client.close()


async def test_the_leader_is_the_one_that_most_reachable_managers_name(bench: Bench) -> None:
    assert bench.health.told_leader() == ""
    async with running(bench.health):
        await bench.clock.advance(0.1)
        assert bench.health.told_leader() == "", "they know of none"
        bench.peers.leaders = {"m2": "m3"}
        await bench.clock.advance(1.0)
        assert bench.health.told_leader() == "m3"
        bench.peers.leaders = {"m2": "m1", "m3": "m3"}
        await bench.clock.advance(1.0)
        assert bench.health.told_leader() == "m3", "its own word counts more"
        bench.peers.down = {"m3"}
        await bench.clock.advance(SILENCE_S + 1)
        assert bench.health.told_leader() == "m1", "who does not answer any more has no voice"
        bench.peers.idle = {"m2"}
        await bench.clock.advance(1.0)
        assert bench.health.told_leader() == ""
