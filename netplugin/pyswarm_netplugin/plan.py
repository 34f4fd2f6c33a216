"""From what should be and what is to what must be done: ordered, idempotent operations; pure.

The order is the design. Strays go first, because their names and addresses may be needed again. Then what a failing host would
miss least comes down before what replaces it goes up:

1. links and sandboxes that nobody wants, so that no packet leaves them any more;
2. tunnels with wrong settings, overlays that nobody wants (a VNI is free again before another overlay asks for it);
3. encryption; overlays, tunnels and peers; the way out; then sandboxes, their links, their rules. A sandbox's links need their
   overlays;
4. published ports, which lead to sandboxes that stand.

A link is observed only when it is whole (both ends, bridge and address), so a half-made one is taken away and made anew. What can
change while packets flow (MTU, routes, IPv6 addresses) is changed in place. Mappings are compared by identity first: a driver that
knows its last desired state pays nothing for the thousands of entries that did not change, and sandboxes with the same rules before
and after share one `Balance`.
"""

from collections.abc import Iterator, Mapping

import msgspec

from pyswarm_netplugin import operations as op
from pyswarm_netplugin.mesh.plan import mesh_operations
from pyswarm_netplugin.naming import is_ipv6
from pyswarm_netplugin.secure.plan import secure_changes, secure_removals
from pyswarm_netplugin.state import Link, Overlay, Peer, Sandbox, State, Stray, Tunnel, same

_NO_OVERLAY = Overlay()
_NO_SANDBOX = Sandbox()


def plan(desired: State, observed: State) -> tuple[op.Operation, ...]:
    """Return the operations that make `desired` of `observed`; none when they are equal."""
    return (
        *(op.RemoveStray(stray=stray) for stray in sorted(observed.strays, key=_stray_order)),
        *_removals(desired, observed),
        *secure_removals(desired.secure, observed.secure),
        *secure_changes(desired.secure, observed.secure, desired.secure_keys),
        *_overlays(desired, observed),
        *([op.MakeEgress(egress=desired.egress)] if desired.egress and desired.egress != observed.egress else []),
        *_sandboxes(desired, observed),
        *_ports(desired, observed),
    )


def describe(operations: tuple[op.Operation, ...]) -> str:
    """Return the plan as text, one line for each operation."""
    return "".join(f"{operation.describe()}\n" for operation in operations)


def _stray_order(stray: Stray) -> tuple[str, str]:
    return stray.kind, stray.name


def _removals(desired: State, observed: State) -> Iterator[op.Operation]:
    for sandbox_id, sandbox in observed.sandboxes.items():
        wanted = desired.sandboxes.get(sandbox_id)
        if wanted is None:
            yield op.RemoveSandbox(sandbox_id=sandbox_id)
        elif wanted is not sandbox and not same(wanted.links, sandbox.links):
            for interface, link in sandbox.links.items():
                if not _can_stay(link, wanted.links.get(interface)):
                    yield op.Disconnect(sandbox_id=sandbox_id, interface=interface)
    for network_id, overlay in observed.overlays.items():
        wanted_overlay = desired.overlays.get(network_id)
        if wanted_overlay is None:
            yield op.RemoveOverlay(network_id=network_id)
        elif overlay.tunnel is not None and not (overlay.has_bridge and _is_same_but_size(overlay.tunnel, wanted_overlay.tunnel)):
            yield op.RemoveTunnel(network_id=network_id)
    if desired.egress is None and observed.egress is not None:
        yield op.RemoveEgress()


