"""The table of a task's life, walked exhaustively."""

import itertools

import pytest

from pyswarm_common.task_states import WRITER_OF, TaskState, Writer, may_follow, may_write, parse_task_state


@pytest.mark.parametrize(("before", "after"), list(itertools.product(TaskState, TaskState)))
def test_states_never_go_back_and_never_leave_an_end(before: TaskState, after: TaskState) -> None:
    if may_follow(before, after):
        assert after > before
        assert before <= TaskState.RUNNING
        assert after is not TaskState.REMOVE


@pytest.mark.parametrize(("writer", "before", "after"), list(itertools.product(Writer, TaskState, TaskState)))
def test_each_state_has_its_writer(writer: Writer, before: TaskState, after: TaskState) -> None:
    if not may_write(writer, before, after):
        return
    assert may_follow(before, after)
    if writer is Writer.AGENT:
        assert before >= TaskState.ASSIGNED
    elif before >= TaskState.ASSIGNED:
        assert writer is Writer.DISPATCHER
        assert after is TaskState.ORPHANED


def test_every_state_is_in_the_table() -> None:
    assert set(WRITER_OF) == set(TaskState)


def test_the_way_to_running_is_open() -> None:
    way = [
        (Writer.ALLOCATOR, TaskState.NEW, TaskState.PENDING),
        (Writer.SCHEDULER, TaskState.PENDING, TaskState.ASSIGNED),
        (Writer.AGENT, TaskState.ASSIGNED, TaskState.ACCEPTED),
        (Writer.AGENT, TaskState.ACCEPTED, TaskState.PREPARING),
        (Writer.AGENT, TaskState.PREPARING, TaskState.READY),
        (Writer.AGENT, TaskState.READY, TaskState.STARTING),
        (Writer.AGENT, TaskState.STARTING, TaskState.RUNNING),
        (Writer.AGENT, TaskState.RUNNING, TaskState.SHUTDOWN),
    ]
    assert all(may_write(*step) for step in way)


@pytest.mark.parametrize("state", list(TaskState))
def test_api_names_parse_back(state: TaskState) -> None:
    assert parse_task_state(state.api_name) is state
