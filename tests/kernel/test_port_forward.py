"""Connections to what listens inside a container only."""

import asyncio
import contextlib
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pyswarm_agent.runtime.access.dialing import dial_inside
from pyswarm_common.errors import Conflict

pytestmark = pytest.mark.kernel

ECHO = """
import socket, sys
address = sys.argv[1]
listener = socket.create_server((address, 7007), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(4096):
        connection.sendall(data)
"""
LISTENER = "ip link set lo up; exec " + shlex.join([sys.executable, "-c", ECHO]) + " {address}"


@contextlib.contextmanager
def namespace(script: str) -> Iterator[str]:
    """Yield the path of a network namespace in which the script runs."""
    with subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        try:
            yield f"/proc/{holder.pid}/ns/net"
        finally:
            holder.kill()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_port_on_the_containers_loopback_is_reached(address: str) -> None:
    with namespace(LISTENER.replace("{address}", address)) as path:
        reader, writer = await asyncio.open_connection(sock=await dial_inside(path, 7007, "web"))
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()


async def test_the_daemon_stays_in_its_own_namespace() -> None:
    with namespace(LISTENER.replace("{address}", "127.0.0.1")) as path:
        (await dial_inside(path, 7007, "web")).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 7007), 1)


async def test_a_port_where_nobody_listens_is_named() -> None:
    refused = pytest.raises(Conflict, match="cannot connect to port 7007 in container web: Connect")
    with namespace("ip link set lo up; echo ready; exec sleep 1000") as path, refused:
        await dial_inside(path, 7007, "web")
