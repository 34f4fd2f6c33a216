"""Commands that wait: until all tasks run, until it makes no sense any more, until Ctrl-C."""

import asyncio
import os
import pty
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import Result

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.service import waiting
from pyswarm_cli.service.convergence import ConvergenceWatch
from pyswarm_cli.service.display import SilentDisplay
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Service, Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store

Run = Callable[..., Awaitable[Result]]
COMMAND = Path(sys.executable).with_name("pyswarm")


class FakeOrchestrator:
    """Gives services their tasks: each slot's first `rejections` are rejected, the next one runs."""

    def __init__(self, store: Store, *, rejections: int = 0, state: TaskState = TaskState.RUNNING, error: str = "") -> None:
        self._store = store
        self._rejections = rejections
        self._state = state
        self._error = error

    async def run(self) -> None:
        """Work until cancelled."""
        with self._store.watch(Service, Task) as changes:
            while True:
                await self._store.update(self._reconcile)
                await changes.wait()
                changes.take()

    def _reconcile(self, tx: Any) -> None:
        for service in list(tx.services):
            for slot in range(1, service.spec.replicas + 1):
                self._fill(tx, service, slot)
            for task in list(tx.tasks.of_service(service.id)):
                if task.slot > service.spec.replicas:
                    tx.delete(Task, task.id)

    def _fill(self, tx: Any, service: Service, slot: int) -> None:
        tasks = [task for task in tx.tasks.of_service(service.id) if task.slot == slot]
        current = [t for t in tasks if t.desired_state is TaskState.RUNNING and t.task_spec_id == service.task_spec_id]
        if current:
            return
        for task in tasks:
            tx.update(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
        rejected = sum(task.status.state is TaskState.REJECTED for task in tasks) < self._rejections
        status = TaskStatus(state=TaskState.REJECTED, error="No such image: x") if rejected else self._good_status()
        desired = TaskState.SHUTDOWN if rejected else TaskState.RUNNING
        tx.create(
            Task(
                id=new_id(),
                service_id=service.id,
                slot=slot,
                task_spec_id=service.task_spec_id,
                spec_generation=service.spec_generation,
                desired_state=desired,
                status=status,
            )
        )

    def _good_status(self) -> TaskStatus:
        return TaskStatus(state=self._state, error=self._error)


async def with_orchestrator(orchestrator: FakeOrchestrator, work: Awaitable[Result]) -> Result:
    running = asyncio.ensure_future(orchestrator.run())
    try:
        return await asyncio.wait_for(work, 20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_create_scale_and_update_wait_until_all_run(pyswarm: Run, store: Store) -> None:
    async def work() -> Result:
        result = await pyswarm("service", "create", "--name", "web", "--replicas", "3", "nginx:1")
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == store.view.services.named("web")[0].id
        assert result.stderr.splitlines()[-2:] == ["web: 3 of 3 tasks running", "service web converged"]
        result = await pyswarm("service", "scale", "web=1")
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, "service web converged")
        result = await pyswarm("service", "update", "--quiet", "--env-add", "A=1", "web")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "web\n", "")
        return await pyswarm("service", "scale", "web=0")

    assert (await with_orchestrator(FakeOrchestrator(store), work())).exit_code == 0


async def test_tasks_that_are_rejected_again_and_again_end_the_wait(pyswarm: Run, store: Store) -> None:
    result = await with_orchestrator(
        FakeOrchestrator(store, rejections=100), pyswarm("service", "create", "--name", "web", "nosuch:1")
    )
    assert result.exit_code == 1
    assert "Error: service web: task web.1 failed " in result.stderr
    assert "No such image: x" in result.stderr
    assert "pyswarm service rm web" in result.stderr


