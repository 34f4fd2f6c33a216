"""A successor is made with the reason why the task before it had to go."""

import msgspec
import pytest

from pyswarm_common.objects import Node, NodeStatus, Task, TaskStatus
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.specs import NodeSpec
from pyswarm_common.state_times import read_state_times
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import Draft, with_status
from pyswarm_manager.orchestrator.causes import why_replaced
from pyswarm_manager.store.tables import Tables

READY = Node(id="n1", status=NodeStatus(state="ready"))
DOWN = Node(id="n1", status=NodeStatus(state="down"))
DRAINED = Node(id="n1", status=NodeStatus(state="ready"), spec=NodeSpec(availability="drain"))
RUNNING = Task(id="old", task_spec_id="spec1", node_id="n1", status=TaskStatus(state=TaskState.RUNNING))
SUCCESSOR = Task(id="new", task_spec_id="spec1", cause="old")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (TaskState.FAILED, ReplacementReason.FAILED),
        (TaskState.COMPLETE, ReplacementReason.COMPLETED),
        (TaskState.REJECTED, ReplacementReason.REJECTED),
        (TaskState.SHUTDOWN, ReplacementReason.STOPPED),
    ],
)
@pytest.mark.parametrize("node", [READY, DOWN, None])
def test_a_task_that_had_ended_is_replaced_for_that(state: TaskState, reason: ReplacementReason, node: Node | None) -> None:
    assert why_replaced(msgspec.structs.replace(RUNNING, status=TaskStatus(state=state)), node, SUCCESSOR) is reason


@pytest.mark.parametrize(
    ("node", "reason"),
    [(None, ReplacementReason.NODE_REMOVED), (DOWN, ReplacementReason.ORPHANED), (READY, ReplacementReason.ORPHANED)],
)
def test_a_task_that_was_given_up_is_replaced_for_what_became_of_its_node(node: Node | None, reason: ReplacementReason) -> None:
    assert why_replaced(msgspec.structs.replace(RUNNING, status=TaskStatus(state=TaskState.ORPHANED)), node, SUCCESSOR) is reason


@pytest.mark.parametrize(
    ("node", "changes", "spec", "reason"),
    [
        (None, {}, "spec1", ReplacementReason.NODE_REMOVED),
        (DOWN, {}, "spec2", ReplacementReason.NODE_DOWN),
        (DRAINED, {"must_move": True}, "spec1", ReplacementReason.NODE_DRAINED),
        (READY, {"rejection": "assigned node no longer meets constraints"}, "spec1", ReplacementReason.REJECTED),
        (READY, {}, "spec2", ReplacementReason.UPDATED),
        (READY, {"must_move": True}, "spec1", ReplacementReason.REBALANCED),
        (READY, {}, "spec1", ReplacementReason.UNKNOWN),
        (None, {"node_id": "", "status": TaskStatus(state=TaskState.PENDING)}, "spec2", ReplacementReason.UPDATED),
    ],
)
def test_a_task_that_still_ran_is_replaced_for_its_node_or_its_spec(
    node: Node | None, changes: dict[str, object], spec: str, reason: ReplacementReason
) -> None:
    before = msgspec.structs.replace(RUNNING, **changes)
    assert why_replaced(before, node, msgspec.structs.replace(SUCCESSOR, task_spec_id=spec)) is reason


def test_whatever_an_orchestrator_creates_has_its_reason() -> None:
    tables = Tables()
    tables.table(Node).put(DOWN, 1)
    tables.table(Task).put(RUNNING, 1)
    draft = Draft(tables, None)
    draft.create(SUCCESSOR)
    draft.create(msgspec.structs.replace(SUCCESSOR, id="first", cause="created"))
    reasons = {task.id: task.replacement_reason for task in draft.finish().created if isinstance(task, Task)}
    assert reasons == {"new": ReplacementReason.NODE_DOWN, "first": ReplacementReason.UNKNOWN}


def test_a_manager_that_moves_a_task_on_notes_the_time() -> None:
    pending = with_status(SUCCESSOR, TaskState.PENDING, 5, "pending task scheduling")
    rejected = with_status(pending, TaskState.REJECTED, 9, "rejected", "assigned node no longer meets constraints")
    assert read_state_times(rejected.state_times) == [(TaskState.PENDING, 5), (TaskState.REJECTED, 9)]
