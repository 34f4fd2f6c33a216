"""Global services, the constraint enforcer and orphaning with all loops on a real store in memory, with a manual clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from cluster_under_test import ClusterUnderTest, running_cluster
from loop_world import node, service_with_spec

from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import Cluster, Node, NodeResources, NodeStatus, Service, Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestration import orchestration_loops
from pyswarm_manager.store.memory import memory_store

DAY_S = 24 * 3600


@pytest.fixture
async def cluster() -> AsyncIterator[ClusterUnderTest]:
    async with running_cluster() as made:
        yield made


def agent(delay_s: float = 0, generation: int = 1, spec: dict[str, Any] | None = None, **template: Any) -> tuple[Service, Any]:
    """A global service."""
    policy = {"RestartPolicy": {"Delay": round(delay_s * 1e9)}}
    mode = {"Global": {}}
    return service_with_spec("agent", {**policy, **template}, mode=mode, spec_generation=generation, extra=spec or {})


def live(cluster: ClusterUnderTest, service_id: str = "agent") -> list[Task]:
    tasks = cluster.store.view.tasks.of_service(service_id)
    return sorted((t for t in tasks if t.desired_state <= TaskState.RUNNING and not t.is_terminal), key=lambda t: t.node_id)


def nodes_of(cluster: ClusterUnderTest, state: TaskState | None = None, service_id: str = "agent") -> list[str]:
    return [t.node_id for t in live(cluster, service_id) if state is None or t.status.state is state]


async def change_node(cluster: ClusterUnderTest, node_id: str, **changes: Any) -> None:
    """Change a node's spec."""
    one = cluster.store.view.nodes.must_get(node_id)
    await cluster.change(msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, **changes)))


async def obey(cluster: ClusterUnderTest) -> None:
    """Do what agents are told; what was rejected is stored so, as the dispatcher does."""
    rejected = [t for t in cluster.store.view.tasks if t.rejection and t.desired_state > TaskState.RUNNING and not t.is_terminal]
    await cluster.change(
        *(msgspec.structs.replace(t, status=TaskStatus(state=TaskState.REJECTED, error=t.rejection)) for t in rejected)
    )
    await cluster.obey()


async def running_on(cluster: ClusterUnderTest, *node_ids: str, service_id: str = "agent") -> None:
    """Let loops and agents work until the service runs on exactly these nodes."""

    def is_reached() -> bool:
        return nodes_of(cluster, service_id=service_id) == nodes_of(cluster, TaskState.RUNNING, service_id) == list(node_ids)

    for _ in range(300):
        if is_reached():
            return
        await cluster.clock.advance(0.02)
        await obey(cluster)
    raise AssertionError(f"not reached; tasks: {sorted(cluster.store.view.tasks, key=lambda t: t.created_at_ns)}")


async def test_each_node_runs_one_task_and_a_node_that_joins_gets_one(cluster: ClusterUnderTest) -> None:
    await cluster.change(*agent())
    await running_on(cluster, "n1", "n2", "n3")
    assert {t.slot for t in live(cluster)} == {0}
    await cluster.clock.advance(1)
    await cluster.change(node("n4"))
    await running_on(cluster, "n1", "n2", "n3", "n4")
    assert live(cluster)[3].cause == "joined"


async def test_a_global_service_follows_labels(cluster: ClusterUnderTest) -> None:
    await change_node(cluster, "n2", labels={"zone": "a"})
    await cluster.change(*agent(Placement={"Constraints": ["node.labels.zone==a"]}))
    await running_on(cluster, "n2")
    await change_node(cluster, "n3", labels={"zone": "a"})
    await running_on(cluster, "n2", "n3")
    await change_node(cluster, "n2", labels={})
    await running_on(cluster, "n3")
    (left,) = [t for t in cluster.store.view.tasks if t.node_id == "n2"]
    assert (left.status.state, left.status.error) == (TaskState.REJECTED, "assigned node no longer meets constraints")
    await change_node(cluster, "n2", labels={"zone": "a"})
    await running_on(cluster, "n2", "n3")


async def test_drain_takes_the_task_and_the_next_one_waits_until_it_has_stopped(cluster: ClusterUnderTest) -> None:
    await cluster.change(*agent())
    await running_on(cluster, "n1", "n2", "n3")
    await change_node(cluster, "n2", availability="drain")
    await cluster.until(lambda: nodes_of(cluster) == ["n1", "n3"])
    await change_node(cluster, "n2", availability="active")
    await cluster.until(lambda: nodes_of(cluster, TaskState.ASSIGNED) == ["n2"])
    assert live(cluster)[1].desired_state is TaskState.READY
    await running_on(cluster, "n1", "n2", "n3")


