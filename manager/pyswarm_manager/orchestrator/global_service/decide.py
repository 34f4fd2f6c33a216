"""What a global service needs: tasks on nodes that came, no tasks on nodes that left, successors, starts, renewals. Pure.

Each node is a unit of its own (`../update/units.py`); `eligibility.py` says what becomes of a task there. On a node that wants one,
a task that ended is succeeded as the restart policy says (`../succession.py`), which counts per node; one that was told to stop
because of its node is succeeded when the node is eligible again. A task that ended for good stays (desired SHUTDOWN, no successor)
as the mark that its node needs none. An update renews the nodes that want a task (`../update/plan.py`); paused ones follow when
they are active again.

New tasks have their node from the start; the scheduler only checks whether it can take them.

The decisions' keys are service ids, and `node_key(id)` for one node with all global services. The tasks of deleted services are not
this loop's business.
"""

from collections.abc import Callable, Iterable

import msgspec

from pyswarm_common.objects import Service, Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft, succession_key
from pyswarm_manager.orchestrator.causes import CREATED, JOINED
from pyswarm_manager.orchestrator.global_service.eligibility import Eligibility, Standing
from pyswarm_manager.orchestrator.succession import Succession, told
from pyswarm_manager.orchestrator.suitability import NO_LONGER_MEETS_CONSTRAINTS
from pyswarm_manager.orchestrator.update.freshness import is_outdated
from pyswarm_manager.orchestrator.update.plan import is_updating, judged, next_step
from pyswarm_manager.orchestrator.update.units import Unit, group_units
from pyswarm_manager.store.tables import View

_NODE = "node:"
_ENDED_BY_ITSELF = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


def decide(
    view: View,
    now_ns: int,
    limit: int | None = DEFAULT_LIMIT,
    *,
    new_id: Callable[[], str],
    keys: Iterable[str] | None = None,
) -> Decisions:
    """Return what these services and nodes need (None: all global services). `new_id` gives the ids of new tasks."""
    draft = Draft(view, limit)
    all_keys = list(keys if keys is not None else global_service_ids(view))
    for position, key in enumerate(all_keys):
        if not draft.has_room():
            draft.postpone(all_keys[position:])
            break
        if key.startswith(_NODE):
            is_done = _look_at_node(view, draft, now_ns, new_id, key)
        else:
            service = view.services.get(key)
            is_global = service is not None and service.spec.mode_name == "global"
            is_done = service is None or not is_global or _Pass(view, draft, service, now_ns, new_id, key).run()
        if not is_done:
            draft.postpone([key])
    return draft.finish()


def node_key(node_id: str) -> str:
    """Return the key of one node with all global services."""
    return _NODE + node_id


def global_service_ids(view: View) -> list[str]:
    """Return the ids of all global services."""
    return sorted(service.id for service in view.services if service.spec.mode_name == "global")


def _look_at_node(view: View, draft: Draft, now_ns: int, new_id: Callable[[], str], key: str) -> bool:
    """See to one node for all services. Those that have something to renew there are to be looked at whole."""
    node_id = key.removeprefix(_NODE)
    for service_id in global_service_ids(view):
        look = _Pass(view, draft, view.services.must_get(service_id), now_ns, new_id, key, node_id)
        if not draft.has_room() or not look.see_to(node_id):
            return False
        if look.has_outdated(node_id):
            draft.postpone([service_id])
    return True