def _overlays(desired: State, observed: State) -> Iterator[op.Operation]:
    for network_id, wanted in desired.overlays.items():
        seen = observed.overlays.get(network_id, _NO_OVERLAY)
        peers = seen.peers
        if not seen.has_bridge:
            yield op.MakeOverlay(network_id=network_id)
        if wanted.tunnel is not None and not (seen.has_bridge and _is_same_but_size(seen.tunnel, wanted.tunnel)):
            yield op.MakeTunnel(network_id=network_id, tunnel=wanted.tunnel)
            peers = {}
        elif wanted.tunnel is not None and wanted.tunnel != seen.tunnel:
            yield op.ResizeTunnel(network_id=network_id, mtu_bytes=wanted.tunnel.mtu_bytes)
        if not same(wanted.peers, peers):
            add = {address: peer for address, peer in wanted.peers.items() if peers.get(address) != peer}
            remove = {address: peer for address, peer in peers.items() if _is_another(peer, wanted.peers.get(address))}
            yield op.ChangePeers(network_id=network_id, add=add, remove=remove)


def _sandboxes(desired: State, observed: State) -> Iterator[op.Operation]:
    balances: dict[tuple[int, int], op.Balance | None] = {}
    for sandbox_id, wanted in desired.sandboxes.items():
        seen = observed.sandboxes.get(sandbox_id)
        if seen is wanted:
            continue
        if seen is None:
            yield op.MakeSandbox(sandbox_id=sandbox_id)
            seen = _NO_SANDBOX
        if not same(wanted.links, seen.links):
            for interface, link in wanted.links.items():
                there = seen.links.get(interface)
                before = there.as_wanted(link) if there is not None else None
                if before is None or not before.can_become(link):
                    yield op.Connect(sandbox_id=sandbox_id, interface=interface, link=link)
                elif before != link:
                    yield op.AdjustLink(sandbox_id=sandbox_id, interface=interface, before=before, link=link)
        key = (id(wanted.chains), id(seen.chains))
        if key not in balances:
            balances[key] = _balance(wanted.chains, seen.chains, desired.backends)
        if balance := balances[key]:
            yield op.ChangeBalancing(sandbox_id=sandbox_id, balance=balance)
        yield from mesh_operations(sandbox_id, wanted, seen, desired.mesh_balancers)


def _can_stay(link: Link, wanted: Link | None) -> bool:
    return wanted is not None and link.as_wanted(wanted).can_become(wanted)


def _is_same_but_size(tunnel: Tunnel | None, wanted: Tunnel | None) -> bool:
    if tunnel is None or wanted is None:
        return tunnel is wanted
    return msgspec.structs.replace(tunnel, mtu_bytes=wanted.mtu_bytes) == wanted


def _is_another(peer: Peer, wanted: Peer | None) -> bool:
    return wanted is None or (peer.mac, peer.ipv6_address) != (wanted.mac, wanted.ipv6_address)


def _ports(desired: State, observed: State) -> Iterator[op.Operation]:
    if desired.ports_mark != observed.ports_mark:
        changed = {forward.port for forward in set(desired.forwards) ^ set(observed.forwards)}
        in_order = sorted(changed, key=lambda port: (port.protocol, port.host_port, port.host_address))
        yield op.PublishPorts(forwards=desired.forwards, changed=tuple(in_order))


def _balance(
    wanted: Mapping[str, str] | None, seen: Mapping[str, str] | None, backends: Mapping[str, tuple[str, ...]]
) -> op.Balance | None:
    if wanted is None or (seen is not None and same(wanted, seen)):
        return None
    before = seen or {}
    changed = [virtual_ip for virtual_ip, chain in wanted.items() if before.get(virtual_ip) != chain]
    drop = tuple(virtual_ip for virtual_ip in before if virtual_ip not in wanted)
    return op.Balance(
        is_first=seen is None,
        is_first_ipv6=any(map(is_ipv6, wanted)) and not any(map(is_ipv6, before)),
        put=tuple((virtual_ip, wanted[virtual_ip], backends[wanted[virtual_ip]]) for virtual_ip in changed),
        drop=drop,
        old_chains=tuple((virtual_ip, before[virtual_ip]) for virtual_ip in (*changed, *drop) if virtual_ip in before),
    )
