"""Single containers on attachable networks of the cluster: their addresses come from the managers, one for each run.

    attach ── POST /attachments ──▶ the leader: a task without a service, with an address
      │                                    │
      └── waits for the network's view ◀── the session: the view, and the attachments that the managers have for this node

What the managers have is compared with what this node uses, whenever they say it (complete at each session's beginning). An
attachment that nothing uses, whatever cut its release short, is given back. One that is used, but that the managers gave up (the
node was away for a day, the cluster was restored), is asked for again with its address; if that is refused, its container is
taken off the network, as the address may be another's.

A container that runs needs nobody: its place is the network driver's, which keeps it on disk. So attachments are not stored here;
each container's own record names its last one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import structlog

from pyswarm_agent.container_config import SHORT_ID_LENGTH
from pyswarm_agent.local_containers.network import extra_lines
from pyswarm_agent.local_containers.records import Joined, LocalContainer, NetworkPlace, OverlayAttachment
from pyswarm_agent.persistence import until_done
from pyswarm_agent.resolver_config import resolv_conf, search_domains, with_extra_hosts
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.attachment_messages import ATTACH_PATH, DETACH_PATH, AttachAnswer, AttachRequest, DetachRequest
from pyswarm_common.clock import Clock
from pyswarm_common.errors import NotFound, PyswarmError, Unavailable
from pyswarm_common.ids import new_id
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import Assignments, NetworkView
from pyswarm_netplugin.driver import NetworkDriver, Sandbox, SandboxRequest
from pyswarm_netplugin.egress import gateway_of, subnet_of
from pyswarm_netplugin.published_ports.allocation import PortUnavailable

SANDBOX_PREFIX = "container-"
"""Begins the ids of single containers' sandboxes; those of tasks have no hyphen."""
REQUEST_TIMEOUT_S = 10.0
OPEN_LIMIT_S = 20.0
VIEW_LIMIT_S = 20.0

Ask: TypeAlias = Callable[[str, bytes, float], Awaitable[bytes]]
"""Posts a body to a path of whichever manager answers, within so many seconds. Raises what it answered, else Unavailable."""

_log = structlog.get_logger()


@dataclass(eq=False)
class _Used:
    """A container's attachment: from before it is asked for until its sandbox is gone."""

    container_id: str
    request: AttachRequest
    is_settled: bool = False
    """Whether the container has its place."""
    is_ending: bool = False

    @property
    def sandbox_id(self) -> str:
        return SANDBOX_PREFIX + self.container_id


