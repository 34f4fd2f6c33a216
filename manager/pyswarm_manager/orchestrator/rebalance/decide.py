"""Which running tasks shall move to nodes that joined or came back (services with the label `pyswarm.rebalance`). Pure.

A task that is to move is marked (`must_move`); the replicated orchestrator then replaces it, the successor first. Marks are given
gently: only while the service is whole (every slot runs the present task spec, no update goes on, nothing is still stopping), at
most as many at once as its update parallelism allows, and no sooner than its update delay after one of its tasks changed. A move
that leaves the service's own spread as it is, and only evens out what nodes carry in all, is made when nothing else in the whole
cluster moves. Services that need room move together only where there is room for all of them (`room.py`). A node that became ready
less than `SETTLE_NS` ago is not moved to: it may be flapping. What a better place is says `moves.py`.

A mark is taken back while the orchestrator has not acted on it, when there is no better place any more, or the user no longer asks.
Jobs and global services are not rebalanced, nor are services that are to be packed (`pyswarm.placement.strategy=binpack`).
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from pyswarm_common.objects import Node, Service, Task
from pyswarm_common.service_labels import STRATEGY, asks_to_rebalance
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft
from pyswarm_manager.orchestrator import restart
from pyswarm_manager.orchestrator.rebalance.moves import Load, Moves, moves_of
from pyswarm_manager.orchestrator.update.freshness import is_outdated
from pyswarm_manager.orchestrator.update.plan import config_in_force
from pyswarm_manager.orchestrator.update.units import Unit, group_units
from pyswarm_manager.scheduler.node_info import NodeInfo
from pyswarm_manager.store.tables import View

SETTLE_NS = 30 * SECOND_NS
"""How long a node must have been ready before tasks move to it."""
MOST_AT_ONCE = 16
"""How many tasks of one service move at once at most, whatever its parallelism says: a look must not take long."""
TURN_NS = SECOND_NS
"""After so long services look again whether anything else still moves."""
_NO_UPDATE = ("", "completed", "rollback_completed")


def decide(view: View, now_ns: int, limit: int | None = DEFAULT_LIMIT, *, service_ids: Iterable[str] | None = None) -> Decisions:
    """Return the tasks of these services (None: all) that are marked, or whose mark is taken back. Keys are service ids."""
    draft = Draft(view, limit)
    ids = list(service_ids if service_ids is not None else all_service_ids(view))
    load = Load(view, now_ns)
    ids += sorted(load.ids_of_moving_services().difference(ids))
    found = [service for service_id in ids if (service := view.services.get(service_id)) is not None]
    passes = [_Pass(view, draft, service, now_ns, load) for service in found]
    is_reviewed = all(one.review() for one in passes)
    for one in passes:
        one.imagine_moved()
    if not (is_reviewed and all(one.mark() for one in passes) and all(one.mark_by_total() for one in passes)):
        draft.postpone(ids)
    return draft.finish()


def all_service_ids(view: View) -> list[str]:
    """Return the services that ask to be rebalanced, and those that have marked tasks from when they did."""
    ids = {service.id for service in view.services if asks_to_rebalance(service.spec.labels)}
    ids.update(task.service_id for task in view.tasks if task.must_move)
    return sorted(ids)


class _Pass:
    """One look at one service. Each step returns whether the limit left room for all that it had to do."""

    def __init__(self, view: View, draft: Draft, service: Service, now_ns: int, load: Load) -> None:
        self._view = view
        self._draft = draft
        self._service = service
        self._now_ns = now_ns
        self._load = load
        self._units = group_units(view.tasks.of_service(service.id), lambda task: task.slot)
        self._current = [unit.current for _, unit in sorted(self._units.items()) if unit.current is not None]
        self._made_moves: Moves | None = None
        self._useful: list[Task] = []
        """The marked tasks that are to move indeed."""
        self._is_quiet = False
        """Whether a move may begin: the service is whole, and none of its tasks is to move already."""

    def review(self) -> bool:
        """Take back marks that are of no use any more.

        All services do so before any task is put elsewhere in thought: whichever is looked at first, the next look takes no mark
        back that this one gave or left.
        """
        marked = [task for task in self._current if task.must_move and not self._units[task.slot].elders]
        if not self._may_move():
            for task in marked:
                self._load.count_leaving(task.node_id, -1)
            return self._unmark(marked)
        self._useful = self._useful_of(marked)
        self._is_quiet = not self._useful and self._is_whole() and self._has_rested()
        return self._unmark([task for task in marked if task not in self._useful])

    def imagine_moved(self) -> None:
        """Put the tasks that are to move where they would go, in thought, so that what is marked next goes elsewhere."""
        for task in self._useful:
            target = self._moves.target(task.node_id)
            if target is not None and self._settled_at_ns(target.node) <= self._now_ns:
                self._moves.put_on(target)
        for task in self._followed():
            target = self._moves.target(task.node_id)
            if target is not None:
                self._moves.put_on(target)

    def mark(self) -> bool:
        """Mark the next tasks by which the service is spread more evenly.

        Those that move together go where they would one after the other: of branches that are as full, who leaves both at once
        could come back to one of them twice.
        """
        if not self._is_quiet or not self._moves.may_be_uneven:
            return True
        left = {task.id: task for task in self._current}
        targets: list[NodeInfo] = []
        for _ in range(min(config_in_force(self._service).parallelism or MOST_AT_ONCE, MOST_AT_ONCE)):
            if not self._draft.has_room():
                return False
            move = self._next_to_move(left.values(), self._moves.is_emptier)
            if move is None:
                break
            task, target = move
            targets.append(target)
            if not self._are_places_kept(targets):
                self._moves.take_from(target)
                self._moves.put_back(task.node_id)
                break
            del left[task.id]
            self._is_quiet = False
            self._draft.update(msgspec.structs.replace(task, must_move=True))
        return True

    def mark_by_total(self) -> bool:
        """Mark one task by which the nodes have more even numbers of tasks, or wait for what moves elsewhere."""
        if not self._is_quiet:
            return True
        if self._load.has_moves:
            self._draft.wake(self._service.id, self._now_ns + TURN_NS)
            return True
        if not self._draft.has_room():
            return False
        move = self._next_to_move(self._current, self._moves.is_emptier_in_all)
        if move is not None:
            self._draft.update(msgspec.structs.replace(move[0], must_move=True))
        return True

    @property
    def _moves(self) -> Moves:
        if self._made_moves is None:
            self._made_moves = moves_of(self._service, self._load)
        return self._made_moves

    def _are_places_kept(self, targets: Sequence[NodeInfo]) -> bool:
        """Whether the scheduler will give those that move these nodes, in whatever order it comes to them and to others."""
        if not self._moves.is_room_kept:
            self._draft.wake(self._service.id, self._now_ns + TURN_NS)
            return False
        return len(targets) == 1 or self._moves.are_places_for_all(targets)

    def _followed(self) -> list[Task]:
        """The marked tasks whose successors have no node yet."""
        if self._service.task_spec_id not in self._view.task_specs:
            return []
        waiting = [u for u in self._units.values() if u.current is not None and u.current.status.state < TaskState.ASSIGNED]
        return [elder for unit in waiting for elder in unit.elders if elder.must_move]

    def _may_move(self) -> bool:
        if self._service.task_spec_id not in self._view.task_specs:
            return False
        spec, status = self._service.spec, self._service.update_status
        labels = spec.labels or {}
        is_asked = spec.is_replicated and asks_to_rebalance(labels) and labels.get(STRATEGY, "").lower() != "binpack"
        return is_asked and (status is None or status.state in _NO_UPDATE)

    def _is_whole(self) -> bool:
        return len(self._current) == self._service.spec.replicas and all(map(self._is_steady, self._units.values()))

    def _is_steady(self, unit: Unit[int]) -> bool:
        task = unit.current
        return (
            task is not None
            and not unit.elders
            and not is_outdated(self._view, self._service, task)
            and (task.status.state, task.desired_state) == (TaskState.RUNNING, TaskState.RUNNING)
            and not any(restart.is_stopping(old) and not restart.is_node_gone(self._node_of(old)) for old in unit.past)
        )

    def _useful_of(self, marked: Sequence[Task]) -> list[Task]:
        """Those of the marked tasks to which the scheduler would give a better place; the others are put back in thought."""
        useful = list(marked)
        while (useless := self._first_useless(useful)) is not None:
            useful.remove(useless)
            self._moves.put_back(useless.node_id)
        return useful

    def _first_useless(self, marked: Sequence[Task]) -> Task | None:
        """The first that would have no better place once those before it have moved; in thought nothing moves in the end."""
        targets: list[NodeInfo] = []
        useless = None
        for task in marked:
            target = self._better_place_of(task)
            if target is None:
                useless = task
                break
            targets.append(target)
            self._moves.put_on(target)
        for target in reversed(targets):
            self._moves.take_from(target)
        return useless

    def _better_place_of(self, task: Task) -> NodeInfo | None:
        moves, source_id = self._moves, task.node_id
        target = moves.target(source_id)
        if target is None or self._settled_at_ns(target.node) > self._now_ns:
            return None
        is_better = moves.is_emptier(target.id, source_id) or moves.is_emptier_in_all(target.id, source_id)
        return target if is_better else None

    def _unmark(self, tasks: Sequence[Task]) -> bool:
        for task in tasks:
            if not self._draft.has_room():
                return False
            self._draft.update(msgspec.structs.replace(task, must_move=False))
        return True

    def _has_rested(self) -> bool:
        resting_until_ns = max(map(self._changed_at_ns, self._current), default=0) + config_in_force(self._service).delay
        if resting_until_ns <= self._now_ns:
            return True
        self._draft.wake(self._service.id, resting_until_ns)
        return False

    def _next_to_move(self, tasks: Iterable[Task], is_better: Callable[[str, str], bool]) -> tuple[Task, NodeInfo] | None:
        """The next task that would be better placed elsewhere, and where, already moved in thought: of its node the one that ran
        shortest."""
        moves = self._moves
        for candidates in moves.sources(tasks):
            task = max(candidates, key=lambda t: (t.status.at_ns, t.slot))
            moves.take_off(task.node_id)
            target = moves.target(task.node_id)
            if target is not None and is_better(target.id, task.node_id):
                settled_at_ns = self._settled_at_ns(target.node)
                if settled_at_ns <= self._now_ns:
                    moves.put_on(target)
                    return task, target
                self._draft.wake(self._service.id, settled_at_ns)
            moves.put_back(task.node_id)
        return None

    def _settled_at_ns(self, node: Node) -> int:
        since_ns = node.status.since_ns
        return since_ns + SETTLE_NS if since_ns and not self._is_future(since_ns) else 0

    def _changed_at_ns(self, task: Task) -> int:
        return 0 if self._is_future(task.updated_at_ns) else task.updated_at_ns

    def _is_future(self, at_ns: int) -> bool:
        """Whether that was the time of another clock: it would be waited for too long."""
        return at_ns > self._now_ns + restart.CLOCK_TOLERANCE_NS

    def _node_of(self, task: Task) -> Node | None:
        return self._view.nodes.get(task.node_id)
