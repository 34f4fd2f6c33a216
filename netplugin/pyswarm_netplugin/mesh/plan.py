"""Plans a sandbox's part in the routing mesh; pure."""

from collections.abc import Iterator, Mapping

from pyswarm_netplugin import operations as op
from pyswarm_netplugin.mesh.records import MeshBalancer
from pyswarm_netplugin.state import Sandbox


def mesh_operations(
    sandbox_id: str, wanted: Sandbox, seen: Sandbox, balancers: Mapping[str, MeshBalancer]
) -> Iterator[op.Operation]:
    """Return what makes the mesh ports and return routes of a sandbox as wanted, after its links were."""
    if wanted.returns is not None:
        yield from _returns(sandbox_id, wanted, seen)
    elif seen.returns is not None:
        yield op.RemoveReturns(sandbox_id=sandbox_id, gateways=tuple(seen.returns.gateways))
    if wanted.mesh_ports is not None and wanted.mesh_ports is not seen.mesh_ports:
        change = _mesh_change(wanted.mesh_ports, seen.mesh_ports, balancers)
        if change.is_first or change.put or change.drop:
            yield op.ChangeMeshPorts(sandbox_id=sandbox_id, change=change)


def _returns(sandbox_id: str, wanted: Sandbox, seen: Sandbox) -> Iterator[op.Operation]:
    goal, there = wanted.returns, seen.returns
    if goal is None:
        return
    link, link_seen = wanted.links.get(goal.interface), seen.links.get(goal.interface)
    is_relinked = link is not None and (link_seen is None or not link_seen.can_become(link))
    is_first = there is None or is_relinked or (there.interface, there.datagram_address) != (goal.interface, goal.datagram_address)
    before = there.gateways if there is not None else {}
    if not is_first and (before is goal.gateways or before == goal.gateways):
        return
    add = tuple(gateway for gateway, mac in goal.gateways.items() if is_first or before.get(gateway) != mac)
    remove = tuple(gateway for gateway in before if gateway not in goal.gateways)
    yield op.ChangeReturns(sandbox_id=sandbox_id, is_first=is_first, returns=goal, add=add, remove=remove)


def _mesh_change(wanted: Mapping[str, str], seen: Mapping[str, str] | None, balancers: Mapping[str, MeshBalancer]) -> op.MeshChange:
    before = seen or {}
    changed = [port for port, chain in wanted.items() if before.get(port) != chain]
    drop = tuple(port for port in before if port not in wanted)
    return op.MeshChange(
        is_first=seen is None,
        put=tuple((wanted[port], balancers[wanted[port]]) for port in changed),
        drop=drop,
        old_chains=tuple((port, before[port]) for port in (*changed, *drop) if port in before),
    )
