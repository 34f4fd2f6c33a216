"""The unmodified docker CLI with single containers on a real node."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from local_node import IMAGE, LocalNode, local_node
from overlay_hosts import machines
from runtime_harness import RuntimeNode

pytestmark = pytest.mark.kernel


@pytest.fixture
async def box(node: RuntimeNode, tmp_path: Path) -> AsyncIterator[LocalNode]:
    """A node at work."""
    with machines(tmp_path / "hosts", 1) as (machine,):
        async with local_node(node, machine) as started:
            yield started


async def test_run_in_the_foreground(box: LocalNode) -> None:
    assert await box.docker("run", "--rm", IMAGE, "echo", "hello") == "hello\n"
    assert await box.docker("ps", "-aq") == ""
    code, output, errors = await box.docker.run("run", "--name", "one", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (code, output, errors) == (7, "out\n", "err\n")
    code, output, errors = await box.docker.run("run", "--rm", "--name", "one", IMAGE, "true")
    assert code == 125
    assert 'Conflict. The container name "/one" is already in use by container' in errors
    code, _, errors = await box.docker.run("run", "--rm", IMAGE, "nosuch")
    assert (code, "executable file not found in $PATH" in errors) == (127, True)
    listed = await box.docker("ps", "-a", "--format", "{{.Names}} {{.Status}}")
    assert re.fullmatch(r"one Exited \(7\) (Less than a second|1 second|\d seconds) ago\n", listed)


async def test_life_of_a_container(box: LocalNode) -> None:
    docker = box.docker
    container_id = (await docker("run", "-d", "--name", "web", IMAGE, "sh", "-c", "echo x >>/count; exec sleep 1000")).strip()
    assert await docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}") == f"{container_id} web running\n"
    code, _, errors = await docker.run("rm", "web")
    assert (code, "You cannot remove a running container" in errors) == (1, True)
    assert await docker("restart", "-t", "0", "web") == "web\n"
    assert await docker("stop", "-t", "0", "web") == "web\n"
    assert await docker("wait", "web") == "137\n"
    assert await docker("start", "web") == "web\n"
    assert await docker("exec", "web", "cat", "/count") == "x\nx\nx\n"
    assert await docker("rename", "web", "site") == ""
    assert await docker("inspect", "-f", "{{.Name}} {{.State.Running}} {{.RestartCount}}", "site") == "/site true 0\n"
    assert await docker("rm", "-f", "site") == "site\n"
    assert await docker("ps", "-aq") == ""


async def test_wait_before_the_end_and_kill(box: LocalNode) -> None:
    await box.docker("run", "-d", "--name", "web", IMAGE, "sleep", "1000")
    waiting = asyncio.ensure_future(box.docker("wait", "web"))
    await box.docker("kill", "-s", "KILL", "web")
    assert await waiting == "137\n"
    code, _, errors = await box.docker.run("kill", "web")
    assert (code, "is not running" in errors) == (1, True)


async def test_input_reaches_the_container(box: LocalNode) -> None:
    process = await asyncio.create_subprocess_exec(
        *("docker", "run", "--rm", "-i", IMAGE, "cat"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=box.docker.environment,
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate(b"through\n")
    assert output == b"through\n"


async def test_what_inspect_says(box: LocalNode) -> None:
    await box.docker(
        *("create", "--name", "web", "-e", "A=1", "-l", "k=v", "--restart", "on-failure:3", "-m", "64m", "-w", "/tmp"),
        *("-p", "8080:80", "--hostname", "here", "-v", "/srv/data", IMAGE, "sleep", "5"),
    )
    shown = json.loads(await box.docker("inspect", "web"))[0]
    config, host = shown["Config"], shown["HostConfig"]
    assert (config["Env"], config["Cmd"], config["WorkingDir"]) == (["PATH=/bin", "A=1"], ["sleep", "5"], "/tmp")
    assert (config["Hostname"], config["Labels"], config["Image"]) == ("here", {"k": "v"}, IMAGE)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    assert (host["Memory"], shown["State"]["Status"]) == (64 << 20, "created")
    assert [(mount["Type"], mount["Destination"]) for mount in shown["Mounts"]] == [("volume", "/srv/data")]
    assert await box.docker("update", "--restart", "always", "web") == "web\n"
    assert json.loads(await box.docker("inspect", "web"))[0]["HostConfig"]["RestartPolicy"]["Name"] == "always"


async def test_filters_and_prune(box: LocalNode) -> None:
    assert (await box.docker.run("run", "--name", "done", "-l", "k=v", IMAGE, "false"))[0] == 1
    await box.docker("run", "-d", "--name", "going", IMAGE, "sleep", "1000")

    async def names(*filters: str) -> list[str]:
        arguments = [part for text in filters for part in ("-f", text)]
        return (await box.docker("ps", "-a", "--format", "{{.Names}}", *arguments)).split()

    assert await names() == ["going", "done"]
    assert await names("exited=1") == ["done"]
    assert await names("status=running") == ["going"]
    assert await names("label=k=v") == ["done"]
    assert await names("since=done") == ["going"]
    assert await names("before=going") == ["done"]
    assert await names("network=bridge", "name=go") == ["going"]
    assert await names(f"ancestor={IMAGE}") == ["going", "done"]
    assert "done" not in await box.docker("container", "prune", "-f")
    assert await names() == ["going"]


async def test_events(box: LocalNode) -> None:
    await box.docker("run", "--rm", "--name", "web", IMAGE, "true")
    now_s = box.agent.clock.now_ns() // 1_000_000_000
    shown = await box.docker("events", "--since", str(now_s - 60), "--until", str(now_s + 1), "--format", "{{.Action}}")
    actions = [action for action in shown.split() if action != "attach"]
    assert actions == ["create", "connect", "start", "die", "disconnect", "destroy"]