class _Pass:
    """One look at one service, on all nodes or on one. Each step returns whether it could do all that it had to."""

    def __init__(
        self,
        view: View,
        draft: Draft,
        service: Service,
        now_ns: int,
        new_id: Callable[[], str],
        key: str,
        node_id: str | None = None,
    ) -> None:
        self._view = view
        self._draft = draft
        self._now_ns = now_ns
        self._new_id = new_id
        self._key = key
        tasks = view.tasks.of_service(service.id) if node_id is None else view.tasks.of_node(node_id)
        self._units = group_units((t for t in tasks if t.service_id == service.id), lambda task: task.node_id)
        self._adopt(service)
        if node_id is None and is_updating(service) and (after := judged(view, service, self._wanted_units())) is not service:
            draft.update(after)
            self._adopt(after)

    def run(self) -> bool:
        """Take all steps on all nodes."""
        node_ids = {*self._units, *(node.id for node in self._view.nodes)}
        return all(self.see_to(node_id) for node_id in sorted(node_ids)) and self._update()

    def see_to(self, node_id: str) -> bool:
        """Bring one node to what it should have, but for renewals."""
        unit = self._units.get(node_id) or Unit(node_id)
        match self._standing(node_id):
            case Standing.GONE:
                return self._tell(unit.tasks, TaskState.REMOVE)
            case Standing.WANTED:
                return self._keep_going(unit)
            case Standing.KEPT:
                return self._keep(unit)
            case standing:
                return self._clear(unit, NO_LONGER_MEETS_CONSTRAINTS if standing is Standing.UNSUITABLE else "")

    def has_outdated(self, node_id: str) -> bool:
        """Whether the task on this node is to be renewed."""
        unit = self._units.get(node_id)
        is_wanted = self._standing(node_id) is Standing.WANTED
        return is_wanted and unit is not None and is_outdated(self._view, self._service, unit.newest)

    def _adopt(self, service: Service) -> None:
        """Go on with the service as it is now: its task spec may be another one."""
        self._service = service
        self._eligibility = Eligibility(self._view, service)
        self._standings: dict[str, Standing] = {}
        self._succession: Succession[str] = Succession(self._view, self._draft, service, self._now_ns, self._new_task, self._key)

    def _wanted_units(self) -> list[Unit[str]]:
        """The nodes that an update concerns."""
        return [unit for unit in self._units.values() if self._standing(unit.key) is Standing.WANTED]

    def _standing(self, node_id: str) -> Standing:
        standing = self._standings.get(node_id)
        if standing is None:
            standing = self._standings[node_id] = self._eligibility.standing(self._view.nodes.get(node_id))
        return standing

    def _clear(self, unit: Unit[str], rejection: str) -> bool:
        """The node shall have no task. One that ended by itself stays as it is, to be succeeded when the node is wanted again."""
        live = [*unit.elders, *(task for task in (unit.current,) if task is not None and not task.is_terminal)]
        return self._tell(
            (msgspec.structs.replace(t, rejection=t.rejection or rejection) if not t.is_terminal else t for t in live),
            TaskState.SHUTDOWN,
        )

    def _keep(self, unit: Unit[str]) -> bool:
        """The node is paused: what is there goes on, what is not there yet does not come, nothing is succeeded."""
        while unit.current is not None and unit.current.status.state < TaskState.ASSIGNED:
            if not self._stop_current(unit):
                return False
        task = unit.current
        if task is None:
            return True
        if task.is_terminal or task.rejection:
            return self._tell([elder for elder in unit.elders if not elder.is_terminal][:-1], TaskState.SHUTDOWN)
        return self._succession.keep_going(unit)

    def _keep_going(self, unit: Unit[str]) -> bool:
        """The node is to have a task that runs, unless the last one ended for good.

        A task that has to go by no fault of its own (`rejection`) is no such one: the restart policy cannot forbid another.
        """
        if not self._succession.keep_going(unit):
            return False
        return unit.current is not None or _has_ended_for_good(unit) or self._begin(unit)

    def _stop_current(self, unit: Unit[str]) -> bool:
        task = unit.current
        if task is None or not self._tell([task], TaskState.SHUTDOWN):
            return False
        unit.past.append(told(task, TaskState.SHUTDOWN, self._now_ns))
        unit.current = unit.elders.pop() if unit.elders else None
        return True

    def _begin(self, unit: Unit[str]) -> bool:
        """Give the node a task. It follows the one that the node had before, and waits for what still stops there."""
        if unit.past:
            return self._succession.renew(unit)
        if not self._draft.has_room():
            return False
        node = self._view.nodes.must_get(unit.key)
        cause = JOINED if node.created_at_ns > self._service.created_at_ns else CREATED
        unit.current = self._new_task(unit.key, cause)
        self._units[unit.key] = unit
        self._draft.create(unit.current)
        return True

    def _update(self) -> bool:
        step = next_step(self._view, self._service, self._wanted_units(), self._now_ns)
        if step.service is not self._service:
            if not self._draft.has_room():
                return False
            self._draft.update(step.service)
            self._adopt(step.service)
        if step.wake_at_ns is not None:
            self._draft.wake(self._key, step.wake_at_ns)
        return all(self._succession.renew(unit) for unit in step.renewals)

    def _tell(self, tasks: Iterable[Task], desired: TaskState) -> bool:
        for task in tasks:
            if not self._draft.has_room():
                return False
            self._draft.update(told(task, desired, self._now_ns))
        return True

    def _new_task(self, node_id: str, cause: str) -> Task:
        return Task(
            id=self._new_id(),
            task_spec_id=self._service.task_spec_id,
            service_id=self._service.id,
            node_id=node_id,
            spec_generation=self._service.spec_generation,
            status=TaskStatus(state=TaskState.NEW, at_ns=self._now_ns, message="created"),
            cause=cause,
        )


def _has_ended_for_good(unit: Unit[str]) -> bool:
    """Whether the last task ended by itself and got no successor: the restart policy did not allow one.

    A task that was told to stop because of its node is no such mark.
    """
    if not unit.past:
        return False
    last = max(unit.past, key=succession_key)
    return last.status.state in _ENDED_BY_ITSELF and not last.rejection
