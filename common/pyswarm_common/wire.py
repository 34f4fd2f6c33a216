"""The session between an agent and a manager: msgpack messages over one WebSocket at the node port.

The first message in each direction settles the version. An agent says `Hello`, gets `Welcome` and a complete `Assignments`,
then increments. It reports statuses until they are acknowledged. Its heartbeat, once a period, is a ping of the WebSocket. Bulk
(logs) never travels here: on `OpenStream` the agent dials a connection of its own.
"""

from typing import Literal, TypeAlias

import msgspec

from pyswarm_common.network_view import BackendsChange as BackendsChange
from pyswarm_common.network_view import Balancing as Balancing
from pyswarm_common.network_view import Endpoint as Endpoint
from pyswarm_common.network_view import MeshPort as MeshPort
from pyswarm_common.network_view import NetworkView as NetworkView
from pyswarm_common.network_view import NetworkViewDelta as NetworkViewDelta
from pyswarm_common.network_view import NodeKey as NodeKey
from pyswarm_common.network_view import ServiceEndpoints as ServiceEndpoints
from pyswarm_common.network_view import apply_view_delta as apply_view_delta
from pyswarm_common.network_view import view_delta as view_delta
from pyswarm_common.objects import NetworkAttachment, NodeDescription, Record, TaskStatus
from pyswarm_common.specs import GenericResource, PortConfig
from pyswarm_common.task_states import TaskState

PROTOCOL_VERSIONS = (1, 2)
VIEW_ANSWERS_VERSION = 2
"""From this one on agents answer `Assignments.is_answer_awaited` with `ViewsApplied`, and know all that view deltas may say."""
CA_PATH = "/ca"
JOIN_PATH = "/join"
SESSION_PATH = "/session"
STREAM_PATH = "/streams"
CERTIFICATE_PATH = "/certificate"
ENTER_PATH = "/managers/enter"
LEAVE_PATH = "/managers/leave"
HEALTH_PATH = "/managers/health"
ENGINE_PATH = "/engine"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class Message(Record, frozen=True, kw_only=True, tag=True):
    """Base of the session's messages; the tag is the class's name."""


class ManagerAddress(Record, frozen=True, kw_only=True):
    """A manager that an agent may dial: `host:port`."""

    node_id: str
    address: str


class JoinRequest(Record, frozen=True, kw_only=True):
    """What a joining machine sends: its token, its key's signing request and how it is called and reached."""

    token: str
    signing_request_pem: str
    hostname: str = ""
    address: str = ""
    """The address to advertise; "" for the one that the manager sees."""


class JoinAnswer(Record, frozen=True, kw_only=True):
    """What a joined node needs: who it is, its certificate and where the managers are."""

    node_id: str
    cluster_id: str
    role: str
    certificate_pem: str
    root_certificate_pem: str
    managers: tuple[ManagerAddress, ...]
    address: str
    data_path_port: int
    unlock_key: str = ""
    """For managers, when they lock their keys."""


class CertificateRequest(Record, frozen=True, kw_only=True):
    """POST `/certificate`, under the node's present certificate: a new one, for the role that the cluster gives the node."""

    signing_request_pem: str
    addresses: tuple[str, ...] = ()
    """The IP addresses that the certificate shall name."""


class CertificateAnswer(Record, frozen=True, kw_only=True):
    """The new certificate with what belongs behind it (PEM, leaf first), its role, and the bundle of roots to trust (PEM)."""

    role: str
    certificate_pem: str
    root_certificate_pem: str


class EnterRequest(Record, frozen=True, kw_only=True):
    """POST `/managers/enter`, under a manager's certificate: be a manager at these addresses. May be repeated at any time."""

    address: str
    """host:port of its node port."""
    etcd_peer_url: str
    has_data: bool = False
    """Whether it holds the data of an etcd member; a member that lost its data is replaced by a new one."""


EnterPhase: TypeAlias = Literal["wait", "start", "member"]


