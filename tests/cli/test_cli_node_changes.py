"""Changes of a node while the managers write it, too."""

from typing import Any

import pytest

from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.node.commands import _TRIES, change_node


class Engine(EngineClient):
    """A node whose version moves on between each of the first `conflicts` readings and the change that follows them."""

    def __init__(self, conflicts: int) -> None:
        super().__init__()
        self.version, self.conflicts, self.role = 1, conflicts, "worker"

    def get(self, *path: str, **query: Any) -> Any:
        return {"ID": "n1", "Spec": {"Role": self.role, "Availability": "active"}, "Version": {"Index": self.version}}

    def post(self, *path: str, body: Any = None, **query: Any) -> Any:
        if self.conflicts:
            self.version, self.conflicts = self.version + 1, self.conflicts - 1
        if query["version"] != self.version:
            raise EngineError(500, "rpc error: code = Unknown desc = update out of sequence")
        self.role = body["Role"]


def promote(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "Role": "manager"}


def test_a_node_that_was_written_in_between_is_read_anew() -> None:
    engine = Engine(_TRIES - 1)
    change_node(engine, "n1", promote)
    assert engine.role == "manager"


def test_it_is_not_tried_for_ever() -> None:
    with pytest.raises(EngineError, match="update out of sequence"):
        change_node(Engine(_TRIES), "n1", promote)
