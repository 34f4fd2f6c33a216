"""Reads a container's log from the host's journal, by `journalctl`: the command line and its answer.

conmon writes there one entry per line, in pieces when it is long, with the container's id; stderr has priority 3, stdout 6.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec

from pyswarm_agent.runtime.log_lines import STDERR, STDOUT
from pyswarm_common.errors import PyswarmError
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import LogLine, LogPart, LogRequest

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
NO_JOURNAL = f"journald is not enabled on this host: there is no {JOURNAL_SOCKET}; choose another log driver, such as json-file"
_PRIORITIES = {STDOUT: "6", STDERR: "3"}
_BLOCK_BYTES = 256 * 1024


class JournalEntry(msgspec.Struct, frozen=True):
    """What is used of an entry. Text that is not UTF-8 comes as a list of its bytes, too much of it as null."""

    cursor: str = msgspec.field(name="__CURSOR", default="")
    received_us: str = msgspec.field(name="__REALTIME_TIMESTAMP", default="0")
    sent_us: str = msgspec.field(name="_SOURCE_REALTIME_TIMESTAMP", default="")
    message: str | list[int] | None = msgspec.field(name="MESSAGE", default=None)
    priority: str = msgspec.field(name="PRIORITY", default="6")
    is_partial: str = msgspec.field(name="CONTAINER_PARTIAL_MESSAGE", default="")


_decoder = msgspec.json.Decoder(JournalEntry)


def journal_command(container_id: str, request: LogRequest, *, after: str = "", follow: bool = False) -> list[str]:
    """Return the command that prints the asked entries, oldest first, one JSON object per line. `after`: a position."""
    command = ["journalctl", "--output=json", "--all", "--quiet", "--no-pager"]
    position = after or request.after
    if position:
        command.append(f"--after-cursor={position}")
    elif request.tail >= 0:
        command.append(f"--lines={request.tail}")
    elif follow:
        command.append("--no-tail")
    if request.since_ns:
        command.append(f"--since=@{_seconds(request.since_ns)}")
    if request.until_ns and not follow:
        command.append(f"--until=@{_seconds(request.until_ns)}")
    if follow:
        command.append("--follow")
    command.append(f"CONTAINER_ID_FULL={container_id}")
    if request.stdout != request.stderr:
        command.append(f"PRIORITY={_PRIORITIES[STDOUT if request.stdout else STDERR]}")
    return command


def _seconds(time_ns: int) -> str:
    return f"{time_ns // 1_000_000_000}.{time_ns % 1_000_000_000 // 1000:06d}"


def parse_entry(raw: bytes) -> tuple[LogLine, str] | None:
    """Return an entry's line and its position; None for what is no entry."""
    try:
        entry = _decoder.decode(raw)
        at_ns = int(entry.sent_us or entry.received_us) * 1000
    except (msgspec.DecodeError, ValueError):
        return None
    message = entry.message or ""
    text = bytes(message) if isinstance(message, list) else message.encode(errors="surrogateescape")
    stream = STDERR if entry.priority == _PRIORITIES[STDERR] else STDOUT
    return LogLine(stream=stream, at_ns=at_ns, line=text if entry.is_partial == "true" else text + b"\n"), entry.cursor


async def read_journal(container_id: str, request: LogRequest, ended: asyncio.Event) -> AsyncGenerator[LogPart, None]:
    """Yield the asked lines; with `follow` until the container has ended. Raises PyswarmError when there is no journal to read."""
    position = ""
    if request.follow and not ended.is_set():
        async with contextlib.aclosing(_run(journal_command(container_id, request, follow=True), ended)) as parts:
            async for part in parts:
                position = part.position
                within = tuple(line for line in part.lines if not request.until_ns or line.at_ns <= request.until_ns)
                yield LogPart(lines=within, position=position)
                if len(within) < len(part.lines):
                    return
    # What came between the last entry that was followed and the end.
    async with contextlib.aclosing(_run(journal_command(container_id, request, after=position), None)) as parts:
        async for part in parts:
            yield part


async def _run(command: Sequence[str], ended: asyncio.Event | None) -> AsyncGenerator[LogPart, None]:
    """Yield what the command prints, until it ends or the event is set."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise PyswarmError("cannot read the journal: this host has no journalctl") from None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        unread = bytearray()
        while raws := await _next_lines(process.stdout, ended, unread):
            found = [entry for raw in raws if (entry := parse_entry(raw)) is not None]
            if found:
                yield LogPart(lines=tuple(line for line, _ in found), position=found[-1][1])
        if ended is None or not ended.is_set():
            complaint = (await process.stderr.read()).decode(errors="replace").strip()
            if await process.wait() != 0:
                raise PyswarmError(f"cannot read the journal: {complaint or 'journalctl failed'}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _next_lines(output: asyncio.StreamReader, ended: asyncio.Event | None, unread: bytearray) -> list[bytes]:
    """Return the whole lines that are there, waiting for the first one; [] at the end, or when the event is set."""
    while True:
        reading = asyncio.ensure_future(output.read(_BLOCK_BYTES))
        try:
            await (wait_first(reading, ended.wait()) if ended is not None else asyncio.wait([reading]))
            block = reading.result() if reading.done() else b""
        finally:
            reading.cancel()
        if not block:
            return []
        unread += block
        if b"\n" in block:
            *lines, rest = bytes(unread).split(b"\n")
            unread[:] = rest
            return lines
