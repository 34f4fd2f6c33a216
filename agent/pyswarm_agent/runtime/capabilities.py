"""Capabilities: Docker's default fourteen, changed by a container's wishes and clipped to what this host has; pure."""

from collections.abc import Sequence

from pyswarm_common.container_settings import ALL_CAPABILITIES, check_capability

__all__ = ["ALL_CAPABILITIES", "DEFAULT_CAPABILITIES", "capabilities_of_mask", "container_capabilities"]

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
    added, dropped = {check_capability(name) for name in add}, {check_capability(name) for name in drop}
    wanted = set(host if "CAP_ALL" in added else DEFAULT_CAPABILITIES)
    if "CAP_ALL" in dropped:
        wanted = set()
    wanted = (wanted | (added - {"CAP_ALL"})) - dropped
    return frozenset(wanted & host), frozenset(wanted - host)
