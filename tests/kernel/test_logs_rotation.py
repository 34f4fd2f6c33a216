"""Logs in files: rotated under a real conmon, read across rotations, kept within their limits, safe when daemon or disk fail."""

import asyncio
import contextlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_harness import RuntimeNode, runtime_node

from pyswarm_agent.runtime.records import LogConfig
from pyswarm_common.errors import InvalidArgument, Unimplemented
from pyswarm_common.wire import LogRequest

pytestmark = pytest.mark.kernel

SMALL = LogConfig(options={"max-size": "20k", "max-file": "1000", "compress": "false"})
COUNTING = "i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); {pause} done"
WAITING = COUNTING + "; trap 'echo line $i; exit 0' TERM; sleep 1000 & wait"


def log_folder(node: RuntimeNode, container_id: str) -> Path:
    return node.data_dir / "containers" / container_id


def log_names(node: RuntimeNode, container_id: str) -> list[str]:
    """Return the names of the log's files."""
    return sorted(path.name for path in log_folder(node, container_id).glob("container.log*"))


async def numbers(node: RuntimeNode, container_id: str, **request: Any) -> list[int]:
    """Return the numbers of the lines that a counting container wrote, as they are read."""
    lines = [line.line async for line in node.runtime.logs(container_id, LogRequest(task_id="", **request))]
    return [int(line.split()[1]) for line in lines]


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  files and processes tell nobody
            await asyncio.sleep(0.02)


async def started_counting(node: RuntimeNode, count: int, log: LogConfig) -> str:
    """Start a container that writes so many lines and waits then; return its id once they are in the log."""
    config = node.config(WAITING.format(count=count, pause=""), log=log)
    await node.runtime.create(config)
    await node.runtime.start_container(config.id)
    async for line in node.runtime.logs(config.id, LogRequest(task_id="", follow=True)):
        if line.line == b"line %d\n" % (count - 1):
            break
    return config.id


@pytest.mark.parametrize("tty", [False, True])
async def test_rotated_log_is_whole(node: RuntimeNode, tty: bool) -> None:
    config = node.config(COUNTING.format(count=6000, pause="[ $((i%500)) = 0 ] && sleep 0.3;"), log=SMALL, tty=tty)
    await node.runtime.create(config)
    follower = asyncio.create_task(numbers(node, config.id, follow=True))
    await node.runtime.start_container(config.id)
    await node.runtime.wait(config.id)
    assert len(log_names(node, config.id)) > 8
    assert await numbers(node, config.id) == list(range(6000))
    assert await follower == list(range(6000))
    for tail in (0, 1, 700, 5999, 7000):
        assert await numbers(node, config.id, tail=tail) == list(range(6000))[6000 - min(tail, 6000) :]


async def test_files_are_limited_and_compressed(node: RuntimeNode) -> None:
    log = LogConfig(driver="local", options={"max-size": "20k", "max-file": "4"})
    config = node.config(COUNTING.format(count=6000, pause="[ $((i%500)) = 0 ] && sleep 0.3;"), log=log)
    await node.runtime.create(config)
    await node.runtime.start_container(config.id)
    await node.runtime.wait(config.id)

    def is_settled() -> bool:
        names = [name.removeprefix("container.log") for name in log_names(node, config.id)]
        return [name.rpartition(".")[2].isdigit() for name in names] == [False, False, False, True]

    await wait_until(is_settled)
    kept = await numbers(node, config.id)
    assert kept == list(range(6000))[-len(kept) :]
    assert await numbers(node, config.id, tail=len(kept)) == kept


async def test_one_file_alone_is_limited_too(node: RuntimeNode) -> None:
    container_id = await started_counting(node, 3000, LogConfig(options={"max-size": "20k", "max-file": "1"}))
    await wait_until(lambda: sum(path.stat().st_size for path in log_folder(node, container_id).glob("container.log*")) == 0)
    await node.runtime.stop(container_id)
    assert await numbers(node, container_id) == [3000]


@pytest.mark.parametrize("was_told", [False, True])
async def test_next_daemon_finishes_a_rotation(node: RuntimeNode, was_told: bool) -> None:
    container_id = await started_counting(node, 100, LogConfig(options={"max-size": "1m", "max-file": "9"}))
    await node.runtime.close()
    folder = log_folder(node, container_id)
    os.link(folder / "container.log", folder / "container.log.1")
    if was_told:
        (node.runtime_dir / "bundles" / container_id / "ctl").write_text("2 0 0\n")
    node.runtime = node.new_runtime()
    await node.runtime.start()
    await wait_until(lambda: (folder / "container.log.1").stat().st_nlink == 1)
    assert (folder / "container.log").stat().st_size == 0
    await node.runtime.stop(container_id)
    assert await numbers(node, container_id) == list(range(101))


async def test_a_container_that_ends_in_the_midst_of_a_rotation(node: RuntimeNode) -> None:
    container_id = await started_counting(node, 100, LogConfig(options={"max-size": "1m", "max-file": "9"}))
    await node.runtime.close()
    folder = log_folder(node, container_id)
    os.link(folder / "container.log", folder / "container.log.1")
    subprocess.run(["kill", "-TERM", (node.runtime_dir / "bundles" / container_id / "pid").read_text().strip()], check=True)
    await wait_until(lambda: (node.runtime_dir / "bundles" / container_id / "exit" / container_id).exists())
    node.runtime = node.new_runtime()
    await node.runtime.start()
    await node.runtime.wait(container_id)
    await wait_until(lambda: log_names(node, container_id) == ["container.log"])
    assert await numbers(node, container_id) == list(range(101))


