"""A client's raw connection joined with a process's streams: attach and exec."""

from collections.abc import Awaitable, Callable, Collection

from pyswarm_agent.runtime.access.interface import ProcessStreams
from pyswarm_common.detach_keys import DetachFilter
from pyswarm_common.engine_api.hijack import RawConnection
from pyswarm_common.engine_api.streams import frame
from pyswarm_common.waiting import wait_first


class Conversation:
    """How the two are joined.

    `wanted`: the streams that the client wants; `is_raw`: as a terminal has it, without frames; `ends_with_input`: whether a client
    that closes its half leaves; `until`: awaited after the end of the output, before the client is let go.
    """

    def __init__(
        self,
        connection: RawConnection,
        streams: ProcessStreams,
        *,
        wanted: Collection[int],
        is_raw: bool,
        takes_input: bool,
        detach_keys: bytes = b"",
        ends_with_input: bool = False,
        until: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._wanted = wanted
        self._is_raw = is_raw
        self._takes_input = takes_input
        self._detach = DetachFilter(detach_keys) if detach_keys else None
        self._ends_with_input = ends_with_input
        self._until = until

    @property
    def is_detached(self) -> bool:
        """Whether the client has left by its keys."""
        return self._detach is not None and self._detach.is_detached

    async def run(self) -> None:
        """Return when the process has closed its streams, or the client is gone or has left. The process goes on.

        A client that closes its half closes the process's input, and still gets the output.
        """
        try:
            await wait_first(self._pass_input(), self._pass_output())
        except ConnectionResetError:
            pass
        finally:
            await self._streams.close()

    async def send(self, stream: int, data: bytes) -> None:
        """Send to the client what a stream carries, if the client wants it. Raises ConnectionResetError."""
        if stream in self._wanted:
            await self._connection.write(data if self._is_raw else frame(stream, data))

    async def _pass_output(self) -> None:
        async for stream, data in self._streams.output():
            await self.send(stream, data)
        if self._until is not None:
            await self._until()

    async def _pass_input(self) -> None:
        while data := await self._connection.read():
            if not self._takes_input:
                continue
            await self._streams.write(self._detach.pass_on(data) if self._detach is not None else data)
            if self.is_detached:
                return
        if self._takes_input:
            if self._detach is not None:
                await self._streams.write(self._detach.held_back())
            await self._streams.close_input()
            if self._ends_with_input:
                return
        await self._connection.wait_closed()
