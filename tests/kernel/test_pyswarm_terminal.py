"""Our own command line on a terminal, and copying files, with single containers on a real node."""

import asyncio
import io
import os
import signal
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from local_node import IMAGE, LocalNode, local_node
from overlay_hosts import machines
from pyswarm_command import PyswarmCLI
from runtime_harness import RuntimeNode

pytestmark = pytest.mark.kernel

DETACH = b"\x10\x11"


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


async def test_size_keys_and_exit_code(pyswarm: PyswarmCLI) -> None:
    def sit_in_front() -> int:
        with pyswarm.on_terminal("run", "--rm", "-it", IMAGE, "sh", rows=30, columns=100) as terminal:
            terminal.see(b"# ")
            terminal.type(b"stty size\n")
            terminal.see(b"30 100")
            terminal.resize(41, 123)
            terminal.type(b"while [ \"$(stty size)\" != '41 123' ]; do :; done; tty; echo res''ized\n")
            terminal.see(b"/dev/pts/")
            terminal.see(b"resized")
            terminal.type(b"sh -c \"echo sle''eps; exec sleep 1000\"\n")
            terminal.see(b"sleeps")
            terminal.type(b"\x03")
            terminal.see(b"# ")
            terminal.type(b"exit 5\n")
            return terminal.end()

    assert await asyncio.to_thread(sit_in_front) == 5
    assert await pyswarm("ps", "-aq") == ""


async def test_ctrl_c_is_the_containers(pyswarm: PyswarmCLI) -> None:
    script = "trap 'echo got''ten; exit 9' INT; echo rea''dy; while :; do sleep 0.1; done"

    def sit_in_front() -> int:
        with pyswarm.on_terminal("run", "--rm", "-it", IMAGE, "sh", "-c", script) as terminal:
            terminal.see(b"ready")
            terminal.type(b"\x03")
            terminal.see(b"gotten")
            return terminal.end()

    assert await asyncio.to_thread(sit_in_front) == 9


async def test_detach_and_attach(pyswarm: PyswarmCLI) -> None:
    def leave(*arguments: str, keys: bytes = DETACH) -> int:
        with pyswarm.on_terminal(*arguments) as terminal:
            terminal.see(b"# ")  # drawn again for whom joins later
            terminal.type(b"echo h''i\n")
            terminal.see(b"hi")
            terminal.type(keys)
            terminal.see(b"read escape sequence")
            return terminal.end()

    assert await asyncio.to_thread(leave, "run", "-it", "--name", "web", IMAGE, "sh") == 0
    assert await asyncio.to_thread(leave, "attach", "web") == 0
    assert await asyncio.to_thread(leave, "attach", "--detach-keys", "ctrl-x,x", "web", keys=b"\x18x") == 0
    assert await asyncio.to_thread(leave, "exec", "-it", "web", "sh") == 0
    assert await pyswarm("ps", "--format", "{{.Names}} {{.State}}") == "web running\n"

    def leave_for_good(*arguments: str) -> int:
        with pyswarm.on_terminal(*arguments) as terminal:
            terminal.see(b"# ")
            terminal.type(b"exit 4\n")
            return terminal.end()

    assert await asyncio.to_thread(leave_for_good, "attach", "web") == 4
    assert await asyncio.to_thread(leave_for_good, "start", "-ai", "web") == 4


async def test_exec_on_a_terminal(pyswarm: PyswarmCLI) -> None:
    await pyswarm("run", "-d", "--name", "web", IMAGE, "sleep", "1000")

    def sit_in_front() -> int:
        with pyswarm.on_terminal("exec", "-it", "-e", "A=1", "web", "sh", rows=30, columns=100) as terminal:
            terminal.see(b"# ")
            terminal.type(b"stty size; echo $A''x; exit 3\n")
            terminal.see(b"30 100")
            terminal.see(b"1x")
            return terminal.end()

    assert await asyncio.to_thread(sit_in_front) == 3


