"""The objects that the store holds: a spec (the user's intent), the state that pyswarm adds, and times.

All are frozen, so that a reader can keep one as a snapshot; change one with `msgspec.structs.replace`. An object's version is
not part of it: the store knows it (`Tables.version_of`). Times are nanoseconds since the epoch.
"""

from typing import Literal, TypeAlias

import msgspec

from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.secret_spec import SecretSpec, decode_secret_spec
from pyswarm_common.specs import (
    GenericResource,
    NetworkSpec,
    NodeSpec,
    PortConfig,
    ServiceSpec,
    TaskTemplate,
    decode_network_spec,
    decode_service_spec,
    decode_task_template,
)
from pyswarm_common.task_states import TaskState


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Base of everything that is stored or sent: immutable, without cycles, defaults left out on the wire."""


class Object(Record, frozen=True, kw_only=True):
    """Base of the store's objects."""

    id: str
    created_at_ns: int = 0
    updated_at_ns: int = 0


class NodeResources(Record, frozen=True, kw_only=True):
    """What a node has."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0
    """How many processes the kernel allows; 0 when not reported."""
    generic_resources: tuple[GenericResource, ...] = ()
    """What the operator declared, such as GPUs."""


class NodeTLS(Record, frozen=True, kw_only=True):
    """Which roots a node uses, by `pki.root_digest`: "" where it does not know or has none."""

    issuer_digest: str = ""
    """The root whose key signed its certificate."""
    trust_digest: str = ""
    """The digest of the whole bundle of roots that it trusts."""
    etcd_trust_digest: str = ""
    """On managers: the bundle that its etcd member was started with."""


class NodePermissions(Record, frozen=True, kw_only=True):
    """What the node's operator allows containers there; devices as patterns such as `/dev/dri/*` and `nvidia.com/gpu=*`."""

    allows_privileged: bool = False
    devices: tuple[str, ...] = ()
    cdi_devices: tuple[str, ...] = ()


class NodeDescription(Record, frozen=True, kw_only=True):
    """What a node says of itself in its session."""

    hostname: str = ""
    architecture: str = ""
    os: str = "linux"
    resources: NodeResources = NodeResources()
    engine_version: str = ""
    engine_labels: dict[str, str] = {}
    address: str = ""
    """The address that the node advertises."""
    data_path_address: str = ""
    """The address that peers send VXLAN packets to."""
    tls: NodeTLS = NodeTLS()
    permissions: NodePermissions = NodePermissions()
    underlay_mtu_bytes: int = 0
    """Of the interface with the data path address; 0 when not reported."""
    encryption: Literal["", "kernel", "userspace"] = ""
    """By which WireGuard the node can carry encrypted overlays; "" when it cannot."""
    wireguard_key: str = ""
    wireguard_port: int = 0
    """The public key (base64) of the node's WireGuard interface, and the UDP port that it listens on, at the data path address."""
    encryption_problem: str = ""
    """Why the node cannot carry encrypted overlays."""


NodeReadiness: TypeAlias = Literal["unknown", "down", "ready", "disconnected"]


class NodeStatus(Record, frozen=True, kw_only=True):
    """What the dispatcher knows of a node."""

    state: NodeReadiness = "unknown"
    message: str = ""
    address: str = ""
    since_ns: int = 0
    """When it entered this state; 0 when that is not known."""


class ManagerStatus(Record, frozen=True, kw_only=True):
    """The manager's part of a node that is one or is becoming one: it says its addresses, the role manager adds the rest."""

    address: str = ""
    """host:port of the node port."""
    etcd_peer_url: str = ""
    etcd_member_id: int = 0
    """0: not announced to etcd yet."""
    is_voter: bool = False
    """Whether its etcd member has caught up and votes."""
    added_at_ns: int = 0
    """When its etcd member was announced."""


class IssuedCertificate(Record, frozen=True, kw_only=True):
    """A certificate that the CA signed: `serial` in hex without 0x."""

    serial: str
    expires_at_ns: int
    is_manager: bool = False


class Node(Object, frozen=True, kw_only=True):
    """A machine of the cluster. `spec.role` is what the operator wants; `role` what it may be now and what its certificate says."""

    spec: NodeSpec = NodeSpec()
    role: str = "worker"
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()
    manager: ManagerStatus | None = None
    key_digest: str = ""
    """SHA-256 (hex) of the node's public key: a repeated join with the same key is the same node."""
    certificates: tuple[IssuedCertificate, ...] = ()
    """Its certificates that have not expired, to be revoked with it."""
    attachments: tuple["NetworkAttachment", ...] = ()
    """Its own address on the ingress network, by which its part of the routing mesh reaches tasks."""

    @property
    def name(self) -> str:
        """The node's hostname, as it last reported."""
        return self.description.hostname


