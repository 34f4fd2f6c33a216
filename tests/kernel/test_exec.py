"""Processes started in running containers: whose rights they have, where they live, and that nothing of them is left."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_agent.runtime.access.execution import ContainerExecution
from pyswarm_agent.runtime.access.interface import STDERR, STDOUT, ExecConfig, TerminalSize
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.processes import identify
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound

pytestmark = pytest.mark.kernel
LIVES = "echo ready; exec sleep 1000"


@pytest.fixture
async def access(node: RuntimeNode) -> AsyncIterator[ContainerAccess]:
    access = ContainerAccess(node.runtime)
    yield access
    await access.close()


def shell(script: str, **changes: object) -> ExecConfig:
    return ExecConfig(args=("sh", "-c", script), **changes)  # type: ignore[arg-type]


async def output_of(execution: ContainerExecution) -> bytes:
    return b"".join([data async for _, data in execution.output()])


async def said(access: ContainerAccess, container_id: str, script: str, **changes: object) -> str:
    finished = await access.run(container_id, shell(script, **changes), timeout_s=10)
    assert finished.exit_code == 0, finished
    return finished.output.decode()


async def wait_gone(pids: set[int]) -> None:
    async with asyncio.timeout(5):
        while any(identify(pid) is not None for pid in pids):  # noqa: ASYNC110  nobody tells when
            await asyncio.sleep(0.01)


async def test_runs_as_the_container_does(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES, env=("PATH=/bin", "A=1", "B=2"), cwd="/tmp", cap_drop=("CHOWN",), memory_bytes=2**26)
    status = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/{}/status"
    assert await said(access, container, status.format("self")) == await said(access, container, status.format(1))
    text = await said(access, container, "echo $A $B $HOME $PWD; id -u; cat /proc/self/oom_score_adj", env=("B=3", "C=4"))
    assert text == f"1 3 /root /tmp\n0\n{node.runtime.host.oom_score_adjustment}\n"
    assert (await said(access, container, "ulimit -n")).strip() == str(node.runtime.host.open_files_limit)
    execution = await access.execute(container, shell("sleep 100"))
    assert execution.pid in node.runtime.cgroups.processes(container)
    await execution.kill()


async def test_users_folders_and_variables_of_its_own(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    text = await said(access, container, "id -u; id -G; echo $HOME $PWD", user="web", cwd="/tmp")
    assert text == "33\n33 50\n/srv/web /tmp\n"
    assert await said(access, container, "id -u; id -g; echo $HOME", user="7:web", env=("HOME=/x",)) == "7\n33\n/x\n"
    with pytest.raises(InvalidArgument, match="unable to find user nobody: no matching entries in passwd file"):
        await access.execute(container, shell("true", user="nobody"))


async def test_a_hostile_passwd_is_not_followed_out_of_the_container(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started("rm /etc/passwd; mkfifo /etc/passwd; ln -sf ../../../../etc/group /etc/group; " + LIVES)
    assert (await said(access, container, "grep Uid /proc/self/status", user="12")).split() == ["Uid:", *["12"] * 4]
    with pytest.raises(InvalidArgument):
        await access.execute(container, shell("true", user="web"))


async def test_privileged_has_all_that_the_host_gives(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    script = "grep CapEff /proc/self/status"
    host = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    assert (await said(access, container, script, is_privileged=True)).strip() == host
    assert (await said(access, container, script)).strip() != host


async def test_pipes_input_and_exit_code(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    execution = await access.execute(container, shell("echo oops >&2; wc -c; exit 7", takes_input=True))
    for _ in range(64):
        await execution.write(b"x" * 65536)
    await execution.close_input()
    streams: dict[int, bytes] = {}
    async for stream, data in execution.output():
        streams[stream] = streams.get(stream, b"") + data
    assert streams == {STDOUT: b"4194304\n", STDERR: b"oops\n"}
    assert await execution.wait() == 7
    await execution.write(b"too late")
    await execution.close()
    without = await access.execute(container, shell("cat; echo end"))
    assert await output_of(without) == b"end\n"


async def test_a_terminal_its_size_and_its_hang_up(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    config = shell(
        "stty size; echo $TERM; trap 'stty size' WINCH; until read answer; do :; done; echo got $answer", tty=True, takes_input=True
    )
    execution = await access.execute(container, config, TerminalSize(30, 100))
    output = execution.output()
    seen = b""
    while b"xterm" not in seen:
        seen += (await anext(output))[1]
    assert seen.startswith(b"30 100\r\n")
    await execution.resize(TerminalSize(40, 120))
    while b"40 120" not in seen:
        seen += (await anext(output))[1]
    await execution.write(b"me\n")
    while b"got me" not in seen:
        seen += (await anext(output))[1]
    assert await execution.wait() == 0
    piped = await access.execute(container, shell("sleep 100"))
    with pytest.raises(Conflict, match="no terminal"):
        await piped.resize(TerminalSize(1, 1))


@pytest.mark.parametrize(
    ("args", "cwd", "exit_code", "words"),
    [
        ("nope", "", 127, 'exec failed: unable to start container process: exec: "nope": executable file not found in $PATH'),
        ("/tmp/plain", "", 126, 'exec: "/tmp/plain": permission denied'),
        ("/etc", "", 126, 'exec: "/etc": permission denied'),
        ("true", "/nowhere", 127, "/nowhere"),
    ],
)
async def test_what_cannot_be_started(
    node: RuntimeNode, access: ContainerAccess, args: str, cwd: str, exit_code: int, words: str
) -> None:
    container = await node.started("echo 1 > /tmp/plain; " + LIVES)
    with pytest.raises(ContainerStartFailed) as raised:
        await access.execute(container, ExecConfig(args=(args,), cwd=cwd))
    assert raised.value.exit_code == exit_code
    assert raised.value.message.startswith("OCI runtime exec failed: exec failed: ")
    assert words in raised.value.message
    assert list((node.runtime.handle(container).paths.bundle / "execs").iterdir()) == []


async def test_only_in_containers_that_run(node: RuntimeNode, access: ContainerAccess) -> None:
    with pytest.raises(NotFound):
        await access.execute("f" * 64, shell("true"))
    config = node.config("exit 0")
    await node.runtime.create(config)
    with pytest.raises(Conflict, match=f"Container {config.id} is not running"):
        await access.execute(config.id, shell("true"))


async def test_a_run_that_hangs_leaves_nothing(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    before = node.runtime.cgroups.processes(container)
    hangs = "sleep 1001 & (setsid sleep 1002 &) ; setsid sh -c 'sleep 1003 & sleep 1004' & trap '' TERM; wait"
    with pytest.raises(TimeoutError):
        await access.run(container, shell(hangs), timeout_s=0.5)
    left = node.runtime.cgroups.processes(container) - before
    # What has left both the session and the tree belongs to the container now, as a daemon would.
    assert len(left) <= 1
    assert list((node.runtime.handle(container).paths.bundle / "execs").iterdir()) == []


async def test_what_is_started_during_the_kill_dies_too(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    before = node.runtime.cgroups.processes(container)
    starts = "setsid sh -c 'while :; do sleep 1000 & usleep 1000; done' & wait"
    with pytest.raises(TimeoutError):
        await access.run(container, shell(starts), timeout_s=0.3)
    assert node.runtime.cgroups.processes(container) == before


async def test_a_run_that_is_cancelled_leaves_nothing(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    before = node.runtime.cgroups.processes(container)
    for pause_s in (0.0, 0.002, 0.005, 0.01, 0.05):
        running = asyncio.ensure_future(access.run(container, shell("sleep 1000"), timeout_s=60))
        await asyncio.sleep(pause_s)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert node.runtime.cgroups.processes(container) == before


async def test_what_a_process_leaves_behind_holds_nobody(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    finished = await access.run(container, shell("sleep 1000 & echo one; echo two >&2"), timeout_s=10)
    assert finished == (0, b"one\ntwo\n")


async def test_output_beyond_the_limit_is_dropped(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    finished = await access.run(container, shell("yes | head -c 1000000"), timeout_s=10, output_limit_bytes=11)
    assert finished == (0, b"y\ny\ny\ny\ny\ny")


async def test_a_client_that_leaves_stops_nothing(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    execution = await access.execute(container, shell("yes | head -c 10000000; exit 4"))
    assert (await anext(execution.output()))[1].startswith(b"y\n")
    await execution.close()
    assert await execution.wait() == 4


async def test_the_end_of_the_container_is_its_end(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    execution = await access.execute(container, shell("sleep 1000"))
    await node.runtime.kill(container, "KILL")
    assert await execution.wait() == 137
    assert await output_of(execution) == b""


async def test_the_next_daemon_ends_what_it_finds(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started(LIVES)
    before = node.runtime.cgroups.processes(container)
    execution = await access.execute(container, shell("trap '' HUP TERM; sleep 1000 & wait"))
    successor = ContainerAccess(node.runtime)
    await successor.start()
    await execution.wait()
    await wait_gone(node.runtime.cgroups.processes(container) - before)
    assert node.runtime.cgroups.processes(container) == before
