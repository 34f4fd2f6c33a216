"""A task as `GET /tasks` shows it: joined with its spec, its service's name and its networks.

`docker service create` polls this five times a second and lists hold thousands: a task takes a few microseconds, because
specs and networks are rendered once and copied as ready JSON.
"""

from collections.abc import Callable
from functools import lru_cache

import msgspec

from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.objects import AnyObject, Task, TaskStatus
from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.api.render.meta import VersionJSON
from pyswarm_manager.api.render.network import render_attached_network
from pyswarm_manager.api.service_spec import visible_template
from pyswarm_manager.store.tables import View

_STATE_NAMES = {state.value: state.api_name for state in TaskState}
"""By number, because hashing members of an enum is slow."""
_NO_LABELS: dict[str, str] = {}


class _JSON(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True, gc=False):
    """Base of the shapes; what has a default is left out when it has its default."""


class ContainerStatusJSON(_JSON, frozen=True, kw_only=True):
    """The container of a task."""

    container_id: str = msgspec.field(name="ContainerID")
    pid: int = msgspec.field(name="PID")
    exit_code: int


class PortJSON(_JSON, frozen=True, kw_only=True):
    """A port of the task's node that leads to it."""

    name: str = ""
    protocol: str
    target_port: int
    published_port: int
    publish_mode: str


class PortStatusJSON(_JSON, frozen=True, kw_only=True):
    """What leads to the task."""

    ports: tuple[PortJSON, ...] = ()


class TaskStatusJSON(_JSON, frozen=True, kw_only=True):
    """What a task does."""

    timestamp: str
    state: str
    message: str = ""
    err: str = ""
    container_status: ContainerStatusJSON | None = None
    port_status: PortStatusJSON


_NO_PORTS = PortStatusJSON()


class AttachmentJSON(_JSON, frozen=True, kw_only=True):
    """A task's address on a network, which is shown whole."""

    network: msgspec.Raw
    addresses: tuple[str, ...]


class TaskJSON(_JSON, frozen=True, kw_only=True):
    """A task."""

    id: str = msgspec.field(name="ID")
    version: VersionJSON
    created_at: str
    updated_at: str
    labels: dict[str, str]
    spec: msgspec.Raw
    service_id: str = msgspec.field(name="ServiceID", default="")
    slot: int = 0
    node_id: str = msgspec.field(name="NodeID", default="")
    status: TaskStatusJSON
    desired_state: str
    networks_attachments: tuple[AttachmentJSON, ...] = ()
    job_iteration: VersionJSON | None = None


def shown_desired_state(task: Task) -> TaskState:
    """Return a task's desired state as Docker shows it: of a job's task that may run, that it completes."""
    is_to_complete = task.job_iteration is not None and task.desired_state is TaskState.RUNNING
    return TaskState.COMPLETE if is_to_complete else task.desired_state


class TaskRenderer:
    """Renders the tasks of one view; make one per request."""

    def __init__(self, view: View, version_index: Callable[[AnyObject], int]) -> None:
        self._view = view
        self._version_index = version_index
        self._networks: dict[str, msgspec.Raw | None] = {}

    def render(self, task: Task) -> TaskJSON:
        """Return a task's shape, to be encoded by msgspec."""
        task_spec = self._view.task_specs.get(task.task_spec_id)
        return TaskJSON(
            id=task.id,
            version=VersionJSON(index=self._version_index(task)),
            created_at=rfc3339(task.created_at_ns),
            updated_at=rfc3339(task.updated_at_ns),
            labels=_NO_LABELS,
            spec=_render_spec(task_spec.template_json if task_spec else b"{}"),
            service_id=task.service_id,
            slot=task.slot,
            node_id=task.node_id,
            status=_render_status(task.status),
            desired_state=_STATE_NAMES[shown_desired_state(task)._value_],
            job_iteration=None if task.job_iteration is None else VersionJSON(index=task.job_iteration),
            networks_attachments=self._render_attachments(task),
        )

    def _render_attachments(self, task: Task) -> tuple[AttachmentJSON, ...]:
        shown = []
        for attachment in task.attachments:
            network = self._render_network(attachment.network_id)
            if network is not None:
                shown.append(AttachmentJSON(network=network, addresses=(attachment.address,)))
        return tuple(shown)

    def _render_network(self, network_id: str) -> msgspec.Raw | None:
        if network_id not in self._networks:
            network = self._view.networks.get(network_id)
            rendered = None
            if network is not None:
                rendered = msgspec.Raw(msgspec.json.encode(render_attached_network(network, self._version_index(network))))
            self._networks[network_id] = rendered
        return self._networks[network_id]


def _render_status(status: TaskStatus) -> TaskStatusJSON:
    container = None
    if status.container_id:
        container = ContainerStatusJSON(container_id=status.container_id, pid=status.pid, exit_code=status.exit_code)
    return TaskStatusJSON(
        timestamp=rfc3339(status.at_ns),
        state=_STATE_NAMES[status.state._value_],
        message=status.message,
        err=status.error,
        container_status=container,
        port_status=_render_ports(status.ports) if status.ports else _NO_PORTS,
    )


def _render_ports(ports: tuple[PortConfig, ...]) -> PortStatusJSON:
    shown = (
        PortJSON(
            name=port.name,
            protocol=port.protocol,
            target_port=port.target_port,
            published_port=port.published_port,
            publish_mode=port.publish_mode,
        )
        for port in ports
    )
    return PortStatusJSON(ports=tuple(shown))


@lru_cache(maxsize=4096)
def _render_spec(template_json: bytes) -> msgspec.Raw:
    """A task's spec is its template; Docker leaves the runtime out here."""
    template = visible_template(template_json)
    template.pop("Runtime", None)
    return msgspec.Raw(msgspec.json.encode(template))