class TaskSpec(Object, frozen=True, kw_only=True):
    """An immutable task template (its JSON as posted), shared by all tasks made from it; gone with the last reference."""

    template_json: bytes = b"{}"

    @property
    def template(self) -> TaskTemplate:
        """The typed view."""
        return decode_task_template(self.template_json)


class VirtualIP(Record, frozen=True, kw_only=True):
    """A service's address on one network, with its prefix length: `10.0.1.2/24`."""

    network_id: str
    address: str


class UpdateStatus(Record, frozen=True, kw_only=True):
    """How a service's update goes; states and messages are Docker's."""

    state: str = ""
    started_at_ns: int = 0
    completed_at_ns: int = 0
    message: str = ""
    unit_count: int = 0
    """How many slots or nodes were to be renewed when it began; 0: not counted yet. Failures are held against it."""
    renewed_at_ns: int = 0
    """When the last of them was renewed, which is when the last monitoring began; 0: some are left."""


class ScheduledRun(Record, frozen=True, kw_only=True):
    """One run of a scheduled job. `outcome`: queued, running, completed, failed, skipped (the one before still ran) or replaced."""

    due_at_ns: int
    iteration: int = -1
    """The job iteration that carried it out; -1 for none."""
    finished_at_ns: int = 0
    outcome: str = "running"


class ScheduleStatus(Record, frozen=True, kw_only=True):
    """Where a scheduled job (label `pyswarm.schedule`) stands. Times are nanoseconds since the epoch."""

    next_due_ns: int = 0
    queued: int = 0
    """Runs that are due and wait for the present one (overlap policy `queue`)."""
    runs: tuple[ScheduledRun, ...] = ()
    """The latest runs, and those that are queued, oldest first."""


class Service(Object, frozen=True, kw_only=True):
    """A service: `spec_json` is the posted spec without its `TaskTemplate`, which is the task spec `task_spec_id`."""

    name: str = ""
    spec_json: bytes = b"{}"
    task_spec_id: str = ""
    spec_generation: int = 0
    """Counts the changes of the task spec; tasks carry the generation that they were made for."""
    previous_spec_json: bytes | None = None
    previous_task_spec_id: str = ""
    virtual_ips: tuple[VirtualIP, ...] = ()
    ports: tuple[PortConfig, ...] = ()
    """The published ports as asked for, in that order, those of the routing mesh with the port that they were given."""
    allocation_error: str = ""
    """Why a published port could not be given."""
    update_status: UpdateStatus | None = None
    job_iteration: int = 0
    """Of jobs: counts their executions, from 0; tasks of older iterations are stopped, and kept as history only."""
    job_started_at_ns: int = 0
    """Of jobs: when the present iteration began; 0 while a scheduled job waits for its first run."""
    schedule: ScheduleStatus | None = None

    @property
    def spec(self) -> ServiceSpec:
        """The typed view, with an empty task template (look at the task spec for that)."""
        return decode_service_spec(self.spec_json)


class TaskStatus(Record, frozen=True, kw_only=True):
    """A task's observed state."""

    state: TaskState = TaskState.NEW
    at_ns: int = 0
    message: str = ""
    error: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int = 0
    ports: tuple[PortConfig, ...] = ()
    """The ports of its node that lead to it (publish mode host), with the published port that was given."""


class NetworkAttachment(Record, frozen=True, kw_only=True):
    """An address on one network, with its prefix length. `mac`: its hardware address, "" for the one made of the address."""

    network_id: str
    address: str
    mac: str = ""


class TaskFailure(Record, frozen=True, kw_only=True):
    """That a task failed on a node."""

    task_id: str
    node_id: str
    at_ns: int


