"""The unmodified docker CLI on services of all modes, their updates and rollbacks; tasks are put in by hand."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID
from docker_command import DockerCLI

from pyswarm_common.objects import Service, Task, TaskStatus, UpdateStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store

pytestmark = pytest.mark.usefixtures("store")
AT_NS = 1_795_226_105_000_000_000


@pytest.fixture
def docker_cli(api_socket: str) -> DockerCLI:
    return DockerCLI(api_socket)


async def create(docker_cli: DockerCLI, store: Store, *arguments: str) -> Service:
    service_id = await docker_cli("service", "create", "-d", "--no-resolve-image", *arguments)
    return store.view.services.must_get(service_id.strip())


async def add_task(store: Store, service: Service, task_id: str, state: TaskState, **fields: Any) -> None:
    status = TaskStatus(state=state, at_ns=AT_NS, container_id="c" * 64, error=fields.pop("error", ""))
    task = Task(
        id=task_id,
        task_spec_id=service.task_spec_id,
        service_id=service.id,
        spec_generation=service.spec_generation,
        status=status,
        job_iteration=service.job_iteration if service.spec.is_job else None,
        **fields,
    )
    await store.update(lambda tx: tx.create(task))


async def listed(docker_cli: DockerCLI) -> list[str]:
    rows = await docker_cli("service", "ls", "--format", "{{.Name}}: {{.Mode}} {{.Replicas}}")
    return sorted(rows.splitlines())


async def test_all_modes_are_listed_as_docker_lists_them(docker_cli: DockerCLI, store: Store) -> None:
    web = await create(docker_cli, store, "--name", "web", "--replicas", "3", "--replicas-max-per-node", "2", "nginx")
    everywhere = await create(docker_cli, store, "--name", "agent", "--mode", "global", "nginx")
    job = await create(
        docker_cli, store, "--name", "job", "--mode", "replicated-job", "--replicas", "20", "--max-concurrent", "2", "nginx"
    )
    once = await create(docker_cli, store, "--name", "once", "--mode", "global-job", "nginx")
    await add_task(store, web, "w1", TaskState.RUNNING, slot=1, node_id=WORKER_ID)
    await add_task(store, everywhere, "g1", TaskState.RUNNING, node_id=MANAGER_ID)
    for slot, state in enumerate((TaskState.COMPLETE, TaskState.COMPLETE, TaskState.RUNNING)):
        await add_task(store, job, f"j{slot}", state, slot=slot, node_id=WORKER_ID)
    await add_task(store, once, "o1", TaskState.COMPLETE, node_id=WORKER_ID)
    assert await listed(docker_cli) == [
        "agent: global 1/2",
        "job: replicated job 1/2 (2/20 completed)",
        "once: global job 0/1 (1/2 completed)",
        "web: replicated 1/3 (max 2 per node)",
    ]
    names = await docker_cli("service", "ps", "job", "--format", "{{.Name}} {{.DesiredState}} {{.CurrentState}}")
    assert "job.2 Complete Running" in names
    for name, words in (("job", ""), ("once", ""), ("agent", "Global"), ("web", "Replicated")):  # it has no words for jobs here
        assert f"Service Mode:\t{words}".rstrip() in await docker_cli("service", "inspect", "--pretty", name)


async def test_options_of_updates_come_back_and_are_changed_one_by_one(docker_cli: DockerCLI, store: Store) -> None:
    line = (
        "--name web --update-parallelism 2 --update-delay 10s --update-order start-first --update-monitor 3s "
        "--update-max-failure-ratio .25 --update-failure-action rollback --rollback-parallelism 0 --rollback-order start-first"
    )
    await create(docker_cli, store, *line.split(), "nginx:1")
    await docker_cli("service", "update", "-d", "--update-delay", "1s", "--restart-max-attempts", "3", "web")
    spec = json.loads(await docker_cli("service", "inspect", "web"))[0]["Spec"]
    assert spec["UpdateConfig"] == {
        "Parallelism": 2,
        "Delay": 1_000_000_000,
        "FailureAction": "rollback",
        "Monitor": 3_000_000_000,
        "MaxFailureRatio": 0.25,
        "Order": "start-first",
    }
    assert spec["RollbackConfig"]["Order"] == "start-first"
    pretty = await docker_cli("service", "inspect", "--pretty", "web")
    for words in ("UpdateConfig:", "Update order:      start-first", "RollbackConfig:", "On failure:\trollback"):
        assert words in pretty, pretty


async def test_a_job_is_created_changed_and_run_again(docker_cli: DockerCLI, store: Store) -> None:
    job = await create(docker_cli, store, "--name", "job", "--mode", "replicated-job", "--replicas", "5", "nginx")
    assert (job.spec.max_concurrent, job.spec.total_completions) == (5, 5)
    await docker_cli("service", "update", "-d", "--force", "job")
    again = store.view.services.must_get(job.id)
    assert again.job_iteration == job.job_iteration + 1
    await docker_cli("service", "scale", "-d", "job=7")
    changed = store.view.services.must_get(job.id)
    assert (changed.spec.max_concurrent, changed.spec.total_completions) == (5, 7)
    found = json.loads(await docker_cli("service", "inspect", "job"))[0]
    assert found["JobStatus"]["JobIteration"]["Index"] == changed.job_iteration


async def test_labels_ask_for_what_docker_has_no_options_for(docker_cli: DockerCLI, store: Store) -> None:
    labels = ("--label", "pyswarm.schedule=*/5 * * * *", "--label", "pyswarm.schedule.overlap=queue")
    await create(docker_cli, store, "--name", "job", "--mode", "replicated-job", *labels, "nginx")
    code, _, errors = await docker_cli.run(
        *("service", "create", "-d", "--no-resolve-image", "--mode", "replicated-job"), "--label", "pyswarm.schedule=never", "nginx"
    )
    assert code == 1
    assert "pyswarm.schedule" in errors


async def wait_for_service(store: Store, service_id: str, generation: int) -> Service:
    with store.watch(Service) as changes:
        while (found := store.view.services.must_get(service_id)).spec_generation < generation:
            await changes.wait()
            changes.take()
    return found


async def end_update(store: Store, service: Service, state: str, message: str) -> None:
    """Do as the orchestrator: replace the tasks, then say how the update ended."""
    for task in list(store.view.tasks.of_service(service.id)):
        await store.update(lambda tx, task=task: tx.delete(Task, task.id))  # type: ignore[misc]
    await add_task(store, service, f"new{service.spec_generation}", TaskState.RUNNING, slot=1, node_id=WORKER_ID)
    status = UpdateStatus(state=state, message=message, started_at_ns=AT_NS, completed_at_ns=AT_NS + 1)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.services.must_get(service.id), update_status=status)))


async def test_docker_follows_an_update_and_a_rollback_to_their_end(docker_cli: DockerCLI, store: Store) -> None:
    web = await create(docker_cli, store, "--name", "web", "nginx:1")
    await add_task(store, web, "old", TaskState.RUNNING, slot=1, node_id=WORKER_ID)

    async def run(*arguments: str, generation: int, state: str, message: str) -> tuple[int, str, str]:
        running = asyncio.ensure_future(docker_cli.run("service", *arguments))
        await end_update(store, await wait_for_service(store, web.id, generation), state, message)
        return await asyncio.wait_for(running, 30)

    code, output, errors = await run(
        "update", "--no-resolve-image", "--image", "nginx:2", "web", generation=2, state="completed", message="update completed"
    )
    assert (code, output.splitlines()[0]) == (0, "web"), errors
    code, output, errors = await run("rollback", "web", generation=3, state="rollback_completed", message="rollback completed")
    assert (code, output.splitlines()[0]) == (0, "web"), errors
    code, _, errors = await run(
        *("update", "--no-resolve-image", "--image", "nginx:3", "web"),
        generation=4,
        state="paused",
        message="update paused due to failure or early termination of task x",
    )
    assert (code, "service update paused: update paused due to failure" in errors) == (1, True), errors
    pretty = await docker_cli("service", "inspect", "--pretty", "web")
    assert "State:\t\tpaused" in pretty
    assert " Message:\tupdate paused due to failure or early termination of task x" in pretty
