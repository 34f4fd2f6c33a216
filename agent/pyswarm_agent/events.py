"""What happens on this node, for `GET /events`: containers, images, volumes, networks. The last events are kept, for `since`."""

import asyncio
import collections
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from pyswarm_agent.network_events import ToldNetwork, networks_told
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.clock import Clock
from pyswarm_common.objects import Record

KEPT_EVENTS = 256
"""As many as Docker keeps."""
WAITING_EVENTS = 4096
"""How many may wait for a reader that is too slow; then it loses the oldest."""


class LocalEvent(Record, frozen=True, kw_only=True):
    """Something that happened: `type` and `action` are Docker's words (`container`, `die`), `id` says to whom."""

    type: str
    action: str
    id: str
    attributes: dict[str, str] = {}
    at_ns: int = 0


class EventBus:
    """Takes events and hands them to all who listen. Belongs to one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: collections.deque[LocalEvent] = collections.deque(maxlen=KEPT_EVENTS)
        self._subscriptions: set[EventSubscription] = set()
        self.networks_of: Callable[[ContainerRecord], Iterable[ToldNetwork]] = lambda record: networks_told(record, None)
        """The networks that a container comes to when it starts and leaves when it ends."""

    def publish(self, type_: str, action: str, id_: str, attributes: Mapping[str, str] | None = None) -> None:
        """Tell all who listen."""
        event = LocalEvent(type=type_, action=action, id=id_, attributes=dict(attributes or {}), at_ns=self._clock.now_ns())
        self._kept.append(event)
        for subscription in self._subscriptions:
            subscription.put(event)

    def observe_container(self, action: str, record: ContainerRecord, more: Mapping[str, str]) -> None:
        """Take what a container runtime tells (`Runtime.on_event`)."""
        config = record.config
        if action == "start":
            self._publish_networks("connect", record)
        self.publish("container", action, config.id, {**config.labels, "image": config.image, "name": config.name, **more})
        if action == "die":
            self._publish_networks("disconnect", record)

    def publish_network(self, action: str, network: ToldNetwork, container_id: str) -> None:
        """Tell that a container came to a network, or left it."""
        self.publish("network", action, network.id, {"container": container_id, "name": network.name, "type": network.driver})

    def _publish_networks(self, action: str, record: ContainerRecord) -> None:
        for network in self.networks_of(record):
            self.publish_network(action, network, record.config.id)

    def listen(self) -> "EventSubscription":
        """Return what hears all events from now on."""
        return EventSubscription(self._subscriptions)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._subscriptions)

    def since(self, at_ns: int) -> list[LocalEvent]:
        """Return the kept events from this time on."""
        return [event for event in self._kept if event.at_ns >= at_ns]


class EventSubscription:
    """Yields events as they come, until it is left (`with`)."""

    def __init__(self, subscriptions: "set[EventSubscription]") -> None:
        self._subscriptions = subscriptions
        self._waiting: collections.deque[LocalEvent] = collections.deque(maxlen=WAITING_EVENTS)
        self._arrived = asyncio.Event()
        subscriptions.add(self)

    def put(self, event: LocalEvent) -> None:
        """Take an event."""
        self._waiting.append(event)
        self._arrived.set()

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """Hear no more."""
        self._subscriptions.discard(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[LocalEvent]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            self._arrived.clear()
            await self._arrived.wait()
