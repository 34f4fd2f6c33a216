"""The route of events: what happens to services, nodes and networks of the swarm from now on. Nothing is kept of the past."""

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.clock import NANOSECONDS_PER_SECOND, Clock
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import parse_time_ns
from pyswarm_common.engine_api.streams import StreamResponse, Write, json_line
from pyswarm_common.objects import Network, Node, Service
from pyswarm_common.waiting import wait_first
from pyswarm_node.api.control import NodeControl

if TYPE_CHECKING:
    from pyswarm_manager.store.subscription import Change, Subscription

router = APIRouter()

_OTHER_NOUNS = ("container", "image", "volume", "plugin", "daemon", "secret", "config")
_FILTERS = ("type", "event", "scope", "label", "service", "node", "network", *_OTHER_NOUNS)
_NOUNS: dict[type[Any], str] = {Service: "service", Node: "node", Network: "network"}
_FOREVER_S = 10 * 365 * 24 * 3600.0


@router.get("/events")
async def stream_events(request: Request) -> Response:
    """Stream events until `until`, or until the client leaves."""
    control: NodeControl = request.app.state.control
    filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
    until = request.query_params.get("until")
    until_ns = parse_time_ns(until) if until else None
    clock = control.agent.clock
    subscription = control.manager.store.watch(Service, Node, Network) if control.manager is not None else None

    async def produce(write: Write) -> None:
        await wait_first(_forward(subscription, filters, clock, write), clock.sleep(_remaining_s(until_ns, clock)))

    return StreamResponse(produce, "application/json")


def render_event(change: "Change", now_ns: int) -> dict[str, Any]:
    """Return a change of the store as an event."""
    item = change.item
    action = "create" if change.before is None else "remove" if change.after is None else "update"
    return {
        "Type": _NOUNS[type(item)],
        "Action": action,
        "Actor": {"ID": item.id, "Attributes": {"name": getattr(item, "name", "")}},
        "scope": "swarm",
        "time": now_ns // NANOSECONDS_PER_SECOND,
        "timeNano": now_ns,
    }


async def _forward(subscription: "Subscription | None", filters: Filters, clock: Clock, write: Write) -> None:
    """Write each event; on a node without a manager there is nothing to tell yet, for ever."""
    if subscription is None:
        await clock.sleep(_FOREVER_S)
        return
    with subscription:
        async for changes in subscription:
            for change in changes:
                event = render_event(change, clock.now_ns())
                if _allows(filters, event):
                    await write(json_line(event))


def _allows(filters: Filters, event: dict[str, Any]) -> bool:
    noun, actor = event["Type"], event["Actor"]
    about_others = [other for other in (*_OTHER_NOUNS, *_NOUNS.values()) if other in filters and other != noun]
    if noun not in filters and about_others:
        return False
    return (
        filters.allows("type", noun)
        and filters.allows("event", event["Action"])
        and filters.allows("scope", event["scope"])
        and "label" not in filters
        and (noun not in filters or not {actor["ID"], actor["Attributes"]["name"]}.isdisjoint(filters.values(noun)))
    )


def _remaining_s(until_ns: int | None, clock: Clock) -> float:
    if until_ns is None:
        return _FOREVER_S
    return max(0.0, (until_ns - clock.now_ns()) / NANOSECONDS_PER_SECOND)
