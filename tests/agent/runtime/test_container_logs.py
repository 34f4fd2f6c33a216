"""Container logs: conmon's records into lines, the tail from the end, and following."""

import asyncio
import contextlib
import itertools
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm_agent.runtime.file_watch import FileWatcher
from pyswarm_agent.runtime.log_files import LogFiles
from pyswarm_agent.runtime.log_lines import MAXIMUM_LINE_BYTES, LineAssembler, LogRecord, parse_record
from pyswarm_agent.runtime.log_reader import read_log
from pyswarm_agent.runtime.log_steps import compress
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


def test_the_record_glued_to_a_cut_one_is_found() -> None:
    cut = b"2024-01-02T03:04:" + written("stderr", "F", "whole", 5).rstrip("\n").encode()
    assert parse_record(cut) == LogRecord(START_NS, 2, True, b"whole")
    assert parse_record(
        b"2024-01-02T03:04:05.123456789+00:00 stdout F 2024-01-02T03:04:05.123456789+00:00 stdout F x"
    ) == LogRecord(START_NS, 1, True, b"2024-01-02T03:04:05.123456789+00:00 stdout F x")


def test_parts_are_joined_by_stream() -> None:
    assembler = LineAssembler()
    raws = [
        written("stdout", "P", "a", 1),
        written("stderr", "F", "err", 2),
        written("stdout", "F", "b", 3),
        written("stdout", "P", "rest", 4),
    ]
    at = [START_NS + (second - 5) * 1_000_000_000 for second in (1, 2, 3, 4)]
    assert assembler.add_all(raw.rstrip("\n").encode() for raw in raws) == [
        LogLine(stream=2, at_ns=at[1], line=b"err\n"),
        LogLine(stream=1, at_ns=at[0], line=b"ab\n"),
    ]
    assert assembler.rest() == [LogLine(stream=1, at_ns=at[3], line=b"rest")]
    assert assembler.rest() == []


def test_endless_lines_come_in_pieces() -> None:
    assembler = LineAssembler()
    piece = b"x" * MAXIMUM_LINE_BYTES
    raw = written("stdout", "P", "", 5).rstrip("\n").encode() + piece
    assert assembler.add_all([raw]) == [LogLine(stream=1, at_ns=START_NS, line=piece)]
    assert assembler.rest() == []


RECORDS = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.sampled_from("FFFP"), st.text("ab ", max_size=5)), max_size=60
)


async def read(path: Path, request: LogRequest) -> list[LogLine]:
    return [line async for part in read_log(path, request, FileWatcher(), asyncio.Event()) for line in part.lines]


@settings(deadline=None)
@given(
    records=RECORDS,
    cuts=st.lists(st.integers(0, 60), max_size=3),
    tail=st.integers(0, 10),
    only_stdout=st.booleans(),
    padding=st.integers(0, 3),
    packs=st.booleans(),
)
def test_the_tail_is_the_end_of_everything(
    records: list[tuple[str, str, str]], cuts: list[int], tail: int, only_stdout: bool, padding: int, packs: bool
) -> None:
    # With padding, a file has several blocks.
    lines = [written(stream, flag, words + "x" * 9000 * padding).encode() for stream, flag, words in records]
    with tempfile.TemporaryDirectory() as directory:
        files = LogFiles(Path(directory) / "container.log")
        bounds = [0, *sorted(min(cut, len(lines)) for cut in cuts), len(lines)]
        for number, (begin, end) in enumerate(itertools.pairwise(bounds), 1):
            path = files.path if end is bounds[-1] and number == len(bounds) - 1 else files.plain(number)
            path.write_bytes(b"".join(lines[begin:end]))
            if packs and number < len(bounds) - 2:
                compress(files, number, lambda: False)
        request = LogRequest(task_id="", stderr=not only_stdout)
        everything = asyncio.run(read(files.path, request))
        last = asyncio.run(read(files.path, msgspec.structs.replace(request, tail=tail)))
    if packs:
        # A line that begins in a compressed file may lack that beginning.
        assert [(line.stream, line.line[-2:]) for line in last] == [
            (line.stream, line.line[-2:]) for line in everything[len(everything) - min(tail, len(everything)) :]
        ]
    else:
        assert last == everything[len(everything) - min(tail, len(everything)) :]


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
        async for part in read_log(log, LogRequest(task_id="", follow=True, tail=1), watcher, ended):
            for line in part.lines:
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


async def test_a_watcher_wakes_everybody_when_the_kernel_lost_events(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    watcher, changed = FileWatcher(), asyncio.Event()
    busy = [tmp_path / "busy1", tmp_path / "busy2"]
    (tmp_path / "quiet").touch()
    for path in busy:
        path.touch()
    with contextlib.ExitStack() as stack:
        for path in busy:
            stack.enter_context(watcher.watch(path, asyncio.Event()))
        stack.enter_context(watcher.watch(tmp_path / "quiet", changed))
        files = [stack.enter_context(path.open("ab", buffering=0)) for path in busy]
        for number in range(limit + 1):
            files[number % 2].write(b".")
        (tmp_path / "quiet").write_bytes(b"x")
        async with asyncio.timeout(10):
            await changed.wait()
    watcher.close()