async def test_the_terminal_is_restored_when_the_command_is_ended(pyswarm: PyswarmCLI) -> None:
    def sit_in_front() -> int:
        with pyswarm.on_terminal("run", "--rm", "-it", "--name", "web", "--sig-proxy=false", IMAGE, "sh") as terminal:
            terminal.see(b"# ")
            terminal.process.send_signal(signal.SIGTERM)
            return terminal.end()

    assert await asyncio.to_thread(sit_in_front) == 128 + signal.SIGTERM
    assert await pyswarm("ps", "--format", "{{.Names}}") == "web\n"


async def test_what_needs_a_terminal(pyswarm: PyswarmCLI) -> None:
    await pyswarm("run", "-dit", "--name", "web", IMAGE, "sh")
    for line in (["run", "-it", IMAGE], ["exec", "-it", "web", "sh"], ["attach", "web"]):
        result = await pyswarm.run(*line)
        assert (result.code != 0, result.errors) == (True, "Error: the input device is not a TTY\n"), line
    assert (await pyswarm.run("attach", "--no-stdin", "--detach-keys", "much", "web")).code == 1
    assert (await pyswarm.run("run", "--rm", "-t", IMAGE, "tty")).output.startswith("/dev/")


async def test_attach_with_pipes(pyswarm: PyswarmCLI) -> None:
    script = "trap 'echo term; exit 6' TERM; while :; do echo x; sleep 0.05; done"
    await pyswarm("run", "-d", "--name", "web", IMAGE, "sh", "-c", script)
    process = await pyswarm.begin("attach", "web")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"x\n"
    process.send_signal(signal.SIGTERM)
    output, _ = await process.communicate()
    assert (process.returncode, output.split()[-1]) == (6, b"term")
    stopped = await pyswarm.run("attach", "web")
    assert (stopped.code, stopped.errors) == (1, "Error: You cannot attach to a stopped container, start it first\n")


async def test_exec_with_pipes(pyswarm: PyswarmCLI) -> None:
    await pyswarm("run", "-d", "--name", "web", IMAGE, "sleep", "1000")
    assert await pyswarm.run("exec", "web", "sh", "-c", "echo a; echo b >&2; exit 9") == (9, "a\n", "b\n")
    assert await pyswarm("exec", "-i", "web", "wc", "-c", stdin=b"x" * 1_000_000) == "1000000\n"
    assert await pyswarm("exec", "-u", "33", "-w", "/tmp", "-e", "A=2", "web", "sh", "-c", "id -u; pwd; echo $A") == "33\n/tmp\n2\n"
    assert (await pyswarm.run("exec", "web", "nosuch")).code == 127
    assert (await pyswarm.run("exec", "web", "/etc")).code == 126
    assert await pyswarm("exec", "-d", "web", "sh", "-c", "echo done >/made; exec sleep 1000") == ""
    assert await pyswarm("exec", "web", "sh", "-c", "while ! cat /made 2>/dev/null; do sleep 0.05; done") == "done\n"
    missing = await pyswarm.run("exec", "nosuch", "true")
    assert (missing.code, missing.errors) == (1, "Error: No such container: nosuch\n")


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _source(folder: Path) -> Path:
    (folder / "src/sub").mkdir(parents=True)
    (folder / "src/a").write_text("one")
    (folder / "src/sub/b").write_text("two")
    (folder / "src/l").symlink_to("a")
    (folder / "link").symlink_to("/etc/hostname")
    return folder / "src"


TREE = {"a", "l", "sub", "sub/b"}