async def test_lines_since_a_time_and_until_one(node: RuntimeNode) -> None:
    config = node.config(COUNTING.format(count=6000, pause="[ $((i%500)) = 0 ] && sleep 0.3;"), log=SMALL)
    await node.runtime.create(config)
    await node.runtime.start_container(config.id)
    await node.runtime.wait(config.id)
    lines = [line async for line in node.runtime.logs(config.id, LogRequest(task_id=""))]
    since_ns, until_ns = lines[3210].at_ns, lines[4567].at_ns
    expected = [number for number, line in enumerate(lines) if since_ns <= line.at_ns <= until_ns]
    assert await numbers(node, config.id, since_ns=since_ns, until_ns=until_ns) == expected
    assert await numbers(node, config.id, since_ns=until_ns + 1, follow=True) == list(range(expected[-1] + 1, 6000))


async def test_a_long_line_in_two_files(node: RuntimeNode) -> None:
    script = "printf begun; i=0; while [ $i -lt 3000 ]; do echo $i filler >&2; i=$((i+1)); done; sleep 2.5; echo .ended"
    config = node.config(script, log=SMALL)
    await node.runtime.create(config)
    await node.runtime.start_container(config.id)
    await node.runtime.wait(config.id)
    assert len(log_names(node, config.id)) > 1
    for request in (LogRequest(task_id="", stderr=False), LogRequest(task_id="", stderr=False, tail=1)):
        assert [line.line async for line in node.runtime.logs(config.id, request)] == [b"begun.ended\n"]
    last = [line.line async for line in node.runtime.logs(config.id, LogRequest(task_id="", tail=1))]
    assert last == [b"begun.ended\n"]


async def test_driver_none_keeps_nothing(node: RuntimeNode) -> None:
    config = node.config("echo secret", log=LogConfig(driver="none"))
    await node.runtime.create(config)
    await node.runtime.start_container(config.id)
    assert (await node.runtime.wait(config.id)).exit_code == 0
    with pytest.raises(Unimplemented, match=r"^configured logging driver does not support reading$"):
        await numbers(node, config.id)
    assert all(path.stat().st_size == 0 for path in log_folder(node, config.id).glob("container.log*"))


async def test_drivers_that_cannot_be_had_are_refused(node: RuntimeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyswarm_agent.runtime.log_arguments.JOURNAL_SOCKET", Path("/run/no/journal"))
    with pytest.raises(InvalidArgument, match=r"journald is not enabled on this host"):
        await node.runtime.create(node.config("true", log=LogConfig(driver="journald")))
    with pytest.raises(InvalidArgument, match=r"^logger: no log driver named 'syslog' is registered$"):
        await node.runtime.create(node.config("true", log=LogConfig(driver="syslog")))
    with pytest.raises(InvalidArgument, match=r"^unknown log opt 'max-sise' for json-file log driver$"):
        await node.runtime.create(node.config("true", log=LogConfig(options={"max-sise": "1m"})))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 8 MB and 200 files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "run").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=200", "tmpfs", str(disk)], check=True)
    (disk / "run").symlink_to(tmp_path / "run")  # of this boot: never on the disk
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("can_make_files", [True, False])
async def test_a_full_disk_ends_nothing(small_disk: Path, busybox_layer: Path, can_make_files: bool) -> None:
    async with runtime_node(small_disk, busybox_layer) as node:
        log = LogConfig(options={"max-size": "1m", "max-file": "100", "compress": "false"})
        script = "trap 'seq 400000' USR1; trap 'exit 7' TERM; echo 0; while :; do sleep 1000 & wait; done"
        container_id = await node.started(script, log=log)
        fillers = [] if can_make_files else use_up_files(small_disk)
        await node.runtime.kill(container_id, "USR1")
        await wait_until(lambda: os.statvfs(small_disk).f_bavail == 0)
        folder = log_folder(node, container_id)
        if can_make_files:
            await wait_until(lambda: len(log_names(node, container_id)) > 1)
        await wait_until(lambda: not is_counting(node, container_id))
        assert is_running(node, container_id)
        assert (folder / "container.log.1").exists() is can_make_files
        assert await count_without_gap(node, container_id, 0) > 50_000
        for filler in fillers:
            filler.unlink()
        await wait_until(lambda: (folder / "container.log.1").exists() and (folder / "container.log").stat().st_size == 0)
        (folder / "container.log.1").unlink()
        await node.runtime.kill(container_id, "USR1")
        await wait_until(lambda: (folder / "container.log").stat().st_size > 0)
        await wait_until(lambda: not is_counting(node, container_id))
        assert await count_without_gap(node, container_id, 1) > 50_000
        status = await node.runtime.stop(container_id)
        assert (status.exit_code, status.error) == (7, "")


def is_counting(node: RuntimeNode, container_id: str) -> bool:
    """Whether the container's shell has another child than `sleep`."""
    record = node.runtime.get(container_id)
    assert record is not None
    busy = False
    for child in Path(f"/proc/{record.pid}/task/{record.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            busy |= Path(f"/proc/{child}/comm").read_text().strip() != "sleep"
    return busy


def use_up_files(disk: Path) -> list[Path]:
    """Make so many files that no more can be made; return them."""
    made: list[Path] = []
    with contextlib.suppress(OSError):
        for number in itertools.count():
            path = disk / f"filler{number}"
            path.touch()
            made.append(path)
    return made


def is_running(node: RuntimeNode, container_id: str) -> bool:
    record = node.runtime.get(container_id)
    return record is not None and record.state == "running"


async def count_without_gap(node: RuntimeNode, container_id: str, first: int) -> int:
    """Return up to which number from `first` on the lines are there without a gap."""
    count = first
    async for line in node.runtime.logs(container_id, LogRequest(task_id="")):
        if line.line != b"%d\n" % count:
            break
        count += 1
    return count
