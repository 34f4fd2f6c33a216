"""Carries out the task machine's instructions with the node's images, network and container runtime.

Per task one job runs at a time; a new instruction for a task interrupts the job before it (a stop interrupts a pull) and begins
when that has ended. Every answer is an event given to `emit`. A container's id follows from its task's, so that whatever was half
done before a crash is found again.

No failure leaves this module: what cannot be prepared or started is answered so, and what must be taken away (a container, a
sandbox) is tried again until it is gone. A task counts as stopped only when its container has ended.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.health.rules import Health, describe_failure, is_checked
from pyswarm_agent.persistence import Step, error_text, failed_of, log_failure, until_done
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_agent.task_container import TaskContainers, container_id_of
from pyswarm_agent.task_events import (
    ClearTask,
    Event,
    PreparationFailed,
    PrepareTask,
    ReleaseTask,
    StartFailed,
    StartTask,
    StopTask,
    TaskCleared,
    TaskExited,
    TaskHealthy,
    TaskPrepared,
    TaskStarted,
    TaskStopped,
    TaskUnhealthy,
    WatchTask,
)
from pyswarm_common.clock import Clock
from pyswarm_common.errors import NotFound
from pyswarm_common.specs import TaskTemplate
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import TaskAssignment
from pyswarm_netplugin.published_ports.allocation import PortUnavailable

BALANCERS_PAUSE_S = 0.15
"""From a running task's having left the balancers until its stop signal: what they sent it just before is answered, and those of
nodes that are late, or whose agents do not say when they have let go, get a moment more."""
UNHEALTHY_PAUSE_S = 0.5
"""The longest until the stop signal for a task that is to be stopped because it is unhealthy, from its report on: managers are yet
to hear of it, and this node's balancers to leave it out."""


WorkerInstruction: TypeAlias = PrepareTask | StartTask | WatchTask | StopTask | ReleaseTask | ClearTask


