"""Which limits a host can keep, in Docker's words; pure."""

from typing import NamedTuple

from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.errors import InvalidArgument

MOST_NUMBERS = 8192


class Abilities(NamedTuple):
    """What the host's cgroups can do."""

    limits_swap: bool
    has_swappiness: bool
    has_block_weights: bool


def limit_warnings(config: ContainerConfig, abilities: Abilities) -> list[str]:
    """Return a sentence for each limit that is asked for and not kept."""
    has_weights = config.block_weight or any(limit.kind == "weight" for limit in config.block_limits)
    missing = "Your kernel does not support {} or the cgroup is not mounted. {}"
    found = [
        (config.memory_bytes and config.swap_bytes is not None and not abilities.limits_swap)
        and missing.format("swap limit capabilities", "Memory limited without swap."),
        (config.memory_swappiness is not None and not abilities.has_swappiness)
        and missing.format("memory swappiness capabilities", "Memory swappiness discarded."),
        (has_weights and not abilities.has_block_weights) and missing.format("Block I/O weight", "Weight discarded."),
    ]
    return [text for text in found if text]


def check_cpuset(what: str, asked: str, available: str) -> None:
    """Raise InvalidArgument unless a list such as `0-2,5` is one and its numbers are available (all are where that is "").

    `what`: `CPUs` or `memory nodes`.
    """
    wanted = cpuset_numbers(asked)
    if available and not wanted <= cpuset_numbers(available):
        raise InvalidArgument(f"Requested {what} are not available - requested {asked}, available: {available}")


def cpuset_numbers(text: str) -> frozenset[int]:
    """Return the numbers of a list such as `0-2,5`. Raises InvalidArgument."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            raise InvalidArgument(f"Invalid value {text} for cpuset")
        low, high = int(first), int(last or first)
        if low > high or high >= MOST_NUMBERS:
            raise InvalidArgument(f"Invalid value {text} for cpuset")
        found.update(range(low, high + 1))
    return frozenset(found)
