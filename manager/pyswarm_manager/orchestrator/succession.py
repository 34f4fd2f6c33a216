"""How the tasks of one slot (or of one node of a global service) follow each other. Pure; for orchestrators of lasting services.

A task is succeeded when it ended, its node cannot have it any more, or it is outdated. Stop-first, which is the rule: it is told to
stop, and its successor is prepared but held back (desired READY) until it has stopped, at most for `restart.stop_wait_ns`, and for
the restart delay. Start-first: the successor starts at once, and the older task (an elder) goes on until

* the successor runs: then the elder is told to stop;
* the elder is on a drained node, and its successor finds no node, fails, or does not get to run within `MOVE_WAIT_NS`: a drained
  node is left all the same;
* the same becomes of the successor of a task that was only to be moved, or it comes to the very same node: then the successor
  goes, and the task stays, unmarked;
* in an update nothing else ends it: while no task of the new task spec runs, the elder does the work.
"""

from collections.abc import Callable
from typing import Any, Generic

import msgspec

from pyswarm_common.objects import Node, Service, Task
from pyswarm_common.specs import SECOND_NS, TaskTemplate
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import Draft, with_status
from pyswarm_manager.orchestrator import restart
from pyswarm_manager.orchestrator.overlap import may_overlap
from pyswarm_manager.orchestrator.update import plan
from pyswarm_manager.orchestrator.update.freshness import is_outdated
from pyswarm_manager.orchestrator.update.outcome import outcome_for_successor
from pyswarm_manager.orchestrator.update.units import KeyT, Unit
from pyswarm_manager.store.tables import View

MOVE_WAIT_NS = 300 * SECOND_NS
"""How long a task waits at most for its successor elsewhere to run."""
_NO_TEMPLATE = TaskTemplate()


def told(task: Task, desired: TaskState, now_ns: int) -> Task:
    """Return the task with its desired state lowered; one that never reached a node ends with that."""
    changed = msgspec.structs.replace(task, desired_state=max(task.desired_state, desired))
    if task.status.state < TaskState.ASSIGNED:
        return with_status(changed, TaskState.SHUTDOWN, now_ns, "shut down before it was assigned to a node", task.status.error)
    return changed


