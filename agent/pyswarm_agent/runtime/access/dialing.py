"""TCP connections to what listens inside a container, on its own loopback too."""

import asyncio
import os
import socket

from pyswarm_agent.runtime.threads import in_new_thread
from pyswarm_common.errors import Conflict
from pyswarm_netplugin.kernel.namespaces import enter

DIAL_TIMEOUT_S = 10.0
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


async def dial_inside(netns_path: str | None, port: int, name: str) -> socket.socket:
    """Return a connection to the port on the loopback of a network namespace (None: the host's).

    A socket belongs to the namespace in which it was made, so only that happens there. Raises Conflict when nothing answers.
    """
    loop = asyncio.get_running_loop()
    reason = ""
    for family, address in _LOOPBACKS:
        made = await in_new_thread(lambda family=family: _socket_inside(netns_path, family), "dial")  # type: ignore[misc]
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await loop.sock_connect(made, (address, port))
            return made
        except TimeoutError:
            reason = reason or f"no answer in {DIAL_TIMEOUT_S:g} s"
        except OSError as error:
            reason = reason or (error.strerror or str(error))
        except BaseException:
            made.close()
            raise
        made.close()
    raise Conflict(f"cannot connect to port {port} in container {name}: {reason}")


def _socket_inside(netns_path: str | None, family: int) -> socket.socket:
    if netns_path is not None:
        descriptor = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(descriptor)
        finally:
            os.close(descriptor)
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
