"""What the plan is told of the kernel when a fact was changed that no message puts right: that the thing is not there; pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from pyswarm_netplugin import naming
from pyswarm_netplugin.audit.facts import CHANGED, GONE, LINK, TABLE, Difference, LinkFact
from pyswarm_netplugin.operations import HOST_SCOPE
from pyswarm_netplugin.state import Sandbox, State, Tunnel

_UNKNOWN = "?"
_BROKEN_TUNNEL = Tunnel(vni=0, port=0, local_address="", mtu_bytes=0)


def blanked(desired: State, observed: State, found: Mapping[str, tuple[Difference, ...]], tag: str) -> State:
    """Return the observed state without the tables and tunnels that are not as they were sealed."""
    overlays, sandboxes = dict(observed.overlays), dict(observed.sandboxes)
    host: dict[str, Any] = {}
    for scope, each in found.items():
        kind, _, id_ = scope.partition(" ")
        tables = [d.key.name.partition(" ")[2] for d in each if d.key.kind == TABLE and d.how in (CHANGED, GONE)]
        if scope == HOST_SCOPE and tables:
            host |= _host(desired, observed, tables, tag)
        elif kind == "sandbox" and tables and id_ in sandboxes:
            sandboxes[id_] = without_rules(sandboxes[id_])
        elif kind == "overlay" and id_ in overlays and _has_other_tunnel(each):
            overlays[id_] = msgspec.structs.replace(overlays[id_], tunnel=_BROKEN_TUNNEL, peers={})
        elif kind == "overlay" and id_ in overlays and tables:
            overlays[id_] = msgspec.structs.replace(overlays[id_], peers={})  # they bring the tunnel's guard along
    return msgspec.structs.replace(observed, overlays=overlays, sandboxes=sandboxes, **host)


def without_rules(sandbox: Sandbox) -> Sandbox:
    """Return the sandbox with its links alone, whatever else there is to a sandbox."""
    return Sandbox(links=sandbox.links)


def _host(desired: State, observed: State, tables: list[str], tag: str) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if naming.host_table(tag) in tables and observed.egress is not None:
        changes["egress"] = msgspec.structs.replace(observed.egress, has_rules=False)
    if naming.ports_table(tag) in tables:
        changes |= {"ports_mark": _UNKNOWN, "forwards": desired.forwards}  # no port changed: UDP flows go on
    return changes


def _has_other_tunnel(each: tuple[Difference, ...]) -> bool:
    for difference in each:
        key, before, now = difference.key, difference.before, difference.now
        if key.kind == LINK and key.device == naming.OVERLAY_TUNNEL and isinstance(before, LinkFact) and isinstance(now, LinkFact):
            own = [setting for setting in before.settings if setting[0] > 0]
            if own != [setting for setting in now.settings if setting[0] > 0]:
                return True
    return False