async def test_copying_in(pyswarm: PyswarmCLI, tmp_path: Path) -> None:
    source = _source(tmp_path)
    await pyswarm("run", "-d", "--name", "web", IMAGE, "sleep", "1000")

    async def inside(folder: str) -> set[str]:
        found = await pyswarm("exec", "web", "find", folder, "-mindepth", "1")
        return {line.removeprefix(f"{folder}/") for line in found.splitlines()}

    await pyswarm("exec", "web", "mkdir", "/into")
    for origin, destination in ((f"{source}/a", "/into/"), (f"{source}/a", "/into/named"), (str(tmp_path / "link"), "/into")):
        assert await pyswarm("cp", origin, f"web:{destination}") == ""
    assert await inside("/into") == {"a", "named", "link"}
    assert await pyswarm("exec", "web", "readlink", "/into/link") == "/etc/hostname\n"
    await pyswarm("cp", str(source), "web:/into")
    assert await inside("/into/src") == TREE
    for origin, destination in ((str(source), "/new"), (f"{source}/.", "/new2"), (f"{source}/.", "/new2")):
        await pyswarm("cp", origin, f"web:{destination}")
        assert await inside(destination) == TREE
    await pyswarm("cp", "-L", str(tmp_path / "link"), "web:/into/followed")
    assert await pyswarm("exec", "web", "cat", "/into/followed") == Path("/etc/hostname").read_text()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(source / "a", arcname="of/a/tar")
    await pyswarm("cp", "-", "web:/into", stdin=packed.getvalue())
    assert await pyswarm("exec", "web", "cat", "/into/of/a/tar") == "one"
    for origin, destination, words in (
        (f"{source}/a", "/nodir/x", "Could not find the file /nodir"),
        (f"{source}/a", "/nodir/", "the folder /nodir/ does not exist"),
        (str(source), "/into/a", "cannot copy a folder to /into/a"),
        (str(tmp_path / "none"), "/into", "no such file or folder"),
    ):
        result = await pyswarm.run("cp", origin, f"web:{destination}")
        assert (result.code, words in result.errors) == (1, True), result


async def test_copying_out(pyswarm: PyswarmCLI, tmp_path: Path) -> None:
    source, out = _source(tmp_path), tmp_path / "out"
    out.mkdir()
    await pyswarm("create", "--name", "web", IMAGE)  # one that does not run serves as well
    await pyswarm("cp", str(source), "web:/root")
    for origin, destination in (("/root/src/a", f"{out}/"), ("/root/src/a", f"{out}/named"), ("/root/src/l", str(out))):
        assert await pyswarm("cp", f"web:{origin}", destination) == ""
    assert _tree(out) == {"a", "named", "l"}
    assert (out / "l").readlink() == Path("a")
    await pyswarm("cp", "web:/root/src", str(out))
    assert _tree(out / "src") == TREE
    for origin, name in (("/root/src", "new"), ("/root/src/.", "new2"), ("/root/src/.", "new2")):
        await pyswarm("cp", f"web:{origin}", str(out / name))
        assert _tree(out / name) == TREE
    await pyswarm("cp", "-L", "web:/root/src/l", str(out / "followed"))
    assert (out / "followed").read_text() == "one"
    await pyswarm("cp", "web:/", str(out / "all"))
    assert os.path.lexists(out / "all/bin/busybox")
    for origin, destination, words in (
        ("/nosuch", str(out), "Could not find the file /nosuch in container web"),
        ("/root/src/a", str(tmp_path / "nodir/x"), "does not exist"),
        ("/root/src/a", f"{tmp_path}/nodir/", "does not exist"),
        ("/root/src", str(out / "a"), "cannot copy a folder to"),
    ):
        result = await pyswarm.run("cp", f"web:{origin}", destination)
        assert (result.code, words in result.errors) == (1, True), result
    assert (await pyswarm.run("cp", "web:/a", "web:/b")).code == 2


async def test_copying_out_through_a_pipe(pyswarm: PyswarmCLI) -> None:
    await pyswarm("run", "--name", "web", IMAGE, "sh", "-c", "mkdir /d; echo one >/d/a")
    process = await pyswarm.begin("cp", "web:/d", "-")
    packed, _ = await process.communicate()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["d", "d/a"]
