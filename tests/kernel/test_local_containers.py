"""Single containers on a node whose daemon is stopped, killed and started again: pyswarmd itself, in a host's network namespace."""

import asyncio
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from docker_command import DockerCLI
from image_builder import BuiltImage, write_docker_archive
from local_node import LocalNode, local_node
from overlay_hosts import Machine, machines, run
from runtime_harness import RuntimeNode

from pyswarm_node.config import DaemonConfig

pytestmark = pytest.mark.kernel
STATE = "{{.State.Status}} {{.State.Pid}} {{.Name}}"


class Daemon:
    """A pyswarmd in a network namespace of its own; `start`, `stop` and `kill` any number of times."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.data_dir, self.runtime_dir, self.machine = folder / "data", folder / "run", machine
        self.tag = DaemonConfig(data_dir=self.data_dir, runtime_dir=self.runtime_dir).instance_tag
        self.docker = DockerCLI(str(self.runtime_dir / "pyswarm.sock"))
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[bytes] | None = None

    async def start(self) -> None:
        """Run until it serves."""
        program = [Path(sys.executable).with_name("pyswarmd"), f"--data-dir={self.data_dir}", f"--runtime-dir={self.runtime_dir}"]
        self._process = await asyncio.create_subprocess_exec(
            "nsenter", f"--net={self.machine.netns}", *program, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert self._process.stderr is not None
        async with asyncio.timeout(20):
            while b"daemon.started" not in (line := await self._process.stderr.readline()):
                assert line, "the daemon ended"
        self._log = asyncio.ensure_future(self._process.stderr.read())

    async def end(self, number: signal.Signals) -> None:
        """Send it a signal and wait for its end."""
        assert self._process is not None
        assert self._log is not None
        self._process.send_signal(number)
        await self._process.wait()
        await self._log
        self._process = None

    async def load(self, layer: Path) -> None:
        """Load busybox as `box:1`."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.add(layer, arcname=".")
        archive = self.data_dir.parent / "image.tar"
        write_docker_archive(archive, [(BuiltImage([data.getvalue()], {"Cmd": ["sh"], "Env": ["PATH=/bin"]}), ["box:1"])])
        await self.docker("load", "-i", str(archive))

    async def remove_everything(self) -> None:
        """Leave nothing behind: containers by the API, then the daemon, then the bridge, which stays as Docker's does."""
        if self._process is None:
            await self.start()
        for container_id in (await self.docker("ps", "-aq")).split():
            await self.docker("rm", "-fv", container_id)
        await self.end(signal.SIGTERM)
        assert list((self.data_dir / "containers").glob("*")) == []
        netns = self.runtime_dir / "local-network/netns"
        if netns.is_mount():
            run("umount", "--recursive", str(netns))


