"""Capabilities: Docker's default fourteen, changed by a container's wishes and clipped to what this host has; pure."""

from collections.abc import Sequence

from pyswarm_common.errors import InvalidArgument

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
    "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM "
    "BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())
"""By their number in linux/capability.h."""

_DEFAULT_NAMES = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
)
DEFAULT_CAPABILITIES = frozenset(f"CAP_{name}" for name in _DEFAULT_NAMES.split())


def capabilities_of_mask(mask: int) -> frozenset[str]:
    """Return the names of the bits of a mask, as in `CapEff` of /proc/self/status."""
    return frozenset(name for number, name in enumerate(ALL_CAPABILITIES) if mask >> number & 1)


def container_capabilities(add: Sequence[str], drop: Sequence[str], host: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the container's capabilities and those that it should have but the host cannot give.

    `ALL` stands for all; what is added by name stays even when all are dropped. Raises InvalidArgument for an unknown name.
    """
    added, dropped = {_normal(name) for name in add}, {_normal(name) for name in drop}
    wanted = set(host if "CAP_ALL" in added else DEFAULT_CAPABILITIES)
    if "CAP_ALL" in dropped:
        wanted = set()
    wanted = (wanted | (added - {"CAP_ALL"})) - dropped
    return frozenset(wanted & host), frozenset(wanted - host)


def _normal(name: str) -> str:
    normal = name.upper()
    if not normal.startswith("CAP_"):
        normal = f"CAP_{normal}"
    if normal != "CAP_ALL" and normal not in ALL_CAPABILITIES:
        raise InvalidArgument(f"invalid capability: unknown capability: {name!r}")
    return normal
