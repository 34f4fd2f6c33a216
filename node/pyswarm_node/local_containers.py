"""Puts together what single containers on this node need."""

from collections.abc import Callable
from functools import partial

from pyswarm_agent.events import EventBus
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.images import ImageStore
from pyswarm_agent.local_containers.keeper import LocalContainers
from pyswarm_agent.local_containers.network import LocalBridge
from pyswarm_agent.local_containers.opening import host_ends, open_local_driver
from pyswarm_agent.local_containers.overlay import OverlayNetworks
from pyswarm_agent.local_containers.places import ContainerPlaces
from pyswarm_agent.node_networks.store import NodeNetworks
from pyswarm_agent.runtime.interface import Runtime
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.mounting import ContainerMounts
from pyswarm_common.clock import Clock
from pyswarm_netplugin.audit.watch import NetworkWatch
from pyswarm_netplugin.host_bridges.trunks import Trunks
from pyswarm_node.config import DaemonConfig


def new_local_containers(
    config: DaemonConfig,
    *,
    images: ImageStore,
    runtime: Runtime,
    volumes: VolumeStore,
    health: HealthMonitors,
    events: EventBus,
    clock: Clock,
    hostname: Callable[[], str],
    overlays: OverlayNetworks,
    watch: NetworkWatch,
) -> LocalContainers:
    """Return the keeper of single containers, not running; `events` hears from now on what happens to any container."""
    runtime.on_event = events.observe_container
    network_dir, runtime_dir = config.data_dir / "local-network", config.runtime_dir / "local-network"
    networks = NodeNetworks(config.data_dir / "node-networks")
    bridge = LocalBridge(
        partial(
            open_local_driver,
            instance_tag=config.instance_tag,
            data_dir=network_dir,
            runtime_dir=runtime_dir,
            dns_socket=config.runtime_dir / "local-dns.sock",
            watch=watch,
        ),
        network_dir,
        runtime.get,
        networks,
        host_ends(config.instance_tag, runtime_dir),
        clusters=overlays.views,
        trunks=Trunks(runtime_dir / "netns", config.runtime_dir / "netns"),
    )
    return LocalContainers(
        images=images,
        runtime=runtime,
        mounts=ContainerMounts(volumes),
        network=ContainerPlaces(bridge, overlays, networks),
        networks=networks,
        health=health,
        folder=config.data_dir / "local-containers",
        clock=clock,
        events=events,
        hostname=hostname,
    )
