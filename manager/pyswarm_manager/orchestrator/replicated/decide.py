"""What a replicated service needs: new slots, fewer slots, successors of dead tasks, starts that are due, renewals. Pure.

For each service, in this order: superfluous slots are marked for removal; tasks that ended or whose node is unusable are shut
down and, when the restart policy allows, succeeded (in one step, so that a slot is never without an answer); successors whose
time has come are started; missing slots are added; and when the task spec changed, the next slot is renewed (`rollout.py`). A
slot whose task ended for good keeps that task (desired SHUTDOWN, no successor) as the mark that it needs none.
"""

from collections.abc import Callable, Iterable

import msgspec

from pyswarm_common.objects import Node, Service, Task, TaskStatus
from pyswarm_common.specs import RestartPolicy
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft, with_status
from pyswarm_manager.orchestrator import restart
from pyswarm_manager.orchestrator.replicated import rollout
from pyswarm_manager.orchestrator.replicated.slots import Slot, choose_surplus, group_slots, lowest_free_numbers
from pyswarm_manager.store.tables import View

CREATED = "created"
SCALED = "scaled"


def decide(
    view: View,
    now_ns: int,
    limit: int | None = DEFAULT_LIMIT,
    *,
    new_id: Callable[[], str],
    service_ids: Iterable[str] | None = None,
) -> Decisions:
    """Return what the services with these ids need (None: all services, and all that left tasks behind).

    `new_id` gives the ids of new tasks. The decisions' keys are service ids.
    """
    draft = Draft(view, limit)
    ids = list(service_ids if service_ids is not None else all_service_ids(view))
    for position, service_id in enumerate(ids):
        if not draft.has_room():
            draft.postpone(ids[position:])
            break
        service = view.services.get(service_id)
        if service is None:
            _remove_all(view, draft, service_id, now_ns)
        elif service.spec.is_replicated:
            is_done = _Pass(view, draft, service, now_ns, new_id).run()
            if not is_done:
                draft.postpone([service_id])
    return draft.finish()


def all_service_ids(view: View) -> list[str]:
    """Return the ids of all services, and of deleted ones that still have tasks."""
    ids = {service.id for service in view.services}
    ids.update(task.service_id for task in view.tasks if task.service_id)
    return sorted(ids)


def _remove_all(view: View, draft: Draft, service_id: str, now_ns: int) -> None:
    for task in sorted(view.tasks.of_service(service_id), key=lambda t: (t.slot, t.id)):
        if task.desired_state is TaskState.REMOVE:
            continue
        if not draft.has_room():
            draft.postpone([service_id])
            return
        draft.update(_told(task, TaskState.REMOVE, now_ns))


def _told(task: Task, desired: TaskState, now_ns: int) -> Task:
    """The task with its desired state lowered; one that never reached a node ends with that."""
    told = msgspec.structs.replace(task, desired_state=max(task.desired_state, desired))
    if task.status.state < TaskState.ASSIGNED:
        return with_status(told, TaskState.SHUTDOWN, now_ns, "shut down before it was assigned to a node", task.status.error)
    return told


