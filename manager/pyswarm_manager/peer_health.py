"""Which managers are reachable, as this manager finds: it asks each of the others about once a second how it is.

Unlike the nodes' states, which only the leader writes, this needs no leader: every manager asks for itself, also when the
quorum is lost. A peer is reachable while it says that its etcd member serves, or last said so less than `SILENCE_S` ago.

This is also how what is left of a cluster that was given up finds out: a former peer says that it belongs to a newer incarnation.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import httpx
import msgspec
import structlog

from pyswarm_common import pki
from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError, Unavailable
from pyswarm_common.objects import Cluster
from pyswarm_common.wire import HEALTH_PATH, ManagerAddress, ManagerHealth
from pyswarm_manager.store.store import Store

PERIOD_S = 1.0
TIMEOUT_S = 1.0
SILENCE_S = 2.5
"""For how long a manager that answered counts as reachable though it does not answer any more: a lost packet is no outage."""

Reachability: TypeAlias = Literal["reachable", "unreachable", "unknown"]


class AsksPeers(Protocol):
    """Puts the question to other managers: `HealthClient`."""

    async def ask(self, address: str) -> ManagerHealth:
        """Return what the manager at host:port says of itself. Raises PyswarmError."""
        ...

    async def close(self) -> None:
        """Hang up on all."""
        ...


_log = structlog.get_logger()


class PeerHealth:
    """What this manager knows of the others."""

    def __init__(
        self,
        store: Store,
        node_id: str,
        client: AsksPeers,
        clock: Clock,
        on_newer: Callable[[ManagerAddress, int], None] = lambda manager, incarnation: None,
    ) -> None:
        """`on_newer`: told of a manager of a newer incarnation of the cluster."""
        self._store = store
        self._node_id = node_id
        self._client = client
        self._clock = clock
        self._on_newer = on_newer
        self._peers: dict[str, _Peer] = {}

    def own(self) -> ManagerHealth:
        """Return what this manager answers to the others."""
        leader = self._store.leader_node_id or ""
        return ManagerHealth(
            node_id=self._node_id,
            is_serving=self._store.is_serving,
            leader_node_id=leader,
            incarnation=self._incarnation(),
        )

    def reachability(self, node_id: str) -> Reachability:
        """Return what is known of a manager; `unknown`: it was not asked yet."""
        if node_id == self._node_id:
            return "reachable" if self._store.is_serving else "unreachable"
        peer = self._peers.get(node_id)
        if peer is None or not peer.was_asked:
            return "unknown"
        is_recent = peer.serving_s is not None and self._clock.monotonic_s() - peer.serving_s < SILENCE_S
        return "reachable" if is_recent else "unreachable"

    def told_leader(self) -> str:
        """Return the node that leads, as most of the reachable managers say; "" when none of them knows.

        They say what their own etcd members know, not what they were told; a leader's word of itself decides between equals.
        """
        told: Counter[str] = Counter()
        for node_id, peer in self._peers.items():
            if peer.leader_node_id and self.reachability(node_id) == "reachable":
                told[peer.leader_node_id] += 3 if peer.leader_node_id == node_id else 2
        return max(told, key=lambda leader: (told[leader], leader), default="")

    def unreachable(self, node_ids: Iterable[str]) -> list[str]:
        """Return those of these managers that do not answer."""
        return [node_id for node_id in node_ids if self.reachability(node_id) == "unreachable"]

    async def run(self) -> None:
        """Ask all others every `PERIOD_S`, until cancelled."""
        try:
            while True:
                await self._ask_all()
        finally:
            await self._client.close()

    async def _ask_all(self) -> None:
        began_s = self._clock.monotonic_s()
        addresses = {n.id: n.manager.address for n in self._store.view.nodes if n.manager is not None and n.id != self._node_id}
        self._peers = {node_id: self._peers.get(node_id, _Peer()) for node_id in addresses}
        await asyncio.gather(*(self._ask_one(self._peers[i], ManagerAddress(node_id=i, address=a)) for i, a in addresses.items()))
        await self._clock.sleep(max(0.0, PERIOD_S - (self._clock.monotonic_s() - began_s)))

    async def _ask_one(self, peer: "_Peer", manager: ManagerAddress) -> None:
        try:
            health = await self._client.ask(manager.address)
        except PyswarmError as error:
            if peer.refusal != error.message:
                _log.info("manager.unreachable", manager=manager.address, reason=error.message)
            peer.refusal = error.message
        else:
            peer.refusal = ""
            peer.leader_node_id = health.leader_node_id
            if health.is_serving:
                peer.serving_s = self._clock.monotonic_s()
            else:
                peer.serving_s = None  # it says so itself
            if health.incarnation > self._incarnation():
                self._on_newer(manager, health.incarnation)
        peer.was_asked = True

    def _incarnation(self) -> int:
        return max((cluster.incarnation for cluster in self._store.view.table(Cluster)), default=0)


@dataclass
class _Peer:
    was_asked: bool = False
    serving_s: float | None = None
    """When it last said that it serves."""
    leader_node_id: str = ""
    """Who leads, as it last said."""
    refusal: str = ""


class HealthClient:
    """Asks managers over mutual TLS, each on a connection that is kept. `tls` gives the node's present certificate."""

    def __init__(self, tls: Callable[[], ssl.SSLContext]) -> None:
        self._tls = tls
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def ask(self, address: str) -> ManagerHealth:
        """Return what the manager at host:port says of itself. Raises Unavailable."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = httpx.AsyncClient(verify=self._tls(), timeout=TIMEOUT_S, trust_env=False)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await client.get(f"https://{address}{HEALTH_PATH}", extensions={"sni_hostname": pki.MANAGER_ROLE_NAME})
            answer.raise_for_status()
            return msgspec.json.decode(answer.content, type=ManagerHealth)
        except (httpx.HTTPError, TimeoutError, ssl.SSLError, msgspec.DecodeError) as error:
            await self._forget(address)  # the next one is made with the certificates of then
            raise Unavailable(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Hang up on all."""
        for address in list(self._clients):
            await self._forget(address)

    async def _forget(self, address: str) -> None:
        client = self._clients.pop(address, None)
        if client is not None:
            await client.aclose()
