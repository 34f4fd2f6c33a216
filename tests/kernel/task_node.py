"""Tasks on a real runtime: task machine, worker, images, healthchecks; no manager, and the network that the test gives."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from image_builder import BuiltImage, Entry, directory, make_layer, symlink, write_docker_archive
from runtime_harness import GROUP, PASSWD, RuntimeNode

from pyswarm_agent.container_config import NodeInfo
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.images import ImageStore
from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_agent.task_container import Network, TaskContainers, container_id_of
from pyswarm_agent.task_events import Event, ForgetTask, ReportStatus, TaskAssigned
from pyswarm_agent.task_machine import TaskMachine
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.mounting import ContainerMounts
from pyswarm_agent.volumes.use import volume_users
from pyswarm_agent.worker import Worker
from pyswarm_common.clock import SystemClock
from pyswarm_common.objects import Record, TaskStatus
from pyswarm_common.specs import PortConfig, TaskTemplate, decode_task_template
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import TaskAssignment
from pyswarm_netplugin.driver import SandboxRequest
from pyswarm_netplugin.published_ports.records import PublishedPort

IMAGE = "box:1"


class _HostNetwork:
    """Every task is on the host's own network."""

    class Place(Record, frozen=True, kw_only=True):
        """Of a container."""

        netns_path: str | None = None
        resolv_conf: str = ""
        hosts: str = ""
        ports: tuple[PublishedPort, ...] = ()
        network_names: dict[str, str] = {}

    async def attach(self, request: SandboxRequest) -> Any:
        """Give a place."""
        return self.Place()

    async def detach(self, sandbox_id: str) -> None:
        """Nothing was made."""


_HOST_NETWORK = _HostNetwork()


def write_image(path: Path, **config: Any) -> None:
    """Write an archive with busybox as the image `box:1`; `config` is the image's."""
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    folders = [directory(name) for name in ("bin", "etc", "root", "proc", "sys", "dev")]
    files = [
        Entry("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
        Entry("etc/passwd", PASSWD.encode()),
        Entry("etc/group", GROUP.encode()),
    ]
    links = [symlink(f"bin/{name}", "busybox") for name in applets if name != "busybox"]
    image = BuiltImage([make_layer([*folders, directory("tmp", 0o1777), *files, *links])], {"Env": ["PATH=/bin"], **config})
    write_docker_archive(path, [(image, [IMAGE])])


class TaskNode:
    """A node that is told its tasks by the test."""

    def __init__(self, node: RuntimeNode, images: ImageStore, network: Network) -> None:
        self.node = node
        clock = SystemClock()
        self.access = ContainerAccess(node.runtime)
        self.health = HealthMonitors(node.runtime, self.access, clock)
        self.volumes = VolumeStore(node.data_dir, clock, lambda: volume_users(node.runtime))
        self.reports: list[tuple[str, TaskStatus]] = []
        self._templates: dict[str, TaskTemplate] = {}
        self._assignments: dict[str, TaskAssignment] = {}
        self._told = asyncio.Event()
        self._machine = TaskMachine()
        containers = TaskContainers(
            images=images,
            runtime=node.runtime,
            network=network,
            node=lambda: NodeInfo(id="n1", hostname="h1"),
            mounts=ContainerMounts(self.volumes),
        )
        self.worker = Worker(
            containers=containers,
            health=self.health,
            template_of=self._templates.__getitem__,
            emit=self._emit,
            clock=clock,
            files_of=self._no_files,
            wait_left_balancers=self._no_balancers,
        )

    async def _no_files(self, task_id: str) -> Sequence[PrivateFile]:
        return ()

    async def _no_balancers(self, task_id: str) -> None:
        return

    def _emit(self, event: Event) -> None:
        for instruction in self._machine.handle(event, SystemClock().now_ns()):
            if isinstance(instruction, ReportStatus):
                self.reports.append((instruction.task_id, instruction.status))
                self._told.set()
            elif not isinstance(instruction, ForgetTask):
                self.worker.carry_out(instruction)

    def assign(
        self,
        task_id: str,
        script: str,
        *,
        resources: dict[str, Any] | None = None,
        host_ports: tuple[PortConfig, ...] = (),
        networks: Sequence[str] = (),
        **container: Any,
    ) -> None:
        """Give the node a task that runs a shell script."""
        spec = {"Image": IMAGE, "Command": ["sh", "-c", script], "StopGracePeriod": 1_000_000_000, **container}
        template = {"ContainerSpec": spec, "Resources": {"Limits": resources or {}}, "Networks": [{"Target": n} for n in networks]}
        self._templates[task_id] = decode_task_template(msgspec.json.encode(template))
        self._assignments[task_id] = TaskAssignment(
            task_id=task_id,
            task_spec_id=task_id,
            desired_state=TaskState.RUNNING,
            service_name="web",
            slot=1,
            host_ports=host_ports,
        )
        self._emit(TaskAssigned(assignment=self._assignments[task_id]))

    def shut_down(self, task_id: str) -> None:
        """Want a task gone."""
        wanted = msgspec.structs.replace(self._assignments[task_id], desired_state=TaskState.SHUTDOWN)
        self._emit(TaskAssigned(assignment=wanted))

    def container(self, task_id: str) -> ContainerRecord:
        """Return a task's container."""
        record = self.node.runtime.get(container_id_of(task_id))
        assert record is not None
        return record

    def states(self, task_id: str) -> list[TaskState]:
        """Return what was reported."""
        return [status.state for reported_id, status in self.reports if reported_id == task_id]

    async def until(self, task_id: str, state: TaskState, within_s: float = 20.0) -> TaskStatus:
        """Return the status with this state once it is reported."""
        async with asyncio.timeout(within_s):
            while True:
                for reported_id, status in self.reports:
                    if reported_id == task_id and status.state is state:
                        return status
                self._told.clear()
                await self._told.wait()


@contextlib.asynccontextmanager
async def task_node(node: RuntimeNode, folder: Path, *, network: Network = _HOST_NETWORK, **config: Any) -> AsyncIterator[TaskNode]:
    """Yield a node with the image `box:1`; every task is on the host's own network if no other is given."""
    images = ImageStore(folder / "images")
    write_image(folder / "box.tar", **config)
    await images.load(folder / "box.tar")
    tasks = TaskNode(node, images, network)
    running = asyncio.ensure_future(tasks.worker.run())
    await tasks.worker.is_running.wait()
    try:
        yield tasks
    finally:
        running.cancel()
        await asyncio.wait([running])
        await tasks.health.close()
        await tasks.access.close()
        await node.remove_all()
        await tasks.volumes.close()
        await images.close()