class Succession(Generic[KeyT]):
    """What one decide does to the units of one service. Steps return whether there was room for all that they had to do.

    `new_task(key, cause)` makes a task of the service's present task spec for a unit; `wake_key` is the key to wake.
    """

    def __init__(
        self, view: View, draft: Draft, service: Service, now_ns: int, new_task: Callable[[KeyT, str], Task], wake_key: str
    ) -> None:
        self._view = view
        self._draft = draft
        self._service = service
        self._now_ns = now_ns
        self._new_task: Callable[[KeyT, str], Task] = new_task
        self._wake_key = wake_key

    def keep_going(self, unit: Unit[KeyT], *, may_move: bool = False) -> bool:
        """Replace the unit's task when it must be, start it when it may be; `may_move`: also when it is to move elsewhere."""
        if not self._settle_elders(unit):
            return False
        task = unit.current
        if task is None:
            return True
        if task.start_at_ns > self._now_ns:
            if restart.is_held_too_long(self._template_of(task).restart_policy, task, self._now_ns):
                return self._hold_anew(unit, task)
            if task.is_terminal:  # it failed while it was held back: its delay is not over
                self._draft.wake(self._wake_key, task.start_at_ns)
                return True
        node = self._view.nodes.get(task.node_id)
        if task.is_terminal or task.rejection or (task.node_id and restart.is_node_unusable(node)):
            return self._restart(unit, task)
        if task.must_move and may_move:
            return self._follow(unit, task, 0, task.restarted_at_ns if task.task_spec_id == self._service.task_spec_id else ())
        if task.desired_state is TaskState.READY:
            return self._start_when_due(unit, task)
        return True

    def renew(self, unit: Unit[KeyT]) -> bool:
        """Give the unit a task of the present task spec, in the order that the update asks for."""
        task = unit.current
        if task is None:
            return self._succeed(unit, unit.newest.id, 0, ())
        if not plan.is_start_first(self._service):
            return self._stop_elders(unit) and self._replace(unit, task, 0, ())
        if self._does_work(task):
            return self._start_beside(unit, task, ())
        return self._replace(unit, task, 0, (), waits_for_stop=False)

    def _settle_elders(self, unit: Unit[KeyT]) -> bool:
        """Let at most one elder go on: one that does the work until the current task runs."""
        current = unit.current
        if current is None or not unit.elders:
            return True
        elder = None if current.status.state is TaskState.RUNNING else self._working_elder(unit)
        if elder is not None and self._takes_over_again(elder, current):
            return self._abandon(unit, elder, current)
        if elder is not None and not self._may_stay(elder, current):
            elder = None
        return self._stop_elders(unit, but=elder)

    def _working_elder(self, unit: Unit[KeyT]) -> Task | None:
        """The elder that does the work; an up-to-date one if there is any."""
        working = [elder for elder in unit.elders if self._does_work(elder)]
        fresh = [elder for elder in working if not is_outdated(self._view, self._service, elder)]
        return (fresh or working)[-1] if working else None

    def _does_work(self, task: Task) -> bool:
        is_there = not restart.is_node_gone(self._view.nodes.get(task.node_id))
        return task.status.state is TaskState.RUNNING and is_there and not task.rejection

    def _takes_over_again(self, elder: Task, current: Task) -> bool:
        """Whether the elder is what the service asks for, may stay where it is, and its successor comes to nothing."""
        node = self._view.nodes.get(elder.node_id)
        if is_outdated(self._view, self._service, elder) or restart.is_node_unusable(node):
            return False
        if is_outdated(self._view, self._service, current) or not self._is_awaited(elder, current):
            return True
        return elder.must_move and current.node_id == elder.node_id

    def _may_stay(self, elder: Task, current: Task) -> bool:
        node = self._view.nodes.get(elder.node_id)
        if self._is_awaited(elder, current):
            self._draft.wake(self._wake_key, current.created_at_ns + MOVE_WAIT_NS)
            return True
        is_renewal = is_outdated(self._view, self._service, elder) and plan.is_start_first(self._service)
        return is_renewal and not restart.is_node_unusable(node)

    def _is_awaited(self, elder: Task, current: Task) -> bool:
        """Whether the successor of an elder may still get to run, in time."""
        if current.cause != elder.id or current.is_terminal:
            return False
        if current.status.state < TaskState.ASSIGNED and current.status.error:
            return False
        return -restart.CLOCK_TOLERANCE_NS <= self._now_ns - current.created_at_ns < MOVE_WAIT_NS

    def _abandon(self, unit: Unit[KeyT], elder: Task, current: Task) -> bool:
        """Stop a successor that is not needed; the elder is the current task again."""
        if not self._draft.has_room(2):
            return False
        if current.status.state < TaskState.ASSIGNED:
            self._draft.update(told(current, TaskState.REMOVE, self._now_ns))
        else:
            unit.past.append(self._shut_down(current))
        unit.elders.remove(elder)
        unit.current = msgspec.structs.replace(elder, must_move=False)
        self._draft.update(unit.current)
        return self._stop_elders(unit)

    def _stop_elders(self, unit: Unit[KeyT], but: Task | None = None) -> bool:
        for elder in list(unit.elders):
            if elder is but:
                continue
            if not self._draft.has_room():
                return False
            unit.elders.remove(elder)
            unit.past.append(self._shut_down(elder))
        return True

    def _restart(self, unit: Unit[KeyT], task: Task) -> bool:
        policy = self._template_of(task).restart_policy
        if not restart.should_restart(policy, task, self._now_ns):
            if not self._draft.has_room():
                return False
            unit.past.append(self._shut_down(task))
            unit.current = unit.elders.pop() if unit.elders else None
            return True
        delay_ns = restart.restart_delay_ns(policy, self._view.nodes.get(task.node_id))
        is_same_spec = task.task_spec_id == self._service.task_spec_id
        restarted_at_ns = restart.restarts_of_successor(policy, task, self._now_ns, is_same_spec=is_same_spec)
        if not task.is_terminal and not task.rejection:
            return self._follow(unit, task, delay_ns, restarted_at_ns)
        return self._replace(unit, task, delay_ns, restarted_at_ns)

    def _follow(self, unit: Unit[KeyT], task: Task, delay_ns: int, restarted_at_ns: tuple[int, ...]) -> bool:
        """Replace a task that has to leave its node: beside it, if it does its work there and two may run at once."""
        if self._does_work(task) and may_overlap(self._service, self._template_of(task)):
            return self._start_beside(unit, task, restarted_at_ns)
        return self._replace(unit, task, delay_ns, restarted_at_ns)

    def _start_beside(self, unit: Unit[KeyT], task: Task, restarted_at_ns: tuple[int, ...]) -> bool:
        if not self._draft.has_room():
            return False
        unit.elders.append(task)
        unit.current = self._create(unit.key, task.id, task, restarted_at_ns=restarted_at_ns)
        self._draft.wake(self._wake_key, self._now_ns + MOVE_WAIT_NS)
        return True

    def _replace(
        self, unit: Unit[KeyT], task: Task, delay_ns: int, restarted_at_ns: tuple[int, ...], *, waits_for_stop: bool = True
    ) -> bool:
        if not self._draft.has_room(2):
            return False
        unit.past.append(self._shut_down(task))
        # Where an older task goes on, and this one did not fail, the successor is still that one's.
        cause = unit.elders[-1].id if unit.elders and not task.is_terminal else task.id
        return self._succeed(unit, cause, delay_ns, restarted_at_ns, before=task, waits_for_stop=waits_for_stop)

    def _succeed(
        self,
        unit: Unit[KeyT],
        cause: str,
        delay_ns: int,
        restarted_at_ns: tuple[int, ...],
        *,
        before: Task | None = None,
        waits_for_stop: bool = True,
    ) -> bool:
        if not self._draft.has_room():
            return False
        stopping = [task for task in unit.past if self._may_still_run(task)] if waits_for_stop else []
        must_wait = delay_ns > 0 or bool(stopping)
        unit.current = self._create(
            unit.key,
            cause,
            before,
            desired_state=TaskState.READY if must_wait else TaskState.RUNNING,
            start_at_ns=self._now_ns + delay_ns if must_wait else 0,
            restarted_at_ns=restarted_at_ns,
        )
        if must_wait:
            self._draft.wake(self._wake_key, self._now_ns + (delay_ns or self._stop_wait_ns(stopping)))
        return True

    def _create(self, key: KeyT, cause: str, before: Task | None, **fields: Any) -> Task:
        made: Task = msgspec.structs.replace(self._new_task(key, cause), **fields)
        if before is not None and plan.is_updating(self._service):
            outcome = outcome_for_successor(self._service, before, plan.monitor_ns(self._service))
            made = msgspec.structs.replace(made, earlier_outcome=outcome)
        self._draft.create(made)
        return made

    def _hold_anew(self, unit: Unit[KeyT], task: Task) -> bool:
        """The clock was set back: let the delay begin again instead of lasting until the clock has caught up."""
        if not self._draft.has_room():
            return False
        until_ns = self._now_ns + restart.restart_delay_ns(self._template_of(task).restart_policy, None)
        unit.current = msgspec.structs.replace(task, start_at_ns=until_ns)
        self._draft.update(unit.current)
        self._draft.wake(self._wake_key, until_ns)
        return True

    def _start_when_due(self, unit: Unit[KeyT], task: Task) -> bool:
        wait_until_ns = task.start_at_ns
        stopping = [one for one in unit.past if self._may_still_run(one)]
        if stopping:
            held_since_ns = min(task.created_at_ns, task.start_at_ns)  # should the clock have been set back, the former is ahead
            wait_until_ns = max(wait_until_ns, held_since_ns + self._stop_wait_ns(stopping))
        if wait_until_ns > self._now_ns:
            self._draft.wake(self._wake_key, task.start_at_ns if task.start_at_ns > self._now_ns else wait_until_ns)
            return True
        if not self._draft.has_room():
            return False
        unit.current = msgspec.structs.replace(task, desired_state=TaskState.RUNNING)
        self._draft.update(unit.current)
        return True

    def _stop_wait_ns(self, stopping: list[Task]) -> int:
        return max(restart.stop_wait_ns(self._template_of(task)) for task in stopping)

    def _shut_down(self, task: Task) -> Task:
        changed = told(task, TaskState.SHUTDOWN, self._now_ns)
        self._draft.update(changed)
        return changed

    def _template_of(self, task: Task) -> TaskTemplate:
        spec = self._view.task_specs.get(task.task_spec_id)
        return spec.template if spec else _NO_TEMPLATE

    def _may_still_run(self, task: Task) -> bool:
        node: Node | None = self._view.nodes.get(task.node_id)
        return restart.is_stopping(task) and not restart.is_node_gone(node)
