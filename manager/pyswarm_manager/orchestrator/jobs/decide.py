"""What a job needs: the tasks of its present iteration, until each slot has completed. Pure.

For each job, in this order: tasks of older iterations that have not ended are told to stop; slots that are not wanted any more are
removed; in each slot, a task that failed is succeeded if the restart policy allows, one that lost its node always (in one step, so
that a slot is never without an answer), and successors whose time has come are started; then slots are added, as many as are
wanted and, in a replicated job, as may run at once.

* A completed task is never restarted: the condition `any` means `on-failure`, as in Docker.
* A slot that failed for good stays failed in this iteration. (Swarm fills it anew, so that its jobs fail for ever: moby#42741.)
* A task that lost its node, as that is down, drained, removed or does not suit any more, has not failed: it runs again elsewhere
  whatever the policy says, and without being counted as an attempt. In a global job there is no elsewhere: the task of a node that
  is down is left alone, that of a drained node is stopped and runs again when the node is active again.
* `MaxConcurrent` counts every task that may still run, also one that was told to stop: in doubt a job waits. For the same reason no
  successor starts before its predecessor has stopped, or its node is known to be dead.
"""

from collections.abc import Callable, Iterable
from itertools import islice

import msgspec

from pyswarm_common.objects import Node, Service, Task, TaskStatus
from pyswarm_common.specs import RestartPolicy
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft, age_key
from pyswarm_manager.orchestrator import restart
from pyswarm_manager.orchestrator.causes import CREATED
from pyswarm_manager.orchestrator.job_progress import (
    JobSlot,
    SlotKey,
    eligible_nodes,
    ended_by_itself,
    has_begun,
    may_still_run,
    slots_of_iteration,
)
from pyswarm_manager.orchestrator.succession import told
from pyswarm_manager.store.tables import View


def decide(
    view: View,
    now_ns: int,
    limit: int | None = DEFAULT_LIMIT,
    *,
    new_id: Callable[[], str],
    service_ids: Iterable[str] | None = None,
) -> Decisions:
    """Return what the jobs among the services with these ids need (None: all). The decisions' keys are service ids."""
    draft = Draft(view, limit)
    ids = list(service_ids if service_ids is not None else all_job_ids(view))
    for position, service_id in enumerate(ids):
        if not draft.has_room():
            draft.postpone(ids[position:])
            break
        service = view.services.get(service_id)
        if service is not None and service.spec.is_job and not _Pass(view, draft, service, now_ns, new_id).run():
            draft.postpone([service_id])
    return draft.finish()


def all_job_ids(view: View) -> list[str]:
    """Return the ids of all jobs."""
    return sorted(service.id for service in view.services if service.spec.is_job)