class OverlayNetworks:
    """The cluster's networks for single containers. `serve` runs while the node works in one, which `is_member` tells."""

    def __init__(self, clock: Clock, is_member: Callable[[], bool]) -> None:
        self._clock = clock
        self._is_member = is_member
        self._driver: NetworkDriver | None = None
        self._ask: Ask | None = None
        self._is_open = asyncio.Event()
        self._used: dict[str, _Used] = {}
        self._unused: set[str] = set()
        """Attachments to give back."""
        self._lost: set[str] = set()
        """Attachments in use that the managers do not have."""
        self._has_work = asyncio.Event()
        self._was_told = asyncio.Event()
        self.on_told: Callable[[], Awaitable[None]] = _nothing
        """What to do when views may have changed, and when an attachment was taken off, by another driver."""
        self._given_up: list[tuple[str, str]] = []

    async def serve(self, driver: NetworkDriver, ask: Ask) -> None:
        """Give containers their places until cancelled; those that run keep theirs. `driver` is started."""
        self._driver, self._ask = driver, ask
        driver.auditing.remakers.append(self._told_again)
        try:
            await until_done(self._clock, ("remove what ended containers had of the network", self._sweep))
            self._is_open.set()
            while True:
                await self._has_work.wait()
                self._has_work.clear()
                steps = (
                    ("give addresses back", self._give_back),
                    ("ask for addresses again", self._ask_again),
                    ("change borrowed networks", self.on_told),
                )
                await until_done(self._clock, *steps)
        finally:
            self._is_open.clear()
            self._driver = self._ask = None

    def take(self, message: Assignments) -> None:
        """Compare what the managers have for this node with what it uses. The message's views are applied."""
        had = {task.task_id for task in message.tasks if task.attached_container_id}
        in_use = {used.request.attachment_id: used for used in self._used.values()}
        self._unused |= had - in_use.keys()
        settled = {id_ for id_, used in in_use.items() if used.is_settled and not used.is_ending}
        self._lost |= settled - had if message.is_complete else settled.intersection(message.removed_tasks)
        if self._unused or self._lost or any(key != used.container_id for key, used in self._used.items()):
            self._has_work.set()
        self._was_told.set()

    def holds(self, container_id: str) -> bool:
        """Whether the container has, or is getting, a place here."""
        return container_id in self._used

    def take_up(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        """Return the place of a container that an earlier daemon started and that runs on."""
        attachment = container.attachment
        if attachment is not None:
            request = _request(container, attachment.id, attachment.network_id, attachment.address.partition("/")[0])
            self._used[container.id] = _Used(container.id, request, is_settled=True)
        return NetworkPlace(
            netns_path=config.netns_path,
            resolv_conf=config.resolv_conf,
            hosts=config.hosts,
            hostname=config.hostname,
            address=attachment.address if attachment is not None else "",
            ports=attachment.ports if attachment is not None else (),
            attachment=attachment,
        )

    async def attach(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        """Get an address and make the container's place. What fails is undone by `detach`. Raises PyswarmError, OSError."""
        await self.detach(container.id)
        driver = await self._opened(container.network_mode)
        used = _Used(container.id, _request(container, new_id(), container.network_mode, container.address))
        self._used[container.id] = used
        answer = await self._asked(used.request)
        await wait_first(self._wait_view(driver, answer), self._clock.sleep(VIEW_LIMIT_S))
        sandbox = await self._join(driver, used, container, config, answer)
        attachment = OverlayAttachment(
            id=used.request.attachment_id,
            network_id=answer.network_id,
            network_name=answer.network_name,
            address=answer.address,
            ports=sandbox.ports,
        )
        used.request = msgspec.structs.replace(
            used.request, network=answer.network_id, address=answer.address.partition("/")[0]
        )  # what to ask for again
        used.is_settled = True
        return _place(container, config, sandbox, attachment)

    async def detach(self, container_id: str) -> None:
        """Remove the container's place, if it has one here, then give its address back. Raises Unavailable; then try again."""
        used = self._used.get(container_id)
        if used is None:
            return
        used.is_ending = True
        if self._driver is not None:  # else the next `serve` sweeps
            await self._driver.detach(used.sandbox_id)
        if self._used.get(container_id) is used:
            del self._used[container_id]
        self._unused.add(used.request.attachment_id)
        self._has_work.set()

    async def acquire(self, container: LocalContainer, join: Joined) -> OverlayAttachment:
        """Get an address for a container whose place another driver makes. Raises PyswarmError."""
        driver = await self._opened(join.network)
        asking = msgspec.structs.replace(container, aliases=join.aliases)
        used = _Used(container.id, _request(asking, new_id(), join.network, join.address))
        self._used[used.request.attachment_id] = used
        try:
            answer = await self._asked(used.request)
            await wait_first(self._wait_view(driver, answer), self._clock.sleep(VIEW_LIMIT_S))
            if answer.network_id not in driver.views():
                raise _untold(answer)
        except BaseException:
            self.release(used.request.attachment_id)
            raise
        attachment = OverlayAttachment(
            id=used.request.attachment_id,
            network_id=answer.network_id,
            network_name=answer.network_name,
            address=answer.address,
        )
        self.keep(asking, attachment)
        return attachment

    def keep(self, container: LocalContainer, attachment: OverlayAttachment) -> None:
        """Hold an address that `acquire` got, in this life of the daemon or an earlier one."""
        request = _request(container, attachment.id, attachment.network_id, attachment.address.partition("/")[0])
        self._used[attachment.id] = _Used(container.id, request, is_settled=True)

    def release(self, attachment_id: str) -> None:
        """Give an address back that `acquire` got; nothing uses it any more."""
        if self._used.pop(attachment_id, None) is not None:
            self._unused.add(attachment_id)
            self._has_work.set()

    def take_given_up(self) -> list[tuple[str, str]]:
        """Return, once, containers and networks that they must leave: the managers refused to give the address again."""
        given_up, self._given_up = self._given_up, []
        return given_up

    def acquired_by(self, container_id: str) -> frozenset[str]:
        """Return the attachments that `acquire` got for a container and that it has."""
        return frozenset(key for key, used in self._used.items() if used.container_id == container_id and key != container_id)

    def views(self) -> dict[str, NetworkView]:
        """Return the networks of the cluster that this node knows now."""
        return self._driver.views() if self._driver is not None else {}

    async def _told_again(self) -> None:
        await self.on_told()

    async def _opened(self, network: str) -> NetworkDriver:
        if not self._is_open.is_set():
            if not self._is_member():
                raise NotFound(f"network {network} not found")
            await wait_first(self._is_open.wait(), self._clock.sleep(OPEN_LIMIT_S))
        if self._driver is None or not self._is_open.is_set():
            raise Unavailable(f"network {network} is the cluster's, in which this node is not at work: see `pyswarm info`")
        return self._driver

    async def _asked(self, request: AttachRequest) -> AttachAnswer:
        network = request.network
        try:
            body = await self._post(ATTACH_PATH, request)
        except Unavailable as error:
            raise Unavailable(
                f"Could not attach to network {network}: {error.message}; it takes a manager to give the container an address"
            ) from error
        except PyswarmError as error:
            if error.status_code == NotFound.status_code:
                raise NotFound(f"network {network} not found") from error
            refusal = PyswarmError(f"Could not attach to network {network}: {error.message}")
            refusal.status_code = error.status_code
            raise refusal from error
        return msgspec.json.decode(body, type=AttachAnswer)

    async def _post(self, path: str, request: AttachRequest | DetachRequest) -> bytes:
        if self._ask is None:
            raise Unavailable("this node is not at work in its cluster")
        return await self._ask(path, msgspec.json.encode(request), REQUEST_TIMEOUT_S)

    async def _wait_view(self, driver: NetworkDriver, answer: AttachAnswer) -> None:
        while answer.network_id not in driver.views():
            self._was_told.clear()
            await self._was_told.wait()

    async def _join(
        self, driver: NetworkDriver, used: _Used, container: LocalContainer, config: ContainerConfig, answer: AttachAnswer
    ) -> Sandbox:
        try:
            return await driver.attach(
                SandboxRequest(
                    id=used.sandbox_id,
                    hostname=config.hostname,
                    attachments=(NetworkAttachment(network_id=answer.network_id, address=answer.address),),
                    ports=container.port_requests,
                    search=search_domains(container.dns),
                    nameservers=tuple(container.dns.nameservers or ()),
                )
            )
        except PortUnavailable as error:
            raise PortUnavailable(
                f"driver failed programming external connectivity on endpoint {container.name} ({container.id}): {error.message}"
            ) from error
        except NotFound as error:
            raise _untold(answer) from error

    async def _sweep(self) -> None:
        if self._driver is not None:
            kept = {used.sandbox_id for used in self._used.values()}
            for sandbox_id in sorted(self._driver.sandboxes() - kept):
                if sandbox_id.startswith(SANDBOX_PREFIX):
                    await self._driver.detach(sandbox_id)

    async def _give_back(self) -> None:
        ids = frozenset(self._unused)
        if ids:
            await self._post(DETACH_PATH, DetachRequest(attachment_ids=tuple(sorted(ids))))
            self._unused -= ids

    async def _ask_again(self) -> None:
        for used in [used for used in self._used.values() if used.request.attachment_id in self._lost]:
            try:
                await self._asked(used.request)
                _log.info("local_container.attached_again", container=used.container_id, address=used.request.address)
            except PyswarmError as error:
                if error.status_code >= 500:
                    raise
                await self._take_off(used, error)
            self._lost.discard(used.request.attachment_id)
        self._lost &= {used.request.attachment_id for used in self._used.values()}

    async def _take_off(self, used: _Used, error: PyswarmError) -> None:
        hint = (
            "the managers had given its address up while this node was away: restart the container to join it to the network again"
        )
        _log.error("local_container.taken_off_network", container=used.container_id, reason=error.message, hint=hint)
        if used.request.attachment_id in self._used:
            self._given_up.append((used.container_id, used.request.network))
            self._has_work.set()
        elif self._driver is not None and self._driver.sandbox(used.sandbox_id) is not None and not used.is_ending:
            await self._driver.attach(SandboxRequest(id=used.sandbox_id, hostname=""))


def _untold(answer: AttachAnswer) -> Unavailable:
    return Unavailable(f"Could not attach to network {answer.network_name}: the managers did not tell this node of it; try again")


def _request(container: LocalContainer, attachment_id: str, network: str, address: str) -> AttachRequest:
    names = (container.name, *container.aliases, container.id[:SHORT_ID_LENGTH])
    return AttachRequest(attachment_id=attachment_id, container_id=container.id, network=network, names=names, address=address)


async def _nothing() -> None:
    """Have nobody who borrows."""


def _place(container: LocalContainer, config: ContainerConfig, sandbox: Sandbox, attachment: OverlayAttachment) -> NetworkPlace:
    gateway = gateway_of(subnet_of(sandbox.address)).partition("/")[0] if sandbox.address else ""
    return NetworkPlace(
        netns_path=sandbox.netns_path,
        resolv_conf=resolv_conf(sandbox.resolv_conf, container.dns),
        hosts=with_extra_hosts(sandbox.hosts, extra_lines(container.extra_hosts, gateway)),
        hostname=config.hostname,
        address=attachment.address,
        ports=sandbox.ports,
        attachment=attachment,
    )
