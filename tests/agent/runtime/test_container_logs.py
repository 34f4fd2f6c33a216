"""Container logs: conmon's records into lines, the tail from the end, and following."""

import asyncio
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent.runtime.file_watch import FileWatcher
from pyswarm_agent.runtime.log_lines import MAXIMUM_LINE_BYTES, LineAssembler, LogRecord, parse_record
from pyswarm_agent.runtime.log_reader import read_log, tail_offset
from pyswarm_common.wire import LogLine, LogRequest

START_NS = 1_704_164_645_123_456_789


def written(stream: str, flag: str, text: str, second: int = 45) -> str:
    return f"2024-01-02T03:04:{second:02}.123456789+00:00 {stream} {flag} {text}\n"


def test_record() -> None:
    record = parse_record(b"2024-01-02T03:04:05.123456789+00:00 stderr P two words ")
    assert record == LogRecord(1_704_164_645_123_456_789, 2, False, b"two words ")


def test_time_zones() -> None:
    east = parse_record(b"2024-01-02T05:04:05.000000001+02:00 stdout F x")
    west = parse_record(b"2024-01-01T21:34:05.000000001-05:30 stdout F x")
    assert east is not None
    assert west is not None
    assert east.at_ns == west.at_ns == 1_704_164_645_000_000_001


@pytest.mark.parametrize("raw", [b"", b"x", b"2024 stdout F x", b"2024-01-02T03:04:05.1+00:00 other F x", b"\x00 \x00 \x00 \x00"])
def test_damaged_records_are_passed_over(raw: bytes) -> None:
    assert parse_record(raw) is None


def test_parts_are_joined_by_stream() -> None:
    assembler = LineAssembler()
    assert assembler.add(LogRecord(1, 1, False, b"a")) is None
    assert assembler.add(LogRecord(2, 2, True, b"err")) == LogLine(stream=2, at_ns=2, line=b"err\n")
    assert assembler.add(LogRecord(3, 1, True, b"b")) == LogLine(stream=1, at_ns=1, line=b"ab\n")
    assert assembler.add(LogRecord(4, 1, False, b"rest")) is None
    assert assembler.rest() == [LogLine(stream=1, at_ns=4, line=b"rest")]
    assert assembler.rest() == []


def test_endless_lines_come_in_pieces() -> None:
    assembler = LineAssembler()
    assert assembler.add(LogRecord(1, 1, False, b"x" * MAXIMUM_LINE_BYTES)) == LogLine(
        stream=1, at_ns=1, line=b"x" * MAXIMUM_LINE_BYTES
    )
    assert assembler.rest() == []


RECORDS = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.sampled_from("FFFP"), st.text("ab ", max_size=5)), max_size=60
)


async def read(path: Path, request: LogRequest) -> list[LogLine]:
    return [line async for line in read_log(path, request, FileWatcher(), asyncio.Event())]


@given(records=RECORDS, tail=st.integers(0, 10), only_stdout=st.booleans(), padding=st.integers(0, 3))
def test_the_tail_holds_the_last_lines(records: list[tuple[str, str, str]], tail: int, only_stdout: bool, padding: int) -> None:
    # With padding, the file has several blocks.
    text = "".join(written(stream, flag, words + "x" * 9000 * padding) for stream, flag, words in records).encode()
    request = LogRequest(task_id="", tail=tail, stderr=not only_stdout)
    offset = tail_offset(io.BytesIO(text), request)
    assert offset == 0 or text[offset - 1 : offset] == b"\n"
    wanted = [line for line in text[offset:].splitlines() if b" F " in line and not (only_stdout and b" stderr " in line)]
    every = [line for line in text.splitlines() if b" F " in line and not (only_stdout and b" stderr " in line)]
    assert len(wanted) >= min(tail, len(every))
    assert len(wanted) <= tail + 1


@pytest.mark.parametrize("tail", [-1, 0, 1, 2, 5])
async def test_requests(tmp_path: Path, tail: int) -> None:
    log = tmp_path / "log"
    log.write_text(
        written("stdout", "F", "1") + written("stderr", "F", "2") + written("stdout", "P", "3") + written("stdout", "F", "4")
    )
    lines = [line.line for line in await read(log, LogRequest(task_id="", tail=tail))]
    expected = [b"1\n", b"2\n", b"34\n"]
    assert lines == (expected if tail < 0 else expected[len(expected) - min(tail, 3) :])


async def test_times(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(written("stdout", "F", str(second), second) for second in range(10)))
    base_ns = START_NS - 5_000_000_000
    request = LogRequest(task_id="", since_ns=base_ns + 3_000_000_000, until_ns=base_ns + 5_000_000_000)
    assert [line.line for line in await read(log, request)] == [b"3\n", b"4\n", b"5\n"]


async def test_missing_log_is_empty(tmp_path: Path) -> None:
    assert await read(tmp_path / "none", LogRequest(task_id="", follow=True)) == []


async def test_following(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(written("stdout", "F", "old") * 3)
    watcher, ended, seen = FileWatcher(), asyncio.Event(), asyncio.Queue[bytes]()

    async def follow() -> None:
        async for line in read_log(log, LogRequest(task_id="", follow=True, tail=1), watcher, ended):
            seen.put_nowait(line.line)

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        assert await seen.get() == b"old\n"
        with log.open("a") as file:
            file.write(written("stdout", "F", "new"))
            file.flush()
            assert await seen.get() == b"new\n"
            half = written("stdout", "F", "cut in two")
            file.write(half[:20])
            file.flush()
            file.write(half[20:])
            file.flush()
            assert await seen.get() == b"cut in two\n"
            file.write(written("stdout", "P", "no end"))
        ended.set()
    assert seen.get_nowait() == b"no end"
    watcher.close()


async def test_followers_share_a_watch(tmp_path: Path) -> None:
    watcher, first, second = FileWatcher(), asyncio.Event(), asyncio.Event()
    file = tmp_path / "log"
    file.touch()
    with watcher.watch(file, first):
        with watcher.watch(file, second):
            file.write_text("a")
            await first.wait()
            await second.wait()
        first.clear()
        file.write_text("b")
        await first.wait()
    watcher.close()
