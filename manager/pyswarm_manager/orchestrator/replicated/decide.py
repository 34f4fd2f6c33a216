"""What a replicated service needs: new slots, fewer slots, successors of dead tasks, starts that are due, renewals. Pure.

For each service, in this order: failures of its update may pause it or roll it back (`../update/plan.py`); superfluous slots are
marked for removal; tasks that ended, or may not stay on their node, are succeeded when the restart policy allows, and successors
whose time has come are started (`../succession.py`); missing slots are added; and the update goes on to the next slots. A slot
whose task ended for good keeps that task (desired SHUTDOWN, no successor) as the mark that it needs none.
"""

from collections.abc import Callable, Iterable

from pyswarm_common.objects import Service, Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft
from pyswarm_manager.orchestrator.causes import CREATED, SCALED
from pyswarm_manager.orchestrator.replicated.moves import slots_to_move
from pyswarm_manager.orchestrator.replicated.slots import Slot, choose_surplus, group_slots, lowest_free_numbers
from pyswarm_manager.orchestrator.succession import Succession, told
from pyswarm_manager.orchestrator.update.plan import judged, next_step
from pyswarm_manager.store.tables import View


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
    remaining = (task for task in view.tasks.of_service(service_id) if task.desired_state is not TaskState.REMOVE)
    for task in sorted(remaining, key=lambda t: (t.slot, t.id)):
        if not draft.has_room():
            draft.postpone([service_id])
            return
        draft.update(told(task, TaskState.REMOVE, now_ns))


class _Pass:
    """One look at one service. Each step returns whether it could do all that it had to."""

    def __init__(self, view: View, draft: Draft, service: Service, now_ns: int, new_id: Callable[[], str]) -> None:
        self._view = view
        self._draft = draft
        self._now_ns = now_ns
        self._new_id = new_id
        self._slots = group_slots(view.tasks.of_service(service.id))
        self._service = judged(view, service, self._slots.values())
        draft.update(self._service)

    def run(self) -> bool:
        """Take all steps."""
        surplus = len(self._slots) - self._service.spec.replicas
        if surplus > 0 and not self._remove_slots(surplus):
            return False
        if not self._keep_going():
            return False
        if surplus < 0 and not self._add_slots(-surplus):
            return False
        return self._update()

    def _remove_slots(self, count: int) -> bool:
        for slot in choose_surplus(self._slots.values(), count):
            for task in slot.tasks:  # the current task is the last: cut short, the slot still counts as one
                if not self._draft.has_room():
                    return False
                self._draft.update(told(task, TaskState.REMOVE, self._now_ns))
            del self._slots[slot.key]
        return True

    def _keep_going(self) -> bool:
        succession = self._succession()
        may_move = slots_to_move(self._service, self._slots.values())
        return all(succession.keep_going(self._slots[key], may_move=key in may_move) for key in sorted(self._slots))

    def _add_slots(self, count: int) -> bool:
        cause = SCALED if self._slots and self._service.previous_spec_json is not None else CREATED
        for number in lowest_free_numbers(self._slots, count):
            if not self._draft.has_room():
                return False
            task = self._new_task(number, cause)
            self._draft.create(task)
            self._slots[number] = Slot(number, task)
        return True

    def _update(self) -> bool:
        step = next_step(self._view, self._service, self._slots.values(), self._now_ns)
        if step.service is not self._service:
            if not self._draft.has_room():
                return False
            self._service = step.service
            self._draft.update(step.service)
        if step.wake_at_ns is not None:
            self._draft.wake(self._service.id, step.wake_at_ns)
        succession = self._succession()
        return all(succession.renew(slot) for slot in step.renewals)

    def _succession(self) -> Succession[int]:
        return Succession(self._view, self._draft, self._service, self._now_ns, self._new_task, self._service.id)

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