class EnterAnswer(Record, frozen=True, kw_only=True):
    """`wait`: ask again soon, `message` says for what; `start`: start etcd beside these members; `member`: it votes."""

    phase: EnterPhase
    message: str = ""
    etcd_member_id: int = 0
    """Which member is to be started: a running one of another id was removed."""
    other_members: dict[str, str] = {}
    """Node id → peer URL of the voters."""
    data_keys: bytes = b""
    """The keys of the store's envelopes, as a data key file holds them."""
    unlock_key: str = ""


class ManagerHealth(Record, frozen=True, kw_only=True):
    """GET `/managers/health`: what a manager says of itself to the others."""

    node_id: str
    is_serving: bool
    """Whether its etcd member answers."""
    leader_node_id: str = ""
    incarnation: int = 0
    """Of the cluster that it belongs to: one with a lower incarnation was given up."""


class TaskAssignment(Record, frozen=True, kw_only=True):
    """A task as its agent needs it."""

    task_id: str
    task_spec_id: str
    desired_state: TaskState
    service_id: str = ""
    service_name: str = ""
    slot: int = 0
    node_id: str = ""
    """Of a task without a slot: its node, which stands in the slot's place."""
    attachments: tuple[NetworkAttachment, ...] = ()
    generic_resources: tuple[GenericResource, ...] = ()
    service_labels: dict[str, str] = {}
    """Only if the task's spec has placeholders for them."""
    attached_container_id: str = ""
    """Of an attachment, which runs nothing: the single container of the node that has its addresses."""
    host_ports: tuple[PortConfig, ...] = ()
    """To be published on its node (publish mode host); published port 0 for one that the node chooses."""

    @property
    def place(self) -> str:
        """The slot, or the node of a task that has none."""
        return self.node_id or str(self.slot)

    @property
    def name(self) -> str:
        """The task's name as people see it: `web.1.<task id>`, or `web.<node id>.<task id>`."""
        return f"{self.service_name}.{self.place}.{self.task_id}"


class FileContent(Record, frozen=True, kw_only=True):
    """What a secret or config holds; with placeholders to be filled in for each task if it is a template."""

    data: bytes
    is_template: bool = False

    def __repr__(self) -> str:
        return f"FileContent({len(self.data)} bytes)"


class Hello(Message, frozen=True, kw_only=True):
    """Agent: opens a session. `view_versions`: the views that the agent still holds, by network id."""

    protocol_versions: tuple[int, ...]
    description: NodeDescription
    view_versions: dict[str, int] = {}


class TaskStatusUpdate(Record, frozen=True, kw_only=True):
    """One task's newest observed state."""

    task_id: str
    status: TaskStatus


class StatusReport(Message, frozen=True, kw_only=True):
    """Agent: what changed, to be acknowledged by its number once it is stored."""

    number: int
    updates: tuple[TaskStatusUpdate, ...]


class ViewsApplied(Message, frozen=True, kw_only=True):
    """Agent: these versions of network views, by network id, are in force here; those that this session has not said yet.

    Sent when a manager asked (`Assignments.is_answer_awaited`): it tells a task to stop only when the nodes that balance over it
    have let go of it, or a short time has passed.
    """

    versions: dict[str, int]


class DescriptionUpdate(Message, frozen=True, kw_only=True):
    """Agent: the node's description changed."""

    description: NodeDescription


class Welcome(Message, frozen=True, kw_only=True):
    """Manager: the session is open; what the node has to follow comes next, in `NodeState`."""

    protocol_version: int
    session_id: str
    node_id: str
    heartbeat_period_s: float
    incarnation: int = 0


class NodeState(Message, frozen=True, kw_only=True):
    """Manager: what the node has to follow; sent after `Welcome` and whenever it changes."""

    role: str
    managers: tuple[ManagerAddress, ...]
    heartbeat_period_s: float
    incarnation: int = 0
    issuer_digest: str = ""
    """The root whose key shall have signed the node's certificate: renew it when another one did."""
    trust_pem: str = ""
    """The bundle of roots to trust."""
    is_etcd_restart_due: bool = False
    """Managers: it is this member's turn to be restarted, to take up the roots to trust."""
    certificate_serials: tuple[str, ...] | None = None
    """The node's certificates that were not revoked, in hex: renew the present one when it is not among them. None: not said."""
    network_key: str = ""
    """The cluster's key of encrypted overlays (base64), a secret that every two nodes share beside their own pairs."""


