"""The routes that tell the truth about this node's network: `GET /pyswarm/network/state` and, of one way, `…/path`."""

import ipaddress
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import agent_of
from pyswarm_common.engine_api.responses import JSONResponse
from pyswarm_common.errors import InvalidArgument, NotFound, PyswarmError
from pyswarm_netplugin.audit.driver_audit import DriverAudit

router = APIRouter()


@router.get("/pyswarm/network/state")
async def show_state(request: Request) -> Response:
    """Show, for each of this node's network drivers, what is desired, what stands, and what was found by audits."""
    watch = agent_of(request).network_watch
    reports: list[dict[str, Any]] = []
    for driver, history in list(watch.drivers()):
        try:
            reports.append(await driver.report(history.kept))
        except (PyswarmError, OSError) as error:
            reports.append({"Instance": driver.tag, "Error": str(error)})
    if reports:  # what concerns the whole node stands with the first
        reports[0]["Warnings"] = [*watch.kernel_problems, *reports[0].get("Warnings", ())]
    return JSONResponse({"Instances": reports})


@router.get("/pyswarm/network/path")
async def check_path(request: Request) -> Response:
    """Check the way from a sandbox of this node to an address on one of its networks; the steps, each with how it went."""
    from pyswarm_netplugin.audit.path_check import check_here  # seldom asked

    asked = {name: request.query_params.get(name, "") for name in ("sandbox", "network", "address")}
    if not all(asked.values()):
        raise InvalidArgument("sandbox, network and address must be given")
    try:
        address = str(ipaddress.IPv4Address(asked["address"]))
    except ValueError:
        raise InvalidArgument(f"{asked['address']} is not an IPv4 address") from None
    steps = await check_here(_driver_with(request, asked["sandbox"]), asked["sandbox"], asked["network"], address)
    return JSONResponse({"Steps": [{"What": step.what, "IsOK": step.is_ok, "Detail": step.detail} for step in steps]})


def _driver_with(request: Request, sandbox_id: str) -> DriverAudit:
    for driver, _ in agent_of(request).network_watch.drivers():
        if isinstance(driver, DriverAudit) and sandbox_id in driver.desired().sandboxes:
            return driver
    raise NotFound(f"no sandbox of {sandbox_id} stands on this node")
