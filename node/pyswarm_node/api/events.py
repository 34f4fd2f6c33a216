"""The route of events: what happens to the objects of the swarm, and to containers, images and volumes of this node.

Of the past there are this node's last events (`since`), none of the swarm's.
"""

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.events import EventSubscription, LocalEvent
from pyswarm_common.clock import NANOSECONDS_PER_SECOND, Clock
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import parse_time_ns
from pyswarm_common.engine_api.streams import StreamResponse, Write, json_line
from pyswarm_common.objects import Config, Network, Node, Secret, Service
from pyswarm_common.waiting import wait_first
from pyswarm_node.api.control import NodeControl

if TYPE_CHECKING:
    from pyswarm_manager.store.subscription import Change, Subscription

router = APIRouter()

_OTHER_NOUNS = ("container", "image", "volume", "plugin", "daemon")
_FILTERS = ("type", "event", "scope", "label", "service", "node", "network", "secret", "config", *_OTHER_NOUNS)
_NOUNS: dict[type[Any], str] = {Service: "service", Node: "node", Network: "network", Secret: "secret", Config: "config"}
_SHORT_ID = 12
_FOREVER_S = 10 * 365 * 24 * 3600.0


@router.get("/events")
async def stream_events(request: Request) -> Response:
    """Stream events until `until`, or until the client leaves."""
    control: NodeControl = request.app.state.control
    agent = control.agent
    filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
    until = request.query_params.get("until")
    until_ns = parse_time_ns(until) if until else None
    since = request.query_params.get("since")
    clock = agent.clock
    past = agent.events.since(parse_time_ns(since)) if since else []
    local = agent.events.listen()
    subscription = control.manager.store.watch(*_NOUNS) if control.manager is not None else None

    async def produce(write: Write) -> None:
        with local:
            for event in past:
                if until_ns is None or event.at_ns <= until_ns:
                    await _write_local(event, filters, write)
            await wait_first(
                _forward(subscription, filters, clock, write),
                _forward_local(local, filters, write),
                clock.sleep(_remaining_s(until_ns, clock)),
            )

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


def render_local_event(event: LocalEvent) -> dict[str, Any]:
    """Return an event of this node, of containers and images with the members of former times that clients still read."""
    legacy: dict[str, Any] = {}
    if event.type in ("container", "image"):
        legacy = {"status": event.action, "id": event.id}
    if event.type == "container":
        legacy["from"] = event.attributes.get("image", "")
    return {
        **legacy,
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.at_ns // NANOSECONDS_PER_SECOND,
        "timeNano": event.at_ns,
    }


async def _forward_local(subscription: EventSubscription, filters: Filters, write: Write) -> None:
    async for event in subscription:
        await _write_local(event, filters, write)


async def _write_local(event: LocalEvent, filters: Filters, write: Write) -> None:
    rendered = render_local_event(event)
    if _allows(filters, rendered):
        await write(json_line(rendered))


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
        and ("event" not in filters or not {event["Action"], event["Action"].partition(":")[0]}.isdisjoint(filters.values("event")))
        and filters.allows("scope", event["scope"])
        and (noun in ("container", "image") or "label" not in filters)
        and filters.allows_labels("label", actor["Attributes"])
        and (noun not in filters or any(_is_meant(text, actor) for text in filters.values(noun)))
    )


def _is_meant(text: str, actor: dict[str, Any]) -> bool:
    return text in (actor["ID"], actor["Attributes"].get("name")) or (len(text) >= _SHORT_ID and actor["ID"].startswith(text))


def _remaining_s(until_ns: int | None, clock: Clock) -> float:
    if until_ns is None:
        return _FOREVER_S
    return max(0.0, (until_ns - clock.now_ns()) / NANOSECONDS_PER_SECOND)
