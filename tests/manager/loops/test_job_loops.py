"""Jobs and schedules on a real store in memory, with all loops running and a manual clock."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from cluster_under_test import ClusterUnderTest, running_cluster
from loop_world import node, service_with_spec

from pyswarm_common.objects import Service, Task
from pyswarm_common.service_labels import SCHEDULE, SCHEDULE_OVERLAP
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState

HOUR_S = 3600.0


def job(total: int | None = 1, concurrent: int = 1, *, started_at_ns: int = 1, **labels: str) -> tuple[Service, Any]:
    """A job and its task spec; without a total it is a global one."""
    mode: dict[str, Any] = {"GlobalJob": {}}
    if total is not None:
        mode = {"ReplicatedJob": {"TotalCompletions": total, "MaxConcurrent": concurrent}}
    return service_with_spec(
        "job", {"RestartPolicy": {"Delay": 0}}, mode=mode, job_started_at_ns=started_at_ns, extra={"Labels": labels}
    )


def scheduled(expression: str, overlap: str = "skip", total: int = 1) -> tuple[Service, Any]:
    """A job that waits for its first run."""
    return job(total, total, started_at_ns=0, **{SCHEDULE: expression, SCHEDULE_OVERLAP: overlap})


def the_job(cluster: ClusterUnderTest) -> Service:
    return cluster.store.view.services.must_get("job")


def completed(cluster: ClusterUnderTest) -> list[Task]:
    """The present iteration's completed tasks."""
    iteration = the_job(cluster).job_iteration
    return [t for t in cluster.store.view.tasks if t.job_iteration == iteration and t.status.state is TaskState.COMPLETE]


def outcomes(cluster: ClusterUnderTest) -> list[str]:
    schedule = the_job(cluster).schedule
    return [run.outcome for run in schedule.runs] if schedule is not None else []


async def work(cluster: ClusterUnderTest, ends: TaskState | None = TaskState.COMPLETE) -> int:
    """Play the agents for a moment: what runs ends, what is assigned starts; returns how many tasks ran at once."""
    running = cluster.tasks(TaskState.RUNNING)
    if ends is not None:
        await cluster.report(running, ends)
    await cluster.obey()
    await cluster.clock.advance(0.3)
    return len(cluster.tasks(TaskState.RUNNING))


async def test_a_replicated_job_completes_exactly_as_often_as_it_shall() -> None:
    async with running_cluster() as cluster:
        await cluster.change(*job(20, 5))
        most = 0
        for _ in range(12):
            most = max(most, await work(cluster))
        assert most == 5
        assert sorted(task.slot for task in completed(cluster)) == list(range(20))
        assert len(cluster.store.view.tasks) == 20


async def test_a_killed_node_costs_no_completion() -> None:
    async with running_cluster() as cluster:
        await cluster.change(*job(20, 5))
        while len(completed(cluster)) < 5:
            await work(cluster)
        while not (doomed := [task for task in cluster.tasks(TaskState.RUNNING) if task.node_id == "n2"]):
            await work(cluster)
        await cluster.set_node("n2", "down")
        for _ in range(20):
            running = [task for task in cluster.tasks(TaskState.RUNNING) if task.node_id != "n2"]
            assert len(running) <= 5
            await cluster.report(running, TaskState.COMPLETE)
            await cluster.obey()
            await cluster.clock.advance(0.3)
        assert not {task.id for task in doomed} & {task.id for task in completed(cluster)}
        assert Counter(task.slot for task in completed(cluster)) == dict.fromkeys(range(20), 1)


async def test_a_global_job_runs_once_per_node_and_on_a_node_that_joins_later() -> None:
    async with running_cluster() as cluster:
        await cluster.change(*job(None))
        for _ in range(3):
            await work(cluster)
        assert sorted(task.node_id for task in completed(cluster)) == ["n1", "n2", "n3"]
        await cluster.change(node("n4"))
        for _ in range(3):
            await work(cluster)
        assert sorted(task.node_id for task in completed(cluster)) == ["n1", "n2", "n3", "n4"]
        assert len(cluster.store.view.tasks) == 4


async def test_a_scheduled_job_runs_when_it_is_due_and_not_before() -> None:
    async with running_cluster() as cluster:
        await cluster.change(*scheduled("*/5 * * * *"))
        await cluster.clock.advance(1)
        schedule = the_job(cluster).schedule
        assert schedule is not None
        wait_s = (schedule.next_due_ns - cluster.clock.now_ns()) / SECOND_NS
        assert 0 < wait_s <= 300
        await cluster.clock.advance(wait_s - 1)
        assert not list(cluster.store.view.tasks)
        await cluster.clock.advance(2)
        for _ in range(3):
            await work(cluster)
        assert len(completed(cluster)) == 1
        assert outcomes(cluster) == ["completed"]
        await cluster.clock.advance(300)
        assert (the_job(cluster).job_iteration, outcomes(cluster)) == (1, ["completed", "running"])


async def test_past_runs_are_kept_with_their_tasks_as_far_as_the_history_goes() -> None:
    async with running_cluster() as cluster:
        await cluster.change(msgspec.structs.replace(cluster.store.view.cluster, task_history_limit=2))
        await cluster.change(*scheduled("* * * * *"))
        for _ in range(5):
            await cluster.clock.advance(60)
            for _ in range(3):
                await work(cluster)
        assert outcomes(cluster) == ["completed"] * 5
        assert sorted(task.job_iteration or 0 for task in cluster.store.view.tasks) == [3, 4]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", ["running", "skipped"]),
        ("queue", ["running", "queued"]),
        ("replace", ["replaced", "running"]),
    ],
)
async def test_a_run_that_is_due_while_the_one_before_goes_on(overlap: str, expected: list[str]) -> None:
    async with running_cluster() as cluster:
        await cluster.change(*scheduled("* * * * *", overlap))
        await cluster.clock.advance(60)
        for _ in range(3):
            await work(cluster, ends=None)
        await cluster.clock.advance(60)
        assert outcomes(cluster) == expected
        assert len(cluster.tasks(TaskState.RUNNING)) == (0 if overlap == "replace" else 1)
        for _ in range(6):
            await work(cluster)
        after = {"skip": ["completed", "skipped"], "queue": ["completed"] * 2, "replace": ["replaced", "completed"]}
        assert outcomes(cluster) == after[overlap]


async def test_a_clock_that_is_set_back_runs_nothing_twice_and_one_that_is_set_forward_is_noticed() -> None:
    async with running_cluster() as cluster:
        await cluster.change(*scheduled("*/10 * * * *"))
        await cluster.clock.advance(600)
        for _ in range(3):
            await work(cluster)
        assert outcomes(cluster) == ["completed"]
        cluster.clock.jump(-120)
        await cluster.clock.advance(150)
        assert outcomes(cluster) == ["completed"]
        cluster.clock.jump(HOUR_S)
        await cluster.clock.advance(70)
        assert outcomes(cluster) == ["completed", "running"]
