"""The loops together on a real store in memory, with a manual clock: what a user asks for is what the tasks become."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest
from cluster_under_test import WITH_VOLUME, ClusterUnderTest, running_cluster, web
from loop_world import node, service_with_spec

from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import Cluster, Network, Node, Service, Task
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.specs import RestartPolicy
from pyswarm_common.state_times import read_state_times
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.loop import Allocator
from pyswarm_manager.orchestration import LOOP_TYPES
from pyswarm_manager.orchestrator.replicated.loop import ReplicatedOrchestrator
from pyswarm_manager.orchestrator.restart import should_restart
from pyswarm_manager.store.memory import MemoryCluster, memory_store


@pytest.fixture
async def cluster() -> AsyncIterator[ClusterUnderTest]:
    async with running_cluster() as made:
        yield made


async def test_a_service_gets_its_tasks_spread_over_the_nodes(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(3))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 3)
    assert [t.node_id for t in cluster.tasks()] == ["n1", "n2", "n3"]
    assert [t.slot for t in cluster.tasks()] == [1, 2, 3]


async def test_the_first_task_is_assigned_without_time_passing(cluster: ClusterUnderTest) -> None:
    await cluster.clock.advance(1)
    before_s = cluster.clock.monotonic_s()
    await cluster.change(*web(1))
    for _ in range(500):
        await asyncio.sleep(0)
    assert len(cluster.tasks(TaskState.ASSIGNED)) == 1
    assert cluster.clock.monotonic_s() == before_s


async def test_networks_virtual_ips_and_addresses_are_given(cluster: ClusterUnderTest) -> None:
    await cluster.change(Network(id="app", name="app", spec_json=b'{"Driver":"overlay"}'))
    await cluster.change(*web(2, Networks=[{"Target": "app"}]))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 2)
    view = cluster.store.view
    assert [v.address for v in view.services.must_get("web").virtual_ips] == ["10.0.1.2/24"]
    assert [a.address for t in cluster.tasks() for a in t.attachments] == ["10.0.1.3/24", "10.0.1.4/24"]


async def test_a_freed_address_is_not_given_again_at_once(cluster: ClusterUnderTest) -> None:
    await cluster.change(Network(id="app", name="app", spec_json=b'{"Driver":"overlay"}'))
    await cluster.change(*web(1, Networks=[{"Target": "app"}]))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
    await cluster.obey()
    await cluster.scale("web", 0)
    await cluster.until(lambda: len(cluster.tasks(desired=TaskState.REMOVE)) == 1)
    await cluster.obey()
    await cluster.until(lambda: not len(cluster.store.view.tasks))
    await cluster.scale("web", 1)
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
    assert cluster.tasks()[0].attachments[0].address == "10.0.1.4/24"


async def test_tasks_of_a_node_that_goes_down_run_elsewhere(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(3))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 3)
    await cluster.obey()
    await cluster.set_node("n2", "down")
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
    replacement = cluster.tasks(TaskState.ASSIGNED)[0]
    assert (replacement.slot, replacement.node_id) == (2, "n1")
    old = cluster.tasks(desired=TaskState.SHUTDOWN)
    assert [(t.node_id, t.status.state) for t in old] == [("n2", TaskState.RUNNING)]
    assert (replacement.cause, replacement.replacement_reason) == (old[0].id, ReplacementReason.NODE_DOWN)
    assert [state for state, _ in read_state_times(replacement.state_times)] == [TaskState.PENDING, TaskState.ASSIGNED]


async def test_scaling_up_and_down(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(3))
    for replicas in (3, 10, 2):
        await cluster.scale("web", replicas)
        await cluster.until(lambda replicas=replicas: len(cluster.tasks()) == replicas)  # type: ignore[misc]
        await cluster.until(lambda: not cluster.tasks(TaskState.NEW) and not cluster.tasks(TaskState.PENDING))
        await cluster.obey()
        counts = Counter(t.node_id for t in cluster.tasks(TaskState.RUNNING))
        assert max(counts.values()) - min(counts.values()) <= 1
    await cluster.until(lambda: len(cluster.store.view.tasks) == 2)
    assert len(cluster.tasks(TaskState.RUNNING)) == 2


async def test_a_restart_waits_for_its_delay(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(1, delay_s=5))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
    await cluster.report(cluster.tasks(), TaskState.FAILED)
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED, desired=TaskState.READY)) == 1)
    await cluster.report(cluster.tasks(desired=TaskState.READY), TaskState.READY)
    await cluster.clock.advance(4.5)
    assert cluster.tasks() == []
    await cluster.clock.advance(0.5)
    assert [t.status.state for t in cluster.tasks()] == [TaskState.READY]


async def test_a_task_that_nobody_takes_says_why_and_goes_where_a_node_appears() -> None:
    async with running_cluster(1) as cluster:
        await cluster.change(*web(1, Placement={"Constraints": ["node.labels.zone==north"]}))
        await cluster.until(lambda: any(t.status.error for t in cluster.tasks()))
        assert cluster.tasks()[0].status.error == "no suitable node (scheduling constraints not satisfied on 1 node)"
        await cluster.change(node("n9", labels={"zone": "north"}))
        await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
        assert (cluster.tasks()[0].node_id, cluster.tasks()[0].status.error) == ("n9", "")


async def test_a_deleted_service_leaves_nothing(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(5))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 5)
    await cluster.obey()
    await cluster.store.update(lambda tx: tx.delete(Service, "web"))
    await cluster.until(lambda: len(cluster.tasks(desired=TaskState.REMOVE)) == 5)
    await cluster.obey()
    await cluster.until(lambda: not len(cluster.store.view.tasks))
    assert not len(cluster.store.view.task_specs)


async def test_history_is_limited(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(1))
    for _ in range(8):
        await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
        await cluster.report(cluster.tasks(), TaskState.FAILED)
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1 and len(cluster.store.view.tasks) == 5)


async def test_more_tasks_than_one_transaction_takes() -> None:
    async with running_cluster(10) as cluster:
        await cluster.change(
            Network(id="app", name="app", spec_json=b'{"Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.9.0.0/16"}]}}')
        )
        await cluster.change(*web(500, Networks=[{"Target": "app"}]))
        await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 500, within_s=10)
        assert set(Counter(t.node_id for t in cluster.tasks()).values()) == {50}
        assert len({a.address for t in cluster.tasks() for a in t.attachments}) == 500
        await cluster.store.update(lambda tx: tx.delete(Service, "web"))
        await cluster.until(lambda: len(cluster.tasks(desired=TaskState.REMOVE)) == 500, within_s=10)
        stopping = cluster.tasks(desired=TaskState.REMOVE)
        for start in range(0, 500, 50):
            await cluster.report(stopping[start : start + 50], TaskState.SHUTDOWN)
        await cluster.until(lambda: not len(cluster.store.view.tasks), within_s=10)


async def test_loops_that_start_later_find_everything_that_is_to_be_done() -> None:
    clock = ManualClock()
    async with memory_store(clock) as store:
        cluster = ClusterUnderTest(store, clock)
        await cluster.change(Cluster(id="cluster"), node("n1"), *web(2))
        for loop_type in LOOP_TYPES:
            running = asyncio.create_task(loop_type(store, clock).run())
            await clock.advance(0.5)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert len(cluster.tasks(TaskState.ASSIGNED)) == 2


async def test_large_objects_go_into_smaller_transactions() -> None:
    clock = ManualClock()
    async with memory_store(clock) as store:
        cluster = ClusterUnderTest(store, clock)
        await cluster.change(Cluster(id="cluster"), Network(id="app", name="app", spec_json=b'{"Driver":"overlay"}'))
        for number in range(60):
            service, spec = service_with_spec(f"s{number}", {"Networks": [{"Target": "app"}]}, 0)
            large = msgspec.json.decode(service.spec_json) | {"Labels": {"text": "x" * 30_000}}
            await cluster.change(spec, msgspec.structs.replace(service, spec_json=msgspec.json.encode(large)))
        running = asyncio.create_task(Allocator(store, clock).run())
        try:
            await cluster.until(lambda: all(s.virtual_ips for s in store.view.services))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
async def test_a_clock_that_is_set_while_a_restart_waits_harms_nothing(cluster: ClusterUnderTest, jump_s: float) -> None:
    await cluster.change(*web(1, delay_s=5))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
    await cluster.obey()
    await cluster.report(cluster.tasks(TaskState.RUNNING), TaskState.FAILED)
    await cluster.until(lambda: len(cluster.tasks(desired=TaskState.READY)) == 1)
    cluster.clock.jump(jump_s)
    await cluster.until(lambda: len(cluster.tasks()) == 1, within_s=11.0)


async def test_a_new_leader_whose_clock_is_behind_holds_a_restart_back_for_its_delay_only() -> None:
    clock, memory = ManualClock(), MemoryCluster()
    service, spec = web(1, delay_s=5)
    held = Task(
        id="t2",
        task_spec_id=spec.id,
        service_id=service.id,
        slot=1,
        desired_state=TaskState.READY,
        start_at_ns=clock.now_ns() + 86400 * 10**9,
    )
    async with memory_store(clock, memory) as store:
        await store.update(lambda tx: [tx.create(item) for item in (Cluster(id="c"), service, spec, held)])
        running = asyncio.ensure_future(ReplicatedOrchestrator(store, clock).run())
        await clock.advance(4.9)
        assert store.view.tasks.must_get("t2").desired_state is TaskState.READY
        await clock.advance(0.2)
        assert store.view.tasks.must_get("t2").desired_state is TaskState.RUNNING
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_predecessor_that_does_not_stop_is_waited_for_a_minute_whatever_the_clock_does(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(1, delay_s=5, ContainerSpec=WITH_VOLUME))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
    await cluster.obey()
    node_id = cluster.tasks(TaskState.RUNNING)[0].node_id
    node: Node = cluster.store.view.nodes.must_get(node_id)
    await cluster.change(msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, availability="drain")))
    await cluster.until(lambda: len(cluster.tasks(desired=TaskState.READY)) == 1)
    cluster.clock.jump(-86400)
    await cluster.until(lambda: len(cluster.tasks()) == 1, within_s=135.0)


def test_restarts_count_only_within_the_window_on_either_side_of_now() -> None:
    policy = RestartPolicy(condition="any", max_attempts=2, window=60 * 10**9)
    now_ns = 10**18
    day_ns = 86400 * 10**9
    recent = Task(id="t", task_spec_id="s", restarted_at_ns=(now_ns - 10**9, now_ns + 10**9))
    foreign = Task(id="t", task_spec_id="s", restarted_at_ns=(now_ns + day_ns, now_ns + day_ns + 1))
    assert not should_restart(policy, recent, now_ns)
    assert should_restart(policy, foreign, now_ns)
