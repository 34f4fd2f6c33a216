"""What the task machine is told (events, in the past tense) and what it answers (instructions). Each carries its task's id."""

from typing import TypeAlias

from pyswarm_common.objects import Record, TaskStatus
from pyswarm_common.specs import PortConfig
from pyswarm_common.wire import TaskAssignment


class TaskAssigned(Record, frozen=True, kw_only=True):
    """The manager gave the node this task, or changed what it wants of it."""

    assignment: TaskAssignment


class TaskRestored(Record, frozen=True, kw_only=True):
    """After a restart of the agent: the task as it was kept on disk.

    `is_running`: its container was started, and whether it still runs or how it ended is yet to be told; `pid` if it runs.
    `is_startable`: its container is there and was not started, or its start was cut short and undone.
    """

    assignment: TaskAssignment
    status: TaskStatus
    is_running: bool
    is_startable: bool = False
    pid: int = 0
    awaits_health: bool = False
    """Whether its container has a healthcheck."""


class TaskRemoved(Record, frozen=True, kw_only=True):
    """The manager has forgotten the task."""

    task_id: str


class TaskPrepared(Record, frozen=True, kw_only=True):
    """Image, network and container are there. `ports` of the node lead to it, under the numbers that were given."""

    task_id: str
    container_id: str
    ports: tuple[PortConfig, ...] = ()


class PreparationFailed(Record, frozen=True, kw_only=True):
    """The task cannot run here: no such image, bad spec, no network.

    `is_failure`: something on the node was in its way that Docker only meets when it starts a container, such as a taken port.
    """

    task_id: str
    error: str
    is_failure: bool = False


class TaskStarted(Record, frozen=True, kw_only=True):
    """The container's process runs."""

    task_id: str
    pid: int
    awaits_health: bool = False
    """Whether its container has a healthcheck, whose result is yet to come."""


class TaskHealthy(Record, frozen=True, kw_only=True):
    """The container's healthcheck has succeeded."""

    task_id: str


class TaskUnhealthy(Record, frozen=True, kw_only=True):
    """The container's healthcheck has failed as often as it may."""

    task_id: str
    error: str


class StartFailed(Record, frozen=True, kw_only=True):
    """The container could not be started."""

    task_id: str
    error: str


class TaskExited(Record, frozen=True, kw_only=True):
    """The container ended by itself."""

    task_id: str
    exit_code: int
    error: str = ""


class TaskStopped(Record, frozen=True, kw_only=True):
    """The worker has stopped the container, or found none to stop."""

    task_id: str
    exit_code: int = 0


class TaskCleared(Record, frozen=True, kw_only=True):
    """Nothing of the task is left on the node."""

    task_id: str


Event: TypeAlias = (
    TaskAssigned
    | TaskRestored
    | TaskRemoved
    | TaskPrepared
    | PreparationFailed
    | TaskStarted
    | TaskHealthy
    | TaskUnhealthy
    | StartFailed
    | TaskExited
    | TaskStopped
    | TaskCleared
)


class PrepareTask(Record, frozen=True, kw_only=True):
    """Pull the image, attach the network, create the container; answer with TaskPrepared or PreparationFailed."""

    assignment: TaskAssignment
    cause: str


class StartTask(Record, frozen=True, kw_only=True):
    """Start the container; answer with TaskStarted or StartFailed, later as to WatchTask."""

    task_id: str
    cause: str


class WatchTask(Record, frozen=True, kw_only=True):
    """The container already runs: answer with TaskExited when it ends, and tell its health as that changes."""

    task_id: str
    cause: str


class StopTask(Record, frozen=True, kw_only=True):
    """Give up what is under way, stop the container with its grace period, free its network; answer with TaskStopped.

    `is_serving`: it may be the backend of balancers anywhere, which are given a moment to leave it out first; `is_news`: nobody
    has told them yet.
    """

    task_id: str
    cause: str
    is_serving: bool = False
    is_news: bool = False


class ReleaseTask(Record, frozen=True, kw_only=True):
    """The container has ended: free its network, keep its log. No answer."""

    task_id: str
    cause: str


class ClearTask(Record, frozen=True, kw_only=True):
    """Remove every trace of the task; answer with TaskCleared."""

    task_id: str
    cause: str


class ReportStatus(Record, frozen=True, kw_only=True):
    """Keep the status on disk and tell the manager."""

    task_id: str
    status: TaskStatus
    cause: str


class ForgetTask(Record, frozen=True, kw_only=True):
    """Drop the record on disk; nothing more to report."""

    task_id: str
    cause: str


Instruction: TypeAlias = PrepareTask | StartTask | WatchTask | StopTask | ReleaseTask | ClearTask | ReportStatus | ForgetTask
