"""The truth about one driver's network, to be read by people and programs: what is desired, what stands, what lies between."""

from collections.abc import Callable, Mapping
from typing import Any

from pyswarm_common.errors import PyswarmError
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin import naming
from pyswarm_netplugin.audit.drift import Drift
from pyswarm_netplugin.plan import plan
from pyswarm_netplugin.published_ports.records import PortForward, PublishedPort
from pyswarm_netplugin.state import Link, State


def render_report(
    tag: str,
    desired: State,
    observed: State,
    views: Mapping[str, NetworkView],
    drifts: tuple[Drift, ...],
    warnings: tuple[str, ...],
    is_reserved: Callable[[PublishedPort], bool],
    failures: Mapping[str, PyswarmError],
) -> dict[str, Any]:
    """Return all of it in the form of the API. No keys are in it."""
    egress = desired.egress
    return {
        "Instance": tag,
        "Bridge": naming.egress_bridge(tag),
        "BridgeAddress": egress.address if egress is not None else "",
        "Plan": [operation.describe() for operation in plan(desired, observed)],
        "Failures": [{"Scope": scope, "Error": error.message} for scope, error in sorted(failures.items())],
        "Warnings": list(warnings),
        "Networks": [_network(id_, desired, observed, views.get(id_)) for id_ in sorted(desired.overlays)],
        "Sandboxes": [_sandbox(id_, desired, observed) for id_ in sorted(desired.sandboxes)],
        "Ports": [_port(forward, is_reserved(forward.port)) for forward in desired.forwards],
        "Drift": [render_drift(drift) for drift in drifts],
    }


def render_drift(drift: Drift) -> dict[str, Any]:
    """Return a drift in the form of the API."""
    return {
        "At": drift.at_ns,
        "Scope": drift.scope,
        "What": list(drift.what),
        "IsRepaired": drift.is_repaired,
        "Error": drift.error,
        "Times": drift.times,
    }


def _network(network_id: str, desired: State, observed: State, view: NetworkView | None) -> dict[str, Any]:
    wanted, seen = desired.overlays[network_id], observed.overlays.get(network_id)
    tunnel = wanted.tunnel
    return {
        "ID": network_id,
        "Name": view.name if view is not None else "",
        "Version": view.version if view is not None else 0,
        "VNI": tunnel.vni if tunnel is not None else 0,
        "Port": tunnel.port if tunnel is not None else 0,
        "LocalAddress": tunnel.local_address if tunnel is not None else "",
        "MTU": tunnel.mtu_bytes if tunnel is not None else 0,
        "IsEncrypted": bool(tunnel is not None and tunnel.is_encrypted),
        "IsSound": seen == wanted,
        "Peers": {address: peer.host for address, peer in sorted(wanted.peers.items())},
    }


def _sandbox(sandbox_id: str, desired: State, observed: State) -> dict[str, Any]:
    wanted, seen = desired.sandboxes[sandbox_id], observed.sandboxes.get(sandbox_id)
    chains = wanted.chains or {}
    return {
        "ID": sandbox_id,
        "IsSound": seen == wanted,
        "Interfaces": {name: _link(link) for name, link in wanted.links.items()},
        "VirtualIPs": {virtual_ip: list(desired.backends.get(chain, ())) for virtual_ip, chain in sorted(chains.items())},
        "MeshPorts": [f"{port}" for port in _mesh_ports(wanted)],
    }


def _mesh_ports(sandbox: object) -> list[str]:
    ports = getattr(sandbox, "mesh_ports", None)
    return [str(key) for key in ports] if isinstance(ports, Mapping) else []


def _link(link: Link) -> dict[str, Any]:
    return {
        "Network": link.network_id,
        "Address": link.address,
        "IPv6Address": link.ipv6_address,
        "Gateway": link.gateway,
        "MTU": link.mtu_bytes,
    }


def _port(forward: PortForward, is_reserved: bool) -> dict[str, Any]:
    port = forward.port
    return {
        "Published": f"{port.shown}/{port.protocol}",
        "Target": f"[{forward.address}]:{port.container_port}" if port.is_ipv6 else f"{forward.address}:{port.container_port}",
        "IsReserved": is_reserved,
    }
