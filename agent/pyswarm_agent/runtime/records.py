"""What the runtime keeps of a container: how it is to be run, how far it has come, and how it ended.

All are plain values that go to disk as JSON, so that a restarted daemon finds its containers again.
"""

from typing import Literal, TypeAlias

from pyswarm_common.objects import Record
from pyswarm_netplugin.published_ports.records import PublishedPort

DEFAULT_STOP_SIGNAL = "SIGTERM"
DEFAULT_STOP_GRACE_PERIOD_S = 10.0

BlockLimitKind: TypeAlias = Literal["read_bps", "write_bps", "read_iops", "write_iops", "weight"]
ContainerState: TypeAlias = Literal["created", "running", "paused", "exited"]
LIVE_STATES: tuple[ContainerState, ...] = ("running", "paused")
"""Those in which its processes are there."""


class VolumeMountOptions(Record, frozen=True, kw_only=True):
    """What a mount of a volume is beyond a bind of its folder, which is the mount's `source`."""

    copies_image: bool = False
    """Whether an empty volume first gets what the image has at the mount's target."""
    subpath: str = ""
    """The part of the volume that is mounted; "" for all of it."""
    filesystem: str = ""
    """What the volume's options mount over its folder: a type (`nfs`), a device and mount options; "" for nothing."""
    device: str = ""
    options: str = ""
    is_anonymous: bool = False
    """Whether the volume was made for this container and goes with it."""


class MountConfig(Record, frozen=True, kw_only=True):
    """A mount: a `bind` of the host's `source`, or a `tmpfs` (`options` as mount(8) takes them)."""

    type: Literal["bind", "tmpfs"]
    target: str
    source: str = ""
    read_only: bool = False
    options: tuple[str, ...] = ()
    is_recursive: bool = True
    propagation: str = "rprivate"
    read_only_depth: Literal["all", "top", "all or fail"] = "all"
    """Of a read-only bind: whether mounts below it are read-only too; `all` wherever the kernel can, else `top`."""
    creates_source: bool = False
    """Whether a folder is made on the host where a bind's source is missing."""
    volume: str = ""
    """Name of the volume that is mounted here; "" for none."""
    volume_options: VolumeMountOptions = VolumeMountOptions()
    is_hidden: bool = False
    """Whether `inspect` leaves it out, as it does the files of secrets and configs."""


class DeviceConfig(Record, frozen=True, kw_only=True):
    """A device of the host that the container gets. `access` is a choice of `rwm`."""

    source: str
    target: str
    access: str = "rwm"


class NetworkConfig(Record, frozen=True, kw_only=True):
    """A network that the container is on, and its address there, with prefix length."""

    id: str
    name: str
    address: str


class UlimitConfig(Record, frozen=True, kw_only=True):
    """A limit of each process, such as `nofile`; -1 is unlimited."""

    name: str
    soft: int
    hard: int


class BlockLimitConfig(Record, frozen=True, kw_only=True):
    """A limit of what is read from or written to a block device of the host, in bytes or operations a second, or its weight."""

    path: str
    kind: BlockLimitKind
    value: int


class LogConfig(Record, frozen=True, kw_only=True):
    """What becomes of a container's output: `driver` in Docker's words ("" for the node's default), and its options."""

    driver: str = ""
    options: dict[str, str] = {}


class HealthcheckConfig(Record, frozen=True, kw_only=True):
    """How a container's health is checked; `test` as Docker has it, () for not at all."""

    test: tuple[str, ...] = ()
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    """What runs the text of a `CMD-SHELL`."""
    interval_s: float = 30.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    start_interval_s: float = 5.0
    retries: int = 3


