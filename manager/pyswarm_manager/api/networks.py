"""The routes of networks: list, inspect, create, remove. All are overlays of the whole swarm."""

import ipaddress
from functools import partial
from typing import NoReturn

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.amounts import parse_duration_ns
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.member_names import with_canonical_names
from pyswarm_common.engine_api.responses import JSONResponse, parse_time_ns, query_flag, read_json_object
from pyswarm_common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Network
from pyswarm_common.own_networks import id_in_swarm, own_network_of
from pyswarm_common.specs import NetworkSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.mesh_ports import ingress_network
from pyswarm_manager.api.manager_services import read_view, services_of
from pyswarm_manager.api.network_pools import subnets_of
from pyswarm_manager.api.network_spec import parse_network, warning_about
from pyswarm_manager.api.render.network import render_network, render_network_details, render_own_network
from pyswarm_manager.store.tables import View
from pyswarm_manager.store.transaction import Transaction

router = APIRouter()

_FILTERS = ("driver", "id", "label", "name", "scope", "type", "dangling")


@router.get("/networks")
async def list_networks(request: Request) -> Response:
    """List networks."""
    filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
    view = await read_view(services_of(request))
    return JSONResponse([render_network(network) for network in view.networks if _matches(network, filters, view)])


@router.get("/networks/{reference}")
async def inspect_network(request: Request, reference: str) -> Response:
    """Show one network with its members; with `verbose` also its services."""
    manager = services_of(request)
    view = await read_view(manager)
    if request.query_params.get("scope", "swarm") not in ("", "swarm"):
        raise NotFound(f"network {reference} not found")
    own = own_network_of(reference)
    if own and (reference == id_in_swarm(own) or (reference == own and request.query_params.get("scope") == "swarm")):
        return JSONResponse(render_own_network(own, view))
    network = view.networks.resolve(reference)
    return JSONResponse(
        render_network_details(network, view, is_verbose=query_flag(request, "verbose"), own_node_id=manager.store.node_id)
    )


@router.post("/networks/create")
async def create_network(request: Request) -> Response:
    """Create an overlay network."""
    manager = services_of(request)
    body = with_canonical_names(await read_json_object(request), NetworkSpec)
    spec = parse_network(body)
    network = Network(id=new_id(), name=spec.name, spec_json=msgspec.json.encode(body))
    await manager.store.update(lambda tx: add_network(tx, network))
    return JSONResponse({"Id": network.id, "Warning": warning_about(spec)}, status_code=201)


@router.delete("/networks/{reference}")
async def delete_network(request: Request, reference: str) -> Response:
    """Remove a network that nothing uses."""
    manager = services_of(request)
    network = (await read_view(manager)).networks.resolve(reference)
    await manager.store.update(partial(remove_network, network_id=network.id))
    return Response(status_code=204)


@router.post("/networks/prune")
async def prune_networks(request: Request) -> Response:
    """Remove the networks that nothing uses, but the ingress network, which goes only when it is named."""
    manager = services_of(request)
    filters = Filters.parse(request.query_params.get("filters"), ("label", "label!", "until"))
    until_ns = _until_ns(filters, manager.clock.now_ns())
    removed = []
    for network in list((await read_view(manager)).networks):
        if network.spec.ingress or network.created_at_ns >= until_ns or not _may_prune(filters, network.spec.labels or {}):
            continue
        try:
            await manager.store.update(partial(remove_network, network_id=network.id))
        except (FailedPrecondition, NotFound):
            continue
        removed.append(network.name)
    return JSONResponse({"NetworksDeleted": removed or None})


def add_network(tx: Transaction, network: Network) -> None:
    """Store a network; the allocator gives it a VNI and a subnet. Raises AlreadyExists, InvalidArgument."""
    if tx.networks.named(network.name):
        raise AlreadyExists(f"network with name {network.name} already exists")
    present = ingress_network(tx) if network.spec.ingress else None
    if present is not None:
        raise AlreadyExists(f"ingress network ({present.id}) is already present", grpc_code="AlreadyExists")
    for subnet in subnets_of(network.spec):
        for other in tx.networks:
            taken = [ipaddress.ip_network(text) for text in (other.subnet, *other.further_subnets, other.ipv6_subnet) if text]
            if any(subnet.version == one.version and subnet.overlaps(one) for one in taken or subnets_of(other.spec)):
                raise InvalidArgument(
                    f"invalid network config: subnet {subnet} overlaps with network {other.name}: "
                    "Pool overlaps with other one on this address space"
                )
    tx.create(network)


def remove_network(tx: Transaction, network_id: str) -> None:
    """Delete a network. Raises NotFound, and FailedPrecondition when a service or a task that still runs is on it."""
    is_ingress = tx.networks.must_get(network_id).spec.ingress
    for service in tx.services:
        if is_ingress and service.spec.publishes_in_mesh:
            reason = f"ingress network cannot be removed because service {service.id} depends on it"
            raise FailedPrecondition(reason, grpc_code="FailedPrecondition")
        template = tx.task_specs.must_get(service.task_spec_id).template
        if any(attached.target == network_id for attached in template.networks or ()):
            _refuse_removal(network_id, f"service {service.id}")
    for task in tx.tasks.of_network(network_id):
        is_wanted = not task.service_id or task.service_id in tx.services
        if is_wanted and task.desired_state <= TaskState.RUNNING and not task.is_terminal:
            _refuse_removal(network_id, f"task {task.id}")
    tx.delete(Network, network_id)


def _refuse_removal(network_id: str, user: str) -> NoReturn:
    raise FailedPrecondition(f"network {network_id} is in use by {user}", grpc_code="FailedPrecondition")


def _matches(network: Network, filters: Filters, view: View) -> bool:
    return (
        filters.allows("driver", "overlay")
        and filters.allows("scope", "swarm")
        and filters.allows("type", "custom")
        and filters.allows_labels("label", network.spec.labels)
        and _allows_part(filters, "id", network.id)
        and _allows_part(filters, "name", network.name)
        and ("dangling" not in filters or _is_unused(network, view) in {v in ("true", "1") for v in filters.values("dangling")})
    )


def _allows_part(filters: Filters, key: str, value: str) -> bool:
    """Networks match on any part of a name or id, unlike the other nouns."""
    return key not in filters or any(part in value for part in filters.values(key))


def _may_prune(filters: Filters, labels: dict[str, str]) -> bool:
    excluded = Filters({"label": filters.values("label!")})
    return filters.allows_labels("label", labels) and not ("label" in excluded and excluded.allows_labels("label", labels))


def _until_ns(filters: Filters, now_ns: int) -> int:
    """Before when the networks to be pruned were made: a time, or a duration before now. Raises InvalidArgument."""
    if len(filters.values("until")) > 1:
        raise InvalidArgument("more than one until filter specified")
    for text in filters.values("until"):
        try:
            return parse_time_ns(text)
        except InvalidArgument:
            try:
                return now_ns - parse_duration_ns(text)
            except ValueError as error:
                raise InvalidArgument(f'invalid filter until="{text}": give a time, or a duration such as 24h') from error
    return now_ns + 1


def _is_unused(network: Network, view: View) -> bool:
    return all(task.is_terminal for task in view.tasks.of_network(network.id))
