"""The streams of a container's first process, through the socket that its monitor (conmon) offers.

conmon sends packets of a stream's number and bytes to everyone who is connected, and passes on what it is sent. Whoever
leaves closes the process's input too, when the container's input ends with its first client (`stdin_once`): so who has no
business with the input does not leave, but goes on reading until the container ends.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from pyswarm_agent.runtime.access.descriptors import InputDescriptor, OutputDescriptors
from pyswarm_agent.runtime.access.interface import STDERR, STDOUT, TerminalSize
from pyswarm_agent.runtime.paths import ContainerPaths
from pyswarm_agent.runtime.records import ContainerConfig

_STREAMS = {2: STDOUT, 3: STDERR}
_PACKET_BYTES = 8192
_RESIZE = 1
_LARGEST = 1000
"""conmon takes no larger terminal."""


def connect_monitor(paths: ContainerPaths) -> socket.socket:
    """Return a connection to the streams of a container whose monitor runs. Raises OSError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(paths.bundle, os.O_PATH | os.O_DIRECTORY)
        try:
            # By its folder's descriptor: a socket's path may have 107 bytes only.
            made.connect(f"/proc/self/fd/{directory}/attach")
        finally:
            os.close(directory)
    except BaseException:
        made.close()
        raise
    return made


def resize_first_process(paths: ContainerPaths, size: TerminalSize) -> None:
    """Tell a container's monitor the size of its terminal. Raises OSError when there is no monitor."""
    descriptor = os.open(paths.bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK)
    try:
        rows, columns = (max(0, min(number, _LARGEST)) for number in size)
        os.write(descriptor, f"{_RESIZE} {rows} {columns}\n".encode())
    finally:
        os.close(descriptor)


class Attachment:
    """Implements `ProcessStreams`. Those who use it before it is connected wait until it is."""

    def __init__(
        self,
        config: ContainerConfig,
        *,
        takes_input: bool,
        resize: Callable[[TerminalSize], Awaitable[None]],
        on_end: Callable[["Attachment"], None],
    ) -> None:
        self._takes_input = takes_input and config.open_stdin
        self._ends_input = config.open_stdin and config.stdin_once and not config.tty
        self._resize = resize
        self._on_end = on_end
        self._connected = asyncio.Event()
        self._output = OutputDescriptors({})
        self._input = InputDescriptor(None)
        self.is_closed = False

    def connect(self, connection: socket.socket) -> None:
        """Begin, with the connection to the monitor."""
        if self.is_closed:
            connection.close()
            return
        self._input = InputDescriptor(os.dup(connection.fileno()) if self._takes_input else None)
        self._output = OutputDescriptors({connection.detach(): STDOUT}, self.end)
        self._connected.set()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (STDOUT or STDERR, bytes) until the container has ended."""
        await self._connected.wait()
        async for _, packet in self._output.read(0.0):
            yield _STREAMS.get(packet[0], STDOUT), packet[1:]

    async def write(self, data: bytes) -> None:
        """Send to the first process's input, waiting while it reads too slowly."""
        await self._connected.wait()
        for begin in range(0, len(data), _PACKET_BYTES):
            await self._input.write(data[begin : begin + _PACKET_BYTES])

    async def close_input(self) -> None:
        """Close the first process's input, if it ends with its client; else only stop sending."""
        await self._connected.wait()
        if self._ends_input:
            self._input.shut_down()
        self._input.close()

    async def resize(self, size: TerminalSize) -> None:
        """Tell the terminal's size. Raises Conflict when there is none."""
        await self._resize(size)

    async def close(self) -> None:
        """Let go of the streams; the process goes on."""
        if self._ends_input and not self._takes_input and self._connected.is_set():
            self._output.discard()
        else:
            self.end()

    def end(self) -> None:
        """Let go of everything at once."""
        if not self.is_closed:
            self.is_closed = True
            self._connected.set()
            self._input.close()
            self._output.close()
            self._on_end(self)
