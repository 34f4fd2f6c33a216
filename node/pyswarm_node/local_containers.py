"""Puts together what single containers on this node need."""

from collections.abc import Callable
from functools import partial

from pyswarm_agent.events import EventBus
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.images import ImageStore
from pyswarm_agent.local_containers.keeper import LocalContainers
from pyswarm_agent.local_containers.network import LocalBridge, open_local_driver
from pyswarm_agent.local_containers.overlay import OverlayNetworks
from pyswarm_agent.local_containers.places import ContainerPlaces
from pyswarm_agent.runtime.interface import Runtime
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.mounting import ContainerMounts
from pyswarm_common.clock import Clock
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
) -> LocalContainers:
    """Return the keeper of single containers, not running; `events` hears from now on what happens to any container."""
    runtime.on_event = events.observe_container
    network_dir = config.data_dir / "local-network"
    bridge = LocalBridge(
        partial(
            open_local_driver,
            instance_tag=config.instance_tag,
            data_dir=network_dir,
            runtime_dir=config.runtime_dir / "local-network",
        ),
        network_dir,
        runtime.get,
    )
    return LocalContainers(
        images=images,
        runtime=runtime,
        mounts=ContainerMounts(volumes),
        network=ContainerPlaces(bridge, overlays),
        health=health,
        folder=config.data_dir / "local-containers",
        clock=clock,
        events=events,
        hostname=hostname,
    )
