"""The promises of `Access`, kept by the real one and by the fake."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from runtime_harness import runtime_node

from pyswarm_agent.runtime import ContainerConfig, ContainerStartFailed, FakeContainerRuntime
from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_agent.runtime.access.fake import FakeContainerAccess, FakeProcess
from pyswarm_agent.runtime.access.interface import STDERR, STDOUT, Access, ExecConfig, Execution, TerminalSize
from pyswarm_common.clock import SystemClock
from pyswarm_common.errors import Conflict, NotFound
from pyswarm_common.ids import new_container_id

PROCESSES = {
    "speaks": (
        ("sh", "-c", "echo one; echo two >&2; exit 3"),
        FakeProcess(output=((STDOUT, b"one\n"), (STDERR, b"two\n")), exit_code=3),
    ),
    "copies": (("cat",), FakeProcess(echoes=True)),
    "hangs": (("sleep", "1000"), FakeProcess(runs_s=None)),
    "missing": (("nope",), FakeProcess(start_error='exec: "nope": executable file not found in $PATH: unknown')),
    "forbidden": (("/etc/passwd",), FakeProcess(start_error='exec: "/etc/passwd": permission denied', start_error_code=126)),
}
_FAKES = dict(PROCESSES.values())


class Subject:
    """Access under test, and a container that runs."""

    def __init__(self, runtime: Any, access: Access, layer: str) -> None:
        self.runtime = runtime
        self.access = access
        self._layer = layer
        self.container = ""

    def config(self, **changes: Any) -> ContainerConfig:
        """Return a configuration that runs until it is killed."""
        settings = {"args": ("sleep", "1000"), "env": ("PATH=/bin",), "stop_grace_period_s": 0.1, "layer_paths": (self._layer,)}
        return ContainerConfig(id=new_container_id(), **{**settings, **changes})

    async def started(self, **changes: Any) -> str:
        """Start a container; return its id."""
        config = self.config(**changes)
        await self.runtime.create(config)
        await self.runtime.start_container(config.id)
        return config.id


@contextlib.asynccontextmanager
async def fake_subject(directory: Path, layer: Path) -> AsyncIterator[Subject]:
    """Yield the fake."""
    runtime = FakeContainerRuntime(SystemClock())
    access = FakeContainerAccess(runtime, lambda _, config: _FAKES[config.args])
    await runtime.start()
    await access.start()
    yield Subject(runtime, access, str(layer))
    await access.close()
    await runtime.close()


@contextlib.asynccontextmanager
async def real_subject(directory: Path, layer: Path) -> AsyncIterator[Subject]:
    """Yield the real one."""
    async with runtime_node(directory, layer) as node:
        access = ContainerAccess(node.runtime)
        await access.start()
        yield Subject(node.runtime, access, str(layer))
        await access.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kernel)])
async def subject(request: pytest.FixtureRequest, tmp_path: Path, busybox_layer: Path) -> AsyncIterator[Subject]:
    """Each of the two, with a container that runs."""
    make = fake_subject if request.param == "fake" else real_subject
    async with make(tmp_path, busybox_layer) as made:
        made.container = await made.started()
        yield made


def process(name: str, **changes: Any) -> ExecConfig:
    return ExecConfig(args=PROCESSES[name][0], **changes)


async def everything(execution: Execution) -> dict[int, bytes]:
    """Return all output by stream."""
    found: dict[int, bytes] = {}
    async with asyncio.timeout(10):
        async for stream, data in execution.output():
            found[stream] = found.get(stream, b"") + data
    return found


async def test_output_and_exit_code(subject: Subject) -> None:
    execution = await subject.access.execute(subject.container, process("speaks"))
    assert execution.pid > 0
    assert await everything(execution) == {STDOUT: b"one\n", STDERR: b"two\n"}
    assert await execution.wait() == 3
    assert not execution.is_running
    await execution.close()


async def test_a_terminal_has_one_stream(subject: Subject) -> None:
    execution = await subject.access.execute(subject.container, process("speaks", tty=True), TerminalSize(24, 80))
    await execution.resize(TerminalSize(25, 81))
    output = await everything(execution)
    assert list(output) == [STDOUT]
    assert output[STDOUT].replace(b"\r\n", b"\n") == b"one\ntwo\n"


async def test_input_flows_until_it_is_closed(subject: Subject) -> None:
    execution = await subject.access.execute(subject.container, process("copies", takes_input=True))
    await execution.write(b"hello ")
    await execution.write(b"world")
    assert execution.is_running
    await execution.close_input()
    assert await everything(execution) == {STDOUT: b"hello world"}
    assert await execution.wait() == 0


async def test_without_input_it_is_at_its_end(subject: Subject) -> None:
    execution = await subject.access.execute(subject.container, process("copies"))
    await execution.write(b"nobody reads this")
    assert await everything(execution) == {}
    assert await execution.wait() == 0


async def test_kill(subject: Subject) -> None:
    execution = await subject.access.execute(subject.container, process("hangs"))
    before = await subject.access.pids(subject.container)
    assert len(before) == 2
    assert execution.pid in before
    await execution.kill()
    assert await execution.wait() == 137
    await execution.kill()
    assert await subject.access.pids(subject.container) == [pid for pid in before if pid != execution.pid]


async def test_run(subject: Subject) -> None:
    finished = await subject.access.run(subject.container, process("speaks"), timeout_s=10, output_limit_bytes=6)
    assert finished == (3, b"one\ntw")
    with pytest.raises(TimeoutError):
        await subject.access.run(subject.container, process("hangs"), timeout_s=0.2)
    assert len(await subject.access.pids(subject.container)) == 1


@pytest.mark.parametrize(("name", "exit_code"), [("missing", 127), ("forbidden", 126)])
async def test_what_cannot_be_started(subject: Subject, name: str, exit_code: int) -> None:
    for attempt in (
        subject.access.execute(subject.container, process(name)),
        subject.access.run(subject.container, process(name), timeout_s=9),
    ):
        with pytest.raises(ContainerStartFailed) as raised:
            await attempt
        assert raised.value.exit_code == exit_code


async def test_pausing(subject: Subject) -> None:
    access, container = subject.access, subject.container
    with pytest.raises(Conflict, match=f"Container {container} is not paused"):
        await access.unpause(container)
    await access.pause(container)
    assert subject.runtime.get(container).state == "paused"
    with pytest.raises(Conflict, match=f"Container {container} is already paused"):
        await access.pause(container)
    with pytest.raises(Conflict, match=f"Container {container} is paused, unpause the container before exec"):
        await access.execute(container, process("speaks"))
    with pytest.raises(Conflict, match=f"Container {container} is paused, unpause the container before attach"):
        await access.attach(container, takes_input=False)
    assert len(await access.pids(container)) == 1
    await access.unpause(container)
    assert subject.runtime.get(container).state == "running"
    assert (await access.run(container, process("speaks"), timeout_s=10)).exit_code == 3


@pytest.mark.parametrize("how", ["stop", "kill", "remove"])
async def test_a_paused_container_can_be_ended(subject: Subject, how: str) -> None:
    await subject.access.pause(subject.container)
    async with asyncio.timeout(5):
        if how == "stop":
            await subject.runtime.stop(subject.container)
        elif how == "kill":
            await subject.runtime.kill(subject.container, "KILL")
            assert (await subject.runtime.wait(subject.container)).exit_code == 137
        else:
            await subject.runtime.remove(subject.container)
    assert how == "remove" or subject.runtime.get(subject.container).state == "exited"


async def test_only_live_containers(subject: Subject) -> None:
    access, size = subject.access, TerminalSize(1, 1)
    created = subject.config()
    await subject.runtime.create(created)
    for container, error in ((created.id, Conflict), ("f" * 64, NotFound)):
        for attempt in (
            access.execute(container, process("speaks")),
            access.run(container, process("speaks"), timeout_s=1),
            access.resize(container, size),
            access.pause(container),
            access.unpause(container),
            access.pids(container),
        ):
            with pytest.raises(error):
                await attempt
    await subject.runtime.stop(subject.container)
    with pytest.raises(Conflict, match="is not running"):
        await access.attach(subject.container, takes_input=False)
    with pytest.raises(NotFound):
        await access.attach("f" * 64, takes_input=False)


async def test_only_terminals_have_a_size(subject: Subject) -> None:
    with pytest.raises(Conflict, match="has no terminal"):
        await subject.access.resize(subject.container, TerminalSize(30, 90))
    await subject.access.resize(await subject.started(tty=True), TerminalSize(30, 90))


async def test_the_end_of_the_container_ends_what_was_started_in_it(subject: Subject) -> None:
    execution = await subject.access.execute(subject.container, process("hangs"))
    await subject.runtime.kill(subject.container, "KILL")
    assert await execution.wait() == 137


async def test_close_ends_what_was_started(subject: Subject) -> None:
    execution = await subject.access.execute(subject.container, process("hangs"))
    await subject.access.close()
    assert await execution.wait() == 137
    assert subject.runtime.get(subject.container).state == "running"
