"""A local container in memory."""

import asyncio
from dataclasses import dataclass, field

from pyswarm_agent.local_containers.records import LocalContainer, NetworkPlace


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(eq=False)
class Held:
    """A local container. `lock` is held while it is started, changed or removed."""

    container: LocalContainer
    place: NetworkPlace | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_restarting: bool = False
    """Whether it has ended, and is to be started again after a pause."""
    is_being_replaced: bool = False
    """Whether it is stopped in order to be started again by hand."""
    is_removed: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to end the pause, without a start."""
    settled: asyncio.Event = field(default_factory=_set_event)
    """Set unless it runs, or it is not decided yet what becomes of it after its end."""
    job: asyncio.Task[None] | None = None
    """Follows its run, from its start until it ends and is not started again."""
