"""Our own command line with single containers on a real node: `run`, and what cannot be run."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from local_node import IMAGE, LocalNode, local_node
from overlay_hosts import machines
from pyswarm_command import PyswarmCLI
from runtime_harness import RuntimeNode

pytestmark = pytest.mark.kernel

REFUSED: list[tuple[list[str], int, str]] = [
    ([IMAGE, "nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
    ([IMAGE, "/no/such"], 127, "no such file or directory"),
    ([IMAGE, "/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    ([IMAGE, "/etc"], 126, 'exec: "/etc": permission denied'),
    (["--name", "bad/name", IMAGE], 125, "Invalid container name (bad/name)"),
    (["--user", "nobodyknows", IMAGE], 125, "unable to find user nobodyknows: no matching entries in passwd file"),
    (["--entrypoint", "", IMAGE], 125, "No command specified"),
    (["-p", "99999:80", IMAGE], 125, "'99999' is no port"),
    (["--env-file", "/no/such", IMAGE], 125, "File '/no/such' does not exist"),
    (["--nosuch", IMAGE], 125, "No such option '--nosuch'"),
    ([], 125, "Missing argument 'IMAGE'"),
    (["--pull", "never", "nosuch:1"], 125, "No such image: nosuch:1"),
    (["--mount", "type=bind,src=/no/such,dst=/x", IMAGE], 125, "bind source path does not exist: /no/such"),
]
"""(What follows `run --rm`, exit code, what is said.)"""

GIVEN: list[tuple[list[str], str, str]] = [
    (["--user", "33:50"], "id -u; id -g", "33\n50\n"),
    (["--hostname", "here", "-w", "/tmp"], "hostname; pwd", "here\n/tmp\n"),
    (["--read-only", "--tmpfs", "/t:size=1m"], "touch /t/x && echo may; touch /x 2>/dev/null || echo not", "may\nnot\n"),
    (["--tmpfs", "/t:size=1m"], "df -k /t | tail -1 | awk '{print $2}'", "1024\n"),
    (["-v", "data:/data", "--mount", "type=tmpfs,dst=/t"], "mount | grep -cE ' /(data|t) '", "2\n"),
    (["--network", "none"], "ls /sys/class/net", "lo\n"),
    (["--init"], "ps -o pid,args | grep -c '^ *1 sh' || true", "0\n"),
    (["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn", "100\n200\n"),
    (["--add-host", "store:10.9.8.7"], "grep store /etc/hosts", "10.9.8.7\tstore\n"),
    (["--cap-drop", "ALL"], "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
]
"""(Options, script, what it prints.)"""


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


async def test_output_and_exit_code(pyswarm: PyswarmCLI) -> None:
    script = "echo out; echo err >&2; exit 7"
    assert await pyswarm.run("run", "--rm", IMAGE, "sh", "-c", script) == (7, "out\n", "err\n")
    assert await pyswarm("ps", "-aq") == ""
    assert (await pyswarm.run("run", "--name", "one", IMAGE, "sh", "-c", script)).code == 7
    assert await pyswarm("logs", "one") == "out\n"
    assert await pyswarm("ps", "-a", "--format", "{{.Names}} {{.Status}}") == "one Exited (7) Less than a second ago\n"
    for _ in range(3):  # its end must not be missed, however short it is
        assert (await pyswarm.run("start", "-a", "one")) == (7, "out\n", "err\n")


async def test_input_reaches_it_and_ends(pyswarm: PyswarmCLI) -> None:
    many = b"".join(b"%d\n" % number for number in range(50_000))
    assert await pyswarm("run", "--rm", "-i", IMAGE, "md5sum", stdin=many) == await pyswarm(
        "run", "--rm", "-i", IMAGE, "sh", "-c", "cat >/tmp/x; md5sum </tmp/x", stdin=many
    )
    await pyswarm("create", "-i", "--name", "cat", IMAGE, "cat")
    for word in (b"first\n", b"second\n"):
        assert await pyswarm("start", "-ai", "cat", stdin=word) == word.decode()
    assert await pyswarm("run", "--rm", IMAGE, "cat", stdin=b"unasked") == ""


async def test_what_cannot_be_run(pyswarm: PyswarmCLI) -> None:
    for line, code, words in REFUSED:
        result = await pyswarm.run("run", "--rm", *line)
        assert (result.code, result.output) == (code, ""), result
        assert words in result.errors
    assert await pyswarm("ps", "-aq") == ""


async def test_an_image_that_is_not_here_is_pulled_aloud(pyswarm: PyswarmCLI) -> None:
    result = await pyswarm.run("run", "--rm", "127.0.0.1:1/nosuch", "true")
    assert (result.code, result.output) == (125, "")
    said = result.errors.splitlines()
    assert said[:2] == ["Unable to find image '127.0.0.1:1/nosuch:latest' locally", "latest: Pulling from nosuch"]
    assert said[2].startswith("Error: ")
    assert "Unable" not in (await pyswarm.run("run", "-q", "127.0.0.1:1/nosuch")).errors


async def test_what_it_is_given(pyswarm: PyswarmCLI) -> None:
    for options, script, expected in GIVEN:
        assert await pyswarm("run", "--rm", *options, IMAGE, "sh", "-c", script) == expected, options


async def test_entrypoint_and_variables(pyswarm: PyswarmCLI, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("# said\nA=1\nB=of the file\n\n")
    line = ["--env-file", str(tmp_path / "file"), "-e", "B=of the line"]
    assert await pyswarm("run", "--rm", *line, IMAGE, "sh", "-c", "echo $A $B") == "1 of the line\n"
    assert await pyswarm("run", "--rm", "--entrypoint", "echo", IMAGE, "-n", "x") == "x"
    assert await pyswarm("run", "--rm", "--entrypoint", "", IMAGE, "echo", "y") == "y\n"


async def test_signals_go_to_the_container(pyswarm: PyswarmCLI) -> None:
    script = "trap 'echo term; exit 5' TERM; trap 'echo usr' USR1; echo ready; while :; do sleep 0.1; done"
    process = await pyswarm.begin("run", "--rm", IMAGE, "sh", "-c", script)
    assert process.stdout is not None
    for number, said in ((signal.SIGUSR1, b"ready\n"), (signal.SIGTERM, b"usr\n")):
        assert await process.stdout.readline() == said
        process.send_signal(number)
    output, errors = await process.communicate()
    assert (process.returncode, output, errors) == (5, b"term\n", b"")
