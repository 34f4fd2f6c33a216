"""What a container does, or what is done to it, leads to a state and a message that are true; others go on, nothing is left."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime_harness import RuntimeNode
from task_node import TaskNode, task_node

from pyswarm_agent.runtime.processes import identify
from pyswarm_agent.task_container import container_id_of
from pyswarm_common.task_states import TaskState

pytestmark = pytest.mark.kernel
LIVES = "echo ready; exec sleep 1000"


@pytest.fixture
async def tasks(node: RuntimeNode, tmp_path: Path) -> AsyncIterator[TaskNode]:
    async with task_node(node, tmp_path) as made:
        yield made


async def assert_others_still_run(tasks: TaskNode) -> None:
    tasks.assign("other", LIVES)
    await tasks.until("other", TaskState.RUNNING)


async def test_an_exit_code_is_told(tasks: TaskNode) -> None:
    tasks.assign("t1", "exit 7")
    status = await tasks.until("t1", TaskState.FAILED)
    assert (status.exit_code, status.error) == (7, "task: non-zero exit (7)")


async def test_one_that_ignores_the_stop_signal_is_killed_after_its_grace_period(tasks: TaskNode) -> None:
    tasks.assign("t1", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    await tasks.until("t1", TaskState.RUNNING)
    await written(tasks, "t1")
    before_s = asyncio.get_running_loop().time()
    tasks.shut_down("t1")
    status = await tasks.until("t1", TaskState.SHUTDOWN)
    assert status.exit_code == 137
    assert asyncio.get_running_loop().time() - before_s >= 1.0
    await assert_others_still_run(tasks)


async def test_one_that_goes_over_its_memory_says_so(tasks: TaskNode) -> None:
    tasks.assign("t1", "exec dd if=/dev/zero of=/dev/null bs=200M count=1", resources={"MemoryBytes": 16 << 20})
    status = await tasks.until("t1", TaskState.FAILED)
    assert status.exit_code == 137
    assert status.error == "task: out of memory: the container went over its memory limit"
    await assert_others_still_run(tasks)


async def test_one_whose_child_went_over_the_memory_is_not_blamed_if_it_ends_well(tasks: TaskNode) -> None:
    script = "dd if=/dev/zero of=/dev/null bs=200M count=1; echo the child ended with $?; exit 0"
    tasks.assign("t1", script, resources={"MemoryBytes": 16 << 20})
    await tasks.until("t1", TaskState.COMPLETE)
    assert "the child ended with 137" in await tasks.node.output(container_id_of("t1"))


async def test_a_fork_bomb_is_held_and_can_be_stopped(tasks: TaskNode) -> None:
    waits_without_a_fork = "while :; do read line <&3; done"
    bomb = f"mkfifo /tmp/never; exec 3<>/tmp/never; (while :; do sleep 1000 & done) 2>/dev/null; {waits_without_a_fork}"
    tasks.assign("t1", bomb, resources={"Pids": 20})
    await tasks.until("t1", TaskState.RUNNING)
    container_id = container_id_of("t1")
    processes: set[int] = set()
    async with asyncio.timeout(10):
        while len(processes) < 18:
            processes = tasks.node.runtime.cgroups.processes(container_id)
            assert len(processes) <= 20
            await asyncio.sleep(0.01)
    await assert_others_still_run(tasks)
    assert tasks.states("t1")[-1] is TaskState.RUNNING
    tasks.shut_down("t1")
    assert (await tasks.until("t1", TaskState.SHUTDOWN)).exit_code in (137, 143)
    assert all(identify(pid) is None for pid in processes)


async def test_a_monitor_that_is_killed_is_named(tasks: TaskNode) -> None:
    tasks.assign("t1", LIVES)
    status = await tasks.until("t1", TaskState.RUNNING)
    monitor = tasks.node.runtime.handle(container_id_of("t1")).saved.monitor
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGKILL)
    failed = await tasks.until("t1", TaskState.FAILED)
    assert (failed.exit_code, "monitor (conmon) was killed" in failed.error) == (137, True)
    assert identify(status.pid) is None
    await assert_others_still_run(tasks)


async def test_one_that_somebody_kills_has_failed(tasks: TaskNode) -> None:
    tasks.assign("t1", LIVES)
    os.kill((await tasks.until("t1", TaskState.RUNNING)).pid, signal.SIGKILL)
    status = await tasks.until("t1", TaskState.FAILED)
    assert (status.exit_code, status.error) == (137, "task: non-zero exit (137)")


async def test_a_full_disk_rejects_a_task_and_spares_the_next(tasks: TaskNode) -> None:
    containers = tasks.node.data_dir / "containers"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=3", "full", containers], check=True)
    try:
        (containers / "filled").write_bytes(b"x" * 4096)
        tasks.assign("t1", LIVES)
        status = await tasks.until("t1", TaskState.REJECTED)
        assert "No space left on device" in status.error
        (containers / "filled").unlink()
    finally:
        subprocess.run(["umount", containers], check=True)
    await assert_others_still_run(tasks)


async def test_a_program_that_is_not_there_is_named(tasks: TaskNode) -> None:
    tasks.assign("t1", "", Command=["/no/such"])
    status = await tasks.until("t1", TaskState.FAILED)
    assert "/no/such" in status.error


async def written(tasks: TaskNode, task_id: str) -> None:
    """Return once the script has written a line."""
    async with asyncio.timeout(10):
        while not await tasks.node.output(container_id_of(task_id)):  # noqa: ASYNC110  nobody tells when
            await asyncio.sleep(0.02)
