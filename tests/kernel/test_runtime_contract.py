"""The promises of `Runtime`, kept by the real one and by the fake."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runtime_harness import runtime_node

from pyswarm_agent.runtime import ContainerConfig, ContainerStartFailed, FakeContainerRuntime, FakeProgram, Runtime
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_common.clock import SystemClock
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound, Unavailable
from pyswarm_common.ids import new_container_id
from pyswarm_common.wire import LogRequest

SCRIPTS = {
    "runs": ("trap 'exit 143' TERM; echo ready; sleep 1000 & wait", FakeProgram(output=((1, b"ready\n"),))),
    "stubborn": ("trap '' TERM; echo ready; sleep 1000", FakeProgram(output=((1, b"ready\n"),), ignores_stop=True)),
    "ends": (
        "echo one; echo two; echo three; exit 3",
        FakeProgram(output=((1, b"one\n"), (1, b"two\n"), (1, b"three\n")), runs_s=0, exit_code=3),
    ),
}


class Subject:
    """A runtime under test, and how to make it run one of the scripts."""

    def __init__(self, runtime: Runtime, layer: str) -> None:
        self.runtime = runtime
        self._layer = layer

    def config(self, script: str, **changes: Any) -> ContainerConfig:
        """Return the configuration that runs a script."""
        args = ("sh", "-c", SCRIPTS[script][0]) if script in SCRIPTS else ("nope",)
        config: dict[str, Any] = {
            "id": new_container_id(),
            "args": args,
            "name": script,
            "env": ("PATH=/bin",),
            "stop_grace_period_s": 0.2,
            "layer_paths": (self._layer,),
        }
        return ContainerConfig(**{**config, **changes})

    async def started(self, script: str, **changes: Any) -> str:
        """Start a container; return its id once it has written its first line."""
        config = self.config(script, **changes)
        await self.runtime.create(config)
        await self.runtime.start_container(config.id)
        async for _ in self.runtime.logs(config.id, LogRequest(task_id="", follow=True)):
            break
        return config.id


@contextlib.asynccontextmanager
async def fake_subject(directory: Path, layer: Path) -> AsyncIterator[Subject]:
    """Yield the fake."""
    programs = {name: program for name, (_, program) in SCRIPTS.items()}
    failing = FakeProgram(start_error='exec: "nope": executable file not found in $PATH: unknown')
    runtime = FakeContainerRuntime(SystemClock(), lambda config: programs.get(config.name, failing))
    await runtime.start()
    yield Subject(runtime, str(layer))
    await runtime.close()


@contextlib.asynccontextmanager
async def real_subject(directory: Path, layer: Path) -> AsyncIterator[Subject]:
    """Yield the real runtime."""
    async with runtime_node(directory, layer) as node:
        yield Subject(node.runtime, str(layer))


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kernel)])
async def subject(request: pytest.FixtureRequest, tmp_path: Path, busybox_layer: Path) -> AsyncIterator[Subject]:
    """Each of the two runtimes."""
    make = fake_subject if request.param == "fake" else real_subject
    async with make(tmp_path, busybox_layer) as made:
        yield made


async def test_life_of_a_container(subject: Subject) -> None:
    runtime, config = subject.runtime, subject.config("ends")
    created = await runtime.create(config)
    assert (created.state, created.pid, created.exit) == ("created", 0, None)
    running = await runtime.start_container(config.id)
    assert running.pid > 0
    assert running.started_at_ns >= created.created_at_ns > 0
    status = await runtime.wait(config.id)
    assert (status.exit_code, status.error) == (3, "")
    assert status.finished_at_ns > 0
    record = runtime.get(config.id)
    assert record is not None
    assert (record.state, record.pid, record.exit) == ("exited", 0, status)


async def test_create_and_start_twice(subject: Subject) -> None:
    container_id = await subject.started("runs")
    record = subject.runtime.get(container_id)
    assert record is not None
    assert await subject.runtime.create(record.config) == record
    assert await subject.runtime.start_container(container_id) == record


async def test_an_ended_container_is_not_started_again(subject: Subject) -> None:
    container_id = await subject.started("ends")
    await subject.runtime.wait(container_id)
    assert (await subject.runtime.start_container(container_id)).state == "exited"


async def test_one_that_keeps_its_layer_is_started_again(subject: Subject) -> None:
    config = subject.config("ends", keeps_layer=True)
    await subject.runtime.create(config)
    for _ in range(2):
        running = await subject.runtime.start_container(config.id)
        assert (running.state, running.exit) == ("running", None)
        assert (await subject.runtime.wait(config.id)).exit_code == 3
    lines = [line.line async for line in subject.runtime.logs(config.id, LogRequest(task_id=""))]
    assert lines == [b"one\n", b"two\n", b"three\n"] * 2


async def test_one_that_was_stopped_is_started_again(subject: Subject) -> None:
    container_id = await subject.started("runs", keeps_layer=True)
    assert (await subject.runtime.stop(container_id)).exit_code == 143
    assert (await subject.runtime.start_container(container_id)).state == "running"
    waiting = asyncio.ensure_future(subject.runtime.wait(container_id))
    await asyncio.sleep(0)
    assert not waiting.done()
    await subject.runtime.kill(container_id, "KILL")
    assert (await waiting).exit_code == 137


async def test_configure(subject: Subject) -> None:
    config = subject.config("ends", keeps_layer=True)
    await subject.runtime.create(config)
    await subject.runtime.start_container(config.id)
    await subject.runtime.wait(config.id)
    changed = subject.config("stubborn", id=config.id, keeps_layer=True)
    record = await subject.runtime.configure(changed)
    assert (record.config, record.state) == (changed, "exited")
    assert subject.runtime.get(config.id) == record
    await subject.runtime.start_container(config.id)
    await asyncio.sleep(0)
    assert (await subject.runtime.stop(config.id)).exit_code in (137, 143)
    with pytest.raises(NotFound):
        await subject.runtime.configure(subject.config("runs"))


async def test_what_happens_is_told(subject: Subject) -> None:
    told: list[tuple[str, str, dict[str, str]]] = []
    subject.runtime.on_event = lambda action, record, more: told.append((action, record.config.name, dict(more)))
    container_id = await subject.started("runs", keeps_layer=True)
    await subject.runtime.stop(container_id)
    record = subject.runtime.get(container_id)
    assert record is not None
    await subject.runtime.configure(msgspec.structs.replace(record.config, name="other"))
    await subject.runtime.remove(container_id)
    assert told == [
        ("create", "runs", {}),
        ("start", "runs", {}),
        ("kill", "runs", {"signal": "15"}),
        ("die", "runs", {"exitCode": "143"}),
        ("stop", "runs", {}),
        ("rename", "other", {"oldName": "/runs"}),
        ("destroy", "other", {}),
    ]


async def test_list_is_in_order_of_creation(subject: Subject) -> None:
    ids = [(await subject.runtime.create(subject.config("runs"))).config.id for _ in range(3)]
    assert [record.config.id for record in subject.runtime.list()] == ids


async def test_stop(subject: Subject) -> None:
    container_id = await subject.started("runs")
    assert (await subject.runtime.stop(container_id)).exit_code == 143
    assert (await subject.runtime.stop(container_id)).exit_code == 143


async def test_stop_of_a_stubborn_container(subject: Subject) -> None:
    container_id = await subject.started("stubborn")
    assert (await subject.runtime.stop(container_id)).exit_code == 137


async def test_stop_before_the_start(subject: Subject) -> None:
    config = subject.config("runs")
    await subject.runtime.create(config)
    assert (await subject.runtime.stop(config.id)).exit_code == 0
    assert (await subject.runtime.start_container(config.id)).state == "exited"


async def test_kill(subject: Subject) -> None:
    container_id = await subject.started("stubborn")
    await subject.runtime.kill(container_id, "TERM")
    with pytest.raises(InvalidArgument, match="invalid signal: NONSENSE"):
        await subject.runtime.kill(container_id, "NONSENSE")
    await subject.runtime.kill(container_id, "9")
    assert (await subject.runtime.wait(container_id)).exit_code == 137
    with pytest.raises(Conflict, match="is not running"):
        await subject.runtime.kill(container_id, "9")


async def test_start_failure(subject: Subject) -> None:
    config = subject.config("missing")
    await subject.runtime.create(config)
    with pytest.raises(ContainerStartFailed, match="executable file not found"):
        await subject.runtime.start_container(config.id)


async def test_no_command(subject: Subject) -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        await subject.runtime.create(subject.config("runs", args=()))


async def test_logs(subject: Subject) -> None:
    container_id = await subject.started("ends")
    await subject.runtime.wait(container_id)

    async def lines(**changes: Any) -> list[bytes]:
        return [line.line async for line in subject.runtime.logs(container_id, LogRequest(task_id="", **changes))]

    everything = [b"one\n", b"two\n", b"three\n"]
    assert await lines() == everything
    assert await lines(follow=True) == everything
    assert await lines(tail=2) == everything[1:]
    assert await lines(tail=0) == []
    assert await lines(stdout=False) == []
    assert await lines(until_ns=1) == []
    assert await lines(since_ns=1) == everything


async def test_remove_of_a_running_container(subject: Subject) -> None:
    container_id = await subject.started("stubborn")
    waiting = asyncio.ensure_future(subject.runtime.wait(container_id))
    await asyncio.sleep(0)
    await subject.runtime.remove(container_id)
    assert (await waiting).exit_code == 137
    assert subject.runtime.get(container_id) is None
    await subject.runtime.remove(container_id)


async def test_unknown_containers(subject: Subject) -> None:
    unknown = new_container_id()
    for call in (subject.runtime.start_container, subject.runtime.stop, subject.runtime.wait):
        with pytest.raises(NotFound, match=f"No such container: {unknown}"):
            await call(unknown)
    with pytest.raises(NotFound):
        await subject.runtime.kill(unknown, "TERM")
    with pytest.raises(NotFound):
        subject.runtime.logs(unknown, LogRequest(task_id=""))
    assert subject.runtime.get(unknown) is None


async def test_removed_before_it_ended(subject: Subject) -> None:
    config = subject.config("runs")
    await subject.runtime.create(config)
    waiting = asyncio.ensure_future(subject.runtime.wait(config.id))
    await asyncio.sleep(0)
    await subject.runtime.remove(config.id)
    with pytest.raises(NotFound):
        await waiting


async def test_private_files_are_in_no_record(subject: Subject) -> None:
    config = subject.config("runs")
    await subject.runtime.create(config)
    started = await subject.runtime.start_container(config.id, [PrivateFile("/run/secrets/key", b"open sesame")])
    for record in (started, subject.runtime.get(config.id), *subject.runtime.list()):
        assert "sesame" not in repr(record)
        assert b"/run/secrets" not in msgspec.json.encode(record)


async def test_closed_while_somebody_waits(subject: Subject) -> None:
    container_id = await subject.started("runs")
    waiting = asyncio.ensure_future(subject.runtime.wait(container_id))
    await asyncio.sleep(0)
    await subject.runtime.close()
    with pytest.raises(Unavailable):
        await waiting
    await subject.runtime.start()
    record = subject.runtime.get(container_id)
    assert record is not None
    assert record.state == "running"
