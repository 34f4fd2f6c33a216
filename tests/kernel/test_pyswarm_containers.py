"""Our own command line with single containers on a real node: their lives, ports, volumes, lists."""

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from local_node import IMAGE, LocalNode, local_node
from overlay_hosts import in_namespace, machines
from pyswarm_command import PyswarmCLI
from runtime_harness import RuntimeNode

pytestmark = pytest.mark.kernel


@pytest.fixture
async def box(node: RuntimeNode, tmp_path: Path) -> AsyncIterator[LocalNode]:
    """A node at work."""
    with machines(tmp_path / "hosts", 1) as (machine,):
        async with local_node(node, machine) as started:
            yield started


@pytest.fixture
def pyswarm(box: LocalNode) -> PyswarmCLI:
    """The command line against it."""
    return PyswarmCLI(str(box.node.runtime_dir / "api.sock"))


def fetch(url: str) -> str:
    """Return what a server says that may still be starting."""
    deadline_s = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


async def test_life_of_a_container(pyswarm: PyswarmCLI, tmp_path: Path) -> None:
    script = "echo x >>/count; trap 'exit 3' TERM; while :; do sleep 0.1; done"
    cidfile = tmp_path / "cid"
    container_id = (await pyswarm("run", "-d", "--cidfile", str(cidfile), "--name", "web", IMAGE, "sh", "-c", script)).strip()
    assert cidfile.read_text() == container_id
    assert (await pyswarm.run("run", "--cidfile", str(cidfile), IMAGE)).code == 125
    assert await pyswarm("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}") == f"{container_id} web running\n"
    assert await pyswarm("pause", "web") == "web\n"
    assert "(Paused)" in await pyswarm("ps")
    assert await pyswarm("unpause", "web") == "web\n"
    result = await pyswarm.run("rm", "web", "nosuch")
    assert result.code == 1
    assert "You cannot remove a running container" in result.errors
    assert "No such container: nosuch" in result.errors
    assert await pyswarm("restart", "-t", "5", "web") == "web\n"
    waiting = asyncio.ensure_future(pyswarm("wait", "web"))
    assert await pyswarm("stop", "web") == "web\n"
    assert await waiting == "3\n"
    assert await pyswarm("start", "web") == "web\n"
    assert await pyswarm("exec", "web", "cat", "/count") == "x\nx\nx\n"
    assert await pyswarm("rename", "web", "site") == ""
    assert await pyswarm("kill", "-s", "KILL", "site") == "site\n"
    assert await pyswarm("wait", "site") == "137\n"
    assert await pyswarm("container", "inspect", "-f", "{{.Name}} {{.State.ExitCode}}", "site") == "/site 137\n"
    assert await pyswarm("rm", "site") == "site\n"
    assert await pyswarm("ps", "-aq") == ""


async def test_restart_policy(pyswarm: PyswarmCLI) -> None:
    await pyswarm("run", "-d", "--name", "again", "--restart", "on-failure:2", IMAGE, "sh", "-c", "echo x >>/count; exit 1")
    async with asyncio.timeout(20):
        while await pyswarm("container", "inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again") != "2 exited\n":
            pass
    assert await pyswarm("cp", "again:/count", "-") != ""


async def test_volumes_and_their_removal(pyswarm: PyswarmCLI, tmp_path: Path) -> None:
    await pyswarm("run", "--name", "one", "-v", "/anonymous", "-v", "data:/data", IMAGE, "sh", "-c", "echo kept >/data/file")
    assert len((await pyswarm("volume", "ls", "-q")).split()) == 2
    assert await pyswarm("rm", "-v", "one") == "one\n"
    assert await pyswarm("volume", "ls", "-q") == "data\n"
    assert await pyswarm("run", "--rm", "-v", "data:/d:ro", IMAGE, "sh", "-c", "cat /d/file; touch /d/x || true") == "kept\n"
    (tmp_path / "mine").write_text("of the host\n")
    bind = f"type=bind,src={tmp_path},dst=/host,readonly"
    assert await pyswarm("run", "--rm", "--mount", bind, IMAGE, "cat", "/host/mine") == "of the host\n"


