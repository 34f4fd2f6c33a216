"""The network views that this node holds: taken from the manager's messages and given to the netplugin until it has them.

The network is changed in a job of its own, so that the end of a session cannot cut a change in half. A view that this node holds
but whose change does not fit is in doubt, and so are then all: the next session asks for them whole.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import msgspec

from pyswarm_agent.applied_views import AppliedViews
from pyswarm_agent.persistence import Step, failed_of, until_done
from pyswarm_common.clock import Clock
from pyswarm_common.errors import FailedPrecondition
from pyswarm_common.wire import Assignments, NetworkView, NetworkViewDelta, apply_view_delta

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class ViewedNetwork(Protocol):
    """What is needed of the netplugin."""

    def views(self) -> dict[str, NetworkView]:
        """Return the views of the daemon's last life."""
        ...

    async def apply_views(self, views: Mapping[str, NetworkView]) -> None:
        """Make the networks as these views say: the full set. Raises what failed; then try again."""
        ...


class HeldViews:
    """`restore` first. `spawn` runs jobs that outlive a session."""

    def __init__(self, network: ViewedNetwork, clock: Clock, spawn: Spawn) -> None:
        self._network = network
        self._clock = clock
        self._spawn = spawn
        self._views: dict[str, NetworkView] = {}
        self._number = 0
        """Counts the changes of `views`."""
        self.applied = AppliedViews()
        self._are_in_doubt = False
        self._is_retrying = False

    @property
    def views(self) -> dict[str, NetworkView]:
        """The views by network id."""
        return self._views

    def restore(self) -> None:
        """Take up the views of the daemon's last life; what could not be applied then is tried again."""
        self._hold(self._network.views())
        self._spawn(self._apply())

    def versions(self) -> dict[str, int]:
        """Return the version of each view, by network id; none when they are in doubt."""
        return {} if self._are_in_doubt else {network_id: view.version for network_id, view in self._views.items()}

    async def take(self, message: Assignments) -> None:
        """Take in a message's views; returns when the network has them, or has failed once (it is then tried again).

        Raises FailedPrecondition when a change does not fit: the session must end, the next one gets everything anew.
        """
        # A complete message counts from what `versions` said at the session's beginning.
        base = {} if self._are_in_doubt and message.is_complete else self._views
        try:
            views = _changed(base, message)
        except (ValueError, KeyError, msgspec.DecodeError) as error:
            self._are_in_doubt = True
            raise FailedPrecondition(f"the manager's network views do not fit what this node holds: {error}") from error
        self._are_in_doubt = False
        if views != self._views:
            self._hold(views)
            await asyncio.shield(self._spawn(self._apply()))
        if message.is_answer_awaited:
            self.applied.ask(self._number)

    def _hold(self, views: dict[str, NetworkView]) -> None:
        self._views = views
        self._number += 1

    async def _apply(self) -> None:
        if await failed_of(self._applying()) and not self._is_retrying:
            self._is_retrying = True
            self._spawn(self._apply_until_done())

    async def _apply_until_done(self) -> None:
        await until_done(self._clock, self._applying())
        self._is_retrying = False

    def _applying(self) -> Step:
        return "apply the network views", self._apply_once

    async def _apply_once(self) -> None:
        views, number = self._views, self._number
        await self._network.apply_views(views)
        self.applied.put(views, number)


def _changed(views: Mapping[str, NetworkView], message: Assignments) -> dict[str, NetworkView]:
    """Return the views after the message. Raises ValueError or KeyError for a change that does not fit, msgspec.DecodeError."""
    changed = dict(views)
    for raw in message.views:
        view = msgspec.msgpack.decode(raw, type=NetworkView)
        changed[view.network_id] = view
    for raw in message.view_deltas:
        delta = msgspec.msgpack.decode(raw, type=NetworkViewDelta)
        changed[delta.network_id] = apply_view_delta(changed[delta.network_id], delta)
    for network_id in message.removed_views:
        changed.pop(network_id, None)
    return changed