async def test_a_node_that_went_down_gets_a_new_task_when_it_is_back(cluster: ClusterUnderTest) -> None:
    await cluster.change(*agent())
    await running_on(cluster, "n1", "n2", "n3")
    first = live(cluster)[0]
    await cluster.set_node("n1", "down")
    await running_on(cluster, "n2", "n3")
    assert cluster.store.view.tasks.must_get(first.id).desired_state is TaskState.SHUTDOWN
    await cluster.set_node("n1", "ready")
    await running_on(cluster, "n1", "n2", "n3")
    assert live(cluster)[0].cause == first.id


async def test_a_paused_node_keeps_its_task_but_gets_no_successor_until_it_is_active(cluster: ClusterUnderTest) -> None:
    await cluster.change(*agent())
    await running_on(cluster, "n1", "n2", "n3")
    await change_node(cluster, "n1", availability="pause")
    await cluster.clock.advance(1)
    assert nodes_of(cluster) == ["n1", "n2", "n3"]
    await cluster.report(live(cluster)[:1], TaskState.FAILED)
    await cluster.clock.advance(1)
    assert nodes_of(cluster) == ["n2", "n3"]
    await change_node(cluster, "n1", availability="active")
    await running_on(cluster, "n1", "n2", "n3")


async def test_attempts_are_counted_per_node(cluster: ClusterUnderTest) -> None:
    await cluster.change(*agent(RestartPolicy={"Delay": 0, "MaxAttempts": 1}))
    await running_on(cluster, "n1", "n2", "n3")
    await cluster.report(live(cluster)[:1], TaskState.FAILED)
    await running_on(cluster, "n1", "n2", "n3")
    await cluster.report(live(cluster)[:2], TaskState.FAILED)
    await running_on(cluster, "n2", "n3")


async def test_an_update_renews_one_node_after_the_other_and_a_paused_one_when_it_is_active(cluster: ClusterUnderTest) -> None:
    await cluster.change(*agent())
    await running_on(cluster, "n1", "n2", "n3")
    await change_node(cluster, "n3", availability="pause")
    service, spec = agent(generation=2, ForceUpdate=1)
    await cluster.change(spec, msgspec.structs.replace(service, previous_spec_json=service.spec_json))
    stopping: list[int] = []
    for _ in range(200):
        await cluster.clock.advance(0.02)
        stopping.append(sum(t.desired_state is TaskState.SHUTDOWN and not t.is_terminal for t in cluster.store.view.tasks))
        await obey(cluster)
    assert max(stopping) == 1
    assert [(t.node_id, t.spec_generation) for t in live(cluster)] == [("n1", 2), ("n2", 2), ("n3", 1)]
    await cluster.clock.advance(20)
    status = cluster.store.view.services.must_get("agent").update_status
    assert status is not None
    assert status.state == "completed"
    await change_node(cluster, "n3", availability="active")
    await cluster.until(lambda: [t.spec_generation for t in live(cluster)] == [2, 2, 2])
    await running_on(cluster, "n1", "n2", "n3")


async def test_the_tasks_of_a_deleted_global_service_are_removed(cluster: ClusterUnderTest) -> None:
    await cluster.change(*agent())
    await running_on(cluster, "n1", "n2", "n3")
    await cluster.store.update(lambda tx: tx.delete(Service, "agent"))
    await cluster.until(lambda: not live(cluster))
    await obey(cluster)
    await cluster.until(lambda: not len(cluster.store.view.tasks))


async def test_a_task_moves_away_from_a_node_that_lost_its_label(cluster: ClusterUnderTest) -> None:
    for node_id in ("n1", "n2"):
        await change_node(cluster, node_id, labels={"zone": "a"})
    template = {"RestartPolicy": {"Delay": 0}, "Placement": {"Constraints": ["node.labels.zone==a"]}}
    await cluster.change(*service_with_spec("web", template, 1))
    await running_on(cluster, "n1", service_id="web")
    first = live(cluster, "web")[0]
    await change_node(cluster, "n1", labels={})
    await cluster.until(lambda: cluster.store.view.tasks.must_get(first.id).desired_state is TaskState.SHUTDOWN)
    (successor,) = live(cluster, "web")
    assert (successor.cause, successor.desired_state) == (first.id, TaskState.READY)
    await running_on(cluster, "n2", service_id="web")
    assert cluster.store.view.tasks.must_get(first.id).status.error == "assigned node no longer meets constraints"


