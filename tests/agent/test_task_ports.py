"""Ports of the node that lead to tasks: asked for, given, reported, kept over restarts, given back."""

import contextlib
import socket
from collections.abc import Iterator

import msgspec
import pytest
from agent_bench import Bench, assigned, message

from pyswarm_agent import task_events as m
from pyswarm_agent.task_container import container_id_of
from pyswarm_agent.task_machine import TaskMachine
from pyswarm_agent.task_ports import given_ports, port_requests
from pyswarm_common.objects import Record
from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import TaskAssignment
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort

DYNAMIC = PortConfig(target_port=80, publish_mode="host")


def numbered(number: int, target: int = 80) -> PortConfig:
    return PortConfig(target_port=target, published_port=number, publish_mode="host")


def publishing(task_id: str, *ports: PortConfig, desired: TaskState = TaskState.RUNNING) -> TaskAssignment:
    return msgspec.structs.replace(assigned(task_id, desired), host_ports=ports)


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    """Give a port of this machine that another program has."""
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        yield sock.getsockname()[1]


def free_port() -> int:
    with taken_port() as number:
        return number


class Place(Record, frozen=True, kw_only=True):
    """A container's place on the network."""

    netns_path: str | None = "/netns"
    ports: tuple[PublishedPort, ...] = ()


def test_what_is_asked_of_the_network_and_what_it_gave() -> None:
    asked = (numbered(8080), PortConfig(name="dns", protocol="udp", target_port=53, publish_mode="host"))
    assert port_requests(asked) == (
        PortRequest(container_port=80, first_host_port=8080),
        PortRequest(protocol="udp", container_port=53),
    )
    given = (
        PublishedPort(protocol="tcp", container_port=80, host_port=8080),
        PublishedPort(protocol="udp", container_port=53, host_port=40000),
    )
    assert given_ports(asked, Place(ports=given)) == (asked[0], msgspec.structs.replace(asked[1], published_port=40000))
    assert given_ports((), Place(ports=given)) == ()


def test_on_the_hosts_own_network_a_task_is_at_its_own_ports() -> None:
    assert given_ports((numbered(8080), DYNAMIC), Place(netns_path=None)) == (numbered(80), numbered(80))


@pytest.mark.parametrize("ended", [m.TaskExited(task_id="t1", exit_code=0), m.TaskExited(task_id="t1", exit_code=1)])
def test_a_status_has_the_ports_until_the_task_has_ended(ended: m.TaskExited) -> None:
    machine = TaskMachine()
    ports = (numbered(40000),)
    events = (
        m.TaskAssigned(assignment=assigned("t1")),
        m.TaskPrepared(task_id="t1", container_id="c1", ports=ports),
        m.TaskStarted(task_id="t1", pid=7),
        ended,
    )
    reported = [each.status for event in events for each in machine.handle(event, 1) if isinstance(each, m.ReportStatus)]
    with_ports = {status.state for status in reported if status.ports == ports}
    assert with_ports == {TaskState.READY, TaskState.STARTING, TaskState.RUNNING}
    assert reported[-1].ports == ()


async def test_a_port_that_the_node_chooses_is_told_and_stays_over_a_restart(bench: Bench) -> None:
    await bench.agent.handle(message(publishing("t1", DYNAMIC)))
    await bench.until_state("t1", TaskState.RUNNING)
    (port,) = bench.status("t1").ports
    assert port.published_port >= 30000
    assert msgspec.structs.replace(port, published_port=0) == DYNAMIC
    sandbox = bench.driver.sandbox("t1")
    assert sandbox is not None
    assert [each.host_port for each in sandbox.ports] == [port.published_port]
    container = bench.container("t1")
    assert container is not None
    assert container.config.ports == sandbox.ports
    await bench.restart()
    await bench.until_state("t1", TaskState.RUNNING)
    assert bench.status("t1").ports == (port,)
    with pytest.raises(OSError), socket.socket() as sock:
        sock.bind(("0.0.0.0", port.published_port))


async def test_a_port_is_free_again_after_its_task(bench: Bench) -> None:
    number = free_port()
    for task_id in ("t1", "t2"):
        await bench.agent.handle(message(publishing(task_id, numbered(number))))
        await bench.until_state(task_id, TaskState.RUNNING)
        assert bench.status(task_id).ports == (numbered(number),)
        bench.runtime.end_container(container_id_of(task_id), 0)
        await bench.until_state(task_id, TaskState.COMPLETE)
        assert bench.status(task_id).ports == ()
        await bench.until(lambda: not bench.driver.sandboxes())


async def test_a_port_that_another_program_has_fails_the_task_in_dockers_words(bench: Bench) -> None:
    with taken_port() as number:
        await bench.agent.handle(message(publishing("t1", numbered(number))))
        await bench.until_state("t1", TaskState.FAILED)
    status = bench.status("t1")
    name = publishing("t1").name
    assert status.error == (
        f"starting container failed: driver failed programming external connectivity on endpoint {name} ({container_id_of('t1')}): "
        f"Error starting userland proxy: listen tcp4 0.0.0.0:{number}: bind: address already in use"
    )
    assert (status.message, status.ports) == ("starting", ())
    await bench.until(lambda: not bench.driver.sandboxes())


async def test_two_tasks_do_not_get_the_same_port(bench: Bench) -> None:
    number = free_port()
    await bench.agent.handle(message(publishing("t1", numbered(number))))
    await bench.until_state("t1", TaskState.RUNNING)
    await bench.agent.handle(message(publishing("t2", numbered(number, 81))))
    await bench.until_state("t2", TaskState.FAILED)
    assert f"Bind for 0.0.0.0:{number} failed: port is already allocated" in bench.status("t2").error
