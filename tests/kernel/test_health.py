"""Healthchecks in real containers: who runs when, what an unhealthy container comes to, and that no probe is left behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from runtime_harness import RuntimeNode
from task_node import TaskNode, task_node

from pyswarm_agent.runtime.processes import identify
from pyswarm_agent.task_container import container_id_of
from pyswarm_common.task_states import TaskState

pytestmark = pytest.mark.kernel
MS = 1_000_000
LIVES = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
async def tasks(node: RuntimeNode, tmp_path: Path) -> AsyncIterator[TaskNode]:
    async with task_node(node, tmp_path) as made:
        yield made


def check(test: str, **changes: Any) -> dict[str, Any]:
    return {"Test": ["CMD-SHELL", test], "Interval": 100 * MS, "Timeout": 5000 * MS, "Retries": 2, **changes}


async def until_probed(tasks: TaskNode, task_id: str, times: int) -> list[tuple[int, str]]:
    """Return the results of the first so many probes."""
    async with asyncio.timeout(20):
        while (health := tasks.health.status(container_id_of(task_id))) is None or len(health.log) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return [(result.exit_code, result.output) for result in health.log]


async def test_a_task_runs_once_its_check_succeeds(tasks: TaskNode) -> None:
    tasks.assign(
        "t1",
        f"sleep 0.5; touch /tmp/up; {LIVES}",
        Healthcheck=check("test -e /tmp/up", StartPeriod=10_000 * MS, StartInterval=50 * MS),
    )
    status = await tasks.until("t1", TaskState.RUNNING)
    container = tasks.container("t1")
    assert status.pid == container.pid
    assert status.at_ns - container.started_at_ns >= 400 * MS
    health = tasks.health.status(container.config.id)
    assert health is not None
    assert (health.status, health.log[-1].exit_code) == ("healthy", 0)


async def test_an_unhealthy_task_is_stopped_and_says_why(tasks: TaskNode) -> None:
    tasks.assign("t1", LIVES, Healthcheck=check("echo no database >&2; test -e /tmp/never"))
    status = await tasks.until("t1", TaskState.FAILED)
    assert status.error == ("task: unhealthy container (its healthcheck failed 2 times; the last time: exit code 1: no database)")
    assert TaskState.RUNNING not in tasks.states("t1")
    assert tasks.container("t1").state == "exited"


async def test_a_task_that_becomes_unhealthy_has_failed(tasks: TaskNode) -> None:
    tasks.assign(
        "t1", LIVES, Healthcheck=check("test ! -e /tmp/broken && { test -e /tmp/once && touch /tmp/broken; touch /tmp/once; }")
    )
    await tasks.until("t1", TaskState.RUNNING)
    status = await tasks.until("t1", TaskState.FAILED)
    assert "unhealthy container" in status.error
    early = [s for _, s in tasks.reports if s.error and s.state is TaskState.RUNNING]
    assert len(early) == 1, "managers hear of it before it is stopped"


async def test_the_images_own_check_counts_and_can_be_switched_off(node: RuntimeNode, tmp_path: Path) -> None:
    healthcheck = {"Test": ["CMD-SHELL", 'test "$0" = marker && echo from the image'], "Interval": 100 * MS}
    async with task_node(node, tmp_path, Healthcheck=healthcheck, Shell=["/bin/sh", "-c"]) as tasks:
        tasks.assign("t1", LIVES)
        assert (await until_probed(tasks, "t1", 1))[0][0] == 1
        tasks.assign("t2", LIVES, Healthcheck={"Test": ["NONE"]})
        await tasks.until("t2", TaskState.RUNNING)
        assert tasks.health.status(container_id_of("t2")) is None


async def test_a_check_is_a_process_of_the_container(tasks: TaskNode) -> None:
    script = "id -u; pwd; echo $A $HOME; hostname"
    tasks.assign("t1", LIVES, Env=["A=b"], User="web", Dir="/tmp", Hostname="box", Healthcheck=check(script))
    await tasks.until("t1", TaskState.RUNNING)
    assert (await until_probed(tasks, "t1", 1))[0] == (0, "33\n/tmp\nb /srv/web\nbox\n")


async def test_a_check_that_is_not_there_has_failed(tasks: TaskNode) -> None:
    tasks.assign("t1", LIVES, Healthcheck={**check(""), "Test": ["CMD", "/no/such"], "Retries": 1})
    status = await tasks.until("t1", TaskState.FAILED)
    assert "/no/such" in status.error
    assert (await until_probed(tasks, "t1", 1))[0][0] == -1


async def test_output_is_cut_where_docker_cuts_it(tasks: TaskNode) -> None:
    tasks.assign("t1", LIVES, Healthcheck=check("yes | head -c 100000"))
    await tasks.until("t1", TaskState.RUNNING)
    output = (await until_probed(tasks, "t1", 1))[0][1]
    assert (len(output), output[-5:]) == (4096 + 3, "y\n...")


async def test_a_check_that_hangs_is_killed_with_its_children(tasks: TaskNode) -> None:
    hangs = "echo $$ >> /tmp/pids; sleep 1001 & echo $! >> /tmp/pids; setsid sleep 1002 & echo $! >> /tmp/pids; trap '' TERM; wait"
    tasks.assign("t1", LIVES, Healthcheck=check(hangs, Timeout=500 * MS, Retries=1000))
    results = await until_probed(tasks, "t1", 2)
    assert set(results) == {(-1, "Health check exceeded timeout (500ms)")}
    container_id = container_id_of("t1")
    tasks.health.end(container_id)
    async with asyncio.timeout(10):
        while len(pids := tasks.node.runtime.cgroups.processes(container_id)) > 2:  # noqa: ASYNC110  the script and its sleep
            await asyncio.sleep(0.02)
    assert tasks.container("t1").pid in pids


async def test_a_stop_ends_a_check_that_is_under_way(tasks: TaskNode) -> None:
    tasks.assign("t1", LIVES, Healthcheck=check("sleep 1003", Timeout=60_000 * MS, Interval=MS))
    container_id = container_id_of("t1")
    async with asyncio.timeout(20):
        while not is_probing(tasks, container_id):  # noqa: ASYNC110  nobody tells when
            await asyncio.sleep(0.02)
    processes = tasks.node.runtime.cgroups.processes(container_id)
    tasks.shut_down("t1")
    status = await tasks.until("t1", TaskState.SHUTDOWN, within_s=10)
    assert status.exit_code == 0
    assert TaskState.RUNNING not in tasks.states("t1")
    assert all(identify(pid) is None for pid in processes)


def is_probing(tasks: TaskNode, container_id: str) -> bool:
    container = tasks.node.runtime.get(container_id)
    if container is None or not container.pid:
        return False
    lines = (Path(f"/proc/{pid}/cmdline") for pid in tasks.node.runtime.cgroups.processes(container_id))
    return any(path.exists() and b"1003" in path.read_bytes() for path in lines)
