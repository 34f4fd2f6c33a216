"""The files of secrets and configs in real containers: what they are there, and that they are nowhere else."""

import contextlib
import hashlib
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime import ContainerConfig, ExitStatus
from pyswarm_agent.runtime.paths import ContainerPaths
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_agent.runtime.processes import identify, wait_process_end
from pyswarm_common.wire import LogRequest

pytestmark = pytest.mark.kernel

DAEMON = Path(__file__).with_name("private_files_daemon.py")


@pytest.fixture
def value() -> str:
    """A text that is nowhere else on the machine."""
    return secrets.token_hex(16)


async def started(node: RuntimeNode, script: str, *files: PrivateFile, **changes: object) -> str:
    """Start a container with files; return its id once it has written a line."""
    config = node.config(script, **changes)
    await node.runtime.create(config)
    await node.runtime.start_container(config.id, files)
    async for _ in node.runtime.logs(config.id, LogRequest(task_id="", follow=True)):
        return config.id
    raise AssertionError(f"the container ended without a word: {await node.runtime.wait(config.id)}")


async def run(node: RuntimeNode, script: str, *files: PrivateFile, **changes: object) -> tuple[ExitStatus, list[str]]:
    """Run a script to its end with files; return how it ended and the lines that it wrote."""
    config = node.config(script, **changes)
    await node.runtime.create(config)
    await node.runtime.start_container(config.id, files)
    return await node.runtime.wait(config.id), (await node.output(config.id)).splitlines()


def on_disk(node: RuntimeNode, value: str) -> list[str]:
    """Return the files of the node's folders that hold the text, in their names or as content."""
    found = []
    for folder in (node.data_dir, node.runtime_dir):
        for parent, folders, names in os.walk(folder):  # what a container leaves may be removed meanwhile
            found += [f"{parent}/{name}" for name in (*folders, *names) if value in name]
            for path in (Path(parent, name) for name in names):
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file() and not path.is_symlink() and value.encode() in path.read_bytes():
                        found.append(str(path))
    return found


async def test_content_owner_and_mode(node: RuntimeNode, value: str) -> None:
    files = (
        PrivateFile("/run/secrets/key", value.encode(), mode=0o400),
        PrivateFile("/etc/app/app.conf", b"a\0b\n" * 300_000, user_id=33, group_id=50, mode=0o4640),
        PrivateFile("/empty.d/none", b""),
    )
    paths = " ".join(file.target for file in files)
    script = f"cat /run/secrets/key; echo; md5sum </etc/app/app.conf; stat -c '%u %g %a %n %s' {paths}"
    status, lines = await run(node, script, *files)
    digest = hashlib.md5(files[1].data, usedforsecurity=False).hexdigest()
    assert status.exit_code == 0, lines
    assert lines == [
        value,
        f"{digest}  -",
        "0 0 400 /run/secrets/key 32",
        "33 50 4640 /etc/app/app.conf 1200000",
        "0 0 444 /empty.d/none 0",
    ]


async def test_another_user_reads_what_is_its_own_alone(node: RuntimeNode, value: str) -> None:
    files = (
        PrivateFile("/run/secrets/own", value.encode(), user_id=33, mode=0o400),
        PrivateFile("/run/secrets/roots", value.encode(), mode=0o400),
    )
    _, lines = await run(node, "cat /run/secrets/own; echo; cat /run/secrets/roots 2>&1", *files, user="web")
    assert lines == [value, "cat: can't open '/run/secrets/roots': Permission denied"]


async def test_they_are_read_only_and_on_tmpfs(node: RuntimeNode, value: str) -> None:
    script = """
    echo x > /run/secrets/key; chmod 777 /run/secrets/key; rm /run/secrets/key; mount -o remount,rw,bind /run/secrets/key
    grep -E ' /run/secrets/key ' /proc/self/mountinfo; cat /run/secrets/key
    """
    _, lines = await run(node, f"exec 2>&1; {script}", PrivateFile("/run/secrets/key", value.encode()))
    *complaints, mount, content = lines
    assert len(complaints) == 4, lines
    options, filesystem = mount.split(" - ")
    assert {"ro", "nosuid", "nodev"} <= set(options.split()[5].split(","))
    kind, _, settings = filesystem.split()
    assert (kind, "ro" in settings.split(",")) == ("tmpfs", True)
    kernel = tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
    assert ("noswap" in settings.split(",")) == (kernel >= (6, 4))
    assert content == value


async def test_even_with_all_capabilities_they_stay_as_they_are(node: RuntimeNode, value: str) -> None:
    script = "mount -o remount,rw,bind /run/secrets/key 2>&1; echo x > /run/secrets/key; cat /run/secrets/key"
    _, lines = await run(node, script, PrivateFile("/run/secrets/key", value.encode()), cap_add=("SYS_ADMIN",))
    assert lines[-1] == value