class _Pass:
    """One look at one job. Each step returns whether it could do all that it had to."""

    def __init__(self, view: View, draft: Draft, service: Service, now_ns: int, new_id: Callable[[], str]) -> None:
        self._view = view
        self._draft = draft
        self._service = service
        self._now_ns = now_ns
        self._new_id = new_id
        self._is_global = service.spec.mode_name == "global-job"
        tasks = view.tasks.of_service(service.id)
        self._slots = slots_of_iteration(service, tasks)
        listed = {task.id for slot in self._slots.values() for task in (*slot.past, *filter(None, [slot.current]))}
        self._others = sorted((task for task in tasks if task.id not in listed), key=age_key)
        """Tasks of other iterations, and those on their way out."""
        self._eligible = eligible_nodes(view, service) if self._is_global else []
        spec = view.task_specs.get(service.task_spec_id)
        self._policy: RestartPolicy | None = spec.template.restart_policy if spec is not None else None

    def run(self) -> bool:
        """Take all steps."""
        if not self._end_other_iterations():
            return False
        for key in sorted(self._slots, key=_slot_order):
            if not self._remove_unwanted(self._slots[key]):
                return False
        for key in sorted(self._slots, key=_slot_order):
            if not self._keep_going(self._slots[key]):
                return False
        return self._add_slots() if has_begun(self._service) else True

    def _end_other_iterations(self) -> bool:
        for position, task in enumerate(self._others):
            if task.is_terminal or task.desired_state > TaskState.RUNNING:
                continue
            if not self._draft.has_room():
                return False
            self._others[position] = self._told(task, TaskState.SHUTDOWN)
        return True

    def _remove_unwanted(self, slot: JobSlot) -> bool:
        """Drop a slot beyond the total of a job that was scaled down, and one whose node left the cluster, unless it completed."""
        is_wanted = str(slot.key) in self._view.nodes if self._is_global else int(slot.key) < self._service.spec.total_completions
        if is_wanted or slot.is_complete:
            return True
        for task in [*slot.past, *filter(None, [slot.current])]:
            if not self._draft.has_room():
                return False
            self._others.append(self._told(task, TaskState.REMOVE))
        del self._slots[slot.key]
        return True

    def _keep_going(self, slot: JobSlot) -> bool:
        """Replace the slot's task when it must be, start it when it may be, stop whatever is too much."""
        if not self._stop_superseded(slot):
            return False
        task = slot.current
        if task is None or slot.is_complete:
            return True
        if task.start_at_ns > self._now_ns and restart.is_held_too_long(self._policy, task, self._now_ns):
            return self._hold_anew(slot, task)
        if task.is_terminal and task.start_at_ns > self._now_ns:  # it failed while it was held back: its delay is not over
            self._draft.wake(self._service.id, task.start_at_ns)
            return True
        if task.is_terminal or self._has_lost_its_node(task):
            return self._succeed(slot, task)
        return self._start_when_due(slot, task) if task.desired_state is TaskState.READY else True

    def _stop_superseded(self, slot: JobSlot) -> bool:
        for position, task in enumerate(slot.past):
            is_over = task.desired_state > TaskState.RUNNING or task.status.state is TaskState.COMPLETE
            if not is_over:  # whatever made two of them: an ended one, too, would open the slot again when the newer one has failed
                if not self._draft.has_room():
                    return False
                slot.past[position] = self._told(task, TaskState.SHUTDOWN)
        current = slot.current
        if current is not None and slot.is_complete and not current.is_terminal:  # one that had been given up did complete
            return self._close(slot, current)
        return True

    def _has_lost_its_node(self, task: Task) -> bool:
        if task.rejection or task.must_move:
            return True
        node = self._node_of(task)
        if not self._is_global:
            return bool(task.node_id) and restart.is_node_unusable(node)
        if node is None or restart.is_node_gone(node):
            return False
        is_unplaced = task.status.state < TaskState.ASSIGNED
        return node.spec.availability == "drain" or (is_unplaced and not self._is_eligible(node.id))

    def _succeed(self, slot: JobSlot, task: Task) -> bool:
        """Stop the slot's task and make its successor, if the policy allows; a global job's waits until the node is fit for it."""
        has_failed = ended_by_itself(task)
        if has_failed and not restart.should_restart(self._policy, task, self._now_ns):
            return self._close(slot, task)
        if self._is_global and not self._is_eligible(task.node_id):
            # Told that it had to leave its node, it has not failed even if it happens to fail just now.
            return True if task.is_terminal else self._close(slot, msgspec.structs.replace(task, must_move=True))
        if not self._draft.has_room(2):
            return False
        restarted_at_ns = task.restarted_at_ns
        if has_failed:
            is_same_spec = task.task_spec_id == self._service.task_spec_id
            restarted_at_ns = restart.restarts_of_successor(self._policy, task, self._now_ns, is_same_spec=is_same_spec)
        delay_ns = restart.restart_delay_ns(self._policy, self._node_of(task))
        slot.past.append(self._told(task, TaskState.SHUTDOWN))
        must_wait = delay_ns > 0 or any(self._may_still_run(t) for t in slot.past)
        successor = msgspec.structs.replace(
            self._new_task(slot.key, cause=task.id),
            desired_state=TaskState.READY if must_wait else TaskState.RUNNING,
            start_at_ns=self._now_ns + delay_ns if must_wait else 0,
            restarted_at_ns=restarted_at_ns,
        )
        self._draft.create(successor)
        slot.current = successor
        if delay_ns:
            self._draft.wake(self._service.id, self._now_ns + delay_ns)
        return True

    def _close(self, slot: JobSlot, task: Task) -> bool:
        """Stop the slot's task without a successor."""
        if not self._draft.has_room():
            return False
        slot.past.append(self._told(task, TaskState.SHUTDOWN))
        slot.current = None
        return True

    def _hold_anew(self, slot: JobSlot, task: Task) -> bool:
        """The clock was set back: let the delay begin again instead of lasting until the clock has caught up."""
        if not self._draft.has_room():
            return False
        until_ns = self._now_ns + restart.restart_delay_ns(self._policy, None)
        slot.current = msgspec.structs.replace(task, start_at_ns=until_ns)
        self._draft.update(slot.current)
        self._draft.wake(self._service.id, until_ns)
        return True

    def _start_when_due(self, slot: JobSlot, task: Task) -> bool:
        if task.start_at_ns > self._now_ns:
            self._draft.wake(self._service.id, task.start_at_ns)
            return True
        if any(self._may_still_run(t) for t in slot.past):
            return True
        if not self._draft.has_room():
            return False
        slot.current = msgspec.structs.replace(task, desired_state=TaskState.RUNNING)
        self._draft.update(slot.current)
        return True

    def _add_slots(self) -> bool:
        for key in self._missing_slots():
            if not self._draft.has_room():
                return False
            slot = self._slots.setdefault(key, JobSlot(key))
            task = self._new_task(key, CREATED)
            if slot.past:
                last = slot.past[-1]
                task = msgspec.structs.replace(task, cause=last.id, restarted_at_ns=last.restarted_at_ns)
            self._draft.create(task)
            slot.current = task
        return True

    def _missing_slots(self) -> list[SlotKey]:
        """The slots that want a task and may have one now: those that never had one, and those whose task was stopped."""
        if self._is_global:
            busy = {task.node_id for task in self._others if self._may_still_run(task)}
            return [node.id for node in self._eligible if node.id not in busy and self._is_free(node.id)]
        spec = self._service.spec
        free = filter(self._is_free, range(spec.total_completions))
        return list(islice(free, max(spec.max_concurrent - self._taken_places(), 0)))

    def _is_free(self, key: SlotKey) -> bool:
        slot = self._slots.get(key)
        if slot is None:
            return True
        is_closed = slot.current is not None or slot.is_complete or slot.has_failed
        return not is_closed and not any(self._may_still_run(task) for task in slot.past)

    def _taken_places(self) -> int:
        """How many tasks run, shall run, or may not have stopped yet; of one slot there is never more than one at a time."""
        taken = sum(slot.is_open or any(self._may_still_run(task) for task in slot.past) for slot in self._slots.values())
        return taken + len({(t.job_iteration, t.slot) for t in self._others if self._may_still_run(t)})

    def _told(self, task: Task, desired: TaskState) -> Task:
        changed = told(task, desired, self._now_ns)
        self._draft.update(changed)
        return changed

    def _new_task(self, key: SlotKey, cause: str) -> Task:
        return Task(
            id=self._new_id(),
            task_spec_id=self._service.task_spec_id,
            service_id=self._service.id,
            slot=0 if self._is_global else int(key),
            node_id=str(key) if self._is_global else "",
            spec_generation=self._service.spec_generation,
            status=TaskStatus(state=TaskState.NEW, at_ns=self._now_ns, message="created"),
            cause=cause,
            job_iteration=self._service.job_iteration,
        )

    def _node_of(self, task: Task) -> Node | None:
        return self._view.nodes.get(task.node_id)

    def _is_eligible(self, node_id: str) -> bool:
        return any(node.id == node_id for node in self._eligible)

    def _may_still_run(self, task: Task) -> bool:
        return may_still_run(task, self._node_of(task))


def _slot_order(key: SlotKey) -> tuple[int, str]:
    return (key, "") if isinstance(key, int) else (0, key)