@dataclass
class Worker:
    """The node's hands. `run` must be running (see `is_running`) for jobs to be carried out."""

    containers: TaskContainers
    health: HealthMonitors
    template_of: Callable[[str], TaskTemplate]
    emit: Callable[[Event], None]
    clock: Clock
    files_of: Callable[[str], Awaitable[Sequence[PrivateFile]]]
    """The files of a task's secrets and configs, once the manager has sent them."""
    wait_left_balancers: Callable[[str], Awaitable[None]]
    """Returns when no balancer of this node sends connections to the task."""

    def __post_init__(self) -> None:
        self.is_running = asyncio.Event()
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._runtime = self.containers.runtime
        self._network = self.containers.network

    async def run(self) -> None:
        """Own the jobs until cancelled; the containers go on."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self.is_running.set()
            await asyncio.Event().wait()

    def carry_out(self, instruction: WorkerInstruction) -> None:
        """Begin an instruction, after ending what was under way for its task. It may be called from that task's own job."""
        if self._group is None:
            raise RuntimeError("the worker does not run")
        task_id = instruction.assignment.task_id if isinstance(instruction, PrepareTask) else instruction.task_id
        before = self._jobs.get(task_id)
        job = self._group.create_task(self._after(before, instruction, task_id), name=f"{type(instruction).__name__} {task_id}")
        self._jobs[task_id] = job
        job.add_done_callback(lambda done: self._jobs.pop(task_id) if self._jobs.get(task_id) is done else None)

    async def _after(self, before: asyncio.Task[None] | None, instruction: WorkerInstruction, task_id: str) -> None:
        if before is not None:
            await _wait_ended(before, interrupting=not isinstance(instruction, ReleaseTask))
        try:
            await self._perform(instruction, task_id)
        except Exception as error:  # noqa: BLE001  a fault in one task's story must not end the others'
            log_failure(error, f"{type(instruction).__name__} {task_id}")

    async def _perform(self, instruction: WorkerInstruction, task_id: str) -> None:
        match instruction:
            case PrepareTask():
                self.emit(await self._prepare(instruction.assignment))
            case StartTask():
                answer = await self._start(task_id)
                self.emit(answer)
                if isinstance(answer, TaskStarted):
                    await self._watch(task_id)
            case WatchTask():
                await self._watch(task_id)
            case StopTask():
                if instruction.is_serving:
                    await self._leave_balancers(instruction)
                await self._stop(task_id)
            case ReleaseTask():
                await until_done(self.clock, self._detaching(task_id))
            case ClearTask():
                removing = (f"remove the container of task {task_id}", lambda: self.containers.remove(task_id))
                await until_done(self.clock, removing, self._detaching(task_id))
                self.health.forget(container_id_of(task_id))
                self.emit(TaskCleared(task_id=task_id))

    async def _prepare(self, assignment: TaskAssignment) -> Event:
        try:
            await self.files_of(assignment.task_id)  # what is missing or wrong is found before the container is made
            made = await self.containers.make(assignment, self.template_of(assignment.task_id))
        except Exception as error:  # noqa: BLE001  a spec that nobody foresaw is this task's fault alone
            log_failure(error, f"prepare task {assignment.task_id}")
            is_failure = isinstance(error, PortUnavailable)
            return PreparationFailed(task_id=assignment.task_id, error=error_text(error), is_failure=is_failure)
        return TaskPrepared(task_id=assignment.task_id, container_id=made.id, ports=made.ports)

    async def _start(self, task_id: str) -> Event:
        try:
            files = await self.files_of(task_id)
            async with self.containers.starts:
                record = await self._runtime.start_container(container_id_of(task_id), files)
        except Exception as error:  # noqa: BLE001  as in `_prepare`
            log_failure(error, f"start task {task_id}")
            return StartFailed(task_id=task_id, error=error_text(error))
        return TaskStarted(task_id=task_id, pid=record.pid, awaits_health=is_checked(record.config.healthcheck))

    async def _watch(self, task_id: str) -> None:
        """Tell the container's health, and how it ended. A closed runtime tells nothing: it is asked until this agent ends too."""
        ends: list[TaskExited] = []

        async def wait() -> None:
            ends.append(await self._wait_exit(task_id))

        container = self._runtime.get(container_id_of(task_id))
        if container is not None and container.is_live:
            self.health.watch(container.config.id, container.config.healthcheck, lambda health: self._tell_health(task_id, health))
        try:
            await until_done(self.clock, (f"watch task {task_id}", wait))
        finally:
            self.health.end(container_id_of(task_id))
        self.emit(ends[0])

    def _tell_health(self, task_id: str, health: Health) -> None:
        if health.status == "healthy":
            self.emit(TaskHealthy(task_id=task_id))
        else:
            self.emit(TaskUnhealthy(task_id=task_id, error=describe_failure(health)))

    async def _wait_exit(self, task_id: str) -> TaskExited:
        try:
            status = await self._runtime.wait(container_id_of(task_id))
        except NotFound:
            return TaskExited(task_id=task_id, exit_code=0, error="task: its container was removed")
        error = "task: out of memory: the container went over its memory limit" if status.oom_killed else status.error
        return TaskExited(task_id=task_id, exit_code=status.exit_code, error=error)

    async def _leave_balancers(self, instruction: StopTask) -> None:
        if instruction.is_news:
            longest_s = UNHEALTHY_PAUSE_S - BALANCERS_PAUSE_S
            await wait_first(self.wait_left_balancers(instruction.task_id), self.clock.sleep(longest_s))
        await self.clock.sleep(BALANCERS_PAUSE_S)

    async def _stop(self, task_id: str) -> None:
        await until_done(self.clock, (f"stop task {task_id}", lambda: self._end_container(task_id)))
        container = self._runtime.get(container_id_of(task_id))
        exit_code = container.exit.exit_code if container is not None and container.exit is not None else 0
        # Its addresses are given to others once it is reported as stopped, so they are freed first, if they can be.
        left = await failed_of(self._detaching(task_id))
        self.emit(TaskStopped(task_id=task_id, exit_code=exit_code))
        await until_done(self.clock, *left)

    async def _end_container(self, task_id: str) -> None:
        container_id = container_id_of(task_id)
        if self._runtime.get(container_id) is not None:
            try:
                await self._runtime.stop(container_id)
            except NotFound:
                return  # removed by somebody else meanwhile

    def _detaching(self, task_id: str) -> Step:
        return f"detach task {task_id} from its networks", lambda: self._network.detach(task_id)


async def _wait_ended(job: asyncio.Task[None], *, interrupting: bool) -> None:
    """Return when the job has ended. When cancelled meanwhile, the job is too, and the cancellation waits for its end as well:
    so a task's third job never meets its first. Nobody is cancelled twice, as that would cut the job's own tidying up short.
    """
    cancellation: asyncio.CancelledError | None = None
    while not job.done():
        if (interrupting or cancellation is not None) and not job.cancelling():
            job.cancel()
        try:
            await asyncio.wait([job])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        raise cancellation
