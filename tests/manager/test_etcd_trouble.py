"""What a member that does not run is said to have."""

import pytest

from pyswarm_manager.etcd.trouble import last_words

FULL = (
    '{"level":"warn","msg":"leaving something behind"}\n'
    '{"level":"fatal","msg":"failed to save Raft hard state and entries","error":"write 0.wal: no space left on device"}\n'
)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ('{"level":"warn","msg":"slow"}\nhalf a li', ""),
        (FULL, "failed to save Raft hard state and entries: write 0.wal: no space left on device"),
        (FULL + "panic: tocommit(5) is out of range\n\ngoroutine 1 [running]:\n", "panic: tocommit(5) is out of range"),
    ],
)
def test_the_last_complaint_is_told(log: str, words: str) -> None:
    assert last_words(log) == words
