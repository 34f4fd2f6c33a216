"""Containers outlive the daemon: what a new one finds after SIGKILL, after a killed monitor, after a power cut."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime import ContainerConfig, MountConfig
from pyswarm_agent.runtime.paths import ContainerPaths, SavedContainer
from pyswarm_agent.runtime.processes import identify, wait_process_end
from pyswarm_common.errors import Unavailable

pytestmark = pytest.mark.kernel

DAEMON = Path(__file__).with_name("runtime_daemon.py")


def kill_daemon_after(node: RuntimeNode, configs: Sequence[ContainerConfig], started: int) -> None:
    """Run a daemon that starts the containers; SIGKILL it when so many run."""
    arguments = [str(node.data_dir), str(node.runtime_dir), node.tag, msgspec.json.encode(configs).decode()]
    with subprocess.Popen([sys.executable, str(DAEMON), *arguments], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        ids = {config.id.encode() for config in configs}
        while started:
            line = daemon.stdout.readline()
            assert line, "the daemon ended"
            started -= line.strip() in ids
        daemon.kill()


async def open_again(node: RuntimeNode) -> None:
    await node.runtime.close()
    node.runtime = node.new_runtime()
    await node.runtime.start()


def saved_container(node: RuntimeNode, container_id: str) -> SavedContainer:
    saved = ContainerPaths(node.data_dir, node.runtime_dir, container_id).load()
    assert saved is not None
    return saved


def monitor_of(node: RuntimeNode, container_id: str) -> int:
    monitor = saved_container(node, container_id).monitor
    assert monitor is not None
    return monitor.pid


async def test_running_containers_are_found_again(node: RuntimeNode, tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    going = node.config("trap 'exit 6' TERM; echo ready; sleep 1000 & wait")
    ending = node.config("cat /go; exit 9", mounts=(MountConfig(type="bind", source=str(fifo), target="/go"),))
    await node.runtime.close()
    kill_daemon_after(node, [going, ending], started=2)

    monitor = identify(monitor_of(node, ending.id))
    assert monitor is not None
    fifo.write_text("ended while nobody looked\n")
    await wait_process_end(monitor)
    before = saved_container(node, going.id)
    await open_again(node)

    assert (await node.runtime.wait(ending.id)).exit_code == 9
    assert await node.output(ending.id) == "ended while nobody looked\n"
    record = node.runtime.get(going.id)
    assert record is not None
    assert (record.state, record.pid) == ("running", before.record.pid), record.exit
    assert (await node.runtime.stop(going.id)).exit_code == 6


async def test_daemon_killed_in_the_middle_of_starts(node: RuntimeNode) -> None:
    configs = [node.config("trap 'exit 6' TERM; sleep 1000 & wait") for _ in range(8)]
    await node.runtime.close()
    kill_daemon_after(node, configs, started=3)
    await open_again(node)

    states = {record.config.id: record.state for record in node.runtime.list()}
    assert set(states.values()) <= {"created", "running"}
    assert list(states.values()).count("running") >= 3
    for config in configs:
        await node.runtime.create(config)
        await node.runtime.start_container(config.id)
    assert {record.state for record in node.runtime.list()} == {"running"}


async def test_closing_leaves_containers_running(node: RuntimeNode) -> None:
    container_id = await node.started("echo ready; sleep 1000")
    pid = node.runtime.get(container_id).pid  # type: ignore[union-attr]
    await open_again(node)
    assert node.runtime.get(container_id).pid == pid  # type: ignore[union-attr]
    assert identify(pid) is not None


async def test_those_who_wait_hear_of_the_close(node: RuntimeNode) -> None:
    container_id = await node.started("echo ready; sleep 1000")
    runtime, node.runtime = node.runtime, node.new_runtime()
    waiting = runtime.wait(container_id)
    await runtime.close()
    with pytest.raises(Unavailable):
        await waiting
    await node.runtime.start()


async def test_killed_monitor_fails_the_container(node: RuntimeNode) -> None:
    container_id = await node.started("echo ready; sleep 1000")
    record = node.runtime.get(container_id)
    assert record is not None
    os.kill(monitor_of(node, container_id), signal.SIGKILL)
    status = await node.runtime.wait(container_id)
    assert (status.exit_code, "monitor (conmon) was killed" in status.error) == (137, True)
    assert identify(record.pid) is None


async def test_monitor_killed_while_no_daemon_ran(node: RuntimeNode) -> None:
    container_id = await node.started("echo ready; sleep 1000")
    monitor = monitor_of(node, container_id)
    await node.runtime.close()
    os.kill(monitor, signal.SIGKILL)
    await open_again(node)
    assert "monitor (conmon) was killed" in (await node.runtime.wait(container_id)).error


async def test_power_cut(node: RuntimeNode) -> None:
    container_id = await node.started("echo ready; sleep 1000")
    created = node.config("true")
    await node.runtime.create(created)
    await node.runtime.close()
    saved, paths = saved_container(node, container_id), ContainerPaths(node.data_dir, node.runtime_dir, container_id)
    assert saved.process is not None
    assert saved.monitor is not None
    for process in (saved.monitor, saved.process):
        os.kill(process.pid, signal.SIGKILL)
        await wait_process_end(process)
    paths.save(msgspec.structs.replace(saved, boot="an earlier one"))
    half_made = node.data_dir / "containers" / ("0" * 64)
    half_made.mkdir()
    (half_made / "container.json").write_text("")

    await open_again(node)
    status = await node.runtime.wait(container_id)
    assert (status.exit_code, status.error) == (255, "the node was restarted")
    assert await node.output(container_id) == "ready\n"
    assert not half_made.exists()
    await node.runtime.start_container(created.id)
    assert (await node.runtime.wait(created.id)).exit_code == 0


async def test_remove_leaves_nothing(node: RuntimeNode) -> None:
    container_id = await node.started("echo ready; mkdir -p /a/b; chmod 0 /a/b; sleep 1000")
    assert node.traces() != []
    await node.runtime.remove(container_id)
    await node.runtime.remove(container_id)
    assert [trace for trace in node.traces() if not trace.startswith("cgroup")] == []
    assert node.runtime.get(container_id) is None