async def test_published_port(box: LocalNode, pyswarm: PyswarmCLI) -> None:
    script = "mkdir /w; echo hello >/w/index.html; echo ready; exec httpd -f -h /w"
    await pyswarm("run", "-d", "--name", "web", "-p", "8080:80", "-p", "127.0.0.1::81/udp", IMAGE, "sh", "-c", script)
    following = await pyswarm.begin("logs", "-f", "web")
    assert following.stdout is not None
    assert await following.stdout.readline() == b"ready\n"
    assert await asyncio.to_thread(in_namespace, box.machine.netns, lambda: fetch("http://127.0.0.1:8080/")) == "hello\n"
    lines = (await pyswarm("port", "web")).splitlines()
    assert lines[:2] == ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080"]
    assert re.fullmatch(r"81/udp -> 127\.0\.0\.1:\d+", lines[2])
    assert await pyswarm("port", "web", "80") == "0.0.0.0:8080\n[::]:8080\n"
    result = await pyswarm.run("port", "web", "82")
    assert (result.code, result.errors) == (1, "Error: No public port '82' published for web\n")
    assert "0.0.0.0:8080->80/tcp" in await pyswarm("ps", "--format", "{{.Ports}}")
    taken = await pyswarm.run("run", "--rm", "-p", "8080:80", IMAGE, "true")
    assert (taken.code, "Bind for 0.0.0.0:8080 failed: port is already allocated" in taken.errors) == (125, True)
    await pyswarm("rm", "-f", "web")
    assert await following.wait() == 0


async def test_health(pyswarm: PyswarmCLI) -> None:
    health = ["--health-cmd", "test -e /ok", "--health-interval", "100ms", "--health-retries", "1"]
    await pyswarm("run", "-d", "--name", "web", *health, IMAGE, "sh", "-c", "touch /ok; exec sleep 1000")
    async with asyncio.timeout(20):
        while not await pyswarm("ps", "-q", "-f", "health=healthy"):
            pass
        assert "(healthy)" in await pyswarm("ps")
        await pyswarm("exec", "-d", "web", "rm", "/ok")
        while not await pyswarm("ps", "-q", "-f", "health=unhealthy"):
            pass


async def test_lists_filters_and_prune(pyswarm: PyswarmCLI) -> None:
    assert (await pyswarm.run("run", "--name", "done", "-l", "k=v", IMAGE, "false")).code == 1
    await pyswarm("run", "-d", "--name", "going", "-v", "data:/data", IMAGE, "sleep", "1000")

    async def names(*filters: str) -> list[str]:
        arguments = [part for text in filters for part in ("-f", text)]
        return (await pyswarm("ps", "-a", "--format", "{{.Names}}", *arguments)).split()

    assert await names() == ["going", "done"]
    for text, expected in {
        "exited=1": ["done"],
        "status=running": ["going"],
        "label=k=v": ["done"],
        "since=done": ["going"],
        "before=going": ["done"],
        "name=go": ["going"],
        "volume=data": ["going"],
        f"ancestor={IMAGE}": ["going", "done"],
    }.items():
        assert await names(text) == expected, text
    assert await pyswarm("ps", "-l", "--format", "{{.Names}}") == await pyswarm("ps", "-n", "1", "--format", "{{.Names}}")
    lines = (await pyswarm("ps", "-a")).splitlines()
    assert re.split(r" {3,}", lines[0]) == ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert re.fullmatch(r'[0-9a-f]{12}   box:1   "sleep 1000"   .* ago {3,}Up .* {3,}going', lines[1])
    row = json.loads((await pyswarm("ps", "--format", "json")).splitlines()[0])
    assert (row["Names"], row["Mounts"], row["LocalVolumes"], row["Networks"]) == ("going", "data", "1", "bridge")
    refused = await pyswarm.run("ps", "-f", "status=bad")
    assert (refused.code, refused.errors) == (1, "Error: Unrecognised filter value for status: bad\n")
    assert (await pyswarm.run("container", "prune", stdin=b"n\n")).code == 1
    assert (await pyswarm("container", "prune", stdin=b"y\n")).startswith("This will remove all stopped containers.")
    assert await names() == ["going"]


async def test_top_and_stats(pyswarm: PyswarmCLI) -> None:
    await pyswarm("run", "-d", "--name", "web", IMAGE, "sleep", "1000")
    assert (await pyswarm("top", "web")).splitlines()[0].split()[:3] == ["UID", "PID", "PPID"]
    assert re.fullmatch(r" *PID +COMMAND\n *\d+ +sleep\n", await pyswarm("top", "web", "-o", "pid,comm"))
    lines = (await pyswarm("stats", "--no-stream")).splitlines()
    assert re.fullmatch(r"[0-9a-f]{12} +web +\d+\.\d\d% +\S+ / \S+ +\d+\.\d\d% +\S+ / \S+ +\S+ / \S+ +1", lines[1])
    assert (await pyswarm.run("stats", "--no-stream", "nosuch")) == (1, "", "Error: No such container: nosuch\n")
