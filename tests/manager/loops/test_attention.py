"""Which changes of tasks make the orchestrators of lasting services look at the service again."""

import pytest

from pyswarm_common.objects import Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.attention import task_matters
from pyswarm_manager.store.subscription import Change

WANTED, STOPPING, LEAVING = TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE


def a_task(state: TaskState, desired: TaskState, cause: str = "created", error: str = "") -> Task:
    return Task(
        id="t", task_spec_id="s", service_id="web", desired_state=desired, cause=cause, status=TaskStatus(state=state, error=error)
    )


@pytest.mark.parametrize(
    "change",
    [
        Change(a_task(TaskState.RUNNING, WANTED), a_task(TaskState.FAILED, WANTED)),
        Change(a_task(TaskState.RUNNING, STOPPING), a_task(TaskState.SHUTDOWN, STOPPING)),
        Change(a_task(TaskState.STARTING, WANTED, "old"), a_task(TaskState.RUNNING, WANTED, "old")),
        Change(a_task(TaskState.PENDING, WANTED, "old"), a_task(TaskState.PENDING, WANTED, "old", "no suitable node")),
        Change(a_task(TaskState.RUNNING, WANTED), None),
        Change(a_task(TaskState.FAILED, WANTED), a_task(TaskState.FAILED, LEAVING)),
    ],
    ids=["it failed", "it stopped", "a successor runs", "a successor finds no node", "it is gone", "it was marked after it ended"],
)
def test_what_may_ask_for_something_is_looked_at(change: Change) -> None:
    assert task_matters(change)


@pytest.mark.parametrize(
    "change",
    [
        Change(a_task(TaskState.STARTING, WANTED), a_task(TaskState.RUNNING, WANTED)),
        Change(a_task(TaskState.ASSIGNED, WANTED, "old"), a_task(TaskState.PREPARING, WANTED, "old")),
        Change(a_task(TaskState.RUNNING, LEAVING), a_task(TaskState.SHUTDOWN, LEAVING)),
        Change(a_task(TaskState.SHUTDOWN, LEAVING), None),
    ],
    ids=["the first task of a slot runs", "a successor is on its way", "a removed task ended", "a removed task is gone"],
)
def test_what_asks_for_nothing_is_not(change: Change) -> None:
    assert not task_matters(change)
