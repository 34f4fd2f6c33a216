"""Tasks of services on the networks that a node has of its own: the host's, and none."""

from collections.abc import Mapping
from pathlib import Path

from pyswarm_agent.runtime.records import NetworkConfig
from pyswarm_common.objects import Record
from pyswarm_common.own_networks import HOST, NONE, id_on_node, own_network_of
from pyswarm_common.specs import TaskTemplate
from pyswarm_common.wire import TaskAssignment
from pyswarm_netplugin.published_ports.records import PublishedPort


class HostPlace(Record, frozen=True, kw_only=True):
    """The host's own network as a container's place."""

    netns_path: str | None = None
    resolv_conf: str = ""
    hosts: str = ""
    network_names: dict[str, str] = {}
    ports: tuple[PublishedPort, ...] = ()


def own_network(template: TaskTemplate) -> str:
    """Return `host` or `none` if that is where the task is to be, else "": on `bridge` it has the way out that all others have."""
    names = {own_network_of(config.target) for config in template.networks or ()}
    return next((name for name in (HOST, NONE) if name in names), "")


def network_configs(assignment: TaskAssignment, template: TaskTemplate, names: Mapping[str, str]) -> tuple[NetworkConfig, ...]:
    """Return the networks that the container is shown to be on. `names`: of overlays, by id."""
    own = own_network(template)
    if own:
        return (NetworkConfig(id=id_on_node(own), name=own, address=""),)
    return tuple(
        NetworkConfig(id=a.network_id, name=names.get(a.network_id, a.network_id), address=a.address)
        for a in assignment.attachments
    )


def host_place() -> HostPlace:
    """Return the host's own network. It reads files."""
    return HostPlace(resolv_conf=_text(Path("/etc/resolv.conf")), hosts=_text(Path("/etc/hosts")))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