class _Pass:
    """One look at one service. Each step returns whether it could do all that it had to."""

    def __init__(self, view: View, draft: Draft, service: Service, now_ns: int, new_id: Callable[[], str]) -> None:
        self._view = view
        self._draft = draft
        self._service = service
        self._now_ns = now_ns
        self._new_id = new_id
        self._slots = group_slots(view.tasks.of_service(service.id))

    def run(self) -> bool:
        """Take all steps."""
        surplus = len(self._slots) - self._service.spec.replicas
        if surplus > 0 and not self._remove_slots(surplus):
            return False
        for number in sorted(self._slots):
            if not self._keep_going(self._slots[number]):
                return False
        if surplus < 0 and not self._add_slots(-surplus):
            return False
        return self._renew()

    def _remove_slots(self, count: int) -> bool:
        for slot in choose_surplus(self._slots.values(), count):
            # The current task goes last: cut short, the slot still counts as one.
            for task in [*slot.past, *filter(None, [slot.current])]:
                if not self._draft.has_room():
                    return False
                self._draft.update(_told(task, TaskState.REMOVE, self._now_ns))
            del self._slots[slot.number]
        return True

    def _keep_going(self, slot: Slot) -> bool:
        """Replace the slot's task when it must be, start it when it may be."""
        task = slot.current
        if task is None:
            return True
        for position, other in enumerate(slot.past):
            if other.desired_state <= TaskState.RUNNING:  # superseded, by whatever made two of them
                if not self._draft.has_room():
                    return False
                slot.past[position] = self._shut_down(other)
        if task.start_at_ns > self._now_ns and restart.is_held_too_long(self._policy_of(task), task, self._now_ns):
            return self._hold_anew(slot, task)
        if task.is_terminal and task.start_at_ns > self._now_ns:  # it failed while it was held back: its delay is not over
            self._draft.wake(self._service.id, task.start_at_ns)
            return True
        if task.is_terminal or (task.node_id and restart.is_node_unusable(self._node_of(task))):
            return self._restart(slot, task)
        if task.desired_state is TaskState.READY:
            return self._start_when_due(slot, task)
        return True

    def _restart(self, slot: Slot, task: Task) -> bool:
        policy = self._policy_of(task)
        if not restart.should_restart(policy, task, self._now_ns):
            if not self._draft.has_room():
                return False
            slot.past.append(self._shut_down(task))
            slot.current = None
            return True
        return self._replace(
            slot,
            task,
            restart.restart_delay_ns(policy, self._node_of(task)),
            restart.restarts_of_successor(policy, task, self._now_ns, is_same_spec=task.task_spec_id == self._service.task_spec_id),
        )

    def _replace(self, slot: Slot, task: Task, delay_ns: int, restarted_at_ns: tuple[int, ...]) -> bool:
        if not self._draft.has_room(2):
            return False
        slot.past.append(self._shut_down(task))
        slot.current = None
        must_wait = delay_ns > 0 or any(self._may_still_run(t) for t in slot.past)
        successor = msgspec.structs.replace(
            self._new_task(slot.number, cause=task.id),
            desired_state=TaskState.READY if must_wait else TaskState.RUNNING,
            start_at_ns=self._now_ns + delay_ns if must_wait else 0,
            restarted_at_ns=restarted_at_ns,
        )
        self._draft.create(successor)
        slot.current = successor
        if must_wait:
            self._draft.wake(self._service.id, self._now_ns + (delay_ns or restart.STOP_WAIT_NS))
        return True

    def _hold_anew(self, slot: Slot, task: Task) -> bool:
        """The clock was set back: let the delay begin again instead of lasting until the clock has caught up."""
        if not self._draft.has_room():
            return False
        until_ns = self._now_ns + restart.restart_delay_ns(self._policy_of(task), None)
        slot.current = msgspec.structs.replace(task, start_at_ns=until_ns)
        self._draft.update(slot.current)
        self._draft.wake(self._service.id, until_ns)
        return True

    def _policy_of(self, task: Task) -> RestartPolicy | None:
        spec = self._view.task_specs.get(task.task_spec_id)
        return spec.template.restart_policy if spec else None

    def _start_when_due(self, slot: Slot, task: Task) -> bool:
        wait_until_ns = task.start_at_ns
        if any(self._may_still_run(t) for t in slot.past):
            held_since_ns = min(task.created_at_ns, task.start_at_ns)  # should the clock have been set back, the former is ahead
            wait_until_ns = max(wait_until_ns, held_since_ns + restart.STOP_WAIT_NS)
        if wait_until_ns > self._now_ns:
            self._draft.wake(self._service.id, task.start_at_ns if task.start_at_ns > self._now_ns else wait_until_ns)
            return True
        if not self._draft.has_room():
            return False
        slot.current = msgspec.structs.replace(task, desired_state=TaskState.RUNNING)
        self._draft.update(slot.current)
        return True

    def _add_slots(self, count: int) -> bool:
        cause = SCALED if self._slots and self._service.previous_spec_json is not None else CREATED
        for number in lowest_free_numbers(self._slots, count):
            if not self._draft.has_room():
                return False
            task = self._new_task(number, cause)
            self._draft.create(task)
            self._slots[number] = Slot(number, task)
        return True

    def _renew(self) -> bool:
        slot = rollout.next_slot(self._service, self._slots.values())
        if slot is None:
            return True
        if slot.current is not None:
            return self._replace(slot, slot.current, 0, ())
        if not self._draft.has_room():
            return False
        self._draft.create(self._new_task(slot.number, cause=slot.newest.id))
        return True

    def _shut_down(self, task: Task) -> Task:
        told = _told(task, TaskState.SHUTDOWN, self._now_ns)
        self._draft.update(told)
        return told

    def _new_task(self, slot_number: int, cause: str) -> Task:
        return Task(
            id=self._new_id(),
            task_spec_id=self._service.task_spec_id,
            service_id=self._service.id,
            slot=slot_number,
            spec_generation=self._service.spec_generation,
            status=TaskStatus(state=TaskState.NEW, at_ns=self._now_ns, message="created"),
            cause=cause,
        )

    def _node_of(self, task: Task) -> Node | None:
        return self._view.nodes.get(task.node_id)

    def _may_still_run(self, task: Task) -> bool:
        return restart.is_stopping(task) and not restart.is_node_gone(self._node_of(task))