async def test_a_read_only_container_gets_them_too(node: RuntimeNode, value: str) -> None:
    _, lines = await run(node, "cat /run/secrets/key", PrivateFile("/run/secrets/key", value.encode()), read_only=True)
    assert lines == [value]


async def test_no_disk_and_no_record_holds_them(node: RuntimeNode, value: str) -> None:
    container_id = await started(node, "echo ready; sleep 1000", PrivateFile("/run/secrets/key", value.encode()))
    record = node.runtime.get(container_id)
    assert record is not None
    assert on_disk(node, value) == []
    assert on_disk(node, "sleep 1000") != []  # the search would find it
    assert value not in repr(record)
    assert record.config.mounts == ()
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(ContainerPaths(node.data_dir, node.runtime_dir, container_id).bundle) not in mounts


async def test_they_are_gone_with_the_container(node: RuntimeNode, value: str) -> None:
    container_id = await started(node, "echo ready; sleep 1000", PrivateFile("/run/secrets/key", value.encode()))
    before = holders(value)
    await node.runtime.stop(container_id)
    assert before != []
    assert holders(value) == []
    assert on_disk(node, value) == []


def holders(value: str) -> list[str]:
    """Return the processes, but this one, in whose mount namespace a mounted private file has this content."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if pid == str(os.getpid()):
            continue
        for place in ("run/secrets/key", *_bundle_places(pid)):
            try:
                if value.encode() in Path(f"/proc/{pid}/root/{place}").read_bytes():
                    found.append(pid)
            except OSError:
                continue
    return found


def _bundle_places(pid: str) -> list[str]:
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    except OSError:
        return []
    return [f"{line.split()[4].lstrip('/')}/0" for line in mounts if line.split()[4].endswith("/private")]


async def test_containers_do_not_see_each_others(node: RuntimeNode, value: str) -> None:
    await started(node, "echo ready; sleep 1000", PrivateFile("/run/secrets/key", value.encode()))
    _, lines = await run(
        node,
        "grep -c private /proc/self/mountinfo; ls /run/secrets; cat /run/secrets/other",
        PrivateFile("/run/secrets/other", b"o"),
    )
    assert lines == ["0", "other", "o"]


def killed_daemon(node: RuntimeNode, config: ContainerConfig, value: str, *, hold: bool) -> None:
    """Run a daemon that starts the container; SIGKILL it when that runs, or, with `hold`, when its files have just been made."""
    folders = [str(node.data_dir), str(node.runtime_dir), node.tag]
    arguments = [*folders, msgspec.json.encode(config).decode(), value, "hold" if hold else "run"]
    with subprocess.Popen([sys.executable, str(DAEMON), *arguments], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        wanted = b"held" if hold else config.id.encode()
        while daemon.stdout.readline().strip() != wanted:
            assert daemon.poll() is None, "the daemon ended"
        daemon.kill()


async def test_a_killed_daemons_container_keeps_its_own(node: RuntimeNode, value: str) -> None:
    config = node.config("trap 'cat /run/secrets/key; exit 6' TERM; sleep 1000 & wait")
    await node.runtime.close()
    killed_daemon(node, config, value, hold=False)
    node.runtime = node.new_runtime()
    await node.runtime.start()
    assert on_disk(node, value) == []
    assert (await node.runtime.stop(config.id)).exit_code == 6
    assert await node.output(config.id) == value
    await node.runtime.remove(config.id)
    assert holders(value) == []


async def test_nothing_is_left_when_the_daemon_is_killed_between_files_and_start(node: RuntimeNode, value: str) -> None:
    config = node.config("cat /run/secrets/key")
    await node.runtime.close()
    killed_daemon(node, config, value, hold=True)
    assert holders(value) == []
    assert on_disk(node, value) == []
    node.runtime = node.new_runtime()
    await node.runtime.start()
    await node.runtime.start_container(config.id, [PrivateFile("/run/secrets/key", b"given anew")])
    await node.runtime.wait(config.id)
    assert await node.output(config.id) == "given anew"


async def test_a_start_that_fails_leaves_nothing(node: RuntimeNode, value: str) -> None:
    config = node.config("", args=("/no/such/program",))
    await node.runtime.create(config)
    with pytest.raises(Exception, match="no such file or directory"):
        await node.runtime.start_container(config.id, [PrivateFile("/run/secrets/key", value.encode())])
    assert holders(value) == []
    assert on_disk(node, value) == []


async def test_a_killed_monitor_leaves_nothing(node: RuntimeNode, value: str) -> None:
    container_id = await started(node, "echo ready; sleep 1000", PrivateFile("/run/secrets/key", value.encode()))
    saved = ContainerPaths(node.data_dir, node.runtime_dir, container_id).load()
    assert saved is not None
    assert saved.monitor is not None
    monitor = identify(saved.monitor.pid)
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGKILL)
    await wait_process_end(monitor)
    await node.runtime.wait(container_id)
    assert holders(value) == []