async def test_a_task_that_outlived_a_change_of_constraints_answers_to_the_new_ones_later(cluster: ClusterUnderTest) -> None:
    for node_id in ("n1", "n2"):
        await change_node(cluster, node_id, labels={"zone": "a", "rack": "1"})

    def web(label: str, generation: int) -> tuple[Service, Any]:
        template = {"RestartPolicy": {"Delay": 0}, "Placement": {"Constraints": [f"node.labels.{label}"]}}
        return service_with_spec("web", template, 1, spec_generation=generation)

    await cluster.change(*web("zone==a", 1))
    await running_on(cluster, "n1", service_id="web")
    first = live(cluster, "web")[0]
    service, spec = web("rack==1", 2)
    await cluster.change(spec, service)
    await cluster.clock.advance(1)
    assert live(cluster, "web")[0].id == first.id
    await change_node(cluster, "n1", labels={"zone": "a"})
    await running_on(cluster, "n2", service_id="web")


async def test_a_node_that_shrank_gives_its_youngest_tasks_away(cluster: ClusterUnderTest) -> None:
    def with_memory(node_id: str, memory_bytes: int) -> Node:
        one = cluster.store.view.nodes.must_get(node_id)
        resources = NodeResources(memory_bytes=memory_bytes)
        return msgspec.structs.replace(one, description=msgspec.structs.replace(one.description, resources=resources))

    await cluster.change(with_memory("n1", 4))
    template = {"RestartPolicy": {"Delay": 0}, "Resources": {"Reservations": {"MemoryBytes": 2}}}
    await cluster.change(*service_with_spec("web", template, 2))
    await running_on(cluster, "n1", "n1", service_id="web")
    await cluster.change(with_memory("n2", 2), with_memory("n1", 3))
    await running_on(cluster, "n1", "n2", service_id="web")


async def test_a_removed_nodes_tasks_are_orphaned_and_cleaned_up(cluster: ClusterUnderTest) -> None:
    await cluster.change(*agent(), *service_with_spec("web", {"RestartPolicy": {"Delay": 0}}, 3))
    await running_on(cluster, "n1", "n2", "n3")
    await running_on(cluster, "n1", "n2", "n3", service_id="web")
    await cluster.set_node("n1", "down")
    await running_on(cluster, "n2", "n3")
    await cluster.store.update(lambda tx: tx.delete(Node, "n1"))

    def left() -> list[tuple[str, TaskState]]:
        return [(t.service_id, t.status.state) for t in cluster.store.view.tasks if t.node_id == "n1"]

    # The replicated service's task is its slot's history; a node's history goes with the node.
    await cluster.until(lambda: left() == [("web", TaskState.ORPHANED)])


@asynccontextmanager
async def loops_of_one_leader(cluster: ClusterUnderTest) -> AsyncIterator[None]:
    """All loops, without memory of those that ran before."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(loop.run()) for loop in orchestration_loops(cluster.store, cluster.clock)]
        yield
        for one in running:
            one.cancel()


async def test_a_node_that_is_down_for_a_day_loses_its_tasks_whoever_leads() -> None:
    clock = ManualClock()
    async with memory_store(clock) as store:
        cluster = ClusterUnderTest(store, clock)
        async with loops_of_one_leader(cluster):
            await cluster.change(Cluster(id="cluster"), *(node(f"n{i}") for i in (1, 2)))
            await cluster.change(*service_with_spec("web", {"RestartPolicy": {"Delay": 0}}, 1))
            await running_on(cluster, "n1", service_id="web")
            held = live(cluster, "web")[0]
            one = store.view.nodes.must_get("n1")
            since_ns = clock.now_ns() - round((DAY_S - 20) * 1e9)
            await cluster.change(msgspec.structs.replace(one, status=NodeStatus(state="down", since_ns=since_ns)))
            await running_on(cluster, "n2", service_id="web")
            await clock.advance(5)
        async with loops_of_one_leader(cluster):
            await clock.advance(10)
            assert store.view.tasks.must_get(held.id).status.state is TaskState.RUNNING
            await clock.advance(5)
            await cluster.until(lambda: store.view.tasks.must_get(held.id).status.state is TaskState.ORPHANED)
