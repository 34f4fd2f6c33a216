"""The journal: which command is run, how its answer is read, and following it (with another command in journalctl's place)."""

import asyncio
import json
from pathlib import Path

import pytest

from pyswarm_agent.runtime.container_logs import ContainerLogs
from pyswarm_agent.runtime.handle import ContainerHandle
from pyswarm_agent.runtime.log_arguments import monitor_log_arguments
from pyswarm_agent.runtime.log_journal import journal_command, parse_entry
from pyswarm_agent.runtime.paths import ContainerPaths, SavedContainer
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord, LogConfig
from pyswarm_common.clock import SystemClock
from pyswarm_common.errors import PyswarmError
from pyswarm_common.wire import LogLine, LogRequest

ID = "c" * 64
BASE = "journalctl --output=json --all --quiet --no-pager"
MATCH = f"CONTAINER_ID_FULL={ID}"


@pytest.mark.parametrize(
    ("request_", "follow", "command"),
    [
        (LogRequest(task_id=""), False, f"{BASE} {MATCH}"),
        (LogRequest(task_id="", tail=7), False, f"{BASE} --lines=7 {MATCH}"),
        (LogRequest(task_id="", follow=True), True, f"{BASE} --no-tail --follow {MATCH}"),
        (LogRequest(task_id="", tail=0, stderr=False), True, f"{BASE} --lines=0 --follow {MATCH} PRIORITY=6"),
        (LogRequest(task_id="", stdout=False, after="s=1;i=2"), False, f"{BASE} --after-cursor=s=1;i=2 {MATCH} PRIORITY=3"),
        (
            LogRequest(task_id="", since_ns=12_345_678_901, until_ns=13_000_000_000),
            False,
            f"{BASE} --since=@12.345678 --until=@13.000000 {MATCH}",
        ),
    ],
)
def test_command(request_: LogRequest, follow: bool, command: str) -> None:
    assert journal_command(ID, request_, follow=follow) == command.split()


def entry(number: int, message: object = "text", **fields: str) -> bytes:
    values = {"__CURSOR": f"cursor{number}", "__REALTIME_TIMESTAMP": str(number), "MESSAGE": message, "PRIORITY": "6", **fields}
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (entry(5), LogLine(stream=1, at_ns=5000, line=b"text\n")),
        (entry(5, PRIORITY="3"), LogLine(stream=2, at_ns=5000, line=b"text\n")),
        (entry(5, _SOURCE_REALTIME_TIMESTAMP="4"), LogLine(stream=1, at_ns=4000, line=b"text\n")),
        (entry(5, [255, 0]), LogLine(stream=1, at_ns=5000, line=b"\xff\x00\n")),
        (entry(5, None), LogLine(stream=1, at_ns=5000, line=b"\n")),
        (entry(5, "begun ", CONTAINER_PARTIAL_MESSAGE="true"), LogLine(stream=1, at_ns=5000, line=b"begun ")),
    ],
)
def test_entries(raw: bytes, line: LogLine) -> None:
    assert parse_entry(raw) == (line, "cursor5")


@pytest.mark.parametrize("raw", [b"", b"x", b'{"__REALTIME_TIMESTAMP":"soon"}'])
def test_what_is_no_entry_is_passed_over(raw: bytes) -> None:
    assert parse_entry(raw) is None


def container(directory: Path, **options: str) -> ContainerHandle:
    config = ContainerConfig(id=ID, name="web", log=LogConfig(driver="journald", options=options))
    paths = ContainerPaths(directory, directory, ID)
    return ContainerHandle(paths, SavedContainer(record=ContainerRecord(config=config, state="running")))


def test_conmon_is_told_the_tag(tmp_path: Path) -> None:
    handle = container(tmp_path, tag="{{.Name}}-{{.ID}}")
    assert monitor_log_arguments(handle.record.config, handle.paths) == ["--log-path", "journald", "--log-tag", "web-cccccccccccc"]


def install_journalctl(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = directory / "journalctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


async def test_following_ends_with_the_container_and_misses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    followed, rest = entry(1, "followed").decode(), entry(2, "at the end").decode()
    script = f"""case "$*" in *--follow*) echo '{followed}'; exec sleep 1000;; *after-cursor=cursor1*) echo '{rest}';; esac"""
    install_journalctl(tmp_path, monkeypatch, script)
    handle = container(tmp_path)
    logs = ContainerLogs(list, SystemClock())
    seen = []
    async with asyncio.timeout(10):
        async for line in logs.lines(handle, LogRequest(task_id="", follow=True)):
            seen.append(line.line)
            handle.ended.set()
    assert seen == [b"followed\n", b"at the end\n"]


async def test_following_ends_with_the_time_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [entry(number, f"line {number}") for number in (1, 2, 3)]
    until_ns = [parsed[0].at_ns for raw in entries if (parsed := parse_entry(raw)) is not None][1]
    shown = "; ".join(f"echo '{raw.decode()}'" for raw in entries)
    install_journalctl(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; {shown}; exec sleep 1000")
    logs = ContainerLogs(list, SystemClock())
    request = LogRequest(task_id="", follow=True, until_ns=until_ns)
    async with asyncio.timeout(10):
        assert [line.line async for line in logs.lines(container(tmp_path), request)] == [b"line 1\n", b"line 2\n"]
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


async def test_a_journal_that_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_journalctl(tmp_path, monkeypatch, "echo 'No journal files were found.' >&2; exit 1")
    logs = ContainerLogs(list, SystemClock())
    with pytest.raises(PyswarmError, match=r"^cannot read the journal: No journal files were found\.$"):
        [line async for line in logs.lines(container(tmp_path), LogRequest(task_id=""))]
