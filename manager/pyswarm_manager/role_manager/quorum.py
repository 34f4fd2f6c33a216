"""The arithmetic of majorities: which steps leave the cluster able to decide. Pure."""

from collections.abc import Collection, Iterable

from pyswarm_common.errors import FailedPrecondition
from pyswarm_common.objects import Node

MAX_MANAGERS = 7
FULL = f"the swarm has {MAX_MANAGERS} managers, the most it can have: demote one first"
LAST_MANAGER = "attempting to demote the last manager of the swarm"
LOSES_QUORUM = "can't remove member from the raft: this would result in a loss of quorum"


def quorum_of(voters: int) -> int:
    """Return how many of so many voters must work."""
    return voters // 2 + 1


def keeps_quorum(voters_after: int, healthy_after: int) -> bool:
    """Whether a cluster that has these many voters after a step, so many of them healthy, can go on."""
    return voters_after > 0 and healthy_after >= quorum_of(voters_after)


def refusal_of_removal(remaining: Collection[str], unhealthy: Collection[str]) -> str:
    """Return why a voter must not be removed; "" when it may.

    `remaining`: the names of the voters that would remain (two may share one), `unhealthy`: of those that do not work.
    """
    if keeps_quorum(len(remaining), len(remaining) - len(unhealthy)):
        return ""
    if not remaining:
        return f"{LOSES_QUORUM}: no other manager has joined yet"
    return (
        f"{LOSES_QUORUM}: of the {count_of(len(remaining), 'manager')} that would remain, these cannot be reached: "
        f"{', '.join(sorted(unhealthy))}; bring them back, or demote them first"
    )


def refuse_demotion(nodes: Iterable[Node], demoted: Node, unreachable: Collection[str]) -> None:
    """Raise FailedPrecondition, in Docker's words, when the cluster cannot do without this manager.

    Managers that are being demoted already count as gone. `unreachable`: ids of managers.
    """
    wanted = [n for n in nodes if n.spec.role == "manager" and n.id != demoted.id]
    if not wanted:
        raise FailedPrecondition(LAST_MANAGER, grpc_code="FailedPrecondition")
    if demoted.manager is None or not demoted.manager.is_voter:
        return
    remaining = {n.id: n.name or n.id for n in wanted if n.manager is not None and n.manager.is_voter}
    unhealthy = [name for node_id, name in remaining.items() if node_id in unreachable]
    if reason := refusal_of_removal(remaining.values(), unhealthy):
        raise FailedPrecondition(reason, grpc_code="FailedPrecondition")


def refuse_promotion(nodes: Iterable[Node]) -> None:
    """Raise FailedPrecondition when the cluster has all the managers that it may have."""
    if sum(n.spec.role == "manager" for n in nodes) >= MAX_MANAGERS:
        raise FailedPrecondition(FULL, grpc_code="FailedPrecondition")


def count_of(number: int, noun: str) -> str:
    """Return `1 manager`, `2 managers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
