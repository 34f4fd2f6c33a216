"""The role manager's rules as a text table: each case is a title, a world, `----`, and what is decided (see role_world.py)."""

from pathlib import Path

import pytest
from role_world import RoleWorld, render

from pyswarm_common.errors import FailedPrecondition
from pyswarm_common.objects import ManagerStatus, Node, NodeDescription
from pyswarm_common.specs import NodeSpec
from pyswarm_manager.role_manager.quorum import keeps_quorum, quorum_of, refuse_demotion

TABLE = Path(__file__).parent / "tables" / "role_manager.txt"


def test_every_case_of_the_table_is_decided_as_written(rewrite: bool) -> None:
    results = []
    for block in TABLE.read_text().strip().split("\n\n"):
        head, _, _ = block.partition("\n----")
        title, _, world_text = head.partition("\n")
        world = RoleWorld(world_text)
        results.append(f"{title}\n{world_text}\n----\n{render(world.tables, world.decide())}\n")
    text = "\n".join(results)
    if rewrite:
        TABLE.write_text(text)
    assert text == TABLE.read_text()


@pytest.mark.parametrize(
    ("voters", "quorum", "fewest_healthy"),
    [(1, 1, 1), (2, 2, 2), (3, 2, 2), (4, 3, 3), (5, 3, 3), (6, 4, 4), (7, 4, 4)],
)
def test_a_majority_must_work(voters: int, quorum: int, fewest_healthy: int) -> None:
    assert quorum_of(voters) == quorum
    assert [healthy for healthy in range(voters + 1) if keeps_quorum(voters, healthy)] == list(range(fewest_healthy, voters + 1))
    assert not keeps_quorum(0, 0)


def manager(node_id: str, spec_role: str = "manager", *, is_voter: bool = True) -> Node:
    status = ManagerStatus(address=f"{node_id}:2377", is_voter=is_voter)
    description = NodeDescription(hostname=f"host-{node_id}")
    return Node(id=node_id, spec=NodeSpec(role=spec_role), role="manager", manager=status, description=description)


A, B, C, D, E = (manager(name) for name in "abcde")


@pytest.mark.parametrize(
    ("nodes", "demoted", "unreachable", "refusal"),
    [
        ([A], A, "", "attempting to demote the last manager of the swarm"),
        ([A, B], A, "", None),
        ([A, B, C], A, "", None),
        ([A, B, C], C, "c", None),
        ([A, B, C], A, "c", "would remain, these cannot be reached: host-c"),
        ([A, B, C, D, E], A, "de", "these cannot be reached: host-d, host-e"),
        ([A, B, C, D, E], E, "de", None),
        ([A, manager("b", is_voter=False)], A, "", "no other manager has joined yet"),
        ([A, manager("b", is_voter=False)], manager("b", is_voter=False), "", None),
        ([A, manager("b", "worker"), C], A, "c", "these cannot be reached: host-c"),
        ([A, manager("b", "worker")], A, "", "attempting to demote the last manager of the swarm"),
    ],
)
def test_a_demotion_that_the_cluster_cannot_bear_is_refused(
    nodes: list[Node], demoted: Node, unreachable: str, refusal: str | None
) -> None:
    if refusal is None:
        refuse_demotion(nodes, demoted, set(unreachable))
        return
    with pytest.raises(FailedPrecondition) as refused:
        refuse_demotion(nodes, demoted, set(unreachable))
    assert refusal in refused.value.message
    assert "last manager" in refused.value.message or "this would result in a loss of quorum" in refused.value.message
