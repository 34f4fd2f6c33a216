"""The daemon's event loop: uvloop, but for the looking up of names.

libuv looks names up in four threads and waits for them when the process ends. With a name server that is silent, four lookups (of a
registry each, say) would hold up all later ones, and the daemon's stop for as long as the last one takes. Here each has a thread
of its own, which is left alone when nobody waits for it any more.
"""

import asyncio
import socket
import threading
from functools import partial
from typing import Any

import uvloop


class DaemonLoop(uvloop.Loop):
    """What `uvloop.run` is to use."""

    async def getaddrinfo(self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002
        """Return what `socket.getaddrinfo` does. Raises socket.gaierror. A caller that is cancelled does not wait for the end."""
        lookup = partial(socket.getaddrinfo, host, port, family, type, proto, flags)
        future = self.create_future()
        threading.Thread(target=_answer, args=(self, future, lookup), name="look up a name", daemon=True).start()
        return await future


def _answer(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", lookup: "partial[Any]") -> None:
    result, error = None, None
    try:
        result = lookup()
    except Exception as failure:  # noqa: BLE001  raised again where it is awaited
        error = failure

    def settle() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop was closed meanwhile
