"""`pyswarm task …`, `service rollback` and `service runs` against the real API."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID
from click.testing import Result

from pyswarm_common.objects import ScheduledRun, ScheduleStatus, Service, Task, TaskStatus, UpdateStatus
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store

Run = Callable[..., Awaitable[Result]]
AT_NS = 1_795_226_105_000_000_000


@pytest.fixture
async def web(pyswarm: Run, store: Store) -> Service:
    """A service whose slot 1 failed once and runs again, and whose slot 2 finds no node."""
    result = await pyswarm("service", "create", "--detach", "--name", "web", "--replicas", "2", "nginx:1")
    assert result.exit_code == 0, result.output
    service = store.view.services.named("web")[0]

    def fill(tx: Any) -> None:
        common = {"task_spec_id": service.task_spec_id, "service_id": service.id, "spec_generation": 1}
        failed = TaskStatus(state=TaskState.FAILED, at_ns=AT_NS, error="task: non-zero exit (137)", exit_code=137, container_id="c")
        running = TaskStatus(state=TaskState.RUNNING, at_ns=AT_NS, container_id="d")
        pending = TaskStatus(state=TaskState.PENDING, at_ns=AT_NS, error="no suitable node (insufficient memory on 2 nodes)")
        reason = ReplacementReason.FAILED
        tx.create(
            Task(id="a1", slot=1, node_id=WORKER_ID, status=failed, desired_state=TaskState.SHUTDOWN, cause="created", **common)
        )
        tx.create(Task(id="b1", slot=1, node_id=MANAGER_ID, status=running, cause="a1", replacement_reason=reason, **common))
        tx.create(Task(id="a2", slot=2, status=pending, cause="created", **common))

    await store.update(fill)
    return service


async def test_tasks_of_all_services_are_listed(pyswarm: Run, web: Service) -> None:
    result = await pyswarm("task", "ls", "--format", "{{.Name}} {{.Node}} {{.CurrentState}}")
    names = [line.split()[:2] for line in result.stdout.replace("\\_ ", "").splitlines()]
    assert [name[0] for name in names] == ["web.1", "web.1", "web.2"]
    only = await pyswarm("task", "ls", "--quiet", "--no-trunc", "--filter", f"node={MANAGER_ID}")
    assert only.stdout.split() == ["b1"]


async def test_a_story_for_people_and_for_scripts(pyswarm: Run, web: Service) -> None:
    told = await pyswarm("task", "story", "web.1")
    assert told.exit_code == 0, told.output
    assert "in place of web.1.a1, which failed with exit code 137 (SIGKILL) on node worker1." in told.stdout
    assert "STATE" in told.stdout
    assert "before" in told.stdout
    assert "exit code 137" in told.stdout or "non-zero exit (137)" in told.stdout
    story = json.loads((await pyswarm("task", "story", "--format", "json", "a1")).stdout)
    assert [after["ID"] for after in story["Successors"]] == ["b1"]
    unknown = await pyswarm("task", "story", "web.9")
    assert (unknown.exit_code, unknown.stderr) == (1, "Error: task web.9 not found\n")


async def test_why_a_task_has_no_node(pyswarm: Run, web: Service) -> None:
    shown = await pyswarm("task", "explain", "web.2")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("Task a2 (pending): ")
    assert "worker1" in shown.stdout
    figures = await pyswarm("task", "explain", "--figures", "--node", "worker1", "web.2")
    assert "  ready: passes" in figures.stdout
    assert "vm:" not in figures.stdout
    found = json.loads((await pyswarm("task", "explain", "--format", "json", "web.2")).stdout)
    assert {node["Hostname"] for node in found["Nodes"]} == {"vm", "worker1"}
    unknown = await pyswarm("task", "explain", "--node", "nowhere", "web.2")
    assert (unknown.exit_code, unknown.stderr) == (1, "Error: there is no node nowhere\n")


async def test_a_dry_run_shows_the_nodes_and_makes_nothing(pyswarm: Run, store: Store) -> None:
    fits = await pyswarm("service", "create", "--dry-run", "--name", "web", "--replicas", "3", "nginx:1")
    assert fits.exit_code == 0, fits.output
    assert fits.stdout.startswith("3 of 3 tasks would be placed now. Nothing was created.\n")
    assert "worker1" in fits.stdout
    waits = await pyswarm(
        "service", "create", "--dry-run", "--replicas", "3", "--constraint", "node.role==worker", "--reserve-cpu", "900", "x"
    )
    assert waits.exit_code == 1
    assert "3 tasks would wait: no suitable node (" in waits.stdout
    found = json.loads((await pyswarm("service", "create", "--dry-run", "--format", "json", "--mode", "global", "nginx")).stdout)
    assert (found["Asked"], found["Placed"], found["Refusal"]) == (2, 2, "")
    assert not list(store.view.services)
    refused = await pyswarm("service", "create", "--dry-run", "--network", "nosuch", "nginx")
    assert (refused.exit_code, refused.stderr) == (1, "Error: network nosuch not found\n")


async def test_a_rollback_swaps_the_specs_and_waits_for_its_end(pyswarm: Run, store: Store, web: Service) -> None:
    assert (await pyswarm("service", "rollback", "--detach", "web")).stderr.startswith("Error: service ")
    assert (await pyswarm("service", "update", "--detach", "--image", "nginx:2", "web")).exit_code == 0
    result = await pyswarm("service", "rollback", "--detach", "web")
    assert (result.exit_code, result.stdout) == (0, "web\n"), result.output
    (found,) = json.loads((await pyswarm("service", "inspect", "web")).stdout)
    assert found["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "nginx:1"
    assert (await pyswarm("service", "update", "--detach", "--rollback", "web")).exit_code == 0
    assert store.view.services.must_get(web.id).previous_spec_json is not None


async def test_an_update_that_pauses_ends_the_wait_with_its_reason(pyswarm: Run, store: Store, web: Service) -> None:
    paused = UpdateStatus(
        state="paused", message="update paused due to failure or early termination of task x", started_at_ns=AT_NS
    )

    async def pause_when_updated() -> None:
        with store.watch(Service) as changes:
            while (now := store.view.services.must_get(web.id)).spec_generation == 1:
                await changes.wait()
                changes.take()
        await store.update(lambda tx: tx.update(msgspec.structs.replace(now, update_status=paused)))

    import asyncio

    pausing = asyncio.ensure_future(pause_when_updated())
    result = await asyncio.wait_for(pyswarm("service", "update", "--image", "nginx:2", "web"), 20)
    await pausing
    assert result.exit_code == 1
    assert "Error: service web: the update paused: update paused due to failure or early termination of task x" in result.stderr


async def test_runs_of_a_scheduled_job_are_listed_the_latest_first(pyswarm: Run, store: Store, web: Service) -> None:
    labels = b'{"Labels":{"pyswarm.schedule":"30 3 * * *","pyswarm.schedule.timezone":"Europe/Berlin"},"Mode":{"ReplicatedJob":{}}}'
    ran = ScheduledRun(due_at_ns=AT_NS, iteration=0, finished_at_ns=AT_NS + 75 * 10**9, outcome="completed")
    runs = ScheduleStatus(
        next_due_ns=AT_NS + 2 * 86_400 * 10**9, runs=(ran, ScheduledRun(due_at_ns=AT_NS + 10**9, outcome="skipped"))
    )
    changed = msgspec.structs.replace(web, spec_json=labels, schedule=runs, job_started_at_ns=AT_NS)
    await store.update(lambda tx: tx.update(changed))
    result = await pyswarm("service", "runs", "web")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].endswith("runs at 30 3 * * * (Europe/Berlin), overlap: skip; next run 2026-11-23 01:55:05Z")
    assert [line.split()[-1] for line in lines[2:]] == ["OUTCOME", "skipped", "completed"]
    assert "1m15s" in lines[4]
    assert "Latest runs:" in (await pyswarm("service", "inspect", "--pretty", "web")).stdout
    assert json.loads((await pyswarm("service", "runs", "--format", "json", "web")).stdout)["Runs"][1]["Iteration"] is None


async def test_a_service_without_a_schedule_has_no_runs(pyswarm: Run, web: Service) -> None:
    result = await pyswarm("service", "runs", "web")
    assert (result.exit_code, result.stderr) == (1, "Error: service web has no schedule: it has no label pyswarm.schedule\n")
