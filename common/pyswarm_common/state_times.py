"""When a task reached each of its states, packed into the few bytes that every task carries (`Task.state_times`).

Per state that the task reached after NEW, in the order in which it did: one byte for the state (its number / 64) and eight for
the time, in nanoseconds since the epoch, big-endian. NEW is not in it: that is the task's creation. Times are of whoever wrote
the state: up to ASSIGNED a manager's clock, from then on the agent's. States that an agent passed faster than it reports are
missing.
"""

import struct

from pyswarm_common.task_states import TaskState

_ENTRY = struct.Struct(">BQ")
_STATES_APART = 64
_STATE_OF_CODE = {state // _STATES_APART: state for state in TaskState if state is not TaskState.REMOVE}
_LATEST_NS = 2**64 - 1


def packed_state_time(state: TaskState, at_ns: int) -> bytes:
    """Return the 9 bytes that say when a state was reached; whoever moves many tasks at once makes them once and appends them."""
    return _ENTRY.pack(state // _STATES_APART, min(max(at_ns, 0), _LATEST_NS))


def with_state_time(packed: bytes, state: TaskState, at_ns: int) -> bytes:
    """Return `packed` with one more state; unchanged when that is the state it ends with already."""
    if state is TaskState.NEW or (packed and packed[-_ENTRY.size] == state // _STATES_APART):
        return packed
    return packed + packed_state_time(state, at_ns)


def read_state_times(packed: bytes) -> list[tuple[TaskState, int]]:
    """Return the states and their times (nanoseconds since the epoch), in the order in which they were reached.

    What cannot be read, such as a state that a later version knows, is left out.
    """
    whole = packed[: len(packed) - len(packed) % _ENTRY.size]
    return [(_STATE_OF_CODE[code], at_ns) for code, at_ns in _ENTRY.iter_unpack(whole) if code in _STATE_OF_CODE]
