"""The dispatcher's shell: watches the store and the sessions, and carries assignments out and statuses in.

Runs on the leader only. Changes of the store are gathered for `GATHER_S` after the first, then every session that is touched
gets one message, with the views of the same moment. A task that served is told to stop when the balancers of all nodes have let go
of it (`held_stops.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TypeAlias, TypeVar

import msgspec
import structlog

from pyswarm_common import wire
from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError, Unavailable
from pyswarm_common.ids import new_id
from pyswarm_common.objects import AnyObject, Cluster, Network, Node, Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.ca.authority import manager_addresses
from pyswarm_manager.ca.rotation.decide import etcd_restart_turn
from pyswarm_manager.dispatcher.assignments import next_assignments
from pyswarm_manager.dispatcher.contents import split_contents
from pyswarm_manager.dispatcher.held_stops import LONGEST_HOLD_S, HeldStops, stops_serving
from pyswarm_manager.dispatcher.liveness import PROBE_TIMEOUT_S, TICK_S, Liveness, heartbeat_period_s
from pyswarm_manager.dispatcher.network_views import NetworkViews
from pyswarm_manager.dispatcher.node_reports import mark_down, mark_ready, write_statuses
from pyswarm_manager.dispatcher.node_states import node_state
from pyswarm_manager.dispatcher.probe import accepts_connections
from pyswarm_manager.dispatcher.sessions import Session, Sessions
from pyswarm_manager.store.store import Store

GATHER_S = 0.02
REST_PER_MESSAGE_S = 0.0002
REST_PER_VIEW_BYTE_S = 1e-8
"""How much longer than that for each message of the last time and what it carries of views. Sending takes the event loop about half
of it: where each change concerns a thousand nodes, sending must not take all the time that there is, but join more changes."""
STATUSES_PER_UPDATE = 400
NODES_PER_UPDATE = 400

T = TypeVar("T")
Probe: TypeAlias = Callable[[str, float], Awaitable[bool]]
"""Tells whether something takes connections at host:port, within so many seconds."""

_log = structlog.get_logger()


class Dispatcher:
    """All sessions of the cluster's agents."""

    def __init__(self, store: Store, clock: Clock, probe: Probe = accepts_connections) -> None:
        self._store = store
        self._clock = clock
        self._probe = probe
        self._sessions = Sessions()
        self._views = NetworkViews()
        self._liveness: Liveness | None = None
        self._touched: dict[str, set[str]] = {}
        """Tasks whose assignments may have changed, by node."""
        self._stops = HeldStops()
        self._leaving: set[str] = set()
        """Tasks that served and are to stop since the last flush."""
        self._states_changed = False
        self._etcd_turn = ""
        self._rest_until_s = 0.0

    async def run(self) -> None:
        """Serve sessions while this manager leads; ending ends them all, and agents dial again."""
        view = self._store.view
        self._liveness = Liveness(self._heartbeat_period_s, self._clock.monotonic_s())
        self._views, self._stops = NetworkViews(), HeldStops()
        try:
            with self._store.watch(Task, Service, Node, Network, Cluster) as subscription:
                for table in (view.networks, view.nodes, view.services, view.tasks):
                    for item in table:
                        self._note(None, item)
                self._views.refresh(view, self._store.version_base + self._store.revision)
                for node in view.nodes:
                    if node.status.state in ("ready", "unknown"):
                        self._liveness.expect(node.id, self._clock.monotonic_s())
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._watch_deadlines(self._liveness, group))
                    while True:
                        for change in await anext(subscription):
                            self._note(change.before, change.after)
                        await self._clock.sleep(max(GATHER_S, self._rest_until_s - self._clock.monotonic_s()))
                        for change in subscription.take():
                            self._note(change.before, change.after)
                        rest_s = self._flush(group)
                        self._rest_until_s = self._clock.monotonic_s() + rest_s
        finally:
            self._liveness = None
            self._sessions.end_all("this manager does not lead any more", self._store.leader_address)

    @property
    def is_running(self) -> bool:
        """Whether sessions are served here."""
        return self._liveness is not None

    def send_to_node(self, node_id: str, message: wire.ManagerMessage) -> bool:
        """Queue a message for a node's agent; False when it has no session."""
        session = self._sessions.get(node_id)
        if session is not None:
            session.send(message)
        return session is not None

    async def open_session(self, node_id: str, hello: wire.Hello) -> Session:
        """Begin a session: the node becomes ready and gets its complete set of tasks.

        Raises Unavailable when this manager does not lead, NotFound when the node was removed from the cluster.
        """
        if self._liveness is None:
            raise Unavailable("this manager does not lead")
        spoken = set(hello.protocol_versions) & set(wire.PROTOCOL_VERSIONS)
        if not spoken:
            raise PyswarmError(
                f"the agent speaks session versions {hello.protocol_versions}, this manager {wire.PROTOCOL_VERSIONS}"
            )
        await self._store.update(lambda tx: mark_ready(tx, node_id, hello.description))
        if self._liveness is None:
            raise Unavailable("this manager does not lead any more")
        self._liveness.heard(node_id, self._clock.monotonic_s())
        session = Session(new_id(), node_id, hello.view_versions, version=max(spoken))
        session.send(
            wire.Welcome(
                protocol_version=max(spoken),
                session_id=session.id,
                node_id=node_id,
                heartbeat_period_s=self._heartbeat_period_s,
                incarnation=self._store.view.cluster.incarnation,
            )
        )
        self._note_etcd_turn()
        self._tell_state(session, manager_addresses(self._store.view))
        self._tell_to_stop(self._stops.keep_waiting_for(node_id))
        self._sessions.open(session)
        self._bring_up_to_date(session)
        return session

    def close_session(self, session: Session) -> None:
        """The connection has ended. The node stays ready until its heartbeats are missed: it may just be dialling again."""
        if self._sessions.get(session.node_id) is session:
            self._sessions.close(session)
            self._tell_to_stop(self._stops.keep_waiting_for(session.node_id))

    def heard(self, session: Session) -> None:
        """The node gave a sign of life: it pings once a heartbeat period."""
        if self._liveness is not None and self._sessions.get(session.node_id) is session:
            self._liveness.heard(session.node_id, self._clock.monotonic_s())

    async def handle(self, session: Session, message: wire.AgentMessage) -> None:
        """Take in one message of an agent."""
        if self._liveness is None:
            return
        self._liveness.heard(session.node_id, self._clock.monotonic_s())
        match message:
            case wire.StatusReport():
                await self._store_statuses(session.node_id, message.updates)
                session.send(wire.StatusAcknowledgement(number=message.number))
            case wire.ViewsApplied():
                session.applied_views.update(message.versions)
                if self._sessions.get(session.node_id) is session:
                    self._tell_to_stop(self._stops.reached(session.node_id, message.versions))
            case wire.DescriptionUpdate():
                await self._store.update(lambda tx: mark_ready(tx, session.node_id, message.description))

    async def _store_statuses(self, node_id: str, updates: tuple[wire.TaskStatusUpdate, ...]) -> None:
        for start in range(0, len(updates), STATUSES_PER_UPDATE):
            part = updates[start : start + STATUSES_PER_UPDATE]
            await self._store.update(lambda tx, part=part: write_statuses(tx, node_id, part))  # type: ignore[misc]

    async def _watch_deadlines(self, liveness: Liveness, group: asyncio.TaskGroup) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            verdict = liveness.tick(self._clock.monotonic_s(), self._can_be_probed)
            for node_id in verdict.to_probe:
                group.create_task(self._probe_node(liveness, node_id))
            for start in range(0, len(verdict.dead), NODES_PER_UPDATE):
                await self._declare_dead(verdict.dead[start : start + NODES_PER_UPDATE])

    def _can_be_probed(self, node_id: str) -> bool:
        node = self._store.view.nodes.get(node_id)
        return node is not None and node.manager is not None and bool(node.manager.address)

    async def _probe_node(self, liveness: Liveness, node_id: str) -> None:
        node = self._store.view.nodes.get(node_id)
        address = node.manager.address if node is not None and node.manager is not None else ""
        is_reachable = await self._probe(address, PROBE_TIMEOUT_S)
        liveness.probed(node_id, self._clock.monotonic_s(), is_reachable=is_reachable)

    async def _declare_dead(self, node_ids: list[str]) -> None:
        _log.warning("nodes.down", nodes=node_ids, reason="heartbeat failure")
        for node_id in node_ids:
            session = self._sessions.get(node_id)
            if session is not None:
                session.end("heartbeats were missed")
                self.close_session(session)
        await self._store.update(lambda tx: mark_down(tx, node_ids))

    @property
    def _heartbeat_period_s(self) -> float:
        view = self._store.view
        return heartbeat_period_s(view.cluster.heartbeat_period_s, len(view.nodes))

    def _note(self, before: AnyObject | None, after: AnyObject | None) -> None:
        match after or before:
            case Task() as task:
                self._views.note_task(_as(Task, before), _as(Task, after))
                self._note_assignment(_as(Task, before), _as(Task, after))
                if stops_serving(_as(Task, before), _as(Task, after)):
                    self._leaving.add(task.id)
            case Service():
                self._views.note_service(_as(Service, before), _as(Service, after))
            case Network():
                self._views.note_network(_as(Network, before), _as(Network, after))
            case Cluster():
                self._states_changed = True
            case Node() as node:
                self._states_changed = True
                self._views.note_node(_as(Node, before), _as(Node, after))
                if not isinstance(before, Node) or before.attachments != node.attachments:
                    self._touched.setdefault(node.id, set())
                if after is None and self._liveness is not None:
                    self._liveness.forget(node.id)
                    session = self._sessions.get(node.id)
                    if session is not None:
                        session.end("the node was removed from the cluster")

    def _note_assignment(self, before: Task | None, after: Task | None) -> None:
        if before is not None and after is not None and _is_told_alike(before, after):
            return
        for task in (before, after):
            if task is not None and task.node_id:
                self._touched.setdefault(task.node_id, set()).add(task.id)

    def _flush(self, group: asyncio.TaskGroup) -> float:
        """Send what the changes mean; returns how long nothing more should be sent, in seconds."""
        changed = self._views.refresh(self._store.view, self._store.version_base + self._store.revision)
        touched, self._touched = self._touched, {}
        asked = self._hold_stops(group)
        if self._states_changed:
            self._states_changed = False
            self._adopt_period()
            self._note_etcd_turn()
            managers = manager_addresses(self._store.view)
            for session in self._sessions:
                self._tell_state(session, managers)
        concerned = [s for node_id in dict.fromkeys([*touched, *sorted(asked)]) if (s := self._sessions.get(node_id)) is not None]
        if changed:
            told = {session.node_id for session in concerned}
            concerned += [s for s in self._sessions if s.node_id not in told and not changed.isdisjoint(s.sent.views)]
        view_bytes = 0
        for session in concerned:
            tasks, is_asked = sorted(touched.get(session.node_id, ())), session.node_id in asked
            view_bytes += self._bring_up_to_date(session, tasks, is_answer_awaited=is_asked)
            if is_asked:
                self._tell_to_stop(self._stops.keep_waiting_for(session.node_id, session.sent.views))
        return len(concerned) * REST_PER_MESSAGE_S + view_bytes * REST_PER_VIEW_BYTE_S

    def _hold_stops(self, group: asyncio.TaskGroup) -> set[str]:
        """Hold the stops of the tasks that served until now; returns the nodes to be asked for their views."""
        published = self._views.published
        leaving, self._leaving = self._leaving, set()
        network_ids_of = {
            task.id: [a.network_id for a in task.attachments if a.network_id in published]
            for task_id in sorted(leaving)
            if (task := self._store.view.tasks.get(task_id)) is not None and not task.is_terminal and not self._knows_its_end(task)
        }
        versions = {n: published[n].view.version for n in {n for ids in network_ids_of.values() for n in ids}}
        missing: dict[tuple[str, int], set[str]] = {}
        for session in self._sessions if versions else ():
            for network_id in versions.keys() & session.sent.views.keys() if session.answers_views else ():
                if session.applied_views.get(network_id, -1) < versions[network_id]:
                    missing.setdefault((network_id, versions[network_id]), set()).add(session.node_id)
        held = self._stops.hold(network_ids_of, missing)
        if held:
            group.create_task(self._stop_waiting(held))
        return {node_id for node_ids in missing.values() for node_id in node_ids}

    def _knows_its_end(self, task: Task) -> bool:
        """Whether the task's node was told already, by a complete set, that it is to stop; or will be when it has a session."""
        session = self._sessions.get(task.node_id)
        told = session.sent.tasks.get(task.id) if session is not None else None
        return told is None or told.desired_state > TaskState.RUNNING

    async def _stop_waiting(self, task_ids: list[str]) -> None:
        await self._clock.sleep(LONGEST_HOLD_S)
        missing = self._stops.missing_for(task_ids)
        released = self._stops.release(task_ids)
        if released:
            _log.info("tasks.stopped_without_all_balancers", tasks=released, nodes=missing)
            self._tell_to_stop(released)

    def _tell_to_stop(self, task_ids: Iterable[str]) -> None:
        """Tell the nodes of tasks that are not held any more what is wanted of them."""
        by_node: dict[str, list[str]] = {}
        for task_id in task_ids:
            task = self._store.view.tasks.get(task_id)
            if task is not None:
                by_node.setdefault(task.node_id, []).append(task_id)
        for node_id, ids in by_node.items():
            session = self._sessions.get(node_id)
            if session is not None:
                self._bring_up_to_date(session, ids)

    def _adopt_period(self) -> None:
        period_s = self._heartbeat_period_s
        if self._liveness is not None and period_s != self._liveness.heartbeat_period_s:
            self._liveness.change_period(period_s, self._clock.monotonic_s())

    def _note_etcd_turn(self) -> None:
        view = self._store.view
        self._etcd_turn = etcd_restart_turn(view.cluster, view.nodes, self._store.leader_node_id or "")

    def _tell_state(self, session: Session, managers: tuple[wire.ManagerAddress, ...]) -> None:
        node = self._store.view.nodes.get(session.node_id)
        if node is None:
            return
        state = node_state(self._store.view, node, managers, self._etcd_turn)
        if state != session.state:
            session.state = state
            session.send(state)

    def _bring_up_to_date(
        self, session: Session, touched: Collection[str] | None = None, *, is_answer_awaited: bool = False
    ) -> int:
        """Send what the node does not have yet; returns how many bytes of views are in it."""
        message, session.sent = next_assignments(
            self._store.view,
            session.node_id,
            session.sent,
            self._views.published,
            is_complete=not session.has_complete_set,
            touched=touched,
            held=self._stops,
            is_answer_awaited=is_answer_awaited,
            follows_deltas=session.follows_deltas,
        )
        session.has_complete_set = True
        if message is None:
            return 0
        for part in split_contents(message):
            session.send(part)
        return sum(memoryview(raw).nbytes for raw in (*message.views, *message.view_deltas))


def _as(type_: type[T], item: object) -> T | None:
    return item if isinstance(item, type_) else None


def _is_told_alike(before: Task, after: Task) -> bool:
    """Whether only the observed state moved, and not to where the agent is told anything else."""
    stands = [(t.status.state < TaskState.ASSIGNED, t.is_terminal) for t in (before, after)]
    observed = msgspec.structs.replace(
        before, status=after.status, state_times=after.state_times, updated_at_ns=after.updated_at_ns
    )
    return stands[0] == stands[1] and observed == after
