"""How a container's process is started, told things, and ended."""

import asyncio
import os
from pathlib import Path

import pytest
from runtime_harness import EVERYTHING, RuntimeNode

from pyswarm_agent.runtime import ContainerStartFailed, MountConfig
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.wire import LogRequest

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_exit_codes(node: RuntimeNode, code: int) -> None:
    status, _ = await node.run(f"exit {code}")
    assert (status.exit_code, status.error, status.oom_killed) == (code, "", False)


async def test_death_by_signal_is_128_and_its_number(node: RuntimeNode) -> None:
    container_id = await node.started("trap 'exit 7' HUP; echo ready; sleep 1000 & wait")
    await node.runtime.kill(container_id, "hup")
    assert (await node.runtime.wait(container_id)).exit_code == 7
    container_id = await node.started("echo ready; sleep 1000")
    await node.runtime.kill(container_id, "KILL")
    assert (await node.runtime.wait(container_id)).exit_code == 137


async def test_stop_signal_is_heard(node: RuntimeNode) -> None:
    container_id = await node.started("trap 'echo bye; exit 5' QUIT; echo ready; sleep 1000 & wait", stop_signal="SIGQUIT")
    assert (await node.runtime.stop(container_id)).exit_code == 5
    assert await node.output(container_id) == "ready\nbye\n"


async def test_stop_kills_all_after_the_grace_period(node: RuntimeNode) -> None:
    container_id = await node.started("trap '' TERM; (trap '' TERM; while :; do sleep 100; done) & echo ready; sleep 1000")
    began = asyncio.get_running_loop().time()
    status = await node.runtime.stop(container_id, grace_s=0.3)
    assert status.exit_code == 137
    assert 0.3 <= asyncio.get_running_loop().time() - began < 2


async def test_env_directory_user_and_groups(node: RuntimeNode) -> None:
    script = 'echo "$A $HOME"; pwd; id'
    _, output = await node.run(script, env=("PATH=/bin", "A=b=c"), cwd="/made/for/it", user="web", groups=("7",))
    assert output.splitlines() == ["b=c /srv/web", "/made/for/it", "uid=33(web) gid=33(web) groups=7,33(web),50(staff)"]


async def test_numeric_user_with_group(node: RuntimeNode) -> None:
    _, output = await node.run("id; whoami", user="1234:staff")
    assert output.splitlines()[0] == "uid=1234 gid=50(staff) groups=50(staff)"


async def test_unknown_user(node: RuntimeNode) -> None:
    with pytest.raises(InvalidArgument, match="unable to find user nobody-here: no matching entries in passwd file"):
        await node.run("id", user="nobody-here")


async def test_account_files_are_sought_inside_the_image(node: RuntimeNode, tmp_path: Path) -> None:
    (tmp_path / "hostile/etc").mkdir(parents=True)
    (tmp_path / "outside").write_text("victim:x:4711:0::/:/bin/sh\n")
    (tmp_path / "hostile/etc/passwd").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidArgument, match="unable to find user victim"):
        await node.run("id", user="victim", layer_paths=(str(tmp_path / "hostile"), str(node.layer)))


async def test_generated_files(node: RuntimeNode) -> None:
    script = "cat /etc/hosts /etc/resolv.conf /etc/hostname; df -k /dev/shm | tail -n 1"
    _, output = await node.run(script, hosts="127.0.0.1 localhost\n", resolv_conf="nameserver 127.0.0.11\n")
    assert output.splitlines()[:3] == ["127.0.0.1 localhost", "nameserver 127.0.0.11", "box"]
    assert output.splitlines()[3].split()[1] == "65536"


