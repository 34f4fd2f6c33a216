"""Kernel settings that a container may have of its own: those of its namespaces. Pure. Source: runc's validator."""

from collections.abc import Mapping

from pyswarm_common.container_settings import check_sysctl
from pyswarm_common.errors import InvalidArgument

_OF_EVERY_NETWORK = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


def namespaced_sysctls(asked: Mapping[str, str], *, has_network: bool) -> dict[str, str]:
    """Return the settings to make. Raises InvalidArgument for one that would change the host."""
    for name in asked:
        check_sysctl(name)
        if name.startswith("net.") and not has_network:
            raise InvalidArgument(f'sysctl "{name}" not allowed in host network namespace')
    return {**(_OF_EVERY_NETWORK if has_network else {}), **asked}
