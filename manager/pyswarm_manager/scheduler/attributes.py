"""Which nodes have which value of an attribute that constraints ask for: made per key when first asked for, then kept up. Pure."""

from collections.abc import Callable, Iterable

from pyswarm_common.objects import Node
from pyswarm_manager.scheduler.constraints import Constraint, attribute_of

MAXIMUM_KEYS = 256
"""Keys, and networks, that are remembered: past that all are forgotten."""
_NONE: frozenset[str] = frozenset()


class AttributeIndex:
    """The ids of nodes by key and value. The sets that it returns are its own: only read them, and before the next change."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[str | None, set[str]]] = {}
        self._by_network: dict[str, set[str]] = {}

    def nodes_equal_to(self, constraint: Constraint, nodes: Callable[[], Iterable[Node]]) -> set[str] | frozenset[str]:
        """Return the nodes whose attribute is the constraint's value, whatever its operator; `nodes` gives all there are."""
        by_value = self._by_key.get(constraint.key)
        if by_value is None:
            by_value = self._read(constraint.key, nodes())
        if constraint.network is None:
            return by_value.get(constraint.value, _NONE)
        found = self._by_network.get(constraint.value)
        if found is None:
            if len(self._by_network) >= MAXIMUM_KEYS:
                self._by_network.clear()
            matching = (ids for address, ids in by_value.items() if constraint.equals(address))
            found = self._by_network[constraint.value] = set().union(*matching)
        return found

    def note(self, before: Node | None, after: Node | None) -> None:
        """Follow a change of a node."""
        for key, by_value in self._by_key.items():
            old = None if before is None else attribute_of(before, key)
            new = None if after is None else attribute_of(after, key)
            if before is not None and after is not None and old == new:
                continue
            if key == "node.ip":
                self._by_network.clear()
            if before is not None:
                members = by_value[old]
                members.discard(before.id)
                if not members:
                    del by_value[old]
            if after is not None:
                by_value.setdefault(new, set()).add(after.id)

    def _read(self, key: str, nodes: Iterable[Node]) -> dict[str | None, set[str]]:
        if len(self._by_key) >= MAXIMUM_KEYS:
            self._by_key.clear()
            self._by_network.clear()
        by_value = self._by_key[key] = {}
        for node in nodes:
            by_value.setdefault(attribute_of(node, key), set()).add(node.id)
        return by_value
