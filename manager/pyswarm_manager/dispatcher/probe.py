"""Whether something takes connections at an address: the kernel does so for a daemon that is only paused."""

import asyncio


async def accepts_connections(address: str, timeout_s: float) -> bool:
    """Connect to host:port by plain TCP and hang up; False when it is refused, unreachable, or silent for `timeout_s`."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, ValueError, TimeoutError):
        return False
    writer.transport.abort()
    return True
