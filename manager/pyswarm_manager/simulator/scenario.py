"""What a scenario says: groups of nodes, services, events over time, and how imagined agents behave. The words of the FILE.

Where compose files have a word (`replicas`, `reservations`, `update_config`, …) it is used here, with the same meaning.
"""

from typing import Literal, TypeAlias

import msgspec

from pyswarm_common.specs import SECOND_NS, Mode
from pyswarm_manager.simulator.amount_types import Chance, CPUs, Duration, Size, Span

Labels: TypeAlias = dict[str, str | list[str]]
Availability: TypeAlias = Literal["active", "pause", "drain"]
Order: TypeAlias = Literal["stop-first", "start-first"]
FailureAction: TypeAlias = Literal["pause", "continue", "rollback"]
Condition: TypeAlias = Literal["any", "on-failure", "none"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all parts of the FILE: a key that is not known is an error."""


class Settings(Section, frozen=True, kw_only=True):
    """`[simulation]`: what concerns the whole run."""

    seed: int = 0
    duration: Duration = Duration(3600 * SECOND_NS)
    """The latest end, in virtual time; a cluster at rest ends the run earlier."""
    commit_time: Duration = Duration(SECOND_NS // 250)
    """How long the managers take to commit one transaction."""
    grid: Duration = Duration(SECOND_NS // 50)
    """Agents act at multiples of this; coarser makes large runs faster."""
    task_history_limit: int = 5
    address_pool: str = "10.0.0.0/8"
    operations_per_decision: int = 0
    """0: what managers use, more for very many tasks."""


class Behaviour(Section, frozen=True, kw_only=True):
    """`[agents]`, and `behaviour` of a service or update: how tasks fare. What is not said is as in the section above."""

    prepare_time: Span | None = None
    """From the assignment until the container could start."""
    start_time: Span | None = None
    """From there until it runs."""
    stop_time: Span | None = None
    """How long a running task takes to stop; at most its grace period."""
    run_time: Span | None = None
    """How long a task runs until it completes; tasks of services run for ever, those of jobs 10 s, if not said."""
    failure_probability: Chance | None = None
    """Of each task."""
    fails_after: Span | None = None
    """How long a task that fails runs; 0: it does not even start."""


class NodeGroup(Section, frozen=True, kw_only=True):
    """`[[nodes]]`: nodes NAME-1 to NAME-COUNT. A label with a list of values deals them out in turn."""

    name: str
    count: int = 1
    cpus: CPUs = CPUs(4 * SECOND_NS)
    memory: Size = Size(8 << 30)
    generic_resources: dict[str, int | list[str]] = {}
    labels: Labels = {}
    engine_labels: Labels = {}
    availability: Availability = "active"
    role: Literal["worker", "manager"] = "worker"
    architecture: str = "x86_64"
    os: str = "linux"


class Reservations(Section, frozen=True, kw_only=True):
    """What a task must find free on its node."""

    cpus: CPUs = CPUs(0)
    memory: Size = Size(0)
    pids: int = 0
    generic_resources: dict[str, int] = {}


class RestartPolicySection(Section, frozen=True, kw_only=True):
    """When an ended task is replaced."""

    condition: Condition | None = None
    delay: Duration | None = None
    max_attempts: int | None = None
    window: Duration | None = None


class UpdateSection(Section, frozen=True, kw_only=True):
    """How an update or rollback goes."""

    parallelism: int = 1
    delay: Duration = Duration(0)
    failure_action: FailureAction = "pause"
    monitor: Duration | None = None
    max_failure_ratio: float = 0.0
    order: Order = "stop-first"


class ServiceSection(Section, frozen=True, kw_only=True):
    """`[[services]]`: one service, or with `count` so many alike, NAME-1 to NAME-COUNT."""

    name: str
    count: int = 1
    at: Duration = Duration(0)
    """When it is created."""
    image: str = "image"
    mode: Mode = "replicated"
    replicas: int | None = None
    """Of jobs: how many completions."""
    max_concurrent: int | None = None
    reservations: Reservations = Reservations()
    constraints: list[str] = []
    preferences: list[str] = []
    """Labels to spread over, such as `node.labels.zone`."""
    max_replicas_per_node: int = 0
    restart_policy: RestartPolicySection | None = None
    update_config: UpdateSection | None = None
    rollback_config: UpdateSection | None = None
    labels: dict[str, str] = {}
    networks: list[str] = []
    endpoint_mode: Literal["vip", "dnsrr"] = "vip"
    stop_grace_period: Duration | None = None
    force_update: int = 0
    behaviour: Behaviour = Behaviour()

    @property
    def replica_count(self) -> int:
        """How many replicas or completions it asks for: 1 if not said."""
        return 1 if self.replicas is None else self.replicas


class NetworkSection(Section, frozen=True, kw_only=True):
    """`[[networks]]`: an overlay with a subnet of its own choice. Networks that services only name get one from the pool."""

    name: str
    subnet: str = ""


class Event(Section, frozen=True, kw_only=True):
    """Base of `[[events]]`."""

    at: Duration


class NodeEvent(Event, frozen=True, kw_only=True):
    """Something happens to nodes: those of a group, or one by its name. With `count` to so many of the group, the first it fits."""

    nodes: str
    count: int | None = None


class FailNodes(NodeEvent, frozen=True, kw_only=True):
    """Machines crash with all that runs on them."""


class CutNodes(NodeEvent, frozen=True, kw_only=True):
    """Machines lose their connection; their containers go on."""


class ReturnNodes(NodeEvent, frozen=True, kw_only=True):
    """Machines that crashed or were cut off come back."""


class JoinNodes(NodeEvent, frozen=True, kw_only=True):
    """New nodes of a group join; 1 if no `count` is said."""


class RemoveNodes(NodeEvent, frozen=True, kw_only=True):
    """Nodes are switched off and removed from the cluster."""


class SetAvailability(NodeEvent, frozen=True, kw_only=True):
    """An operator changes the availability of nodes."""

    availability: Availability


class LabelNodes(NodeEvent, frozen=True, kw_only=True):
    """An operator changes the labels of nodes; "" removes one."""

    labels: Labels


class ServiceEvent(Event, frozen=True, kw_only=True):
    """Something is done to a service, or to all that were made by one section with `count`."""

    service: str


class ScaleService(ServiceEvent, frozen=True, kw_only=True):
    """Another number of replicas."""

    replicas: int


class UpdateService(ServiceEvent, frozen=True, kw_only=True):
    """A new spec: what is given replaces what the service has."""

    image: str | None = None
    replicas: int | None = None
    max_concurrent: int | None = None
    reservations: Reservations | None = None
    constraints: list[str] | None = None
    preferences: list[str] | None = None
    max_replicas_per_node: int | None = None
    restart_policy: RestartPolicySection | None = None
    update_config: UpdateSection | None = None
    rollback_config: UpdateSection | None = None
    labels: dict[str, str] | None = None
    force_update: int | None = None
    behaviour: Behaviour | None = None
    """Of tasks of the new spec."""


class RollBackService(ServiceEvent, frozen=True, kw_only=True):
    """Back to the previous spec."""


class RemoveService(ServiceEvent, frozen=True, kw_only=True):
    """The service is removed."""


class ChangeLeader(Event, frozen=True, kw_only=True):
    """The leading manager fails; another one takes over."""

    after: Duration = Duration(3 * SECOND_NS)
    """How long nobody leads."""


EVENT_TYPES: dict[str, type[Event]] = {
    "fail": FailNodes,
    "cut": CutNodes,
    "return": ReturnNodes,
    "join": JoinNodes,
    "leave": RemoveNodes,
    "availability": SetAvailability,
    "label": LabelNodes,
    "scale": ScaleService,
    "update": UpdateService,
    "rollback": RollBackService,
    "remove": RemoveService,
    "change-leader": ChangeLeader,
}
"""The words of an event's `do`."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A whole FILE."""

    simulation: Settings = Settings()
    agents: Behaviour = Behaviour()
    nodes: tuple[NodeGroup, ...] = ()
    networks: tuple[NetworkSection, ...] = ()
    services: tuple[ServiceSection, ...] = ()
    events: tuple[Event, ...] = ()
    """In the order of their times."""

    @property
    def task_count(self) -> int:
        """How many tasks its services ask for at first; a global service counts its nodes."""
        nodes = sum(group.count for group in self.nodes)
        return sum(s.count * (nodes if s.mode.startswith("global") else s.replica_count) for s in self.services)
