"""The process is started when none runs, found when one does, and outlives its client."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from pyswarm_common.errors import FailedPrecondition, Unavailable
from pyswarm_netplugin.dns import client as client_module
from pyswarm_netplugin.dns import protocol
from pyswarm_netplugin.dns.client import DNSClient, SandboxConfig

TAG = "t1"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[DNSClient]:
    client = DNSClient(tmp_path / "dns.sock", instance_tag=TAG, log_path=tmp_path / "dns.log")
    yield client
    await client.stop()
    assert not (tmp_path / "dns.sock").exists()


def another(client: DNSClient, tag: str = TAG) -> DNSClient:
    return DNSClient(client._socket_path, instance_tag=tag)


async def test_it_starts_once_and_is_found_again(client: DNSClient, tmp_path: Path) -> None:
    assert await client.ensure_running()
    pid = client.pid
    assert stat.S_IMODE((tmp_path / "dns.sock").stat().st_mode) == 0o600
    assert (Path("/proc") / str(pid) / "comm").read_text() == "pyswarm-dns\n"
    assert os.getsid(pid) == pid
    assert await client.feed({}, {}) == {}
    assert not await client.ensure_running()
    await client.close()
    assert not client.is_connected
    assert not await client.ensure_running()

    restarted = another(client)
    assert await restarted.ensure_running(), "a new client does not know what was fed: it must feed"
    assert restarted.pid == pid
    await restarted.close()
    assert f"pid {pid} listens on" in (tmp_path / "dns.log").read_text()


async def test_a_killed_process_is_noticed_and_replaced(client: DNSClient) -> None:
    await client.ensure_running()
    await client.feed({"n1": {"web": ("10.0.0.2",)}}, {})
    before = client.pid
    os.kill(before, signal.SIGKILL)
    await asyncio.wait_for(client.wait_disconnected(), 5)
    with pytest.raises(Unavailable, match="has gone"):
        await client.set_network("n1", {})
    assert await client.ensure_running()
    assert client.pid != before
    assert (await client.status()).networks == ()


async def test_the_process_outlives_its_client(client: DNSClient) -> None:
    script = (
        "import asyncio, os, signal, sys; from pathlib import Path; from pyswarm_netplugin.dns.client import DNSClient\n"
        "async def main():\n"
        f"    client = DNSClient(Path(sys.argv[1]), instance_tag={TAG!r})\n"
        "    await client.ensure_running(); await client.set_network('n1', {'web': ('10.0.0.2',)})\n"
        "    print(client.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    arguments = [sys.executable, "-c", script, str(client._socket_path)]
    killed = await asyncio.to_thread(subprocess.run, arguments, stdout=subprocess.PIPE, check=False, start_new_session=True)
    assert killed.returncode == -signal.SIGKILL
    assert await client.ensure_running(), "it must be fed, as this client never did"
    assert client.pid == int(killed.stdout)
    assert (await client.status()).networks == ("n1",)


async def test_a_feed_drops_what_is_not_in_it_and_names_what_failed(client: DNSClient, tmp_path: Path) -> None:
    await client.ensure_running()
    await client.set_network("old", {"web": ("10.0.0.2",)})
    failures = await client.feed({"new": {}}, {"s1": SandboxConfig(str(tmp_path / "gone"), ("new",))})
    assert "No such file" in failures["s1"]
    status = await client.status()
    assert (status.networks, status.sandboxes) == (("new",), ())


async def test_refusals_are_told(client: DNSClient, tmp_path: Path) -> None:
    await client.ensure_running()
    with pytest.raises(FailedPrecondition, match="not an IP address"):
        await client.set_network("n1", {"web": ("10.0.0",)})
    with pytest.raises(FailedPrecondition, match=r"cannot serve DNS in .*gone: .*No such file"):
        await client.add_sandbox("s1", str(tmp_path / "gone"), ["n1"])
    with pytest.raises(FailedPrecondition, match="Invalid argument"):
        await client.add_sandbox("s1", "/etc/hostname", ["n1"])
    await client.remove_sandbox("s1")
    await client.remove_network("n1")


async def test_another_instances_process_is_left_alone(client: DNSClient) -> None:
    await client.ensure_running()
    with pytest.raises(Unavailable, match="belongs to instance 't1', not to 'other'"):
        await another(client, "other").ensure_running()
    assert (await client.status()).pid == client.pid


async def test_another_protocol_version_is_replaced(client: DNSClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await client.ensure_running()
    before = client.pid
    await client.close()
    monkeypatch.setattr(client_module.protocol, "PROTOCOL_VERSION", 99)
    with pytest.raises(Unavailable, match="does not answer"):
        await client.ensure_running()
    assert client.pid != before
    monkeypatch.undo()


async def test_many_requests_at_once_are_answered_in_order(client: DNSClient) -> None:
    await client.ensure_running()
    await asyncio.gather(*(client.set_network(f"n{i}", {f"web{j}": ("10.0.0.2",) for j in range(200)}) for i in range(20)))
    assert (await client.status()).networks == tuple(f"n{i}" for i in range(20))


async def test_garbage_on_the_control_socket_harms_nobody(client: DNSClient) -> None:
    await client.ensure_running()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(client._socket_path))
        sock.sendall(b"\0\0\0\4\xc1\xff\xff\xff")
        sock.settimeout(5)
        reply = protocol.decode_reply(sock.recv(4096)[4:])
        assert isinstance(reply, protocol.Failed)
        sock.sendall(b"\xff\xff\xff\xff")
        assert sock.recv(1) == b""
    assert (await client.status()).networks == ()


async def test_why_it_does_not_start_is_told(tmp_path: Path) -> None:
    too_long = DNSClient(tmp_path / ("x" * 100) / "dns.sock", instance_tag=TAG)
    with pytest.raises(Unavailable, match="No such file"):
        await too_long.ensure_running()
    (tmp_path / ("x" * 100)).mkdir()
    with pytest.raises(Unavailable, match="longer than 107 bytes: choose a shorter"):
        await too_long.ensure_running()
    with pytest.raises(Unavailable, match="not connected"):
        await too_long.status()


async def test_a_second_process_refuses_to_start(client: DNSClient) -> None:
    await client.ensure_running()
    with pytest.raises(Unavailable, match="another process serves"):
        await another(client)._start()
    assert (await client.status()).pid == client.pid


async def test_sigterm_ends_it_cleanly_and_a_stale_socket_does_no_harm(client: DNSClient, tmp_path: Path) -> None:
    await client.ensure_running()
    os.kill(client.pid, signal.SIGTERM)
    await asyncio.wait_for(client.wait_disconnected(), 5)
    await client.ensure_running()
    os.kill(client.pid, signal.SIGKILL)
    await asyncio.wait_for(client.wait_disconnected(), 5)
    assert (tmp_path / "dns.sock").exists()
    await client.ensure_running()


async def test_it_stays_small(client: DNSClient) -> None:
    await client.ensure_running()
    records = {f"web{i}": (f"10.0.{i // 250}.{i % 250 + 1}",) for i in range(1000)}
    await client.set_network("n1", records)
    status = (Path("/proc") / str(client.pid) / "status").read_text()
    resident_kb = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident_kb < 25_000


def test_it_serves_a_daemon_on_uvloop(tmp_path: Path) -> None:
    async def start_use_and_stop() -> tuple[str, ...]:
        client = DNSClient(tmp_path / "dns.sock", instance_tag=TAG)
        await client.ensure_running()
        await client.set_network("n1", {"web": ("10.0.1.2",)})
        networks = (await client.status()).networks
        await client.stop()
        return networks

    assert uvloop.run(start_use_and_stop()) == ("n1",)