class ContainerConfig(Record, frozen=True, kw_only=True):
    """Everything that is needed to run a container."""

    id: str
    """64 hexadecimal digits."""
    name: str = ""
    image: str = ""
    image_id: str = ""
    labels: dict[str, str] = {}
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    """`user[:group]`, each a number or a name of the rootfs's /etc/passwd and /etc/group; "" is root."""
    groups: tuple[str, ...] = ()
    """Groups besides the user's own, numbers or names."""
    hostname: str = ""
    netns_path: str | None = None
    """File of the network namespace to join; None: the host's."""
    layer_paths: tuple[str, ...] = ()
    """Unpacked image layers (overlayfs lower directories), top-most first."""
    read_only: bool = False
    tty: bool = False
    init: bool = False
    """Whether a small init (tini) runs as process 1 before the command."""
    mounts: tuple[MountConfig, ...] = ()
    resolv_conf: str = ""
    """The text of /etc/resolv.conf; "" leaves the image's file. The same for `hosts`."""
    hosts: str = ""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    memory_bytes: int = 0
    """Limit, as are the next two; 0 means none."""
    nano_cpus: int = 0
    pids_limit: int = 0
    stop_signal: str = DEFAULT_STOP_SIGNAL
    stop_grace_period_s: float = DEFAULT_STOP_GRACE_PERIOD_S
    open_stdin: bool = False
    """Whether the first process has a standard input that one can attach to; else it reads /dev/null."""
    stdin_once: bool = False
    """Whether its standard input is closed when the first who attached to it leaves."""
    ulimits: tuple[UlimitConfig, ...] = ()
    sysctls: dict[str, str] = {}
    oom_score_adj: int = 0
    no_new_privileges: bool = False
    seccomp: str = ""
    """"" for our profile, `unconfined`, or the JSON text of another profile in Docker's format."""
    apparmor: str = ""
    """"" for the host's default, `unconfined`, or a profile's name."""
    is_privileged: bool = False
    devices: tuple[DeviceConfig, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    """Names of the Container Device Interface, such as `nvidia.com/gpu=0`; looked up when the container starts."""
    swap_bytes: int | None = None
    """Swap beside the memory limit: -1 without limit, None as much as memory."""
    memory_swappiness: int | None = None
    memory_reservation_bytes: int = 0
    cpu_shares: int = 0
    cpu_quota_us: int = 0
    """Another way to say `nano_cpus`: so much of each period; 0 means none. A period of 0 is the default one."""
    cpu_period_us: int = 0
    cpuset_cpus: str = ""
    """The CPUs that it may use, as `0-2,5`; "" for all. The same for memory nodes."""
    cpuset_mems: str = ""
    block_weight: int = 0
    """10 to 1000: its share of block devices that are busy; 0 for the default."""
    block_limits: tuple[BlockLimitConfig, ...] = ()
    device_rules: tuple[str, ...] = ()
    """Further devices that it may use, as `c 10:* rwm`."""
    masked_paths: tuple[str, ...] | None = None
    """What of /proc and /sys is hidden from it, and what it can only read; None for the default."""
    readonly_paths: tuple[str, ...] | None = None
    shm_size_bytes: int = 0
    """0 means the default."""
    log: LogConfig = LogConfig()
    healthcheck: HealthcheckConfig = HealthcheckConfig()
    keeps_layer: bool = False
    """Whether it can be started again with its writable layer as it was (local containers; a task's container runs once)."""
    annotations: dict[str, str] = {}
    networks: tuple[NetworkConfig, ...] = ()
    """Of a task: the overlays that its network namespace is on. For `inspect` alone."""
    ports: tuple[PublishedPort, ...] = ()
    """Of a task: the ports of the node that lead to it. For `ps` and `inspect` alone."""


class ExitStatus(Record, frozen=True, kw_only=True):
    """How a container ended. `error` is set when it was not its own doing: the node went down, or its monitor was killed."""

    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    finished_at_ns: int = 0


class ContainerRecord(Record, frozen=True, kw_only=True):
    """A container and its state. `pid` is its first process as the host sees it, 0 when it does not run."""

    config: ContainerConfig
    state: ContainerState = "created"
    pid: int = 0
    created_at_ns: int = 0
    started_at_ns: int = 0
    exit: ExitStatus | None = None
    ended_before_ns: int = 0
    """When its run before this one ended, 0 for none."""

    @property
    def finished_at_ns(self) -> int:
        """When it ended the last time, 0 if it never did."""
        return self.exit.finished_at_ns if self.exit is not None else self.ended_before_ns

    @property
    def is_live(self) -> bool:
        """Whether its processes are there, paused or not."""
        return self.state in LIVE_STATES
