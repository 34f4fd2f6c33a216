"""All control loops that turn services into placed tasks, and the order in which the leader starts them."""

from pyswarm_common.clock import Clock
from pyswarm_manager.allocator.loop import Allocator
from pyswarm_manager.dispatcher.orphaning.loop import Orphaning
from pyswarm_manager.key_manager.loop import KeyManager
from pyswarm_manager.loops import ControlLoop
from pyswarm_manager.orchestrator.constraint_enforcer.loop import ConstraintEnforcer
from pyswarm_manager.orchestrator.global_service.loop import GlobalOrchestrator
from pyswarm_manager.orchestrator.jobs.loop import JobOrchestrator
from pyswarm_manager.orchestrator.rebalance.loop import Rebalancer
from pyswarm_manager.orchestrator.replicated.loop import ReplicatedOrchestrator
from pyswarm_manager.orchestrator.schedule.loop import ScheduleKeeper
from pyswarm_manager.orchestrator.task_reaper.loop import TaskReaper
from pyswarm_manager.scheduler.loop import Scheduler
from pyswarm_manager.store.store import Store

LOOP_TYPES: tuple[type[ControlLoop], ...] = (
    ReplicatedOrchestrator,
    GlobalOrchestrator,
    Allocator,
    Scheduler,
    TaskReaper,
    ConstraintEnforcer,
    Orphaning,
    Rebalancer,
    JobOrchestrator,
    ScheduleKeeper,
    KeyManager,
)


def orchestration_loops(store: Store, clock: Clock) -> list[ControlLoop]:
    """Return one of each."""
    return [loop_type(store, clock) for loop_type in LOOP_TYPES]
