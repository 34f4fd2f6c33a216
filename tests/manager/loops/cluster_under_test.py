"""A real store in memory with all control loops running, a manual clock, and an agent's part played by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from loop_world import node, service_with_spec

from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import Cluster, Node, NodeStatus, Service, Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestration import LOOP_TYPES
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

WITH_VOLUME = {"Mounts": [{"Type": "volume", "Source": "data", "Target": "/data"}]}


class ClusterUnderTest:
    """A store with its loops running, and an agent's part played by hand."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock

    async def change(self, *items: Any) -> None:
        """Create or replace objects."""

        def write(tx: Transaction) -> None:
            for item in items:
                (tx.update if item.id in tx.table(type(item)) else tx.create)(item)

        await self.store.update(write)

    async def until(self, is_reached: Callable[[], bool], within_s: float = 2.0) -> None:
        """Let the loops work until the condition holds, moving the clock in small steps."""
        for _ in range(round(within_s / 0.02)):
            if is_reached():
                return
            await self.clock.advance(0.02)
        raise AssertionError(f"not reached; tasks: {sorted(self.store.view.tasks, key=lambda t: t.slot)}")

    def tasks(self, state: TaskState | None = None, desired: TaskState = TaskState.RUNNING) -> list[Task]:
        """The tasks with this desired state, and observed state if given, by slot."""
        found = [t for t in self.store.view.tasks if t.desired_state is desired and (state is None or t.status.state is state)]
        return sorted(found, key=lambda t: t.slot)

    async def report(self, tasks: list[Task], state: TaskState) -> None:
        """Report a state as agents do."""
        await self.change(*(msgspec.structs.replace(t, status=TaskStatus(state=state)) for t in tasks))

    async def obey(self) -> None:
        """Do what agents are told: run what should run, stop what should not."""
        tasks = list(self.store.view.tasks)
        start = [t for t in tasks if t.desired_state is TaskState.RUNNING and t.status.state is TaskState.ASSIGNED]
        stop = [
            t for t in tasks if t.desired_state > TaskState.RUNNING and TaskState.ASSIGNED <= t.status.state < TaskState.COMPLETE
        ]
        alive = {n.id for n in self.store.view.nodes if n.status.state == "ready"}
        await self.report([t for t in start if t.node_id in alive], TaskState.RUNNING)
        await self.report([t for t in stop if t.node_id in alive], TaskState.SHUTDOWN)

    async def scale(self, service_id: str, replicas: int) -> None:
        """Change the number of replicas, as the API does."""
        service = self.store.view.services.must_get(service_id)
        spec = {**msgspec.json.decode(service.spec_json), "Mode": {"Replicated": {"Replicas": replicas}}}
        changed = msgspec.structs.replace(service, spec_json=msgspec.json.encode(spec), previous_spec_json=service.spec_json)
        await self.change(changed)

    async def set_node(self, node_id: str, state: str) -> None:
        """Change a node's state, as the dispatcher does."""
        before: Node = self.store.view.nodes.must_get(node_id)
        await self.change(msgspec.structs.replace(before, status=NodeStatus(state=state)))  # type: ignore[arg-type]


@asynccontextmanager
async def running_cluster(node_count: int = 3) -> AsyncIterator[ClusterUnderTest]:
    """A cluster of so many nodes, with all loops running."""
    clock = ManualClock()
    async with memory_store(clock) as store:
        loops = [loop(store, clock) for loop in LOOP_TYPES]
        cluster = ClusterUnderTest(store, clock)
        await cluster.change(Cluster(id="cluster"), *(node(f"n{i}") for i in range(1, node_count + 1)))
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(loop.run()) for loop in loops]
            try:
                yield cluster
            finally:
                for task in running:
                    task.cancel()


def web(replicas: int, delay_s: float = 0, **template: Any) -> tuple[Service, Any]:
    """A service with this template, and its task spec."""
    return service_with_spec("web", {"RestartPolicy": {"Delay": round(delay_s * 1e9)}, **template}, replicas)
