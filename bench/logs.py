"""How fast logs are read, how soon a follower has a line, and what watching the sizes of many logs costs.

`bench/logs.py [--lines N]`. Files are as conmon writes them: one time per 8 KiB. Reading is compared with `cat` (and `zcat`) of the
same files in the same run; a follower's delay is from the write of a line to its being handed out. The keeper's round is one look
at 200 logs of which none is to be rotated. No container is run.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from pyswarm_agent.runtime.file_watch import FileWatcher
from pyswarm_agent.runtime.handle import ContainerHandle
from pyswarm_agent.runtime.log_files import LogFiles
from pyswarm_agent.runtime.log_keeper import LogKeeper
from pyswarm_agent.runtime.log_reader import read_log
from pyswarm_agent.runtime.log_steps import compress
from pyswarm_agent.runtime.paths import ContainerPaths, SavedContainer
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord, LogConfig
from pyswarm_common.clock import SystemClock
from pyswarm_common.ids import new_container_id
from pyswarm_common.wire import LogRequest

FILES = 5
MINUTE_3_NS = 1_767_322_800_000_000_000
"""2026-01-02T03:00:00: the files are of one minute after the other."""
LINES_PER_WRITE = 100
FOLLOWED_LINES = 300
LOGS = 200
ROUNDS = 50


def write_log(files: LogFiles, lines: int) -> None:
    """Write a log in several files."""
    for number in range(1, FILES + 1):
        path = files.path if number == FILES else files.plain(number)
        with path.open("w") as file:
            for index in range(lines // FILES):
                write = index // LINES_PER_WRITE
                stamp = f"2026-01-02T03:{number:02}:{write // 1000 % 60:02}.{write % 1000:03}456789+00:00"
                file.write(f"{stamp} stdout F GET /articles/{index}?page=2 HTTP/1.1 200 5120 {number}\n")
        os.utime(path, ns=(MINUTE_3_NS + (number + 1) * 60_000_000_000,) * 2)


async def seconds_to_read(files: LogFiles, request: LogRequest) -> tuple[float, int]:
    """Return how long a request took, and how many lines it gave."""
    began, lines = time.perf_counter(), 0
    async for part in read_log(files.path, request, FileWatcher(), asyncio.Event()):
        lines += len(part.lines)
    return time.perf_counter() - began, lines


def seconds_of(command: str, directory: Path) -> float:
    """Return how long a shell command took."""
    began = time.perf_counter()
    subprocess.run(["sh", "-c", command], cwd=directory, check=True)
    return time.perf_counter() - began


async def follow_delays(files: LogFiles) -> list[float]:
    """Return the delays of lines that are written one by one, in seconds."""
    delays: list[float] = []
    watcher, ended, written_s, seen = FileWatcher(), asyncio.Event(), 0.0, asyncio.Event()

    async def follow() -> None:
        async for part in read_log(files.path, LogRequest(task_id="", follow=True, tail=0), watcher, ended):
            if part.lines:
                delays.append(time.perf_counter() - written_s)
            seen.set()

    follower = asyncio.ensure_future(follow())
    await seen.wait()
    with files.path.open("ab", buffering=0) as file:
        for _ in range(FOLLOWED_LINES):
            seen.clear()
            await asyncio.sleep(0.002)
            written_s = time.perf_counter()
            file.write(b"2026-01-02T03:59:59.123456789+00:00 stdout F one more\n")
            await seen.wait()
    ended.set()
    await follower
    watcher.close()
    return delays


def keeper_round_ms(directory: Path) -> float:
    """Return how long one look at many logs takes, the median of many."""
    handles = []
    for _ in range(LOGS):
        config = ContainerConfig(id=new_container_id(), log=LogConfig(driver="json-file"))
        paths = ContainerPaths(directory / "data", directory / "run", config.id)
        paths.home.mkdir(parents=True)
        paths.log.touch()
        handles.append(ContainerHandle(paths, SavedContainer(record=ContainerRecord(config=config, state="running"))))
    keeper = LogKeeper(lambda: handles, SystemClock())
    durations = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        keeper.tend_all(handles)
        durations.append(time.perf_counter() - began)
    return statistics.median(durations) * 1000


async def run(lines: int, directory: Path) -> None:
    """Measure and print everything."""
    files = LogFiles(directory / "container.log")
    write_log(files, lines)
    size_mb = sum(path.stat().st_size for path in directory.iterdir()) / 1e6
    plain_s = seconds_of("cat container.log.? container.log > /dev/null", directory)
    print(f"{lines} lines, {size_mb:.0f} MB in {FILES} files; cat: {plain_s:.3f} s")
    await report("all", files, LogRequest(task_id=""), plain_s)
    await report("the last 100", files, LogRequest(task_id="", tail=100), plain_s)
    await report(
        "since the last file's begin", files, LogRequest(task_id="", since_ns=MINUTE_3_NS + FILES * 60_000_000_000), plain_s
    )
    for archive in files.archives()[:-1]:
        compress(files, archive.number, lambda: False)
    packed_s = seconds_of("zcat container.log.?.gz > /dev/null; cat container.log.? container.log > /dev/null", directory)
    print(f"older ones compressed; zcat and cat: {packed_s:.3f} s")
    await report("all", files, LogRequest(task_id=""), packed_s)
    delays = sorted(await follow_delays(files))
    print(
        f"follower's delay: median {statistics.median(delays) * 1000:.2f} ms, p99 {delays[len(delays) * 99 // 100] * 1000:.2f} ms"
    )
    print(f"keeper, one look at {LOGS} logs: {keeper_round_ms(directory / 'many'):.2f} ms")


async def report(what: str, files: LogFiles, request: LogRequest, cat_s: float) -> None:
    """Measure one request and print it."""
    seconds, found = await seconds_to_read(files, request)
    print(f"read {what:28} {found:8} lines in {seconds:.3f} s = {found / seconds:9.0f} lines/s, {seconds / cat_s:6.1f} × cat")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pyswarm-logs-") as directory:
        asyncio.run(run(arguments.lines, Path(directory)))


if __name__ == "__main__":
    main()
