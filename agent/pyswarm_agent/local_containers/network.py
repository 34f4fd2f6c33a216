"""The network of local containers: the default bridge, the host's own network, none at all, or another container's.

The bridge is a netplugin of its own beside the cluster's, with another tag: nodes have it without a cluster, and leaving one does
not touch it. It is opened with the first container that needs it, so that nodes without local containers have no bridge.
"""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Protocol

import structlog

from pyswarm_agent.local_containers.records import BRIDGE, CONTAINER_PREFIX, HOST, NONE, LocalContainer, NetworkPlace
from pyswarm_agent.resolver_config import resolv_conf, with_extra_hosts
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord
from pyswarm_common.errors import Conflict, NotFound, PyswarmError
from pyswarm_netplugin.driver import NetworkDriver, Sandbox, SandboxRequest
from pyswarm_netplugin.egress import gateway_of, subnet_of
from pyswarm_netplugin.kernel.linux import LinuxKernel
from pyswarm_netplugin.no_dns import NoDNS
from pyswarm_netplugin.published_ports.allocation import PortUnavailable

POOL = "172.17.0.0/16"
HOST_GATEWAY = "host-gateway"
_RESOLVER_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))

_log = structlog.get_logger()


class LocalNetwork(Protocol):
    """Gives containers their place. `LocalBridge` is the real one."""

    async def start(self, kept: Collection[str]) -> None:
        """Take up the places of containers that still run, and remove all others."""
        ...

    async def attach(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        """Make the container's place; idempotent. Raises PyswarmError, OSError."""
        ...

    async def detach(self, container_id: str) -> None:
        """Remove the container's place, if it has one of its own."""
        ...

    def place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace | None:
        """Take up and return the place of a container that runs."""
        ...

    async def close(self) -> None:
        """Let go; the places stay."""
        ...


class LocalBridge:
    """Implements `LocalNetwork` by a network driver that `open_driver` makes. `find` looks up the containers of this node."""

    def __init__(
        self, open_driver: Callable[[], NetworkDriver], memory: Path, find: Callable[[str], ContainerRecord | None]
    ) -> None:
        self._open_driver = open_driver
        self._memory = memory
        self._find = find
        self._driver: NetworkDriver | None = None

    async def start(self, kept: Collection[str]) -> None:
        """Take up the places of containers that still run, and remove all others."""
        if self._memory.exists():
            await (await self._started()).sweep(set(kept))

    async def close(self) -> None:
        """Let go; the places stay."""
        if self._driver is not None:
            await self._driver.close()
            self._driver = None

    async def teardown(self) -> None:
        """Remove the bridge and every place."""
        await (await self._started()).teardown()
        self._driver = None

    async def attach(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        """Make the container's place; idempotent. Raises PyswarmError, OSError."""
        mode = container.network_mode
        if container.is_on_overlay:
            raise NotFound(f"network {mode} not found")
        if mode == HOST or mode.startswith(CONTAINER_PREFIX):
            return self._shared_place(container, config)
        driver = await self._started()
        request = SandboxRequest(
            id=container.id,
            hostname=config.hostname,
            is_closed=mode == NONE,
            ports=container.port_requests if mode == BRIDGE else (),
        )
        try:
            return _own_place(container, config, await driver.attach(request))
        except PortUnavailable as error:
            raise PortUnavailable(
                f"driver failed programming external connectivity on endpoint {container.name} ({container.id}): {error.message}"
            ) from error

    async def detach(self, container_id: str) -> None:
        """Remove the container's place, if it has one of its own."""
        if self._driver is not None:
            await self._driver.detach(container_id)

    def place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace | None:
        """Return the place of a container that runs."""
        sandbox = self._driver.sandbox(container.id) if self._driver is not None else None
        if sandbox is not None:
            return _own_place(container, config, sandbox)
        return NetworkPlace(
            netns_path=config.netns_path, resolv_conf=config.resolv_conf, hosts=config.hosts, hostname=config.hostname
        )

    def _shared_place(self, container: LocalContainer, config: ContainerConfig) -> NetworkPlace:
        if container.network_mode == HOST:
            hosts = with_extra_hosts(_read(Path("/etc/hosts")), extra_lines(container.extra_hosts, "127.0.0.1"))
            text = resolv_conf(_read(_RESOLVER_FILES[0]), container.dns)
            return NetworkPlace(netns_path=None, resolv_conf=text, hosts=hosts, hostname=config.hostname)
        other_id = container.network_mode.removeprefix(CONTAINER_PREFIX)
        other = self._find(other_id)
        if other is None:
            raise NotFound(f"No such container: {other_id}")
        if not other.is_live:
            raise Conflict(f"cannot join network of a non running container: {other_id}")
        theirs = other.config
        return NetworkPlace(
            netns_path=theirs.netns_path, resolv_conf=theirs.resolv_conf, hosts=theirs.hosts, hostname=theirs.hostname
        )

    async def _started(self) -> NetworkDriver:
        if self._driver is None:
            driver = self._open_driver()
            try:
                await driver.start()
            except (PyswarmError, OSError):
                await driver.close()
                raise
            self._driver = driver
        return self._driver


def open_local_driver(*, instance_tag: str, data_dir: Path, runtime_dir: Path) -> NetworkDriver:
    """Return the driver of the default bridge, not started."""
    tag = f"{instance_tag}b"
    return NetworkDriver(
        instance_tag=tag,
        data_dir=data_dir,
        runtime_dir=runtime_dir,
        data_path_address="127.0.0.1",
        egress_pool=POOL,
        dns=NoDNS(),
        make_kernel=lambda: LinuxKernel(tag, runtime_dir / "netns", joins=True),
    )


def resolvers_of(texts: Iterable[str]) -> str:
    """Return the first resolv.conf that names a server which a container can reach: none on a loopback address. Pure."""
    best = ""
    for text in texts:
        lines = [line for line in text.splitlines() if not _is_loopback_server(line.split())]
        kept = "".join(f"{line}\n" for line in lines)
        if any(line.split()[:1] == ["nameserver"] for line in lines):
            return kept
        best = best or kept
    return best


def _is_loopback_server(words: list[str]) -> bool:
    return words[:1] == ["nameserver"] and len(words) > 1 and words[1].startswith(("127.", "::1"))


def _own_place(container: LocalContainer, config: ContainerConfig, sandbox: Sandbox) -> NetworkPlace:
    gateway = gateway_of(subnet_of(sandbox.address)).partition("/")[0] if sandbox.address else ""
    return NetworkPlace(
        netns_path=sandbox.netns_path,
        resolv_conf=resolv_conf(resolvers_of(map(_read, _RESOLVER_FILES)), container.dns),
        hosts=with_extra_hosts(sandbox.hosts, extra_lines(container.extra_hosts, gateway)),
        hostname=config.hostname,
        address=sandbox.address,
        gateway=gateway,
        ports=sandbox.ports,
    )


def extra_lines(extra: Iterable[str], gateway: str) -> list[str]:
    """Return lines of /etc/hosts for `name:address` pairs; `gateway` stands for the address `host-gateway`. Pure."""
    pairs = (text.partition(":")[::2] for text in extra)
    return [f"{gateway if address == HOST_GATEWAY else address}\t{name}" for name, address in pairs]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
