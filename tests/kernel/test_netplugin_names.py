"""The driver with the real pyswarm-dns: a container's resolver finds services, tasks and backends by name, whatever happens."""

import asyncio
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from overlay_hosts import TAG, TIMEOUT_S, Machine, Server, ask, machines, request, udp_client, view

from pyswarm_netplugin.dns.client import DNSClient
from pyswarm_netplugin.dns.message import encode_query
from pyswarm_netplugin.driver import NetworkDriver

pytestmark = pytest.mark.kernel

NEAR, VIRTUAL_IP = "10.0.1.5", "10.0.1.2"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    with machines(tmp_path, 1) as (made,):
        yield made


@pytest.fixture
def dns(tmp_path: Path) -> DNSClient:
    (tmp_path / "resolv.conf").write_text("")
    arguments = ("--resolv-conf", str(tmp_path / "resolv.conf"))
    return DNSClient(tmp_path / "dns.sock", instance_tag=TAG, log_path=tmp_path / "dns.log", arguments=arguments)


@pytest.fixture
async def driver(host: Machine, dns: DNSClient) -> AsyncIterator[NetworkDriver]:
    made = host.driver(dns)
    await made.start()
    await made.apply_views({"net-a": view({"near": (NEAR, host)}, (NEAR,))})
    yield made
    await made.teardown()


def resolve(netns: str, name: str) -> list[str]:
    """Return the addresses that the container's resolver, 127.0.0.11 port 53, has for a name."""
    with udp_client(netns, "127.0.0.11", 53) as client:
        client.send(encode_query(7, name, 1))
        answer = client.recv(2048)
    count = struct.unpack_from("!H", answer, 6)[0]
    # Each record of an answer ends with its length, 4, and the address.
    return sorted(socket.inet_ntoa(answer[end - 4 : end]) for end in range(len(answer) - 16 * (count - 1), len(answer) + 1, 16))


async def test_names_resolve_and_lead_to_the_service(driver: NetworkDriver) -> None:
    sandbox = await driver.attach(request("near", NEAR))
    assert resolve(sandbox.netns_path, "web") == [VIRTUAL_IP]
    assert resolve(sandbox.netns_path, "tasks.web") == [NEAR]
    assert resolve(sandbox.netns_path, "web.1.near") == [NEAR]
    with Server(sandbox.netns_path, "near"):
        assert ask(sandbox.netns_path, resolve(sandbox.netns_path, "web")[0])[0] == "near"


async def test_names_follow_the_view(driver: NetworkDriver, host: Machine) -> None:
    sandbox = await driver.attach(request("near", NEAR))
    await driver.apply_views({"net-a": view({"near": (NEAR, host)}, (NEAR, "10.0.1.6"), version=2)})
    assert resolve(sandbox.netns_path, "tasks.web") == [NEAR, "10.0.1.6"]


async def test_names_survive_the_daemon_and_the_dns_process(host: Machine, dns: DNSClient) -> None:
    first = host.driver(dns)
    await first.start()
    await first.apply_views({"net-a": view({"near": (NEAR, host)}, (NEAR,))})
    netns = (await first.attach(request("near", NEAR))).netns_path
    await first.close()
    assert resolve(netns, "web") == [VIRTUAL_IP]
    second = host.driver(dns)
    await second.start()
    before = dns.pid
    os.kill(before, signal.SIGKILL)
    async with asyncio.timeout(TIMEOUT_S):
        await dns.wait_disconnected()
    await second.attach(request("other", "10.0.1.7"))
    assert dns.pid != before
    assert resolve(netns, "web") == [VIRTUAL_IP]
    await second.teardown()
