"""The times of a task's states survive packing, in nine bytes each."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common.objects import Task
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.state_times import packed_state_time, read_state_times, with_state_time
from pyswarm_common.task_states import TaskState

NOW_NS = 1_795_226_105_968_698_776
REACHABLE = [state for state in TaskState if state not in (TaskState.NEW, TaskState.REMOVE)]


@given(st.lists(st.tuples(st.sampled_from(REACHABLE), st.integers(0, 2**64 - 1)), max_size=12))
def test_what_was_packed_comes_back_in_its_order(reached: list[tuple[TaskState, int]]) -> None:
    packed = b"".join(packed_state_time(state, at_ns) for state, at_ns in reached)
    assert read_state_times(packed) == reached
    assert len(packed) == 9 * len(reached)


def test_a_state_is_noted_once_and_new_is_the_creation() -> None:
    packed = with_state_time(b"", TaskState.NEW, NOW_NS)
    assert packed == b""
    packed = with_state_time(packed, TaskState.PENDING, NOW_NS)
    packed = with_state_time(packed, TaskState.PENDING, NOW_NS + 5)
    packed = with_state_time(packed, TaskState.ASSIGNED, NOW_NS + 9)
    assert read_state_times(packed) == [(TaskState.PENDING, NOW_NS), (TaskState.ASSIGNED, NOW_NS + 9)]


@pytest.mark.parametrize(("at_ns", "read_ns"), [(-1, 0), (2**64, 2**64 - 1)])
def test_times_of_a_wrong_clock_are_bent_into_range(at_ns: int, read_ns: int) -> None:
    assert read_state_times(packed_state_time(TaskState.RUNNING, at_ns)) == [(TaskState.RUNNING, read_ns)]


def test_what_is_not_known_is_left_out() -> None:
    running = packed_state_time(TaskState.RUNNING, NOW_NS)
    assert read_state_times(b"\xf0" + running[1:] + running + b"\x01\x02") == [(TaskState.RUNNING, NOW_NS)]


def test_every_state_has_a_code_of_its_own() -> None:
    codes = {packed_state_time(state, 0)[0] for state in REACHABLE}
    assert len(codes) == len(REACHABLE)


def test_a_task_carries_times_and_reason_through_the_store() -> None:
    task = Task(
        id="t",
        task_spec_id="s",
        state_times=packed_state_time(TaskState.RUNNING, 7),
        replacement_reason=ReplacementReason.NODE_DOWN,
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(task), type=Task) == task
    assert len(msgspec.msgpack.encode(task)) - len(msgspec.msgpack.encode(Task(id="t", task_spec_id="s"))) < 60
