"""Updates and drained nodes with all loops on a real store in memory."""

from collections.abc import AsyncIterator

import msgspec
import pytest
from cluster_under_test import WITH_VOLUME, ClusterUnderTest, running_cluster, web
from loop_world import service_with_spec

from pyswarm_common.objects import Node
from pyswarm_common.task_states import TaskState


@pytest.fixture
async def cluster() -> AsyncIterator[ClusterUnderTest]:
    async with running_cluster() as made:
        yield made


async def test_a_drained_node_is_left_and_no_replica_is_missing_meanwhile(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(4, delay_s=5))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 4)
    await cluster.obey()
    drained: Node = cluster.store.view.nodes.must_get("n1")
    await cluster.change(msgspec.structs.replace(drained, spec=msgspec.structs.replace(drained.spec, availability="drain")))
    for _ in range(20):
        await cluster.clock.advance(0.02)
        assert len(cluster.tasks(TaskState.RUNNING)) >= 4
        await cluster.obey()
    assert {t.node_id for t in cluster.tasks(TaskState.RUNNING)} == {"n2", "n3"}
    assert len(cluster.tasks(TaskState.RUNNING)) == 4


async def test_a_task_with_a_volume_leaves_a_drained_node_before_its_successor_starts(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(1, delay_s=5, ContainerSpec=WITH_VOLUME))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
    await cluster.obey()
    old = cluster.tasks()[0]
    spec = msgspec.structs.replace(cluster.store.view.nodes.must_get(old.node_id).spec, availability="drain")
    await cluster.change(msgspec.structs.replace(cluster.store.view.nodes.must_get(old.node_id), spec=spec))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED, desired=TaskState.READY)) == 1)
    assert cluster.tasks() == []
    await cluster.obey()
    await cluster.until(lambda: len(cluster.tasks()) == 1)
    assert cluster.tasks()[0].node_id != old.node_id


async def test_a_new_task_spec_is_rolled_out_slot_by_slot(cluster: ClusterUnderTest) -> None:
    await cluster.change(*web(3))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 3)
    await cluster.obey()
    _, spec = service_with_spec("web", {"ForceUpdate": 1}, spec_generation=2)
    service = cluster.store.view.services.must_get("web")
    await cluster.change(spec, msgspec.structs.replace(service, task_spec_id=spec.id, spec_generation=2))

    def is_renewed() -> bool:
        return [t.spec_generation for t in cluster.tasks(TaskState.RUNNING)] == [2, 2, 2]

    for _ in range(30):
        await cluster.clock.advance(0.02)
        assert len(cluster.tasks(TaskState.RUNNING)) >= 2
        await cluster.obey()
    assert is_renewed()


async def test_an_update_that_fails_rolls_back_by_itself(cluster: ClusterUnderTest) -> None:
    rules = {"Parallelism": 1, "FailureAction": "rollback", "Monitor": 10**9, "Order": "start-first"}
    first, first_spec = web(3)
    spec_json = msgspec.json.encode({**msgspec.json.decode(first.spec_json), "UpdateConfig": rules, "RollbackConfig": rules})
    await cluster.change(msgspec.structs.replace(first, spec_json=spec_json), first_spec)
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 3)
    await cluster.obey()
    _, spec = service_with_spec("web", {"ForceUpdate": 1}, spec_generation=2)
    service = msgspec.structs.replace(
        cluster.store.view.services.must_get("web"),
        task_spec_id=spec.id,
        spec_generation=2,
        previous_spec_json=spec_json,
        previous_task_spec_id=first_spec.id,
    )
    await cluster.change(spec, service)
    await cluster.until(lambda: any(t.spec_generation == 2 and t.node_id for t in cluster.tasks()))
    await cluster.report([t for t in cluster.tasks() if t.spec_generation == 2], TaskState.REJECTED)

    def state() -> str:
        status = cluster.store.view.services.must_get("web").update_status
        return status.state if status else ""

    await cluster.until(lambda: state() == "rollback_started")
    await cluster.until(lambda: state() == "rollback_completed")
    assert [t.task_spec_id for t in cluster.tasks(TaskState.RUNNING)] == [first_spec.id] * 3


async def test_a_drained_node_is_left_even_when_there_is_no_other() -> None:
    async with running_cluster(1) as cluster:
        await cluster.change(*web(1))
        await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 1)
        await cluster.obey()
        drained: Node = cluster.store.view.nodes.must_get("n1")
        await cluster.change(msgspec.structs.replace(drained, spec=msgspec.structs.replace(drained.spec, availability="drain")))
        await cluster.until(lambda: not cluster.tasks(TaskState.RUNNING))
