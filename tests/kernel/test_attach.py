"""The streams of containers' first processes, and pausing, as only real containers have them."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime.access.attachment import Attachment
from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_agent.runtime.access.interface import STDERR, STDOUT, TerminalSize
from pyswarm_agent.runtime.freezer import is_frozen

pytestmark = pytest.mark.kernel


@pytest.fixture
async def access(node: RuntimeNode) -> AsyncIterator[ContainerAccess]:
    access = ContainerAccess(node.runtime)
    yield access
    await access.close()


async def collect(attachment: Attachment) -> dict[int, bytes]:
    """Return all output by stream, to its end."""
    found: dict[int, bytes] = {}
    async with asyncio.timeout(10):
        async for stream, data in attachment.output():
            found[stream] = found.get(stream, b"") + data
    return found


class Listener:
    """Reads an attachment piece by piece."""

    def __init__(self, attachment: Attachment) -> None:
        self._output = attachment.output()
        self.heard = b""

    async def hears(self, words: bytes) -> None:
        async with asyncio.timeout(10):
            while words not in self.heard:
                self.heard += (await anext(self._output))[1]


async def test_from_the_first_byte_when_attached_before_the_start(node: RuntimeNode, access: ContainerAccess) -> None:
    config = node.config("echo one; echo two >&2; head -c 300000 /dev/zero; exit 3")
    await node.runtime.create(config)
    attachments = [await access.attach(config.id, takes_input=False) for _ in range(3)]
    reading = [asyncio.ensure_future(collect(attachment)) for attachment in attachments]
    await node.runtime.start_container(config.id)
    for output in await asyncio.gather(*reading):
        assert output[STDOUT].startswith(b"one\n")
        assert len(output[STDOUT]) == 300004
        assert output[STDERR] == b"two\n"
    assert (await node.runtime.wait(config.id)).exit_code == 3


async def test_input_ends_with_the_client_when_it_is_for_one(node: RuntimeNode, access: ContainerAccess) -> None:
    config = node.config("cat; echo end", open_stdin=True, stdin_once=True)
    await node.runtime.create(config)
    attachment = await access.attach(config.id, takes_input=True)
    onlooker = await access.attach(config.id, takes_input=False)
    await node.runtime.start_container(config.id)
    await attachment.write(b"x" * 100000)
    await onlooker.close()
    await attachment.write(b"\n")
    await attachment.close_input()
    assert await collect(attachment) == {STDOUT: b"x" * 100000 + b"\nend\n"}


async def test_input_outlives_its_clients_when_it_is_for_many(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started("echo ready; while read line; do echo got $line; done; echo end", open_stdin=True)
    for _ in range(3):
        attachment = await access.attach(container, takes_input=True)
        listener = Listener(attachment)
        await attachment.write(b"hello\n")
        await listener.hears(b"got hello\n")
        await attachment.close_input()
        await attachment.close()
    record = node.runtime.get(container)
    assert record is not None
    assert record.state == "running"


async def test_input_that_the_container_has_not_is_dropped(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started("cat; echo ready; exec sleep 1000")
    attachment = await access.attach(container, takes_input=True)
    await attachment.write(b"x" * 1000000)
    await attachment.close_input()


async def test_a_terminal_is_resized_and_survives_its_clients(node: RuntimeNode, access: ContainerAccess) -> None:
    script = "trap 'stty size' WINCH; echo ready; while true; do read line && echo got $line; done"
    container = await node.started(script, tty=True, open_stdin=True, stdin_once=True)
    for number in range(2):
        attachment = await access.attach(container, takes_input=True)
        listener = Listener(attachment)
        await access.resize(container, TerminalSize(40 + number, 120))
        await listener.hears(b"%d 120" % (40 + number))
        await attachment.write(b"hello%d\n" % number)
        await listener.hears(b"got hello%d" % number)
        await attachment.close()


async def test_who_leaves_disturbs_nobody(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started("echo ready; while true; do echo tick; sleep 0.01; done")
    staying, leaving = [Listener(await access.attach(container, takes_input=False)) for _ in range(2)]
    await leaving.hears(b"tick")
    await leaving._output.aclose()  # type: ignore[attr-defined]
    staying.heard = b""
    await staying.hears(b"tick\ntick\ntick\ntick\n")


async def test_the_streams_end_with_the_container(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started("echo ready; exec sleep 1000")
    attachment = await access.attach(container, takes_input=False)
    reading = asyncio.ensure_future(collect(attachment))
    await node.runtime.kill(container, "KILL")
    assert await reading == {}


async def test_a_paused_container_stands_still(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started("echo ready; while true; do echo x >> /tmp/ticks; done")
    record = node.runtime.get(container)
    assert record is not None
    ticks = Path(f"/proc/{record.pid}/root/tmp/ticks")
    await access.pause(container)
    size_bytes = ticks.stat().st_size
    await asyncio.sleep(0.1)
    assert ticks.stat().st_size == size_bytes
    await access.unpause(container)
    async with asyncio.timeout(5):
        while ticks.stat().st_size == size_bytes:  # noqa: ASYNC110  nobody tells when
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("was_written_down", [True, False])
async def test_a_restarted_daemon_finds_it_paused(node: RuntimeNode, access: ContainerAccess, was_written_down: bool) -> None:
    container = await node.started("echo ready; exec sleep 1000")
    await access.pause(container)
    if not was_written_down:
        node.runtime.mark_paused(container, False)
    await access.close()
    await node.runtime.close()
    node.runtime = node.new_runtime()
    await node.runtime.start()
    successor = ContainerAccess(node.runtime)
    await successor.start()
    record = node.runtime.get(container)
    assert record is not None
    assert record.state == "paused"
    assert is_frozen(node.runtime.cgroups, container)
    await successor.unpause(container)
    assert not is_frozen(node.runtime.cgroups, container)
    await successor.close()


async def test_a_paused_container_without_its_monitor_is_cleaned_up(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started("echo ready; exec sleep 1000")
    await access.pause(container)
    monitor = node.runtime.handle(container).saved.monitor
    assert monitor is not None
    os.kill(monitor.pid, 9)
    status = await node.runtime.wait(container)
    assert status.exit_code == 137
