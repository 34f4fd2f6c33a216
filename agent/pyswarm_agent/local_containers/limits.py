"""Resource limits and security options of a body as the runtime takes them; pure."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from pyswarm_agent.local_containers.create_body import Resources
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.errors import InvalidArgument

LEAST_MEMORY_BYTES = 6 * 1024 * 1024
NANOS = 1_000_000_000
DEFAULT_CPU_PERIOD_US = 100_000


class Security(NamedTuple):
    """What `--security-opt` says."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""


def security_of(options: Iterable[str]) -> Security:
    """Return the options' meaning; SELinux labels mean nothing here. Raises InvalidArgument."""
    found = Security()
    for option in options:
        separator = "=" if "=" in option else ":"
        name, _, value = option.partition(separator)
        match name:
            case "no-new-privileges":
                if value not in ("", "true", "false"):
                    raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
                found = found._replace(no_new_privileges=value != "false")
            case "seccomp":
                # The CLI sends "builtin" for the engine's own profile, and the text of a file.
                found = found._replace(seccomp="" if value == "builtin" else value)
            case "apparmor":
                found = found._replace(apparmor=value)
            case "label" | "systempaths":
                continue
            case _:
                raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
    return found


def swap_of(memory_bytes: int, memory_and_swap_bytes: int) -> int | None:
    """Return the swap beside the memory limit from Docker's sum of both; -1 unlimited, None the default. Raises InvalidArgument."""
    if memory_bytes < 0 or 0 < memory_bytes < LEAST_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if memory_and_swap_bytes == 0:
        return None
    if memory_bytes == 0:
        if memory_and_swap_bytes > 0:
            raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
        return None
    if memory_and_swap_bytes == -1:
        return -1
    if memory_and_swap_bytes < memory_bytes:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    return memory_and_swap_bytes - memory_bytes


def cpus_of(resources: Resources) -> int:
    """Return the limit in 10⁻⁹ CPUs, of `NanoCpus` or of quota and period; 0 for none. Raises InvalidArgument."""
    if resources.nano_cpus and (resources.cpu_period or resources.cpu_quota):
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period/Quota cannot both be set")
    if resources.nano_cpus < 0:
        raise InvalidArgument("Nano CPUs cannot be negative")
    if resources.cpu_quota <= 0:
        return resources.nano_cpus
    return resources.cpu_quota * NANOS // (resources.cpu_period or DEFAULT_CPU_PERIOD_US)


def with_resources(config: ContainerConfig, changed: Resources) -> ContainerConfig:
    """Return the configuration with those limits that an update names (0 leaves them). Raises InvalidArgument."""
    memory_bytes = changed.memory or config.memory_bytes
    swap_bytes = swap_of(memory_bytes, changed.memory_swap) if changed.memory_swap else config.swap_bytes
    return msgspec.structs.replace(
        config,
        memory_bytes=memory_bytes,
        swap_bytes=swap_bytes,
        memory_reservation_bytes=changed.memory_reservation or config.memory_reservation_bytes,
        nano_cpus=cpus_of(changed) or config.nano_cpus,
        cpu_shares=changed.cpu_shares or config.cpu_shares,
        pids_limit=config.pids_limit if not changed.pids_limit else max(0, changed.pids_limit),
    )
