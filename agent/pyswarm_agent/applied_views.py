"""Which network views are in force on this node, and who waits for that: managers that asked, tasks that leave the balancers.

Views are numbered as this node took them in, whatever their versions: a new manager may number them anew.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import NetworkView, ViewsApplied

Views: TypeAlias = Mapping[str, NetworkView]


class AppliedViews:
    """Told of views that are in force; none are before."""

    def __init__(self) -> None:
        self._views: Views = {}
        self._number = 0
        self._asked_number: int | None = None
        self._said: dict[str, int] = {}
        """The versions that the manager of this session was told."""
        self._changed = asyncio.Event()

    def put(self, views: Views, number: int) -> None:
        """These are in force now."""
        self._views, self._number = views, number
        self._wake()

    def ask(self, number: int) -> None:
        """The manager wants to know when the views with this number, or later ones, are in force."""
        self._asked_number = number
        self._wake()

    def session_began(self) -> None:
        """A new session: its manager was told nothing, and has not asked."""
        self._said = {}
        self._asked_number = None

    async def next_answer(self) -> ViewsApplied:
        """Wait until the manager asked and can be answered; returns what it was not told yet."""
        await self._wait_until(lambda: self._asked_number is not None and self._number >= self._asked_number)
        self._asked_number = None
        versions = {network_id: view.version for network_id, view in self._views.items()}
        before, self._said = self._said, versions
        return ViewsApplied(versions={n: version for n, version in versions.items() if before.get(n) != version})

    async def wait_left(self, attachments: Iterable[NetworkAttachment]) -> None:
        """Wait until no balancer of this node sends connections to these addresses."""
        addresses = [(attachment.network_id, attachment.address.partition("/")[0]) for attachment in attachments]
        await self._wait_until(lambda: not any(_is_backend(self._views, *place) for place in addresses))

    async def _wait_until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _is_backend(views: Views, network_id: str, address: str) -> bool:
    view = views.get(network_id)
    return view is not None and any(address in service.backends for service in view.services.values())
