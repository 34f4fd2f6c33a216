"""A node for tests of the agent: real image store and network driver, kernel, DNS and containers in memory, time in our hands."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from fake_probes import FakeProbes
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive

from pyswarm_agent.agent import Agent
from pyswarm_agent.container_config import NodeInfo
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.images import ImageStore
from pyswarm_agent.runtime.fake import FakeContainerRuntime, FakeProgram
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord
from pyswarm_agent.session import client_tls
from pyswarm_agent.task_container import container_id_of
from pyswarm_agent.task_store import TaskStore
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.use import volume_users
from pyswarm_common import wire
from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import NetworkAttachment, NodeDescription, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_netplugin.driver import NetworkDriver
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.fake import FakeKernel

APP = "app:1"
PATIENCE_S = 10.0


async def make_images(data_dir: Path) -> None:
    """Fill an image store with the image `app:1`."""
    image = BuiltImage([make_layer([Entry("hello", b"x")])], {"Cmd": ["/hello"]})
    data_dir.mkdir(parents=True, exist_ok=True)
    write_docker_archive(data_dir / "app.tar", [(image, [APP])])
    store = ImageStore(data_dir)
    await store.load(data_dir / "app.tar")
    await store.close()


def assigned(task_id: str, desired: TaskState = TaskState.RUNNING, *, spec: str = "spec", network: str = "") -> wire.TaskAssignment:
    """Return what the manager says of a task."""
    attachments = (NetworkAttachment(network_id=network, address="10.0.1.5/24"),) if network else ()
    return wire.TaskAssignment(
        task_id=task_id, task_spec_id=spec, desired_state=desired, service_name="web", slot=1, attachments=attachments
    )


def container_spec(image: str = APP, **more: object) -> bytes:
    """Return a task template (JSON)."""
    return msgspec.json.encode({"ContainerSpec": {"Image": image, **more}})


def view(version: int = 1, *, network_id: str = "net", backends: tuple[str, ...] = ()) -> wire.NetworkView:
    """Return a network view."""
    services = {"s1": wire.ServiceEndpoints(names=("web",), virtual_ip="10.0.1.2", backends=backends)}
    return wire.NetworkView(
        network_id=network_id,
        name=network_id,
        version=version,
        vni=4097,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        services=services,
    )


def raw(value: object) -> msgspec.Raw:
    """Return a view or a change of one as messages carry it."""
    return msgspec.Raw(msgspec.msgpack.encode(value))


def message(*tasks: wire.TaskAssignment, complete: bool = False, spec: bytes | None = None, **more: object) -> wire.Assignments:
    """Return assignments; with the spec `spec` of all tasks unless it is told otherwise."""
    specs = {"spec": spec or container_spec()} if tasks else {}
    return msgspec.structs.replace(wire.Assignments(is_complete=complete, tasks=tasks, task_specs=specs), **more)


class Bench:
    """The node. `start` and `stop` are the daemon's; kernel, DNS, containers and disk live on between them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock()
        self.programs: dict[str, FakeProgram] = {}
        self.runtime = FakeContainerRuntime(self.clock, self._program_of)
        self.kernel = FakeKernel()
        self.dns = FakeDNS()
        self.images = ImageStore(directory)
        self.volumes = VolumeStore(directory, self.clock, lambda: volume_users(self.runtime))
        self.reports: list[tuple[str, TaskStatus]] = []
        self._told = asyncio.Event()
        self.driver: NetworkDriver
        self.agent: Agent
        self.probes = FakeProbes(self.clock)
        self.health: HealthMonitors
        self._running: list[asyncio.Task[None]] = []

    def _program_of(self, config: ContainerConfig) -> FakeProgram:
        return self.programs.get(config.labels["com.docker.swarm.task.id"], FakeProgram())

    def new_driver(self) -> NetworkDriver:
        """Return the network driver of a daemon that starts."""
        return NetworkDriver(
            instance_tag="test",
            data_dir=self.directory / "network",
            runtime_dir=self.directory / "run",
            data_path_address="192.0.2.1",
            dns=self.dns,
            make_kernel=lambda: self.kernel,
        )

    def new_agent(self) -> Agent:
        """Return an agent that does not run yet and knows no manager."""
        return Agent(
            images=self.images,
            runtime=self.runtime,
            health=self.health,
            volumes=self.volumes,
            network=self.driver,
            task_store=TaskStore(self.directory / "tasks"),
            clock=self.clock,
            description=lambda: NodeDescription(hostname="h1"),
            node=lambda: NodeInfo(id="n1", hostname="h1"),
            tls=lambda: client_tls("", "", ""),
            managers=lambda: (),
            engine_socket=self.directory / "pyswarm.sock",
            on_node_state=_ignore,
        )

    async def start(self) -> None:
        """Start the daemon's parts."""
        self.driver = self.new_driver()
        await self.driver.start()
        await self.runtime.start()
        self.health = HealthMonitors(self.runtime, self.probes, self.clock)
        self.agent = self.new_agent()
        self._running = [asyncio.create_task(self.agent.run()), asyncio.create_task(self._take_reports())]
        await self.clock.advance(0)

    async def stop(self) -> None:
        """End the daemon's parts as a daemon does. Raises what the agent died of."""
        for task in self._running:
            task.cancel()
        ended = await asyncio.gather(*self._running, return_exceptions=True)
        await self.health.close()
        await self.runtime.close()
        await self.driver.close()
        for error in ended:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error

    async def restart(self) -> None:
        """Stop and start; reports are counted anew."""
        await self.stop()
        self.reports.clear()
        await self.start()

    async def _take_reports(self) -> None:
        while True:
            report = await self.agent.next_report()
            self.reports += [(update.task_id, update.status) for update in report.updates]
            await self.agent.handle(wire.StatusAcknowledgement(number=report.number))

    async def stop_taking_reports(self) -> None:
        """Leave the agent's reports to a session."""
        taking = self._running.pop()
        taking.cancel()
        await asyncio.wait([taking])

    def states(self, task_id: str) -> list[TaskState]:
        """Return the reported states of a task."""
        return [status.state for reported_id, status in self.reports if reported_id == task_id]

    def status(self, task_id: str) -> TaskStatus:
        """Return the newest reported status of a task."""
        return [status for reported_id, status in self.reports if reported_id == task_id][-1]

    async def until(self, predicate: Callable[[], bool], *, advancing_s: float = 0.0) -> None:
        """Wait until something holds, moving the clock on meanwhile if told so."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not predicate():
            assert not self._running[0].done(), f"the agent ended: {self._running[0]}"
            assert time.monotonic() < deadline_s, f"it never came to be; reported so far: {self.reports}"
            await self.clock.advance(advancing_s)
            await asyncio.sleep(0.002)  # the network driver works in a thread, image pulls on sockets

    async def until_state(self, task_id: str, state: TaskState, *, advancing_s: float = 0.0) -> None:
        """Wait until a state of a task was reported."""
        await self.until(lambda: state in self.states(task_id), advancing_s=advancing_s)

    async def run_task(self, task_id: str, *, network: str = "", **more: object) -> None:
        """Assign a task and wait until it runs."""
        views = (raw(view()),) if network else ()
        await self.agent.handle(message(assigned(task_id, network=network), views=views, **more))
        await self.until_state(task_id, TaskState.RUNNING)

    def container(self, task_id: str) -> ContainerRecord | None:
        """Return a task's container."""
        return self.runtime.get(container_id_of(task_id))

    def records(self) -> set[str]:
        """Return the names of the files that the agent keeps of tasks."""
        return {path.name for path in (self.directory / "tasks").iterdir()}

    def has_left_nothing(self, task_id: str) -> bool:
        """Whether container, sandbox and record of a task are gone."""
        return self.container(task_id) is None and task_id not in self.kernel.sandboxes and task_id not in self.records()


@asynccontextmanager
async def running_bench(directory: Path) -> AsyncIterator[Bench]:
    """Run a node; at the end its daemon must still be alive."""
    bench = Bench(directory)
    await bench.start()
    try:
        yield bench
    finally:
        try:
            await bench.stop()
        finally:
            with contextlib.suppress(OSError):
                await bench.images.close()


async def _ignore(_: wire.NodeState) -> None:
    pass
