"""What requests change of this node's own networks, and which containers are on them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from pyswarm_agent.api.agent_services import AgentServices
from pyswarm_agent.api.image_filters import until_ns
from pyswarm_agent.api.local_networks import Member, local_networks, unused_networks
from pyswarm_agent.container_lookup import find_container
from pyswarm_agent.local_containers.create_body import ConnectBody, EndpointBody
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.member_names import with_canonical_names
from pyswarm_common.engine_api.responses import without_nulls
from pyswarm_common.errors import InvalidArgument, PermissionDenied

PRUNE_FILTERS = ("label", "label!", "until")


def members_of(agent: AgentServices) -> list[Member]:
    """Return all containers of this node."""
    return [Member(record, agent.local.get(record.config.id)) for record in agent.containers.list()]


async def prune(agent: AgentServices, filters: Filters) -> list[str]:
    """Remove this node's networks that no container is on; return their names. Raises InvalidArgument, PyswarmError, OSError."""
    connections, now_ns = agent.local.connections, agent.clock.now_ns()
    excluded = Filters({"label": filters.values("label!")})
    before_ns = min((until_ns(text, now_ns) for text in filters.values("until")), default=now_ns + 1)
    made = {network.id: network for network in connections.networks}
    removed = []
    for network_id in unused_networks(local_networks(made.values()), members_of(agent)):
        network = made[network_id]
        is_excluded = "label" in excluded and excluded.allows_labels("label", network.labels)
        if is_excluded or not filters.allows_labels("label", network.labels) or network.created_at_ns >= before_ns:
            continue
        try:
            removed.append((await connections.remove(network_id)).name)
        except PermissionDenied:
            continue  # a container joined it meanwhile
    return removed


async def connect(agent: AgentServices, reference: str, posted: Mapping[str, Any]) -> None:
    """Put a container on a network. Raises PyswarmError, OSError."""
    body = _connect_body(posted)
    await agent.local.connections.connect(_container_id(agent, body), reference, body.endpoint_config or EndpointBody())


async def disconnect(agent: AgentServices, reference: str, posted: Mapping[str, Any]) -> None:
    """Take a container off a network. Raises PyswarmError, OSError."""
    await agent.local.connections.disconnect(_container_id(agent, _connect_body(posted)), reference)


def _connect_body(posted: Mapping[str, Any]) -> ConnectBody:
    try:
        return msgspec.convert(with_canonical_names(without_nulls(dict(posted)), ConnectBody), ConnectBody, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error


def _container_id(agent: AgentServices, body: ConnectBody) -> str:
    return find_container(agent.containers.list(), body.container).config.id
