"""A million lines, through rotations and SIGKILLs of the daemon in their midst: all are there, once and in order."""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime import ContainerConfig
from pyswarm_agent.runtime.records import LogConfig
from pyswarm_common.wire import LogRequest

pytestmark = pytest.mark.kernel

LINES = 1_000_000
SCRIPT = f"i=0; while [ $i -lt {LINES} ]; do seq $((i+1)) $((i+10000)); i=$((i+10000)); sleep 0.08; done"
KILLS = 3
ROTATIONS_BEFORE_KILL = 2
DAEMON = Path(__file__).with_name("runtime_daemon.py")


def newest_archive(folder: Path) -> int:
    """Return how often the log was rotated."""
    return max((int(path.name.split(".")[2]) for path in folder.glob("container.log.[0-9]*")), default=0)


async def killed_daemon(node: RuntimeNode, config: ContainerConfig, rotations: int) -> None:
    """Run a daemon that starts the container or finds it running, and kill it when there were so many rotations."""
    configs = msgspec.json.encode([config]).decode()
    arguments = (str(DAEMON), str(node.data_dir), str(node.runtime_dir), node.tag, configs)
    daemon = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(30):
            while newest_archive(node.data_dir / "containers" / config.id) < rotations:
                assert daemon.returncode is None
                await asyncio.sleep(0.001)
    finally:
        daemon.send_signal(signal.SIGKILL)
        await daemon.wait()


async def count_lines(node: RuntimeNode, container_id: str, request: LogRequest) -> int:
    """Return how many lines there are, which must be numbered from 1 on."""
    count = 0
    async for part in node.runtime.log_parts(container_id, request):
        for line in part.lines:
            count += 1
            assert line.line == b"%d\n" % count
    return count


async def test_a_million_lines(node: RuntimeNode) -> None:
    config = node.config(SCRIPT, log=LogConfig(options={"max-size": "1m", "max-file": "1000", "compress": "true"}))
    await node.runtime.close()
    for kill in range(1, KILLS + 1):
        await killed_daemon(node, config, kill * ROTATIONS_BEFORE_KILL)
    node.runtime = node.new_runtime()
    await node.runtime.start()
    record = node.runtime.get(config.id)
    assert record is not None
    assert record.state == "running"
    assert await count_lines(node, config.id, LogRequest(task_id="", follow=True)) == LINES
    assert (await node.runtime.wait(config.id)).exit_code == 0
    assert await count_lines(node, config.id, LogRequest(task_id="")) == LINES
    folder = node.data_dir / "containers" / config.id
    assert newest_archive(folder) > KILLS * ROTATIONS_BEFORE_KILL
    assert list(folder.glob("container.log.*.gz"))