class Task(Object, frozen=True, kw_only=True):
    """One run of a task spec, on one node, once."""

    task_spec_id: str
    service_id: str = ""
    slot: int = 0
    node_id: str = ""
    spec_generation: int = 0
    desired_state: TaskState = TaskState.RUNNING
    status: TaskStatus = TaskStatus()
    attachments: tuple[NetworkAttachment, ...] = ()
    start_at_ns: int = 0
    """Until then a task whose desired state is READY is held back (restart delay)."""
    cause: str = ""
    """Why the orchestrator made it: `created`, `scaled`, or the id of the task that it replaces."""
    restarted_at_ns: tuple[int, ...] = ()
    """When this slot was restarted under this task spec, up to and with this task; kept only when the policy limits attempts."""
    job_iteration: int | None = None
    """Of a job's task: the iteration that it belongs to."""
    must_move: bool = False
    """Whether the rebalancer wants it elsewhere: the orchestrator replaces it as it does with a task on a drained node."""
    rejection: str = ""
    """Why its node may keep it no longer: the orchestrator replaces it, and when it has stopped it is rejected with this error."""
    generic_resources: tuple[GenericResource, ...] = ()
    """What it was given of its node's generic resources."""
    host_ports: tuple[PortConfig, ...] = ()
    """The ports of its node that it was given (publish mode host) and holds until it has ended; 0 for those the node chooses."""
    recent_failures: tuple[TaskFailure, ...] = ()
    """What failed in its slot under this task spec shortly before it was placed: the history limit may cut the tasks themselves."""
    state_times: bytes = b""
    """When it reached each of its states, packed (`state_times.py`)."""
    replacement_reason: ReplacementReason = ReplacementReason.UNKNOWN
    """Why the task that `cause` names had to be replaced."""
    earlier_outcome: Literal["", "ran", "failed"] = ""
    """During an update: how an earlier task of its slot (or node) and generation did, whatever the history still holds."""
    attached_container_id: str = ""
    """Of an attachment: the single container of its node that has its addresses. Such a task has no service and runs nothing."""

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended for good."""
        return self.status.state.is_terminal


class Network(Object, frozen=True, kw_only=True):
    """A network of the whole swarm: `spec_json` as posted, and what the allocator chose. `vni` 0: not allocated yet.

    `ipv6_subnet` has at most 96 bits: an endpoint's IPv6 address is the subnet's, ending in its IPv4 address, so that nobody has to
    give IPv6 addresses (`ipv6.py`).
    """

    name: str = ""
    spec_json: bytes = b"{}"
    vni: int = 0
    subnet: str = ""
    gateway: str = ""
    further_subnets: tuple[str, ...] = ()
    """More subnets of the same network: asked for, or added before the first ones were full."""
    ipv6_subnet: str = ""
    allocation_error: str = ""

    @property
    def spec(self) -> NetworkSpec:
        """The typed view."""
        return decode_network_spec(self.spec_json)


class Content(Object, frozen=True, kw_only=True):
    """Data that tasks get as a file: `spec_json` as posted but for the data, which no text form of the object shows."""

    name: str = ""
    spec_json: bytes = b"{}"
    data: bytes = b""

    @property
    def spec(self) -> SecretSpec:
        """The typed view, without the data."""
        return decode_secret_spec(self.spec_json)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, name={self.name!r}, {len(self.data)} bytes)"


class Secret(Content, frozen=True, kw_only=True):
    """Content that the API never shows."""


class Config(Content, frozen=True, kw_only=True):
    """Content that the API shows."""


class RootRotation(Record, frozen=True, kw_only=True):
    """A change of the root CA under way: the new root, and the new root's key signed by the old one."""

    root_certificate_pem: str
    root_key_pem: str
    cross_certificate_pem: str


class Cluster(Object, frozen=True, kw_only=True):
    """The cluster itself: settings, root CA and secrets. There is exactly one."""

    spec_json: bytes = b"{}"
    root_certificate_pem: str = ""
    root_key_pem: str = ""
    root_rotation: RootRotation | None = None
    cross_certificate_pem: str = ""
    """Carried by new certificates until no etcd member runs with a former root alone: the root's key signed by the former one."""
    revoked_certificates: tuple[IssuedCertificate, ...] = ()
    """Manager certificates, not expired yet, of nodes that are managers no more."""
    node_certificate_lifetime_s: float = 90 * 24 * 3600.0
    unlock_key: str = ""
    """`SWMKEY-1-…` when managers lock their keys (autolock)."""
    incarnation: int = 0
    """Raised by a forced new cluster and by a restore: nodes refuse managers of a lower one."""
    worker_join_token: str = ""
    manager_join_token: str = ""
    heartbeat_period_s: float = 1.0
    task_history_limit: int = 5
    default_address_pool: str = "10.0.0.0/8"
    subnet_prefix_length: int = 24
    data_path_port: int = 4789
    network_key: str = ""
    """The key of encrypted overlays (base64), beside the nodes' own: nodes get it, the API never shows it. Made, and made anew:"""
    network_key_at_ns: int = 0
    network_key_period_s: float = 12 * 3600.0


AnyObject: TypeAlias = Node | Service | Task | TaskSpec | Network | Cluster | Secret | Config

TYPE_OF_KIND: dict[str, type[AnyObject]] = {
    "clusters": Cluster,
    "configs": Config,
    "nodes": Node,
    "networks": Network,
    "secrets": Secret,
    "services": Service,
    "task_specs": TaskSpec,
    "tasks": Task,
}
KIND_OF_TYPE: dict[type[AnyObject], str] = {type_: kind for kind, type_ in TYPE_OF_KIND.items()}
