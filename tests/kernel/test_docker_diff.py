"""What docker's clients tell of a container's files: changes, sizes, places; and when it ran."""

import asyncio
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from local_node import IMAGE, LocalNode, local_node
from overlay_hosts import machines
from runtime_harness import RuntimeNode

from pyswarm_cli.main import pyswarm as command

pytestmark = pytest.mark.kernel

MIB = 1 << 20


@pytest.fixture
async def box(node: RuntimeNode, tmp_path: Path) -> AsyncIterator[LocalNode]:
    """A node at work."""
    with machines(tmp_path / "hosts", 1) as (machine,):
        async with local_node(node, machine) as started:
            yield started


async def test_diff(box: LocalNode) -> None:
    script = "echo x >>/etc/passwd; rm /etc/group; mkdir /srv; echo x >/srv/new; rm -r /root; mkdir /root; echo x >/tmp/t"
    await box.docker("create", "--name", "web", "-v", "/data", "--tmpfs", "/cache", IMAGE, "sh", "-c", script)
    assert await box.docker("diff", "web") == ""
    await box.docker("start", "-a", "web")
    assert (await box.docker("diff", "web")).splitlines() == [
        "C /etc",
        "D /etc/group",
        "C /etc/passwd",
        "C /root",
        "A /srv",
        "A /srv/new",
        "C /tmp",
        "A /tmp/t",
    ]


async def test_nothing_is_changed_by_running(box: LocalNode) -> None:
    await box.docker("run", "-d", "--init", "--name", "web", "-v", "/var/lib/data", IMAGE, "sleep", "1000")
    assert await box.docker("diff", "web") == ""


async def test_sizes_and_what_prune_frees(box: LocalNode) -> None:
    await box.docker("run", "--name", "web", IMAGE, "sh", "-c", "dd if=/dev/zero of=/x bs=1M count=3 2>/dev/null")
    assert "3.15MB (virtual" in await box.docker("ps", "-as", "--format", "{{.Size}}")
    assert json.loads(await box.docker("inspect", "-s", "web"))[0]["SizeRw"] == 3 * MIB
    assert "Total reclaimed space: 3.146MB" in await box.docker("container", "prune", "-f")


async def test_places_of_files(box: LocalNode) -> None:
    await box.docker("run", "-d", "--name", "web", "--hostname", "here", IMAGE, "sleep", "1000")
    shown = json.loads(await box.docker("inspect", "web"))[0]
    assert Path(shown["HostnamePath"]).read_text() == "here\n"
    assert "here" in Path(shown["HostsPath"]).read_text()
    assert Path(shown["ResolvConfPath"]).exists()
    assert Path(shown["LogPath"]).exists()
    assert Path(shown["GraphDriver"]["Data"]["UpperDir"]).is_dir()
    assert os.path.isfile(f"{shown['GraphDriver']['Data']['LowerDir']}/bin/busybox")


async def test_the_end_of_the_run_before(box: LocalNode) -> None:
    async def times() -> list[str]:
        return (await box.docker("inspect", "-f", "{{.State.StartedAt}} {{.State.FinishedAt}}", "web")).split()

    await box.docker("create", "--name", "web", IMAGE, "sh", "-c", "[ -e /once ] && exec sleep 1000; touch /once")
    assert (await times())[1] == "0001-01-01T00:00:00Z"
    await box.docker("start", "-a", "web")
    _, finished = await times()
    await box.docker("start", "web")
    started, kept = await times()
    assert kept == finished < started


async def pyswarm(box: LocalNode, *arguments: str) -> Result:
    line = ["-H", box.docker.environment["DOCKER_HOST"], *arguments]
    return await asyncio.to_thread(CliRunner().invoke, command, line, catch_exceptions=False)


async def test_the_same_by_our_own_command(box: LocalNode, tmp_path: Path) -> None:
    await box.docker("run", "-d", "--name", "web", "-m", "64m", IMAGE, "sh", "-c", "echo x >/new; exec sleep 1000")
    await box.docker("exec", "web", "test", "-e", "/new")
    assert (await pyswarm(box, "diff", "web")).stdout == "A /new\n"
    assert (await pyswarm(box, "export", "--output", str(tmp_path / "web.tar"), "web")).exit_code == 0
    whole = (await pyswarm(box, "container", "export", "web")).stdout_bytes
    for archive in (io.BytesIO((tmp_path / "web.tar").read_bytes()), io.BytesIO(whole)):
        with tarfile.open(fileobj=archive) as tar:
            assert {"new", "bin/busybox"} <= set(tar.getnames())
    assert (await pyswarm(box, "update", "--memory", "128m", "--restart", "on-failure:3", "web")).stdout == "web\n"
    host = json.loads(await box.docker("inspect", "web"))[0]["HostConfig"]
    assert (host["Memory"], host["RestartPolicy"]) == (128 * MIB, {"Name": "on-failure", "MaximumRetryCount": 3})
