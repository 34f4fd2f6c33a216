"""The routes of nodes: list, inspect, update, remove.

A change of the role is checked and stored here; the role manager makes it true.
"""

from collections.abc import Collection
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.member_names import with_canonical_names
from pyswarm_common.engine_api.responses import JSONResponse, query_flag, query_version, read_json_object
from pyswarm_common.errors import FailedPrecondition, InvalidArgument
from pyswarm_common.objects import Node
from pyswarm_common.specs import NodeSpec
from pyswarm_manager.api.manager_services import ManagerServices, read_view, services_of
from pyswarm_manager.api.render.cluster import render_node_tls_info
from pyswarm_manager.api.render.node import render_node
from pyswarm_manager.ca.revocation import revoke_manager_certificates
from pyswarm_manager.role_manager.quorum import refuse_demotion, refuse_promotion
from pyswarm_manager.store.tables import View
from pyswarm_manager.store.transaction import Transaction

router = APIRouter()

_FILTERS = ("id", "name", "label", "role", "membership", "node.label")


@router.get("/nodes")
async def list_nodes(request: Request) -> Response:
    """List nodes."""
    filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
    manager = services_of(request)
    view = await read_view(manager)
    return JSONResponse([_render(manager, view, node) for node in view.nodes if _matches(node, filters)])


@router.get("/nodes/{reference}")
async def inspect_node(request: Request, reference: str) -> Response:
    """Show one node."""
    manager = services_of(request)
    view = await read_view(manager)
    return JSONResponse(_render(manager, view, view.nodes.resolve(reference)))


@router.post("/nodes/{reference}/update")
async def update_node(request: Request, reference: str) -> Response:
    """Give a node a new spec: labels, availability, role."""
    manager = services_of(request)
    version = query_version(request, "node")
    spec = _parse_spec(with_canonical_names(await read_json_object(request), NodeSpec))
    view = await read_view(manager)
    node = view.nodes.resolve(reference)
    unreachable = {n.id for n in view.nodes if n.manager is not None and manager.reachability(n.id) == "unreachable"}
    await manager.store.update(lambda tx: set_node_spec(tx, node.id, spec, version, unreachable))
    return Response()


@router.delete("/nodes/{reference}")
async def delete_node(request: Request, reference: str) -> Response:
    """Remove a node that is down, or (`force`) any worker."""
    manager = services_of(request)
    is_forced = query_flag(request, "force")
    node = (await read_view(manager)).nodes.resolve(reference)
    await manager.store.update(lambda tx: remove_node(tx, node.id, is_forced=is_forced))
    return Response()


def set_node_spec(tx: Transaction, node_id: str, spec: NodeSpec, version_index: int, unreachable: Collection[str] = ()) -> None:
    """Give a node a new spec. `unreachable`: ids of managers. Raises NotFound, OutOfSequence, FailedPrecondition."""
    node = tx.nodes.must_get(node_id)
    if spec.role == "worker" and node.spec.role == "manager":
        refuse_demotion(tx.nodes, node, unreachable)
    elif spec.role == "manager" and node.spec.role == "worker":
        refuse_promotion(tx.nodes)
    tx.update(msgspec.structs.replace(node, spec=spec), expected_index=version_index)


def remove_node(tx: Transaction, node_id: str, *, is_forced: bool) -> None:
    """Delete a node. Raises NotFound, and FailedPrecondition for managers, and for nodes that are not down unless forced.

    One that may be a manager, but never asked to enter, is none yet: it may be removed by force.
    """
    node = tx.nodes.must_get(node_id)
    if node.manager is not None or (node.role == "manager" and not is_forced):
        raise FailedPrecondition(
            f"node {node_id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
            grpc_code="FailedPrecondition",
        )
    if not is_forced and node.status.state == "ready":
        raise FailedPrecondition(f"node {node_id} is not down and can't be removed", grpc_code="FailedPrecondition")
    revoke_manager_certificates(tx, node)
    tx.delete(Node, node_id)


def _parse_spec(body: dict[str, Any]) -> NodeSpec:
    try:
        spec = msgspec.convert(body, NodeSpec)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid node spec: {error}") from error
    if spec.role not in ("worker", "manager"):
        raise InvalidArgument(f'invalid Role: "{spec.role}"')
    if spec.availability not in ("active", "pause", "drain"):
        raise InvalidArgument(f'invalid Availability: "{spec.availability}"')
    return spec


def _render(manager: ManagerServices, view: View, node: Node) -> dict[str, Any]:
    return render_node(
        node,
        manager.store.version_index(node),
        tls_info=render_node_tls_info(view.cluster, node.description.tls),
        leader_node_id=manager.leader_node_id(),
        reachability=manager.reachability(node.id),
    )


def _matches(node: Node, filters: Filters) -> bool:
    return (
        filters.allows_prefix("id", node.id)
        and filters.allows_prefix("name", node.name, node.spec.name)
        and filters.allows_labels("label", node.description.engine_labels)
        and filters.allows_labels("node.label", node.spec.labels)
        and filters.allows("role", node.spec.role)
        and filters.allows("membership", "accepted")
    )
