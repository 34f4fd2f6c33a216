"""A service under update, played in memory: the orchestrator decides, everyone else does what they would do, time is a number.

All that is remembered from one step to the next are the objects in the tables, so every decision may as well be another leader's.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from loop_world import TablesWriter, node, numbered, put

from pyswarm_common.objects import Cluster, Service, Task, TaskSpec, TaskStatus
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.state_times import with_state_time
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.replicated.decide import decide
from pyswarm_manager.orchestrator.replicated.slots import group_slots
from pyswarm_manager.orchestrator.task_reaper.decide import decide as decide_task_reaper
from pyswarm_manager.store.tables import Tables

LIFE = (TaskState.NEW, TaskState.PENDING, TaskState.ASSIGNED, TaskState.PREPARING, TaskState.READY, TaskState.RUNNING)
NODES = ("n1", "n2", "n3")
GOOD, BAD, BROKEN = "good", "bad", "broken"
"""Images: tasks of a bad one fail as soon as they run, of a broken one before."""


@dataclass
class UpdateUnderTest:
    """A service `web` whose tasks all run, and what happens to it."""

    replicas: int
    config: dict[str, Any]
    rollback_config: dict[str, Any] = field(default_factory=dict)
    history_limit: int = 5
    restart: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tables = Tables()
        self.agents_now_ns = 1_000 * SECOND_NS
        self.clock_offset_ns = 0
        self._ids: Iterator[str] = numbered("t")
        put(self.tables, Cluster(id="cluster", task_history_limit=self.history_limit))
        for node_id in NODES:
            put(self.tables, node(node_id))
        put(self.tables, self._task_spec(1, GOOD))
        put(self.tables, Service(id="web", name="web", spec_json=self._spec_json(), task_spec_id="spec1", spec_generation=1))
        for _ in range(20):
            self.step()
        assert len(self.running()) == self.replicas

    def update(self, image: str) -> None:
        """Give the service another task spec, as the API does."""
        service = self.service
        generation = service.spec_generation + 1
        spec = self._task_spec(generation, image)
        put(self.tables, spec)
        put(
            self.tables,
            msgspec.structs.replace(
                service,
                task_spec_id=spec.id,
                spec_generation=generation,
                previous_spec_json=service.spec_json,
                previous_task_spec_id=service.task_spec_id,
                update_status=None,
            ),
        )

    @property
    def now_ns(self) -> int:
        """The time that the clock of whoever leads shows."""
        return self.agents_now_ns + self.clock_offset_ns

    @property
    def service(self) -> Service:
        """The service as it is."""
        return self.tables.services.must_get("web")

    @property
    def state(self) -> str:
        """Where its update stands."""
        return self.service.update_status.state if self.service.update_status else ""

    def active(self) -> list[Task]:
        """The tasks that run or are on their way to, whether they should or not."""
        started = [t for t in self.tables.tasks if TaskState.READY < t.status.state <= TaskState.RUNNING]
        return [t for t in started if t.status.state is TaskState.RUNNING or t.desired_state is TaskState.RUNNING]

    def running(self) -> list[Task]:
        """The tasks that run and are not told to stop."""
        return [t for t in self.tables.tasks if t.status.state is TaskState.RUNNING and t.desired_state is TaskState.RUNNING]

    def down(self) -> int:
        """How many slots do not do their work."""
        return self.replicas - sum(slot.is_running for slot in group_slots(self.tables.tasks).values())

    def outcome(self) -> tuple[Any, ...]:
        """What is left at the end, but for ids and times."""
        service = self.service
        tasks = Counter((t.slot, t.task_spec_id, t.status.state.name) for t in self.running())
        return self.state, service.task_spec_id, service.previous_task_spec_id, sorted(tasks.items())

    def decide(self, limit: int | None = None) -> bool:
        """Let the orchestrator decide once, whoever leads; returns whether it is done."""
        decisions = decide(self.tables, self.now_ns, limit, new_id=self._ids.__next__)
        decisions.apply_to(TablesWriter(self.tables, self.now_ns))
        reaped = decide_task_reaper(self.tables, self.now_ns)
        reaped.apply_to(TablesWriter(self.tables, self.now_ns))
        return decisions.is_empty and not decisions.unfinished

    def settle(self) -> None:
        """Let the orchestrator decide until it has nothing to do."""
        for _ in range(100):
            if self.decide():
                return
        raise AssertionError("the orchestrator does not come to rest")

    def step(self, chance: random.Random | None = None, limit: int | None = None, step_s: float = 0.5) -> None:
        """Let some time pass: tasks (all, or as chance will have it) get on in their lives, and the orchestrator decides."""
        self.agents_now_ns += int(step_s * SECOND_NS)
        for task in sorted(self.tables.tasks, key=lambda t: t.id):
            if chance is None or chance.random() < (0.6 if task.desired_state <= TaskState.RUNNING else 0.1):
                self.get_on(task)
        if limit is None:
            self.settle()
        else:
            self.decide(limit)

    def get_on(self, task: Task) -> None:
        """One step in a task's life, as allocator, scheduler and agent would take it."""
        state = task.status.state
        if state.is_terminal:
            return
        if task.desired_state > TaskState.RUNNING:
            self._put(task, TaskState.SHUTDOWN)
        elif state is {BAD: TaskState.RUNNING, BROKEN: TaskState.PREPARING}.get(self._image(task)):
            self._put(task, TaskState.FAILED)
        elif state < min(task.desired_state, TaskState.RUNNING):
            self._put(task, LIFE[LIFE.index(state) + 1])

    def _put(self, task: Task, state: TaskState) -> None:
        node_id = task.node_id or (NODES[task.slot % len(NODES)] if state >= TaskState.ASSIGNED else "")
        times = with_state_time(task.state_times, state, self.agents_now_ns)
        status = TaskStatus(state=state, at_ns=self.agents_now_ns)
        changed = msgspec.structs.replace(task, status=status, node_id=node_id, state_times=times)
        TablesWriter(self.tables, self.now_ns).update(changed)

    def _image(self, task: Task) -> str:
        container = self.tables.task_specs.must_get(task.task_spec_id).template.container_spec
        return container.image if container else ""

    def _task_spec(self, generation: int, image: str) -> TaskSpec:
        template = {"ContainerSpec": {"Image": image}, "ForceUpdate": generation, "RestartPolicy": self.restart}
        return TaskSpec(id=f"spec{generation}", template_json=msgspec.json.encode(template))

    def _spec_json(self) -> bytes:
        mode = {"Replicated": {"Replicas": self.replicas}}
        return msgspec.json.encode({"Mode": mode, "UpdateConfig": self.config, "RollbackConfig": self.rollback_config or None})
