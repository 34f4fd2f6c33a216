"""What an update renews one by one: the slots of a replicated service, or the nodes of a global one, with their tasks. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pyswarm_common.objects import Task
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import succession_key

KeyT = TypeVar("KeyT", int, str)
"""A slot's number or a node's id: nothing is known of it but that it can be sorted."""


@dataclass
class Unit(Generic[KeyT]):
    """One slot or node. `current` is the newest task that should run; None when the last one ended and needs no successor."""

    key: KeyT
    current: Task | None = None
    elders: list[Task] = field(default_factory=list)
    """Older tasks that should run too, oldest first: `current` is to take over from one of them once it runs (start-first)."""
    past: list[Task] = field(default_factory=list)
    """Tasks that were told to stop, oldest first."""

    @property
    def newest(self) -> Task:
        """The task that stands for the unit."""
        return self.current or self.past[-1]

    @property
    def tasks(self) -> list[Task]:
        """All its tasks, the current one last."""
        return [*self.past, *self.elders] if self.current is None else [*self.past, *self.elders, self.current]

    @property
    def working(self) -> Task | None:
        """The task that does the unit's work now: the current one if it runs, or an older one that still does."""
        if self.current is not None and self.current.status.state is TaskState.RUNNING:
            return self.current
        return next((elder for elder in reversed(self.elders) if elder.status.state is TaskState.RUNNING), None)

    @property
    def is_running(self) -> bool:
        """Whether the unit does its work now."""
        return self.working is not None


def group_units(tasks: Iterable[Task], key_of: Callable[[Task], KeyT]) -> dict[KeyT, Unit[KeyT]]:
    """Return the units in use, by key; tasks on their way out (desired REMOVE) are in none."""
    units: dict[KeyT, Unit[KeyT]] = {}
    for task in sorted(tasks, key=succession_key):
        if task.desired_state is TaskState.REMOVE:
            continue
        key = key_of(task)
        unit = units.get(key)
        if unit is None:
            unit = units[key] = Unit(key)
        if task.desired_state > TaskState.RUNNING:
            unit.past.append(task)
        elif unit.current is None:
            unit.current = task
        else:
            _add_live(unit, unit.current, task)
    return units


def _add_live(unit: Unit[KeyT], present: Task, task: Task) -> None:
    """Note one more task that should run. Whatever the clocks said, a successor is newer than what it succeeds."""
    if (present.spec_generation, present.cause == task.id) > (task.spec_generation, task.cause == present.id):
        unit.elders.append(task)
    else:
        unit.elders.append(present)
        unit.current = task
