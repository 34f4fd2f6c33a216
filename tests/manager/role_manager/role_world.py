"""A small language for managers and etcd's members, and how what the role manager decides is printed.

    node n1 spec=manager role=manager url=u1 member=1 added=90 voter host=alpha
    member 1 n1 u1 own leads learner unchanged=70       a member of node n1; `-` instead of n1: it has not started
    present n2 data|lost|there                          n2 asks to be a manager
    silent n2 70                                        n2 has not asked for 70 s
    unreachable n3
    raft-leader-for 5
    distrusting-for 15                                  etcd has taken a member for gone for 15 s

`spec` and `role` are `manager` unless said otherwise; url=none: no manager part. The first member is our own and leads unless
others are marked. It is 100 s now.
"""

from typing import Any

from pyswarm_common.objects import Cluster, IssuedCertificate, ManagerStatus, Node, NodeDescription
from pyswarm_common.specs import SECOND_NS, NodeSpec
from pyswarm_manager.role_manager.decide import Presence, RoleDecisions, Situation, Step, decide
from pyswarm_manager.role_manager.members import Member, Membership
from pyswarm_manager.store.tables import Tables

NOW_NS = 100 * SECOND_NS
PRESENCES: dict[str, Presence] = {"data": "with data", "lost": "without data", "there": "there"}


class RoleWorld:
    """Tables and a situation made from the language's lines."""

    def __init__(self, text: str) -> None:
        self.tables = Tables()
        self.tables.table(Cluster).put(Cluster(id="cluster"), 1)
        self._members: list[Member] = []
        self._own_id = self._leader_id = 0
        self._presence: dict[str, Presence] = {}
        self._silent: dict[str, float] = {}
        self._unchanged: dict[int, float] = {}
        self._unreachable: set[str] = set()
        self._raft_leader_for_s = self._distrusting_for_s = 0.0
        for line in text.strip().splitlines():
            kind, *words = line.split()
            flags = [w for w in words if "=" not in w]
            values = dict(w.split("=", 1) for w in words if "=" in w)
            getattr(self, f"_{kind.replace('-', '_')}_line")(flags, values)

    @property
    def situation(self) -> Situation:
        """What the leader knows beside the store."""
        first = self._members[0].id if self._members else 0
        return Situation(
            membership=Membership(tuple(sorted(self._members)), self._own_id or first, self._leader_id or first),
            presence=self._presence,
            unreachable=frozenset(self._unreachable),
            unchanged_for_s=self._unchanged,
            silent_for_s=self._silent,
            raft_leader_for_s=self._raft_leader_for_s,
            distrusting_for_s=self._distrusting_for_s,
        )

    def decide(self) -> RoleDecisions:
        """Decide."""
        return decide(self.tables, self.situation, NOW_NS)

    def _node_line(self, flags: list[str], values: dict[str, str]) -> None:
        url = values.get("url", flags[0].replace("n", "u"))
        manager = ManagerStatus(
            address=f"{flags[0]}:2377",
            etcd_peer_url="" if url == "unknown" else url,
            etcd_member_id=int(values.get("member", 0)),
            is_voter="voter" in flags,
            added_at_ns=int(values.get("added", 0)) * SECOND_NS,
        )
        role = values.get("role", "manager")
        made = Node(
            id=flags[0],
            spec=NodeSpec(role=values.get("spec", "manager")),
            role=role,
            manager=None if url == "none" or role == "worker" else manager,
            description=NodeDescription(hostname=values.get("host", flags[0])),
            certificates=(IssuedCertificate(serial=flags[0], expires_at_ns=2 * NOW_NS, is_manager=role == "manager"),),
        )
        self.tables.nodes.put(made, 1)

    def _member_line(self, flags: list[str], values: dict[str, str]) -> None:
        member_id, name, url, *rest = flags
        self._members.append(Member(int(member_id), name if name != "-" else "", (url,), "learner" in rest))
        self._unchanged[int(member_id)] = float(values.get("unchanged", 0))
        self._own_id = int(member_id) if "own" in rest else self._own_id
        self._leader_id = int(member_id) if "leads" in rest else self._leader_id

    def _present_line(self, flags: list[str], values: dict[str, str]) -> None:
        self._presence[flags[0]] = PRESENCES[flags[1]]

    def _silent_line(self, flags: list[str], values: dict[str, str]) -> None:
        self._silent[flags[0]] = float(flags[1])

    def _unreachable_line(self, flags: list[str], values: dict[str, str]) -> None:
        self._unreachable.update(flags)

    def _raft_leader_for_line(self, flags: list[str], values: dict[str, str]) -> None:
        self._raft_leader_for_s = float(flags[0])

    def _distrusting_for_line(self, flags: list[str], values: dict[str, str]) -> None:
        self._distrusting_for_s = float(flags[0])


def render(before: Tables, decisions: RoleDecisions) -> str:
    """Print decisions, one per line."""
    lines = []
    for node in (*decisions.nodes, *decisions.demoted):
        old = before.nodes.must_get(node.id)
        word = "demote" if node in decisions.demoted else "update"
        lines.append(f"{word} {node.id}: {', '.join(_differences(old, node))}")
    lines += [_step_line(step) for step in decisions.steps]
    lines += [f"{node_id} waits: {text}" for node_id, text in sorted(decisions.progress.items())]
    lines += [f"{node_id} refused: {text}" for node_id, text in sorted(decisions.refused.items())]
    return "\n".join(lines) or "nothing"


def _step_line(step: Step) -> str:
    return f"{type(step).__name__} {' '.join(str(value) for value in step)}"


def _differences(old: Any, new: Any) -> list[str]:
    differences = []
    for field in old.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if isinstance(before, ManagerStatus) and isinstance(after, ManagerStatus):
            differences += _differences(before, after)
        elif before != after:
            differences.append(f"{field}={after // SECOND_NS if field.endswith('_ns') else after}")
    return differences
