"""Jobs through the API: shapes, defaults, executions, counts, schedules and refusals in Docker's words."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from docker_command import DockerCLI
from test_api_services import create, inspect, service_spec, update

from pyswarm_common.objects import Service, Task, TaskStatus
from pyswarm_common.service_labels import SCHEDULE, SCHEDULE_HISTORY
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.schedule.decide import decide as decide_schedule
from pyswarm_manager.store.store import Store

NEVER = "0001-01-01T00:00:00Z"


def job_spec(name: str = "batch", labels: dict[str, str] | None = None, **mode: Any) -> dict[str, Any]:
    """A replicated job, or whatever mode is given."""
    return {**service_spec(name), "Mode": mode or {"ReplicatedJob": {}}, "Labels": labels or {}}


async def iteration_of(client: httpx.AsyncClient, name: str = "batch") -> int:
    index: int = (await inspect(client, name))["JobStatus"]["JobIteration"]["Index"]
    return index


async def put_tasks(store: Store, job_id: str, *tasks: tuple[int, str, TaskState, TaskState]) -> None:
    """Store tasks of the present iteration: slot, node, desired and observed state."""
    job = store.view.services.must_get(job_id)
    for number, (slot, node_id, desired, state) in enumerate(tasks):
        task = Task(
            id=f"task{number}",
            service_id=job_id,
            task_spec_id=job.task_spec_id,
            slot=slot,
            node_id=node_id,
            desired_state=desired,
            status=TaskStatus(state=state),
            job_iteration=job.job_iteration,
        )
        await store.update(lambda tx, task=task: tx.create(task))


@pytest.mark.parametrize(
    ("posted", "filled"),
    [
        ({}, {"MaxConcurrent": 1, "TotalCompletions": 1}),
        ({"MaxConcurrent": 3}, {"MaxConcurrent": 3, "TotalCompletions": 3}),
        ({"TotalCompletions": 5}, {"MaxConcurrent": 1, "TotalCompletions": 5}),
        ({"MaxConcurrent": 2, "TotalCompletions": 5}, {"MaxConcurrent": 2, "TotalCompletions": 5}),
    ],
)
async def test_what_a_job_does_not_say_is_filled_in_as_docker_does(
    client: httpx.AsyncClient, posted: dict[str, int], filled: dict[str, int]
) -> None:
    await create(client, job_spec(ReplicatedJob=posted))
    assert (await inspect(client, "batch"))["Spec"]["Mode"] == {"ReplicatedJob": filled}


async def test_a_job_shows_its_execution(client: httpx.AsyncClient) -> None:
    await create(client, job_spec())
    job = await inspect(client, "batch")
    assert job["JobStatus"]["JobIteration"] == {"Index": 0}
    assert job["JobStatus"]["LastExecution"] == job["CreatedAt"]
    await create(client, service_spec("web"))
    assert "JobStatus" not in await inspect(client, "web")


async def test_defaults_hold_nothing_that_a_job_may_not_have(client: httpx.AsyncClient) -> None:
    await create(client, job_spec(GlobalJob={}))
    filled = (await inspect(client, "batch", insertDefaults="true"))["Spec"]
    assert filled["Mode"] == {"GlobalJob": {}}
    assert not {"UpdateConfig", "RollbackConfig"} & set(filled)
    assert (await update(client, "batch", filled)).status_code == 200


async def test_every_update_and_rollback_of_a_job_is_its_next_execution(client: httpx.AsyncClient) -> None:
    await create(client, job_spec())
    first = await inspect(client, "batch")
    assert (await update(client, "batch", {**first["Spec"], "Labels": {"again": "yes"}})).status_code == 200
    second = await inspect(client, "batch")
    assert second["JobStatus"]["JobIteration"] == {"Index": 1}
    assert second["JobStatus"]["LastExecution"] == second["UpdatedAt"] > first["JobStatus"]["LastExecution"]
    assert (await update(client, "batch", second["Spec"], rollback="previous")).status_code == 200
    assert await iteration_of(client) == 2


async def test_tasks_of_jobs_are_to_complete(client: httpx.AsyncClient, store: Store) -> None:
    job_id = await create(client, job_spec(ReplicatedJob={"TotalCompletions": 4}))
    await put_tasks(
        store,
        job_id,
        (0, "", TaskState.RUNNING, TaskState.RUNNING),
        (1, "", TaskState.READY, TaskState.PENDING),
        (2, "", TaskState.SHUTDOWN, TaskState.FAILED),
    )
    tasks = sorted((await client.get("/tasks")).json(), key=lambda task: task["ID"])
    assert [task["DesiredState"] for task in tasks] == ["complete", "ready", "shutdown"]
    assert [task.get("Slot") for task in tasks] == [None, 1, 2]  # Docker leaves out a slot 0, too
    assert all(task["JobIteration"] == {"Index": 0} for task in tasks)
    for word, ids in (("complete", ["task0"]), ("running", []), ("shutdown", ["task2"])):
        found = await client.get("/tasks", params={"filters": msgspec.json.encode({"desired-state": [word]}).decode()})
        assert [task["ID"] for task in found.json()] == ids
    assert (await client.get("/tasks/batch.0.task0")).json()["ID"] == "task0"
    assert (await client.get("/pyswarm/tasks/batch.0/story")).json()["ID"] == "task0"


async def test_the_counts_of_a_replicated_job_are_those_of_its_present_iteration(client: httpx.AsyncClient, store: Store) -> None:
    job_id = await create(client, job_spec(ReplicatedJob={"MaxConcurrent": 2, "TotalCompletions": 4}))
    node_id = next(iter(store.view.nodes)).id
    await put_tasks(
        store,
        job_id,
        (0, node_id, TaskState.SHUTDOWN, TaskState.COMPLETE),
        (0, node_id, TaskState.RUNNING, TaskState.COMPLETE),
        (1, node_id, TaskState.RUNNING, TaskState.RUNNING),
        (2, node_id, TaskState.SHUTDOWN, TaskState.FAILED),
    )
    listed = (await client.get("/services", params={"status": "true"})).json()
    assert listed[0]["ServiceStatus"] == {"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 1}
    await update(client, "batch", (await inspect(client, "batch"))["Spec"])
    listed = (await client.get("/services", params={"status": "true"})).json()
    assert listed[0]["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": 2, "CompletedTasks": 0}


async def test_the_counts_of_a_global_job(client: httpx.AsyncClient, store: Store) -> None:
    job_id = await create(client, job_spec(GlobalJob={}))
    eligible = [node.id for node in store.view.nodes if node.status.state == "ready"]
    listed = (await client.get("/services", params={"status": "true"})).json()
    assert listed[0]["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": len(eligible), "CompletedTasks": 0}
    await put_tasks(store, job_id, (0, eligible[0], TaskState.RUNNING, TaskState.COMPLETE))
    listed = (await client.get("/services", params={"status": "true", "filters": '{"mode":["global-job"]}'})).json()
    assert listed[0]["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": len(eligible) - 1, "CompletedTasks": 1}


REFUSALS = [
    ({"UpdateConfig": {"Parallelism": 1}}, "Jobs may not have an update config"),
    ({"Mode": {"ReplicatedJob": {"MaxConcurrent": -1}}}, "Maximum concurrent jobs must not be negative"),
    ({"Mode": {"ReplicatedJob": {"TotalCompletions": -1}}}, "Total completed jobs must not be negative"),
    ({"Mode": {"ReplicatedJob": {}, "Replicated": {}}}, "cannot specify more than one mode"),
    ({"Mode": {"ReplicatedJob": {"TotalCompletions": "x"}}}, "invalid service spec"),
    ({"Labels": {SCHEDULE: "soon"}}, 'label pyswarm.schedule: "soon" is not a cron expression'),
    ({"Labels": {SCHEDULE: "@daily", "pyswarm.schedule.timezone": "Moon"}}, 'there is no time zone "Moon"'),
    ({"Labels": {SCHEDULE: "@daily", "pyswarm.schedule.overlap": "x"}}, "it must be skip, queue or replace"),
    (
        {"Labels": {SCHEDULE: "@daily"}, "Mode": {"Replicated": {"Replicas": 1}}},
        "only jobs run on a schedule, and the mode of this service is replicated: use --mode replicated-job or --mode global-job",
    ),
    ({"Labels": {SCHEDULE: "@daily"}, "Mode": {"Global": {}}}, "the mode of this service is global:"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSALS)
async def test_what_a_job_may_not_be_is_refused(client: httpx.AsyncClient, changes: dict[str, Any], message: str) -> None:
    answer = await client.post("/services/create", json={**job_spec(), **changes})
    assert (answer.status_code, message in answer.json()["message"]) == (400, True), answer.text
    await create(client, job_spec())
    answer = await update(client, "batch", {**job_spec(), **changes})
    assert (answer.status_code, message in answer.json()["message"]) == (400, True), answer.text


@pytest.mark.parametrize("mode", [{"Replicated": {"Replicas": 1}}, {"GlobalJob": {}}, {"Global": {}}])
async def test_the_mode_of_a_job_cannot_be_changed(client: httpx.AsyncClient, mode: dict[str, Any]) -> None:
    await create(client, job_spec())
    answer = await update(client, "batch", {**job_spec(), "Mode": mode})
    assert (answer.status_code, "service mode change is not allowed" in answer.json()["message"]) == (501, True)


async def test_any_restart_condition_is_taken_for_a_job_as_by_docker(client: httpx.AsyncClient) -> None:
    for condition in ("none", "on-failure", "any"):
        await create(client, {**job_spec(condition), "TaskTemplate": {**template(), "RestartPolicy": {"Condition": condition}}})


def template(force: int = 0) -> dict[str, Any]:
    return {"ContainerSpec": {"Image": "nginx:1"}, "ForceUpdate": force}


async def test_a_scheduled_job_runs_when_its_schedule_says_so_and_not_because_it_is_created_or_updated(
    client: httpx.AsyncClient,
) -> None:
    labels = {SCHEDULE: "*/5 * * * *"}
    await create(client, job_spec(labels=labels))
    assert (await inspect(client, "batch"))["JobStatus"] == {"JobIteration": {"Index": 0}, "LastExecution": NEVER}
    scaled = {**job_spec(labels=labels), "Mode": {"ReplicatedJob": {"TotalCompletions": 3, "MaxConcurrent": 3}}}
    assert (await update(client, "batch", scaled)).status_code == 200
    assert (await inspect(client, "batch"))["JobStatus"]["LastExecution"] == NEVER
    assert (await update(client, "batch", {**scaled, "TaskTemplate": template(force=1)})).status_code == 200
    forced = await inspect(client, "batch")
    assert forced["JobStatus"] == {"JobIteration": {"Index": 0}, "LastExecution": forced["UpdatedAt"]}
    assert (await update(client, "batch", {**scaled, "TaskTemplate": template(force=2)})).status_code == 200
    assert await iteration_of(client) == 1
    assert (await update(client, "batch", {**scaled, "TaskTemplate": template(force=2), "Labels": {}})).status_code == 200
    assert await iteration_of(client) == 2  # it is an ordinary job now, which every update runs


async def test_another_schedule_counts_at_once_and_other_labels_change_nothing(client: httpx.AsyncClient, store: Store) -> None:
    job_id = await create(client, job_spec(labels={SCHEDULE: "0 0 1 1 *"}))
    await store.update(lambda tx: decide_schedule(tx, tx.now_ns).apply_to(tx))

    def next_due_ns() -> int:
        schedule = store.view.services.must_get(job_id).schedule
        assert schedule is not None
        return schedule.next_due_ns

    before_ns = next_due_ns()
    assert before_ns
    await update(client, "batch", job_spec(labels={SCHEDULE: "0 0 1 1 *", SCHEDULE_HISTORY: "3"}))
    assert next_due_ns() == before_ns
    await update(client, "batch", job_spec(labels={SCHEDULE: "* * * * *"}))
    assert next_due_ns() == 0
    await store.update(lambda tx: decide_schedule(tx, tx.now_ns).apply_to(tx))
    assert 0 < next_due_ns() < before_ns


async def test_the_docker_cli_makes_jobs_and_waits_for_them(api_socket: str, store: Store) -> None:
    docker_cli = DockerCLI(api_socket)
    create = ("service", "create", "--no-resolve-image", "--mode", "replicated-job", "--name", "batch")
    async with asyncio.TaskGroup() as group:
        with store.watch(Service) as services:
            waiting = group.create_task(docker_cli(*create, "--replicas", "2", "--max-concurrent", "1", "bash:5", "true"))
            await anext(services)
        job_id = store.view.services.named("batch")[0].id
        done = [(slot, "", TaskState.RUNNING, TaskState.COMPLETE) for slot in range(2)]
        await put_tasks(store, job_id, *done)
    assert "job complete" in waiting.result()
    assert await docker_cli("service", "ls", "--format", "{{.Mode}} {{.Replicas}}") == "replicated job 0/1 (2/2 completed)\n"
    shown = await docker_cli("service", "ps", "batch", "--format", "{{.DesiredState}} {{.CurrentState}}")
    assert [line.split()[:2] for line in shown.splitlines()] == [["Complete", "Complete"]] * 2


async def test_the_docker_cli_makes_a_scheduled_job(api_socket: str, store: Store) -> None:
    docker_cli = DockerCLI(api_socket)
    labels = ("--label", f"{SCHEDULE}=*/5 * * * *", "--label", "pyswarm.schedule.timezone=Europe/Berlin")
    create = ("service", "create", "-d", "--no-resolve-image", "--mode", "replicated-job", *labels)
    job = store.view.services.must_get((await docker_cli(*create, "bash:5", "true")).strip())
    assert job.spec.is_job
    assert job.job_started_at_ns == 0
    await docker_cli("service", "scale", "-d", f"{job.name}=3")
    scaled = store.view.services.must_get(job.id)
    assert (scaled.spec.total_completions, scaled.job_started_at_ns) == (3, 0)
    await docker_cli("service", "update", "-d", "--force", job.name)
    assert store.view.services.must_get(job.id).job_started_at_ns > 0
