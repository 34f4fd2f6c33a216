"""Checks one node's part of the way between two containers, step by step, up to real packets that go and return."""

import asyncio
from functools import partial

from pyswarm_common.objects import Record
from pyswarm_netplugin import naming
from pyswarm_netplugin.audit.driver_audit import DriverAudit
from pyswarm_netplugin.audit.probe import SMALL_BYTES, Echo, echo_from
from pyswarm_netplugin.state import Link


class Step(Record, frozen=True, kw_only=True):
    """One step of the way: what was looked at, whether it is right, and what was seen."""

    what: str
    is_ok: bool
    detail: str = ""


async def check_here(driver: DriverAudit, sandbox_id: str, network_id: str, address: str) -> list[Step]:
    """Return the steps from a sandbox that stands to another's address on a network; after a first failure there may be fewer.

    Raises OSError.
    """
    desired = driver.desired()
    link = next((each for each in desired.sandboxes[sandbox_id].links.values() if each.network_id == network_id), None)
    view = driver.views().get(network_id)
    if link is None or view is None:
        return [Step(what="this node has the network and the sandbox is on it", is_ok=False, detail=f"network {network_id}")]
    own = naming.address_of(link.address)
    steps = [Step(what="the sandbox is on the network", is_ok=True, detail=f"{link.address}, MTU {link.mtu_bytes}")]
    known = {naming.address_of(endpoint.address): endpoint for endpoint in view.endpoints.values()}
    overlay = desired.overlays[network_id]
    host = overlay.peers[address].host if address in overlay.peers else "this node"
    missing = [each for each in (own, address) if each not in known]
    steps.append(
        Step(
            what="this node knows both containers",
            is_ok=not missing,
            detail=f"view {view.version}: " + (f"without {', '.join(missing)}" if missing else f"{address} is on {host}"),
        )
    )
    plan = await driver.overlay_plan(network_id, sandbox_id)
    tunnel = overlay.tunnel
    through = f"VNI {tunnel.vni} from {tunnel.local_address} port {tunnel.port}" if tunnel is not None else "no tunnel"
    steps.append(
        Step(what="links, tunnel, forwarding and neighbour entries are in order", is_ok=not plan, detail="; ".join(plan) or through)
    )
    return [*steps, *await _probes(driver, sandbox_id, link, address)]


async def _probes(driver: DriverAudit, sandbox_id: str, link: Link, address: str) -> list[Step]:
    path = str(driver.netns_directory / (naming.SANDBOX_PREFIX + sandbox_id))
    sizes = (SMALL_BYTES, link.mtu_bytes)
    echoes = await asyncio.get_running_loop().run_in_executor(None, partial(echo_from, path, address, sizes))
    return [_step(echo, address) for echo in echoes]


def _step(echo: Echo, address: str) -> Step:
    what = f"a packet of {echo.size_bytes} bytes goes to {address} and returns"
    return Step(what=what, is_ok=not echo.error, detail=echo.error or f"{echo.took_ms:.2f} ms")
