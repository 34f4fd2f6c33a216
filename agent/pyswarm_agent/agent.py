"""The agent: joins session, task machine, worker, disk and netplugin on one node.

Follow a task here: `handle` takes the manager's assignments, gives the netplugin its views *before* the task machine hears of
changes (so a task leaves the balancer before it is stopped), and `_emit` carries what the machine answers to the worker, the
disk and the reporter.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from pyswarm_agent.container_config import NodeInfo
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.health.rules import is_checked
from pyswarm_agent.held_contents import HeldContents
from pyswarm_agent.held_views import HeldViews
from pyswarm_agent.image_use import content_in_use
from pyswarm_agent.images import ImageStore
from pyswarm_agent.local_containers.overlay import SANDBOX_PREFIX, OverlayNetworks
from pyswarm_agent.persistence import failed_of, until_done
from pyswarm_agent.reporter import StatusReporter
from pyswarm_agent.runtime import Runtime
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_agent.session import SessionDialer, send_log
from pyswarm_agent.task_container import TaskContainers, container_id_of
from pyswarm_agent.task_events import (
    ClearTask,
    Event,
    ForgetTask,
    ReportStatus,
    TaskAssigned,
    TaskRemoved,
    TaskRestored,
)
from pyswarm_agent.task_files import container_files
from pyswarm_agent.task_machine import TaskMachine
from pyswarm_agent.task_store import StoredTask, TaskStore
from pyswarm_agent.tunnel import join_tunnel
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.mounting import ContainerMounts
from pyswarm_agent.worker import Worker
from pyswarm_common import wire
from pyswarm_common.clock import Clock
from pyswarm_common.container_spec import ContainerSpec
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import NodeDescription
from pyswarm_common.secret_spec import content_references
from pyswarm_common.specs import TaskTemplate, decode_task_template
from pyswarm_netplugin.driver import NetworkDriver

TASK_LABEL = "com.docker.swarm.task.id"

_log = structlog.get_logger()


@dataclass
class Agent:
    """The node's agent. `run` restores what ran before, then keeps a session open until cancelled; containers go on."""

    images: ImageStore
    runtime: Runtime
    health: HealthMonitors
    volumes: VolumeStore
    network: NetworkDriver
    task_store: TaskStore
    clock: Clock
    description: Callable[[], NodeDescription]
    node: Callable[[], NodeInfo]
    tls: Callable[[], ssl.SSLContext]
    managers: Callable[[], tuple[wire.ManagerAddress, ...]]
    engine_socket: Path
    """This node's own Engine API, which managers reach through tunnels."""
    on_node_state: Callable[[wire.NodeState], Awaitable[None]]
    incarnation: Callable[[], int] = lambda: 0
    """The highest incarnation of the cluster that was seen; managers of a lower one are refused."""
    on_incarnation: Callable[[int], None] = lambda _: None
    attachments: OverlayNetworks | None = None
    """The cluster's networks for single containers, which share the network driver."""

    def __post_init__(self) -> None:
        self._machine = TaskMachine()
        self._reporter = StatusReporter()
        self._templates: dict[str, bytes] = {}
        self._unwritten: set[str] = set()
        self._contents = HeldContents()
        self._views = HeldViews(self.network, self.clock, self._spawn)
        self._worker = Worker(
            containers=TaskContainers(
                images=self.images,
                runtime=self.runtime,
                network=self.network,
                node=self.node,
                mounts=ContainerMounts(self.volumes),
            ),
            health=self.health,
            template_of=self._template_of,
            emit=self._emit,
            clock=self.clock,
            files_of=self._files_of,
            wait_left_balancers=self._wait_left_balancers,
        )
        self._dialer = SessionDialer(
            self,
            tls=self.tls,
            managers=self.managers,
            clock=self.clock,
            incarnation=self.incarnation,
            on_incarnation=self.on_incarnation,
        )
        self._group: asyncio.TaskGroup | None = None

    @property
    def views(self) -> dict[str, wire.NetworkView]:
        """The network views that this node holds, by network id."""
        return self._views.views

    async def run(self) -> None:
        """Run until cancelled. Raises Conflict when another agent works with the same records."""
        with self.task_store.held_alone(), self.images.kept_for(self._images_wanted):
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._worker.run())
                await self._worker.is_running.wait()
                self._restore()
                group.create_task(self._dialer.run())

    def _restore(self) -> None:
        """Take up the tasks of an earlier agent, and clear away what none of them explains."""
        self._views.restore()
        stored = self.task_store.load()
        for task_id in sorted(self._task_ids_found() - {task.assignment.task_id for task in stored}):
            _log.warning("agent.unknown_task_found", task=task_id)
            self._worker.carry_out(ClearTask(task_id=task_id, cause="AgentStarted"))
        for task in stored:
            self._templates[task.assignment.task_id] = task.template_json
            container = self.runtime.get(container_id_of(task.assignment.task_id))
            was_started = container is not None and (container.is_live or container.started_at_ns > 0)
            restored = TaskRestored(
                assignment=task.assignment,
                status=task.status,
                is_running=was_started,
                is_startable=container is not None and not was_started and container.state == "created",
                pid=container.pid if container is not None else 0,
                awaits_health=container is not None and is_checked(container.config.healthcheck),
            )
            self._emit(restored)
        self._spawn(self._collect_garbage())

    def _task_ids_found(self) -> set[str]:
        """Return the ids of all tasks of which a container or a sandbox is here."""
        configs = (record.config for record in self.runtime.list())
        labelled = {config.labels[TASK_LABEL]: config.id for config in configs if TASK_LABEL in config.labels}
        containers = {task_id for task_id, container_id in labelled.items() if container_id == container_id_of(task_id)}
        sandboxes = {sandbox_id for sandbox_id in self.network.sandboxes() if not sandbox_id.startswith(SANDBOX_PREFIX)}
        return containers | sandboxes

    async def _collect_garbage(self) -> None:
        await failed_of(("remove unused layers", lambda: self.images.collect_garbage(content_in_use(self.images, self.runtime))))

    def hello(self) -> wire.Hello:
        """Return the greeting of a new session."""
        return wire.Hello(
            protocol_versions=wire.PROTOCOL_VERSIONS,
            description=self.description(),
            view_versions=self._views.versions(),
        )

    def describe_again(self) -> None:
        """Tell the manager that the node's description has changed."""
        self._dialer.describe(self.description())

    def session_began(self) -> None:
        """Send again what the last session did not acknowledge."""
        self._reporter.restart()
        self._views.applied.session_began()
        self._contents.session_began()

    async def next_report(self) -> wire.StatusReport:
        """Wait for the next report."""
        return await self._reporter.next_report()

    async def next_views_applied(self) -> wire.ViewsApplied:
        """Wait until the manager, which asked for it, can be told which network views are in force."""
        return await self._views.applied.next_answer()

    async def _wait_left_balancers(self, task_id: str) -> None:
        await self._views.applied.wait_left(self._machine.records[task_id].assignment.attachments)

    async def handle(self, message: wire.ManagerMessage) -> None:
        """Take in one message of the manager. Raises FailedPrecondition for one that does not fit: the session must end."""
        match message:
            case wire.Assignments():
                await self._apply(message)
            case wire.StatusAcknowledgement():
                self._reporter.acknowledge(message.number)
            case wire.NodeState():
                await failed_of(("take in what the manager says of this node", lambda: self.on_node_state(message)))
            case wire.OpenStream():
                self._spawn(self._send_log(message))
            case wire.OpenTunnel():
                self._spawn(self._join_tunnel(message))

    async def _apply(self, message: wire.Assignments) -> None:
        self._contents.take(message)
        await self._views.take(message)
        if self.attachments is not None:
            self.attachments.take(message)
        for task_id in message.removed_tasks:
            self._emit(TaskRemoved(task_id=task_id))
        if message.is_complete:
            assigned = {t.task_id for t in message.tasks}
            for task_id in [t for t in self._machine.records if t not in assigned]:
                self._emit(TaskRemoved(task_id=task_id))
        for assignment in (t for t in message.tasks if not t.attached_container_id):
            self._assign(assignment, message.task_specs.get(assignment.task_spec_id))
        self._contents.drop(message)

    def _assign(self, assignment: wire.TaskAssignment, template_json: bytes | None) -> None:
        task_id = assignment.task_id
        before = self._machine.records.get(task_id)
        self._templates[task_id] = template_json or self._known_template(assignment)
        self._emit(TaskAssigned(assignment=assignment))
        if before is not None and before.assignment != assignment:
            self._write_record(task_id)

    def _known_template(self, assignment: wire.TaskAssignment) -> bytes:
        known = self._templates.get(assignment.task_id)
        if known is not None:
            return known
        same_spec = (
            r.assignment.task_id for r in self._machine.records.values() if r.assignment.task_spec_id == assignment.task_spec_id
        )
        return next((self._templates[t] for t in same_spec if t in self._templates), b"")

    def _template_of(self, task_id: str) -> TaskTemplate:
        template_json = self._templates[task_id]
        if not template_json:
            raise InvalidArgument("the manager did not send the task's spec")
        return decode_task_template(template_json)

    def _images_wanted(self) -> list[str]:
        templates = [decode_task_template(template_json) for template_json in self._templates.values() if template_json]
        return [template.container_spec.image for template in templates if template.container_spec is not None]

    async def _files_of(self, task_id: str) -> tuple[PrivateFile, ...]:
        """Return the files of a task's secrets and configs, once the manager has sent them. Raises NotFound, InvalidArgument."""
        spec = self._template_of(task_id).container_spec or ContainerSpec()
        references = content_references(spec)
        if not references:
            return ()
        contents = await self._contents.wait_for({reference.id for reference in references})
        assignment = self._machine.records[task_id].assignment
        return await asyncio.to_thread(container_files, assignment, spec, contents, self.node())  # templates may be long

    def _emit(self, event: Event) -> None:
        for instruction in self._machine.handle(event, self.clock.now_ns()):
            match instruction:
                case ReportStatus():
                    self._write_record(instruction.task_id)
                    self._reporter.put(instruction.task_id, instruction.status)
                case ForgetTask():
                    self._templates.pop(instruction.task_id, None)
                    self._write_record(instruction.task_id)
                    self._reporter.forget(instruction.task_id)
                case _:
                    self._worker.carry_out(instruction)

    def _write_record(self, task_id: str) -> None:
        """Bring the task's record on disk up to date; a disk that refuses is asked again, and holds up nothing."""
        try:
            self._try_write_record(task_id)
        except OSError as error:
            _log.error("agent.record_not_written", task=task_id, error=str(error))
            if not self._unwritten:
                self._spawn(until_done(self.clock, ("write the records of tasks", self._write_unwritten)))
            self._unwritten.add(task_id)

    async def _write_unwritten(self) -> None:
        for task_id in sorted(self._unwritten):
            self._try_write_record(task_id)
            self._unwritten.discard(task_id)

    def _try_write_record(self, task_id: str) -> None:
        record = self._machine.records.get(task_id)
        if record is None:
            self.task_store.delete(task_id)
            return
        template_json = self._templates[task_id]
        self.task_store.save(StoredTask(assignment=record.assignment, status=record.status, template_json=template_json))

    async def _send_log(self, request: wire.OpenStream) -> None:
        address = self._dialer.connected_to
        if address is not None:
            await failed_of(("send a log", lambda: send_log(address, request, self.tls(), self._log_of(request.log))))

    async def _join_tunnel(self, request: wire.OpenTunnel) -> None:
        address = next((manager.address for manager in self.managers() if manager.node_id == request.manager_id), None)
        if address is not None:
            tunnel = join_tunnel(address, request, self.tls(), self.engine_socket)
            await failed_of(("let a manager reach this node's API", lambda: tunnel))

    async def _log_of(self, request: wire.LogRequest) -> AsyncIterator[wire.LogPart]:
        async with contextlib.aclosing(self.runtime.log_parts(container_id_of(request.task_id), request)) as parts:
            async for part in parts:
                yield part

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something until it ends or the agent does. It must not raise."""
        if self._group is None:
            work.close()
            raise RuntimeError("the agent does not run")
        return self._group.create_task(work)
