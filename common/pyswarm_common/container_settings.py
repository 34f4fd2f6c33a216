"""What a container may be asked to have, whatever its machine: rules that managers, nodes and the command line share. Pure."""

import posixpath

from pyswarm_common.errors import InvalidArgument

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
    "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM "
    "BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())
"""By their number in linux/capability.h."""

SYSCTLS = (
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
)
SYSCTL_PREFIXES = ("net.", "fs.mqueue.")
ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
    "sigpending", "stack",
)  # fmt: skip
"""Names of resource limits, as docker has them."""


def container_path(path: str) -> str:
    """Return an absolute path in its only form: without `.`, `..` and the two slashes in front that `normpath` keeps."""
    return "/" + posixpath.normpath(path).lstrip("/")


def check_sysctl(name: str) -> None:
    """Raise InvalidArgument unless the kernel has this setting for each namespace; the words are docker's."""
    if name not in SYSCTLS and not (name.startswith(SYSCTL_PREFIXES) and "/" not in name and ".." not in name):
        raise InvalidArgument(f"sysctl '{name}' is not allowed: containers have net.*, fs.mqueue.* and kernel.{{msg,sem,shm}}*")


def check_ulimit(name: str, soft: int, hard: int) -> None:
    """Raise InvalidArgument unless this is a resource limit; -1 is unlimited."""
    if name not in ULIMITS:
        raise InvalidArgument(f"invalid ulimit type: {name}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")


def check_capability(name: str) -> str:
    """Return a capability as the kernel writes it (`CAP_CHOWN`, from `chown` too), or `CAP_ALL`. Raises InvalidArgument."""
    normal = name.upper()
    if not normal.startswith("CAP_"):
        normal = f"CAP_{normal}"
    if normal != "CAP_ALL" and normal not in ALL_CAPABILITIES:
        raise InvalidArgument(f"invalid capability: unknown capability: {name!r}")
    return normal
