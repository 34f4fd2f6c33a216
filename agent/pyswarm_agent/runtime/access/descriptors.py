"""Reads and writes descriptors (pipes, terminals, sockets) from the event loop, without threads and without blocking it.

asyncio's own pipe transports read ahead without being asked and take a terminal's hang-up for an error; here a descriptor
is read when somebody asks, so that a slow client slows the process that writes.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable

CHUNK_BYTES = 32 * 1024


class OutputDescriptors:
    """The read ends of a process's output. Owns them: closes each at its end, all with `close`."""

    def __init__(self, streams: dict[int, int], on_all_closed: Callable[[], None] = lambda: None) -> None:
        """`streams`: the stream's number (STDOUT, …) by descriptor."""
        self._streams = dict(streams)
        self._on_all_closed = on_all_closed
        self._ended = asyncio.Event()
        self._activity = asyncio.Event()
        for descriptor in streams:
            os.set_blocking(descriptor, False)

    def process_ended(self) -> None:
        """Tell that the process has ended: what others still hold open is not waited for any longer than `read` says."""
        self._ended.set()
        self._activity.set()

    async def read(self, grace_s: float) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (stream, bytes) until all are closed, or `grace_s` after the process has ended."""
        deadline_s = None
        while self._streams:
            self._activity.clear()
            is_idle = True
            for descriptor, stream in list(self._streams.items()):
                data = self._read_now(descriptor)
                if data:
                    is_idle = False
                    yield stream, data
                    await asyncio.sleep(0)  # a fast writer and a fast client must not keep the loop to themselves
            if not is_idle or not self._streams:
                continue
            if self._ended.is_set():
                now_s = asyncio.get_running_loop().time()
                deadline_s = now_s + grace_s if deadline_s is None else deadline_s
                if now_s >= deadline_s:
                    return
            await self._wait_activity(deadline_s)

    def _read_now(self, descriptor: int) -> bytes | None:
        """Return what there is, None for nothing; a descriptor at its end is closed."""
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError:  # EIO: the last process has closed its side of the terminal
            data = b""
        if not data:
            self._close(descriptor)
        return data

    async def _wait_activity(self, deadline_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        watched = list(self._streams)
        for descriptor in watched:
            loop.add_reader(descriptor, self._activity.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline_s):
                    await self._activity.wait()
        finally:
            for descriptor in watched:
                if descriptor in self._streams:
                    loop.remove_reader(descriptor)

    def discard(self) -> None:
        """From now on read and forget, so that the process can go on writing."""
        loop = asyncio.get_running_loop()
        for descriptor in self._streams:
            loop.add_reader(descriptor, self._read_now, descriptor)

    def close(self) -> None:
        """Close all."""
        for descriptor in list(self._streams):
            self._close(descriptor)
        self._activity.set()

    def _close(self, descriptor: int) -> None:
        if self._streams.pop(descriptor, None) is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
            if not self._streams:
                self._on_all_closed()


class InputDescriptor:
    """The write end of a process's input; None when it has none. Owns it."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._closed = asyncio.Event()
        if descriptor is not None:
            os.set_blocking(descriptor, False)

    async def write(self, data: bytes) -> None:
        """Send all, waiting while the process reads too slowly; what it takes no more is dropped."""
        rest = memoryview(data)
        while rest and self._descriptor is not None:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                await self._wait_writable(self._descriptor)
            except OSError:
                self.close()

    async def _wait_writable(self, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()

        def on_writable() -> None:
            loop.remove_writer(descriptor)
            writable.set()

        loop.add_writer(descriptor, on_writable)
        waiting = [asyncio.ensure_future(writable.wait()), asyncio.ensure_future(self._closed.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()
            if self._descriptor == descriptor:
                loop.remove_writer(descriptor)

    def shut_down(self) -> None:
        """Of a socket: tell the other side that no more will be sent."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._descriptor)) as connection:
                connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close it; fine if it is closed."""
        descriptor, self._descriptor = self._descriptor, None
        self._closed.set()
        if descriptor is not None:
            asyncio.get_running_loop().remove_writer(descriptor)
            os.close(descriptor)


def on_readable(descriptor: int, call: Callable[[], None]) -> None:
    """Call once when the descriptor (such as a pidfd) becomes readable, then close it."""
    loop = asyncio.get_running_loop()

    def ready() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        call()

    loop.add_reader(descriptor, ready)
