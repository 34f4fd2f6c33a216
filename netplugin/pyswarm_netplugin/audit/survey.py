"""Looks around on the host for what others have that stands in our way. Blocking, on the driver's thread; only reads."""

from pyswarm_common.objects import Record
from pyswarm_netplugin import naming
from pyswarm_netplugin.audit.drift import Drift
from pyswarm_netplugin.audit.firewall import blocking
from pyswarm_netplugin.kernel.foreign import read_forward_chains, read_tunnels, read_uplink, same_tunnels
from pyswarm_netplugin.operations import overlay_scope
from pyswarm_netplugin.state import State

_NO_UPLINK = "?"


class Survey(Record, frozen=True, kw_only=True):
    """What was seen: `warnings` of firewalls, and VXLAN devices of others with one of our VNIs."""

    warnings: tuple[str, ...] = ()
    foreign: tuple[Drift, ...] = ()


def take_survey(tag: str, desired: State) -> Survey:
    """Look at the namespace of the calling thread, the host's. Raises OSError."""
    own = [chain for chain in read_forward_chains() if not chain.table.startswith("pyswarm_")]
    warnings: tuple[str, ...] = ()
    if desired.egress is not None and desired.sandboxes:
        warnings = tuple(blocking(own, naming.egress_bridge(tag), read_uplink() or _NO_UPLINK, ()))
    conflicts = same_tunnels(read_tunnels(), desired.overlays)
    foreign = tuple(
        Drift(scope=overlay_scope(network_id), what=(sentence,), is_repaired=False) for network_id, sentence in conflicts.items()
    )
    return Survey(warnings=warnings, foreign=foreign)