async def test_layers_are_stacked_and_stay_untouched(node: RuntimeNode, tmp_path: Path) -> None:
    for name in ("upper", "lower"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    layers = (str(tmp_path / "upper"), str(tmp_path / "lower"), str(node.layer))
    _, output = await node.run("cat /which; echo changed > /which; rm /bin/vi", layer_paths=layers)
    assert output == "upper"
    assert (tmp_path / "upper/which").read_text() == "upper"
    assert (node.layer / "bin/vi").is_symlink()


async def test_many_layers(node: RuntimeNode, tmp_path: Path) -> None:
    layers = [tmp_path / f"{'layer' * 12}{number}" for number in range(120)]
    for layer in layers:
        layer.mkdir()
    (layers[-1] / "deep").write_text("found")
    status, output = await node.run("cat /deep", layer_paths=(*map(str, layers), str(node.layer)))
    assert (status.exit_code, output) == (0, "found")


async def test_read_only_root_and_mounts(node: RuntimeNode, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    mounts = (
        MountConfig(type="bind", source=str(tmp_path / "shared"), target="/shared"),
        MountConfig(type="bind", source=str(tmp_path / "shared"), target="/seen", read_only=True),
        MountConfig(type="tmpfs", target="/scratch"),
    )
    script = "echo x > /shared/a; echo x > /scratch/b; echo x > /seen/c || echo x > /d || cat /seen/a"
    _, output = await node.run(script, mounts=mounts, read_only=True)
    assert "x" in output.splitlines()
    assert output.count("Read-only file system") == 2


async def test_terminal(node: RuntimeNode) -> None:
    status, output = await node.run("tty", tty=True)
    assert (status.exit_code, output.split()) == (0, ["/dev/pts/0"])


async def test_init_reaps(node: RuntimeNode) -> None:
    _, output = await node.run("cat /proc/1/comm; echo $$", init=True)
    assert output.splitlines()[0] in {"docker-init", "tini-static"}
    assert output.splitlines()[1] != "1"


@pytest.mark.parametrize(
    ("program", "reason", "exit_code"),
    [
        ("nope", 'exec: "nope": executable file not found in $PATH: unknown', 127),
        ("/nope", 'exec: "/nope": stat /nope: no such file or directory: unknown', 127),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied: unknown', 126),
    ],
)
async def test_start_failures_in_dockers_words(node: RuntimeNode, program: str, reason: str, exit_code: int) -> None:
    config = node.config("", args=(program,))
    await node.runtime.create(config)
    with pytest.raises(ContainerStartFailed) as caught:
        await node.runtime.start_container(config.id)
    assert str(caught.value) == f"OCI runtime create failed: unable to start container process: {reason}"
    assert caught.value.exit_code == exit_code
    record = node.runtime.get(config.id)
    assert record is not None
    assert record.state == "created"


async def test_bind_source_must_exist(node: RuntimeNode) -> None:
    mount = MountConfig(type="bind", source="/does/not/exist", target="/x")
    with pytest.raises(InvalidArgument, match="bind source path does not exist: /does/not/exist"):
        await node.runtime.create(node.config("true", mounts=(mount,)))


async def test_output_of_both_streams(node: RuntimeNode) -> None:
    container_id = await node.started("echo out; echo err >&2; printf 'no end'")
    await node.runtime.wait(container_id)
    lines = [line async for line in node.runtime.logs(container_id, LogRequest(task_id=""))]
    # The monitor reads two pipes: only within a stream is the order certain.
    assert [line.line for line in lines if line.stream == 1] == [b"out\n", b"no end"]
    assert [line.line for line in lines if line.stream == 2] == [b"err\n"]
    only = [line.line async for line in node.runtime.logs(container_id, LogRequest(task_id="", stdout=False))]
    assert only == [b"err\n"]


async def test_long_lines_come_whole(node: RuntimeNode) -> None:
    _, output = await node.run("head -c 100000 /dev/zero | tr '\\0' x; echo; echo next")
    assert output == "x" * 100_000 + "\nnext\n"


async def test_followed_log_ends_with_the_container(node: RuntimeNode) -> None:
    config = node.config("for i in 1 2 3; do echo $i; sleep 0.1; done")
    await node.runtime.create(config)

    async def follow() -> list[bytes]:
        return [line.line async for line in node.runtime.logs(config.id, EVERYTHING)]

    async with asyncio.TaskGroup() as group:
        followers = [group.create_task(follow()) for _ in range(3)]
        await node.runtime.start_container(config.id)
    assert [task.result() for task in followers] == [[b"1\n", b"2\n", b"3\n"]] * 3


async def test_many_start_at_once(node: RuntimeNode) -> None:
    configs = [node.config(f"exit {number}") for number in range(12)]

    async def run(number: int) -> int:
        await node.runtime.create(configs[number])
        await node.runtime.start_container(configs[number].id)
        return (await node.runtime.wait(configs[number].id)).exit_code

    assert await asyncio.gather(*map(run, range(12))) == list(range(12))


async def test_descriptors_do_not_leak(node: RuntimeNode) -> None:
    async def descriptors_after(rounds: int) -> int:
        for _ in range(rounds):
            await node.run("true")
            with pytest.raises(ContainerStartFailed):
                await node.run("", args=("nope",))
        for record in node.runtime.list():
            await node.runtime.remove(record.config.id)
        return len(os.listdir("/proc/self/fd"))

    assert await descriptors_after(1) == await descriptors_after(3)
