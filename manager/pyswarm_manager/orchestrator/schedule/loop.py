"""The schedule keeper's shell: which scheduled jobs an event makes it look at. Time wakes it by itself."""

from collections.abc import Iterable

from pyswarm_common.objects import Service, Task
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.orchestrator.schedule.decide import all_scheduled_ids, decide, is_scheduled
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import View

_COST_OF_A_SCHEDULE = 20
"""A look at a schedule takes as long as looking at so many tasks."""


class ScheduleKeeper(ControlLoop):
    """Begins the runs of scheduled jobs when they are due."""

    watched = (Service, Task)
    pause_s = 0.05

    def all_keys(self, view: View) -> Iterable[str]:
        """All services with a schedule, or with what is left of one."""
        return all_scheduled_ids(view)

    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """A scheduled service itself, and that of a task that ended: its run may be over."""
        match change.item:
            case Service() as service if is_scheduled(service):
                return (service.id,)
            case Task() as task if task.job_iteration is not None and (task.is_terminal or change.after is None):
                owner = view.services.get(task.service_id)
                return (owner.id,) if owner is not None and is_scheduled(owner) else ()
        return ()

    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """See `decide.py`."""
        return decide(view, now_ns, limit, service_ids=keys)

    def _cost(self, key: str) -> int:
        return _COST_OF_A_SCHEDULE + super()._cost(key)