@pytest.fixture
async def daemon(busybox_layer: Path, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A running daemon with an image."""
    with machines(tmp_path / "hosts", 1) as (machine,), TemporaryDirectory(prefix="psw-") as folder:
        daemon = Daemon(Path(folder), machine)
        await daemon.start()
        await daemon.load(busybox_layer)
        try:
            yield daemon
        finally:
            await daemon.remove_everything()


@pytest.fixture
async def box(node: RuntimeNode, tmp_path: Path) -> AsyncIterator[LocalNode]:
    """A node at work, in this process."""
    with machines(tmp_path / "hosts", 1) as (machine,):
        async with local_node(node, machine) as started:
            yield started


async def test_containers_outlive_the_daemon(daemon: Daemon) -> None:
    docker = daemon.docker
    going = (await docker("run", "-d", "--name", "going", "-p", "8080:80", "box:1", "sleep", "1000")).strip()
    await docker("run", "-d", "--name", "again", "--restart", "always", "box:1", "sh", "-c", "echo x >>/count; exec sleep 1000")
    await docker("run", "-d", "--name", "once", "--rm", "box:1", "sleep", "1000")
    pids = (await docker("inspect", "-f", "{{.State.Pid}}", "going", "again", "once")).split()
    await daemon.end(signal.SIGKILL)
    for pid in pids[1:]:
        os.kill(int(pid), signal.SIGKILL)
    await daemon.start()
    assert await docker("inspect", "-f", "{{.Id}} {{.State.Pid}}", "going") == f"{going} {pids[0]}\n"
    assert "0.0.0.0:8080" in await docker("port", "going")

    async def restarted() -> bool:
        return await docker("inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "again") == "running 1\n"

    await eventually(restarted)
    assert await docker("exec", "again", "cat", "/count") == "x\nx\n"

    async def is_gone() -> bool:
        return "once" not in (await docker("ps", "-a", "--format", "{{.Names}}")).split()

    await eventually(is_gone)


async def test_killed_at_any_moment(daemon: Daemon) -> None:
    """Nothing is half there after a SIGKILL at a random moment of creating, starting, restarting and removing."""
    docker, seed = daemon.docker, random.randrange(1 << 32)
    choices = random.Random(seed)
    for round_number in range(4):
        steps = [
            docker.run(
                "run",
                "-d",
                "--name",
                f"n{round_number}",
                "--restart",
                "always",
                "-p",
                f"80{round_number}0:80",
                "box:1",
                "sleep",
                "99",
            ),
            docker.run("restart", "-t", "0", f"n{round_number - 1}"),
            docker.run("rm", "-f", f"n{round_number - 2}"),
        ]
        under_way = [asyncio.ensure_future(step) for step in steps]
        await asyncio.sleep(choices.uniform(0, 0.6))
        await daemon.end(signal.SIGKILL)
        await asyncio.gather(*under_way)
        await daemon.start()
        for container_id in (await docker("ps", "-aq", "--no-trunc")).split():
            await eventually(partial(is_settled, docker, container_id))
            state, pid, name = (await docker("inspect", "-f", STATE, container_id)).split()
            has_process = Path(f"/proc/{pid}").exists()
            assert has_process if state == "running" else pid == "0", f"seed {seed}: {name} is {state} with process {pid}"
            await docker("start", container_id)
            assert await docker("exec", container_id, "echo", "ok") == "ok\n", f"seed {seed}"
    files = {path.stem for path in daemon.data_dir.glob("local-containers/*")}  # no folder: each kill came before it was made
    assert files == {path.name for path in daemon.data_dir.glob("containers/*")}, f"seed {seed}"


async def test_layer_and_log_are_kept(box: LocalNode) -> None:
    docker = box.docker
    assert await docker("run", "--name", "web", "box:1", "sh", "-c", "cat /f; echo again >>/f; rm -f /bin/ls") == ""
    assert await docker("start", "-a", "web") == "again\n"
    assert await docker("start", "-a", "web") == "again\nagain\n"
    assert await docker("logs", "web") == "again\nagain\nagain\n"


async def test_places(box: LocalNode) -> None:
    docker = box.docker
    await docker("run", "-d", "--name", "web", "--hostname", "web", "--add-host", "db:192.0.2.9", "box:1", "sleep", "1000")
    address = (await docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")).strip()
    assert address.startswith("172.")
    hosts = await docker("exec", "web", "cat", "/etc/hosts")
    assert f"{address}\tweb" in hosts
    assert "192.0.2.9\tdb" in hosts
    assert await docker("run", "--rm", "box:1", "ping", "-c", "1", "-W", "2", "-q", address) != ""
    shared = await docker("run", "--rm", "--network", "container:web", "box:1", "sh", "-c", "hostname; ip -4 -o address show eth0")
    assert shared.startswith("web\n")
    assert address in shared
    links = await docker("run", "--rm", "--network", "none", "box:1", "ls", "/sys/class/net")
    assert links.split() == ["lo"]
    code, _, errors = await docker.run("run", "--rm", "--network", "app", "box:1", "true")
    assert (code, "network app not found" in errors) == (125, True)
    await docker("stop", "-t", "0", "web")
    code, _, errors = await docker.run("run", "--rm", "--network", "container:web", "box:1", "true")
    assert (code, "cannot join network of a non running container" in errors) == (125, True)


async def test_the_hosts_own_network(box: LocalNode) -> None:
    own = subprocess.run(["ls", "/sys/class/net"], capture_output=True, text=True, check=True).stdout.split()
    assert (await box.docker("run", "--rm", "--network", "host", "box:1", "ls", "/sys/class/net")).split() == own


async def test_volumes_and_binds(box: LocalNode, tmp_path: Path) -> None:
    docker = box.docker
    await docker("run", "--rm", "-v", "data:/d", "-v", f"{tmp_path}/new:/b", "box:1", "sh", "-c", "echo v >/d/f; echo b >/b/f")
    assert (tmp_path / "new/f").read_text() == "b\n"
    assert (
        await docker("run", "--rm", "-v", "data:/d:ro", "--tmpfs", "/t:size=64k", "box:1", "sh", "-c", "cat /d/f; df -k /t") != ""
    )
    code, _, errors = await docker.run("run", "--rm", "-v", "data:/d:ro", "box:1", "touch", "/d/g")
    assert (code, "Read-only file system" in errors) == (1, True)


async def test_restarts_with_real_processes(box: LocalNode) -> None:
    await box.docker("run", "-d", "--name", "web", "--restart", "on-failure:2", "box:1", "sh", "-c", "echo x >>/count; exit 3")

    async def has_given_up() -> bool:
        shown = await box.docker("inspect", "-f", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}", "web")
        return shown == "exited 2 3\n"

    await eventually(has_given_up)
    assert await box.docker("cp", "web:/count", "-") != ""


async def is_settled(docker: DockerCLI, container_id: str) -> bool:
    """Whether it is not waiting to be started again."""
    return not (await docker("inspect", "-f", STATE, container_id)).startswith("restarting")


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what the daemon does in its own time."""
    async with asyncio.timeout(15):
        while not await is_so():  # noqa: ASYNC110  what another process does has no event
            await asyncio.sleep(0.05)