async def test_a_reason_to_wait_is_shown_and_the_time_ends_it(pyswarm: Run, store: Store) -> None:
    pending = FakeOrchestrator(store, state=TaskState.PENDING, error="no suitable node (insufficient resources on 2 nodes)")
    result = await with_orchestrator(
        pending, pyswarm("service", "create", "--name", "web", "--replicas", "2", "--wait-timeout", "500ms", "nginx:1")
    )
    assert result.exit_code == 1
    assert "  web.1: pending: no suitable node (insufficient resources on 2 nodes)" in result.stderr
    assert "Error: not converged within 500ms: web: 0 of 2 tasks running." in result.stderr


async def test_a_service_that_is_removed_meanwhile_ends_the_wait(pyswarm: Run, store: Store) -> None:
    with store.watch(Service) as changes:
        creating = asyncio.ensure_future(pyswarm("service", "create", "--name", "web", "nginx:1"))
        await changes.wait()
    await store.update(lambda tx: tx.delete(Service, tx.services.named("web")[0].id))
    result = await asyncio.wait_for(creating, 10)
    assert (result.exit_code, "was removed while" in result.stderr) == (1, True)


async def test_ctrl_c_leaves_the_service_and_says_so(api_socket: str, store: Store) -> None:
    process = await asyncio.create_subprocess_exec(
        *("env", "--default-signal=INT"),  # a test run in the background has it ignored, and its children inherit that
        *(COMMAND, "-H", f"unix://{api_socket}", "service", "create", "--name", "web", "nginx:1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert (await asyncio.wait_for(process.stdout.readline(), 10)).strip()
    await asyncio.wait_for(process.stderr.readline(), 10)
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 130
    assert b"`pyswarm service ps web`" in errors
    assert store.view.services.named("web")


async def test_a_terminal_is_redrawn(api_socket: str, store: Store) -> None:
    ours, theirs = pty.openpty()
    orchestrator = asyncio.ensure_future(FakeOrchestrator(store).run())
    try:
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "-H", f"unix://{api_socket}", "service", "create", "--name", "web", "--replicas", "2", "nginx:1"),
            stdin=theirs,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        shown = await asyncio.wait_for(asyncio.to_thread(read_all, ours), 15)
        assert await process.wait() == 0
    finally:
        os.close(ours)
        orchestrator.cancel()
        await asyncio.gather(orchestrator, return_exceptions=True)
    assert "web.2" in shown
    assert "service web converged" in shown
    assert "\x1b[" in shown


def read_all(descriptor: int) -> str:
    data = b""
    try:
        while chunk := os.read(descriptor, 4096):
            data += chunk
    except OSError:  # the other side of a terminal is closed
        pass
    return data.decode()


class AwayEngine(EngineClient):
    """A daemon that nobody can reach."""

    def get(self, *path: str, **query: Any) -> Any:
        """Fail."""
        return EngineClient("unix:///nonexistent/x.sock").get(*path, **query)


def test_a_daemon_that_is_away_is_waited_for_but_not_for_ever() -> None:
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    watch = ConvergenceWatch(())
    wait = waiting.Waiting(AwayEngine(), watch, timeout_ns=None, monotonic_s=lambda: now_s, sleep=sleep)
    with pytest.raises(click.ClickException, match="pyswarmd does not run"):
        wait.run("s1", SilentDisplay())
    assert waiting.DAEMON_PATIENCE_S <= now_s < waiting.DAEMON_PATIENCE_S + 1


async def test_a_command_starts_fast(api_socket: str) -> None:
    async def once() -> float:
        started_s = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "-H", f"unix://{api_socket}", "service", "ls"), stdout=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0
        return time.monotonic() - started_s

    assert min([await once() for _ in range(5)]) < 0.15


async def test_a_list_imports_neither_rich_nor_msgspec(api_socket: str) -> None:
    script = (
        "import sys; from pyswarm_cli.main import pyswarm\n"
        f"pyswarm(['-H', 'unix://{api_socket}', 'service', 'ls'], standalone_mode=False)\n"
        "print(sorted({'rich', 'msgspec', 'httpx', 'pyswarm_common.specs', 'asyncio'} & set(sys.modules)))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert output.decode().splitlines()[-1] == "[]"