class Assignments(Message, frozen=True, kw_only=True):
    """Manager: tasks of this node. `is_complete`: whatever is not in it is gone; else a change of what was sent before.

    Task specs are sent before or with the first task that needs them; the agent forgets those that none of its tasks names.
    Contents of secrets and configs, by id, likewise, until `removed_contents` names them. Those that come with or before a complete
    set, in the same session, are all that the node is to have.
    Views: `views` whole (msgpack of NetworkView), `view_deltas` (msgpack of NetworkViewDelta); both are encoded once for
    all nodes.
    """

    is_complete: bool
    tasks: tuple[TaskAssignment, ...] = ()
    removed_tasks: tuple[str, ...] = ()
    task_specs: dict[str, bytes] = {}
    views: tuple[msgspec.Raw, ...] = ()
    view_deltas: tuple[msgspec.Raw, ...] = ()
    removed_views: tuple[str, ...] = ()
    contents: dict[str, FileContent] = {}
    removed_contents: tuple[str, ...] = ()
    is_answer_awaited: bool = False
    """Whether a task waits, elsewhere perhaps, for what these views say: answer with `ViewsApplied` once they are in force."""


class StatusAcknowledgement(Message, frozen=True, kw_only=True):
    """Manager: the report with this number is stored."""

    number: int


class LogRequest(Record, frozen=True, kw_only=True):
    """Which log lines of a task are asked for. `tail` -1: all. Times in nanoseconds since the epoch, 0: unbounded.

    `after`: only what follows this position of a `LogPart`; then `tail` counts for nothing. `part_bytes`: how large parts may be,
    about.
    """

    task_id: str
    follow: bool = False
    stdout: bool = True
    stderr: bool = True
    tail: int = -1
    since_ns: int = 0
    until_ns: int = 0
    after: str = ""
    part_bytes: int = 256 * 1024


class OpenStream(Message, frozen=True, kw_only=True):
    """Manager: dial `/streams/{stream_id}` and send the log there."""

    stream_id: str
    log: LogRequest


class OpenTunnel(Message, frozen=True, kw_only=True):
    """Manager: dial `/streams/{stream_id}` at that manager and join it to this node's Engine API, as raw bytes.

    Each binary message is a piece of the stream in its direction; an empty one ends that direction.
    """

    stream_id: str
    manager_id: str


class LogLine(Record, frozen=True, kw_only=True):
    """One line of a task's log: `stream` 1 is stdout, 2 stderr; with its newline if it had one."""

    stream: int
    at_ns: int
    line: bytes


class LogPart(Record, frozen=True, kw_only=True):
    """The next lines of a task's log, a binary message of a stream.

    `position`: where the log goes on after them, to be asked for if the stream breaks. `is_last`: that was all; a stream that
    ends without saying so has broken. `error`: why there is no more, or nothing at all.
    """

    lines: tuple[LogLine, ...] = ()
    position: str = ""
    is_last: bool = False
    error: str = ""


class Goodbye(Message, frozen=True, kw_only=True):
    """Either side: the session ends for this reason; the other should not wait for more."""

    reason: str
    leader_address: str = ""
    """From a manager that does not lead: who does, if it knows."""


AgentMessage: TypeAlias = Hello | StatusReport | ViewsApplied | DescriptionUpdate | Goodbye
ManagerMessage: TypeAlias = Welcome | NodeState | Assignments | StatusAcknowledgement | OpenStream | OpenTunnel | Goodbye

_encoder = msgspec.msgpack.Encoder()
_agent_decoder: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_manager_decoder: msgspec.msgpack.Decoder[ManagerMessage] = msgspec.msgpack.Decoder(ManagerMessage)


def encode(message: Record) -> bytes:
    """Return the message's msgpack bytes."""
    return _encoder.encode(message)


def decode_agent_message(data: bytes) -> AgentMessage:
    """Return what an agent sent. Raises msgspec.DecodeError."""
    return _agent_decoder.decode(data)


def decode_manager_message(data: bytes) -> ManagerMessage:
    """Return what a manager sent. Raises msgspec.DecodeError."""
    return _manager_decoder.decode(data)
