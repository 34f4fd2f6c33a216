"""Ports of a host that lead to tasks (publish mode host): real containers on the real network driver, asked from outside."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from overlay_hosts import Machine, eventually, in_namespace, machines, run
from runtime_harness import RuntimeNode
from task_node import TaskNode, task_node

from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel
SERVES = "while :; do echo $TASK | nc -l -p 80 -w 2; done"
DYNAMIC = PortConfig(target_port=80, publish_mode="host")


def numbered(number: int) -> PortConfig:
    return PortConfig(target_port=80, published_port=number, publish_mode="host")


def fetch(machine: Machine, address: str, port: int) -> str:
    """Return the first line that the port answers to this machine; "" when nobody does."""

    def call() -> str:
        with socket.create_connection((address, port), 2) as connection:
            return connection.recv(100).decode().strip()

    try:
        return in_namespace(machine.netns, call)
    except OSError:
        return ""


def is_free(machine: Machine, port: int) -> bool:
    """Whether a program of the machine could have this port."""
    try:
        in_namespace(machine.netns, lambda: socket.create_server(("0.0.0.0", port))).close()
    except OSError:
        return False
    return True


async def until_answers(machine: Machine, address: str, port: int, expected: str) -> None:
    """Wait until the container has begun to listen."""
    await asyncio.to_thread(eventually, lambda: fetch(machine, address, port) == expected)


@asynccontextmanager
async def published(node: RuntimeNode, folder: Path) -> AsyncIterator[tuple[TaskNode, NetworkDriver, Machine, Machine]]:
    """Yield a node in a host of its own, its network, the host, and another host."""
    with machines(folder / "hosts", 2) as (machine, other):
        driver = machine.driver()
        await driver.start()
        try:
            async with task_node(node, folder, network=driver) as tasks:
                yield tasks, driver, machine, other
        finally:
            await driver.teardown()
        assert "pyswarm" not in run("ip", "netns", "exec", machine.name, "nft", "list", "ruleset")


async def test_a_port_that_was_chosen_and_one_that_was_not(node: RuntimeNode, tmp_path: Path) -> None:
    async with published(node, tmp_path) as (tasks, driver, machine, other):
        tasks.assign("t1", SERVES, host_ports=(numbered(8080), DYNAMIC), Env=["TASK=first"])
        chosen, dynamic = (await tasks.until("t1", TaskState.RUNNING)).ports
        assert (chosen, dynamic.published_port > 30000) == (numbered(8080), True)
        for asker, address in ((other, machine.address), (machine, machine.address), (machine, "127.0.0.1")):
            for port in (8080, dynamic.published_port):
                await until_answers(asker, address, port, "first")

        tasks.assign("t2", SERVES, host_ports=(numbered(8080),), Env=["TASK=second"])
        refused = await tasks.until("t2", TaskState.FAILED)
        assert "Bind for 0.0.0.0:8080 failed: port is already allocated" in refused.error

        tasks.shut_down("t1")
        assert (await tasks.until("t1", TaskState.SHUTDOWN)).ports == ()
        assert driver.sandboxes() == frozenset()
        assert await asyncio.to_thread(fetch, other, machine.address, 8080) == ""
        with contextlib.closing(in_namespace(machine.netns, lambda: socket.create_server(("0.0.0.0", 8080)))):
            tasks.assign("t3", SERVES, host_ports=(numbered(8080),), Env=["TASK=third"])
            refused = await tasks.until("t3", TaskState.FAILED)
            assert "listen tcp4 0.0.0.0:8080: bind: address already in use" in refused.error
        tasks.assign("t4", SERVES, host_ports=(numbered(8080),), Env=["TASK=fourth"])
        await tasks.until("t4", TaskState.RUNNING)
        await until_answers(other, machine.address, 8080, "fourth")


async def test_a_port_is_free_when_its_task_has_ended_by_itself(node: RuntimeNode, tmp_path: Path) -> None:
    async with published(node, tmp_path) as (tasks, driver, machine, other):
        tasks.assign("t1", "echo once | nc -l -p 80 -w 2", host_ports=(numbered(8080),))
        await tasks.until("t1", TaskState.RUNNING)
        await until_answers(other, machine.address, 8080, "once")
        assert (await tasks.until("t1", TaskState.COMPLETE)).ports == ()
        await asyncio.to_thread(eventually, lambda: is_free(machine, 8080))
        assert driver.sandboxes() == frozenset()


async def test_on_the_hosts_own_network_nothing_is_published(node: RuntimeNode, tmp_path: Path) -> None:
    async with task_node(node, tmp_path) as tasks:
        tasks.assign("t1", "exec sleep 1000", host_ports=(numbered(8080),))
        assert (await tasks.until("t1", TaskState.RUNNING)).ports == (numbered(80),)
