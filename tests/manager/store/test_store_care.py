"""When a member is defragmented, and whose turn it is."""

import pytest

from pyswarm_manager.store.backend import MemberStatus
from pyswarm_manager.store.care import DEFRAGMENT_FILE_BYTES, is_turn, should_defragment

MINUTE_NS = 60 * 10**9


@pytest.mark.parametrize(
    ("file_bytes", "in_use_bytes", "expected"),
    [
        (DEFRAGMENT_FILE_BYTES, 0, False),
        (DEFRAGMENT_FILE_BYTES + 1, 0, True),
        (10 * DEFRAGMENT_FILE_BYTES, 5 * DEFRAGMENT_FILE_BYTES, False),
        (10 * DEFRAGMENT_FILE_BYTES, 5 * DEFRAGMENT_FILE_BYTES - 1, True),
    ],
)
def test_large_and_mostly_unused_files_are_defragmented(file_bytes: int, in_use_bytes: int, expected: bool) -> None:
    status = MemberStatus(member_id=1, leader_id=1, raft_term=1, file_bytes=file_bytes, in_use_bytes=in_use_bytes)
    assert should_defragment(status) is expected


def test_in_each_minute_it_is_one_members_turn() -> None:
    members = [30, 10, 20]
    turns = [[m for m in members if is_turn(m, members, minute * MINUTE_NS + 59 * 10**9)] for minute in range(6)]
    assert turns == [[10], [20], [30], [10], [20], [30]]
    assert not is_turn(99, members, 0)
