"""A name server that is silent holds nobody up but those who ask for a name."""

import socket
import subprocess
import sys

import pytest

from pyswarm_node.event_loop import DaemonLoop

_PROGRAM = """
import asyncio, socket, time
import httpx, uvloop
from pyswarm_node.event_loop import DaemonLoop

asked = []

def silent(host, *_):
    asked.append(host)
    if host in ("known.test", b"known.test"):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]
    time.sleep(600)

socket.getaddrinfo = silent

async def ask(name):
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"http://{name}/")

async def main():
    lookups = [asyncio.ensure_future(ask(f"silent{number}.test")) for number in range(8)]
    await asyncio.sleep(0)
    try:
        await ask("known.test:1")
    except httpx.ConnectError:
        print("answered")
    for lookup in lookups:
        lookup.cancel()
    await asyncio.gather(*lookups, return_exceptions=True)
    print(len(asked))

uvloop.run(main(), loop_factory=DaemonLoop)
"""


def test_silent_lookups_delay_neither_others_nor_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("answered\n9\n", "", 0)


def test_the_answer_and_the_failure_are_those_of_the_system() -> None:
    async def look_up(name: str) -> object:
        return await running.getaddrinfo(name, 80, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)

    running = DaemonLoop()
    try:
        assert running.run_until_complete(look_up("127.0.0.1")) == [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
        with pytest.raises(socket.gaierror):
            running.run_until_complete(look_up("no-address"))
    finally:
        running.close()
