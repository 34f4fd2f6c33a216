"""Agents without a node: each follows what a real dispatcher sends it, and applies and answers what the test lets it."""

import msgspec

from pyswarm_common import wire
from pyswarm_common.objects import NodeDescription
from pyswarm_common.task_states import TaskState
from pyswarm_manager.dispatcher.loop import Dispatcher
from pyswarm_manager.dispatcher.sessions import Session


class FakeAgent:
    """One node's agent. `take` follows the messages that wait; `answer` says that the views so far are in force."""

    def __init__(self, dispatcher: Dispatcher, node_id: str, versions: tuple[int, ...] = wire.PROTOCOL_VERSIONS) -> None:
        self.node_id = node_id
        self.views: dict[str, wire.NetworkView] = {}
        self.desired: dict[str, TaskState] = {}
        self.is_asked = False
        self.is_over = False
        self.session: Session
        self._dispatcher = dispatcher
        self._versions = versions

    async def connect(self) -> None:
        """Open a session, as a node that holds what it held."""
        number = int(self.node_id.removeprefix("n"))
        description = NodeDescription(hostname=self.node_id, data_path_address=f"192.0.2.{number}", underlay_mtu_bytes=1500)
        held = {network_id: view.version for network_id, view in self.views.items()}
        hello = wire.Hello(protocol_versions=self._versions, description=description, view_versions=held)
        self.is_asked = self.is_over = False
        self.session = await self._dispatcher.open_session(self.node_id, hello)
        self.take()

    def take(self) -> list[wire.ManagerMessage]:
        """Follow what was sent; returns it."""
        messages: list[wire.ManagerMessage] = []
        while not self.session.outgoing.empty():
            message = self.session.outgoing.get_nowait()
            if message is None:
                self.is_over = True
            elif isinstance(message, wire.Assignments):
                self._follow(wire.decode_manager_message(wire.encode(message)))  # type: ignore[arg-type]
            if message is not None:
                messages.append(message)
        return messages

    def _follow(self, message: wire.Assignments) -> None:
        for raw in message.views:
            view = msgspec.msgpack.decode(raw, type=wire.NetworkView)
            self.views[view.network_id] = view
        for raw in message.view_deltas:
            delta = msgspec.msgpack.decode(raw, type=wire.NetworkViewDelta)
            self.views[delta.network_id] = wire.apply_view_delta(self.views[delta.network_id], delta)
        for network_id in message.removed_views:
            del self.views[network_id]
        if message.is_complete:
            self.desired.clear()
        self.desired.update({task.task_id: task.desired_state for task in message.tasks})
        for task_id in message.removed_tasks:
            del self.desired[task_id]
        self.is_asked = self.is_asked or message.is_answer_awaited

    async def answer(self) -> None:
        """Say which views are in force."""
        self.is_asked = False
        versions = {network_id: view.version for network_id, view in self.views.items()}
        await self._dispatcher.handle(self.session, wire.ViewsApplied(versions=versions))

    def hang_up(self) -> None:
        """End the session."""
        self._dispatcher.close_session(self.session)

    def backends(self, network_id: str, service_id: str) -> tuple[str, ...]:
        """Return where this node's balancers send connections."""
        view = self.views.get(network_id)
        service = view.services.get(service_id) if view is not None else None
        return service.backends if service is not None else ()
