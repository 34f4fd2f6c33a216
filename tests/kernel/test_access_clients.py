"""The unmodified docker CLI and the Docker SDK for Python reaching into real containers through a real socket."""

import asyncio
import json
import os
import pty
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import docker
import httpx
import pytest
from access_server import access_served
from docker.errors import APIError, NotFound
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_common.engine_api.streams import frame

pytestmark = pytest.mark.kernel
LIVES = "echo ready; exec sleep 1000"


class Clients:
    """The clients of one daemon's socket."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._env = {"DOCKER_HOST": f"unix://{socket_path}", "PATH": os.environ["PATH"], "HOME": "/nonexistent"}

    async def run(self, *args: str, stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
        """Run docker; return exit code, output and errors."""
        process = await asyncio.create_subprocess_exec(
            "docker",
            *args,
            env=self._env,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            out, errors = await process.communicate(stdin)
        assert process.returncode is not None
        return process.returncode, out, errors

    async def __call__(self, *args: str, stdin: bytes | None = None) -> str:
        """Run docker, which must succeed; return its output."""
        code, out, errors = await self.run(*args, stdin=stdin)
        assert code == 0, (args, out, errors)
        return out.decode()

    async def sdk(self, use: Callable[[Any], None]) -> None:
        """Use the SDK in a thread."""

        def work() -> None:
            client = docker.DockerClient(base_url=f"unix://{self._socket_path}", timeout=20)
            try:
                use(client)
            finally:
                client.close()

        await asyncio.to_thread(work)

    def http(self) -> httpx.AsyncClient:
        """Return a plain client."""
        return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=self._socket_path), base_url="http://docker")

    async def at_terminal(self, *args: str) -> "Terminal":
        """Run docker at a terminal."""
        main, other = pty.openpty()
        process = await asyncio.create_subprocess_exec("docker", *args, env=self._env, stdin=other, stdout=other, stderr=other)
        os.close(other)
        os.set_blocking(main, False)
        return Terminal(main, process)


class Terminal:
    """A program at a terminal."""

    def __init__(self, main: int, process: asyncio.subprocess.Process) -> None:
        self._main = main
        self.process = process
        self.seen = b""

    async def sees(self, words: bytes) -> None:
        """Read until these words have come."""
        async with asyncio.timeout(15):
            while words not in self.seen:
                try:
                    self.seen += os.read(self._main, 4096)
                except BlockingIOError:
                    await asyncio.sleep(0.01)

    def types(self, keys: bytes) -> None:
        """Type."""
        os.write(self._main, keys)

    async def ends(self) -> int:
        """Return its exit code."""
        async with asyncio.timeout(15):
            code = await self.process.wait()
        os.close(self._main)
        return code


@pytest.fixture
async def clients(node: RuntimeNode) -> AsyncIterator[Clients]:
    access = ContainerAccess(node.runtime)
    await access.start()
    with TemporaryDirectory(prefix="psw-access-") as folder:
        async with access_served(Path(folder), node.runtime, access) as path:
            yield Clients(path)
    await access.close()


async def test_exec_by_cli(node: RuntimeNode, clients: Clients) -> None:
    box = await node.started(LIVES, name="box", env=("PATH=/bin", "A=1"))
    code, out, errors = await clients.run(
        "exec", "-e", "B=2", "-w", "/tmp", "box", "sh", "-c", "echo $A $B $PWD; echo e >&2; exit 5"
    )
    assert (code, out, errors) == (5, b"1 2 /tmp\n", b"e\n")
    assert await clients("exec", "-u", "web", box[:12], "id", "-u") == "33\n"
    megabytes = os.urandom(3_000_000)
    code, out, _ = await clients.run("exec", "-i", "box", "cat", stdin=megabytes)
    assert (code, out == megabytes) == (0, True)
    assert await clients("exec", "-d", "box", "touch", "/tmp/detached") == ""
    assert await clients("exec", "box", "ls", "/tmp") == "detached\n"
    for command, exit_code, words in (
        (("box", "nope"), 127, 'exec: "nope": executable file not found in $PATH'),
        (("box", "/etc/passwd"), 126, "permission denied"),
        (("nosuch", "true"), 1, "No such container: nosuch"),
        (("-u", "nobody", "box", "true"), 126, "unable to find user nobody"),
    ):
        code, out, errors = await clients.run("exec", *command)
        assert code == exit_code, (command, code, out, errors)
        assert words in (out + errors).decode()


async def test_exec_at_a_terminal(node: RuntimeNode, clients: Clients) -> None:
    await node.started(LIVES, name="box")
    terminal = await clients.at_terminal("exec", "-it", "box", "sh")
    await terminal.sees(b"# ")
    terminal.types(b"stty size; tty; exit 3\n")
    await terminal.sees(b"/dev/pts/")
    assert await terminal.ends() == 3
    terminal = await clients.at_terminal("exec", "-it", "--detach-keys", "ctrl-x,q", "box", "sh", "-c", "echo here; sleep 1000")
    await terminal.sees(b"here")
    terminal.types(b"\x18q")
    await terminal.sees(b"read escape sequence")
    await terminal.ends()
    assert "sleep 1000" in await clients("top", "box")


async def test_exec_in_containers_that_cannot(node: RuntimeNode, clients: Clients) -> None:
    box = await node.started(LIVES, name="box")
    await clients("pause", "box")
    code, _, errors = await clients.run("exec", "box", "true")
    assert (code, f"Container {box} is paused, unpause the container before exec" in errors.decode()) == (1, True)
    code, _, errors = await clients.run("pause", "box")
    assert f"Container {box} is already paused" in errors.decode()
    await clients("unpause", "box")
    code, _, errors = await clients.run("unpause", "box")
    assert f"Container {box} is not paused" in errors.decode()
    await node.runtime.stop(box)
    code, _, errors = await clients.run("exec", "box", "true")
    assert f"Container {box} is not running" in errors.decode()


async def test_exec_by_sdk(node: RuntimeNode, clients: Clients) -> None:
    await node.started(LIVES, name="box")

    def use(client: Any) -> None:
        container = client.containers.get("box")
        assert container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 2"], demux=True) == (2, (b"out\n", b"err\n"))
        assert container.exec_run("echo hi", tty=True) == (0, b"hi\r\n")
        assert container.exec_run(["id", "-u"], user="web", environment={"X": "1"}).output == b"33\n"
        made = client.api.exec_create("box", ["sh", "-c", "read a; echo got $a; exit 4"], stdin=True)["Id"]
        described = client.api.exec_inspect(made)
        assert (described["Running"], described["ExitCode"], described["OpenStdin"], described["Pid"]) == (False, None, True, 0)
        assert described["ProcessConfig"]["entrypoint"] == "sh"
        stream = client.api.exec_start(made, socket=True)
        stream._sock.sendall(b"me\n")
        kind, length = struct.unpack(">BxxxL", stream.read(8))
        assert (kind, stream.read(length), stream.read()) == (1, b"got me\n", b"")
        stream._sock.close()
        stream.close()
        assert (client.api.exec_inspect(made)["Running"], client.api.exec_inspect(made)["ExitCode"]) == (False, 4)
        with pytest.raises(APIError, match="has already run"):
            client.api.exec_start(made)
        with pytest.raises(NotFound, match="No such exec instance: nosuch"):
            client.api.exec_inspect("nosuch")
        with pytest.raises(APIError, match="No exec command specified"):
            client.api.exec_create("box", [])
        detached = client.api.exec_create("box", ["sleep", "1000"])["Id"]
        assert client.api.exec_start(detached, detach=True) == ""
        assert client.api.inspect_container("box")["ExecIDs"] == [detached]
        with pytest.raises(APIError, match="executable file not found"):
            client.api.exec_start(client.api.exec_create("box", ["nope"])["Id"], detach=True)

    await clients.sdk(use)


async def test_attach_by_cli(node: RuntimeNode, clients: Clients) -> None:
    script = "echo ready; read line; echo got $line; echo oops >&2; exit 6"
    await node.started(script, name="box", open_stdin=True, stdin_once=True)
    code, out, errors = await clients.run("attach", "box", stdin=b"hello\n")
    assert (code, out, errors) == (6, b"got hello\n", b"oops\n")


async def test_attach_at_a_terminal_and_leave(node: RuntimeNode, clients: Clients) -> None:
    script = "trap 'stty size' WINCH; echo ready; while true; do read line && echo got $line; done"
    box = await node.started(script, name="box", tty=True, open_stdin=True)
    for _ in range(2):
        terminal = await clients.at_terminal("attach", "box")
        terminal.types(b"hello\r")
        await terminal.sees(b"got hello")
        terminal.types(b"\x10\x11")
        await terminal.sees(b"read escape sequence")
        await terminal.ends()
    record = node.runtime.get(box)
    assert record is not None
    assert record.state == "running"


async def test_attach_by_sdk_with_what_was_written_before(node: RuntimeNode, clients: Clients) -> None:
    await node.started("echo ready; echo second >&2; until [ -e /tmp/go ]; do sleep 0.1; done; echo third", name="box")

    def use(client: Any) -> None:
        container = client.containers.get("box")
        assert container.attach(logs=True, stream=False, stderr=False) == b"ready\n"

    await clients.sdk(use)
    async with clients.http() as http:  # as old clients do, without an upgrade
        attached = http.post("/containers/box/attach?logs=1&stream=1&stdout=1&stderr=1")
        answer, finished = await asyncio.gather(attached, clients.run("exec", "box", "touch", "/tmp/go"))
    assert finished[0] == 0
    assert answer.content == frame(1, b"ready\n") + frame(2, b"second\n") + frame(1, b"third\n")


async def test_top(node: RuntimeNode, clients: Clients) -> None:
    await node.started("echo ready; sleep 1000 & sleep 1000 'with  blanks'; wait", name="box")
    lines = (await clients("top", "box")).splitlines()
    assert lines[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert len(lines) >= 3
    assert (await clients("top", "box", "-o", "pid,comm")).splitlines()[0].split() == ["PID", "COMMAND"]
    code, _, errors = await clients.run("top", "box", "-o", "comm")
    assert (code, "Couldn't find PID field in ps output" in errors.decode()) == (1, True)
    code, _, errors = await clients.run("top", "box", "-eo", "uid=PID,comm")
    assert (code, b"not allowed" in errors) == (1, True)

    def use(client: Any) -> None:
        assert client.containers.get("box").top()["Titles"][1] == "PID"

    await clients.sdk(use)
    assert json.loads(await clients("inspect", "box"))[0]["State"]["Status"] == "running"


async def test_statistics(node: RuntimeNode, clients: Clients) -> None:
    box = await node.started("echo ready; while true; do :; done", name="box", memory_bytes=2**26)
    columns = "{{.Name}} {{.ID}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}"
    name, shown_id, processors, _, _, limit, processes = (
        await clients("stats", "--no-stream", "--no-trunc", "--format", columns, "box")
    ).split()
    assert (name, shown_id, limit, processes) == ("box", box, "64MiB", "1")
    assert float(processors.rstrip("%")) > 1

    def use(client: Any) -> None:
        container = client.containers.get("box")
        figures = container.stats(stream=False)
        assert figures["cpu_stats"]["cpu_usage"]["total_usage"] > figures["precpu_stats"]["cpu_usage"]["total_usage"] > 0
        assert figures["memory_stats"]["limit"] == 2**26
        once = client.api.stats("box", stream=False, one_shot=True)
        assert (once["preread"], once["precpu_stats"]["cpu_usage"]["total_usage"]) == ("0001-01-01T00:00:00Z", 0)

    await clients.sdk(use)
    async with clients.http() as http, http.stream("GET", "/containers/box/stats") as stream:
        lines = stream.aiter_lines()
        first, second = json.loads(await anext(lines)), json.loads(await anext(lines))
    assert second["preread"] == first["read"]
    await node.runtime.stop(box, grace_s=0)
    assert (await clients("stats", "--no-stream", "--format", columns, "box")).startswith("box ")


async def test_copying(node: RuntimeNode, clients: Clients, tmp_path: Path) -> None:
    await node.started("mkdir -p /srv/d/e; echo one > /srv/d/f; ln -s d /srv/link; " + LIVES, name="box")
    await clients("cp", "box:/srv/d", str(tmp_path / "copy"))
    assert (tmp_path / "copy/f").read_text() == "one\n"
    assert (tmp_path / "copy/e").is_dir()
    await clients("cp", "box:/srv/d/.", str(tmp_path / "copy"))
    await clients("cp", "-L", "box:/srv/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed/f").read_text() == "one\n"
    await clients("cp", "box:/srv/link", str(tmp_path / "kept"))
    assert (tmp_path / "kept").is_symlink()
    content = os.urandom(2_000_000)
    (tmp_path / "copy/big").write_bytes(content)
    await clients("cp", str(tmp_path / "copy"), "box:/tmp")
    await clients("cp", str(tmp_path / "copy/big"), "box:/tmp/renamed")
    await clients("cp", "-a", str(tmp_path / "copy/f"), "box:/srv/link/")
    assert await clients("exec", "box", "sh", "-c", "cat /tmp/copy/big | cmp - /tmp/renamed && cat /srv/d/f") == "one\n"
    code, out, _ = await clients.run("cp", "box:/tmp/renamed", "-")
    assert (code, content in out) == (0, True)
    for command, *words in (  # the second wording is that of the client of version 20.10
        (
            ("box:/nowhere", str(tmp_path / "x")),
            "Could not find the file /nowhere in container",
            "No such container:path: box:/nowhere",
        ),
        (("box:/proc/cpuinfo", str(tmp_path / "x")), "proc"),
        (
            (str(tmp_path / "copy/f"), "box:/nowhere/at/all"),
            "Could not find the file /nowhere/at",
            "No such container:path: box:/nowhere/at",
        ),
        ((str(tmp_path / "copy"), "box:/srv/d/f"), "cannot copy directory"),
    ):
        code, _, errors = await clients.run("cp", *command)
        assert (code, any(each in errors.decode() for each in words)) == (1, True), (command, errors)

    def use(client: Any) -> None:
        chunks, described = client.containers.get("box").get_archive("/srv/d/f")
        assert (described["name"], described["size"], b"one\n" in b"".join(chunks)) == ("f", 4, True)
        exported = b"".join(client.containers.get("box").export())
        assert b"bin/busybox" in exported

    await clients.sdk(use)
