"""`pyswarm lab …` as a person types it: output, exit codes, terminals, messages."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyswarm_cli.lab.lab import Lab

pytestmark = pytest.mark.kernel

PROGRAM = [sys.executable, "-c", "from pyswarm_cli.lab.commands import lab; lab(prog_name='pyswarm lab')"]
NAME = f"m{os.getpid()}"


@pytest.fixture(scope="module")
def labs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labs") / "labs"


def call(labs_folder: Path, *arguments: str, stdin_text: str | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYSWARM_LAB_DIR": str(labs_folder)}
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, input=stdin_text, env=environment, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def up(labs_folder: Path) -> Iterator[str]:
    result = call(labs_folder, "up", "--name", NAME, "--hosts", "2", "--subnet", "10.99.0.0/24")
    assert (result.returncode, result.stderr) == (0, "")
    yield result.stdout
    down = call(labs_folder, "down", "--name", NAME)
    assert (down.returncode, down.stdout) == (0, f"{NAME}\n")
    assert call(labs_folder, "down", "--name", NAME).stdout == f"{NAME}: there was nothing to remove\n"
    assert not labs_folder.exists()
    assert Lab(NAME).leftovers() == []


def rows(labs_folder: Path) -> dict[str, dict[str, object]]:
    return {row["host"]: row for row in json.loads(call(labs_folder, "ls", "--format", "json").stdout)}


def test_up_prints_the_hosts(up: str) -> None:
    assert up.splitlines() == ["n1\t10.99.0.11", "n2\t10.99.0.12", "switch\t10.99.0.1"]


def test_ls_shows_power_and_cuts(labs_folder: Path, up: str) -> None:
    assert call(labs_folder, "cut", "-n", NAME, "n1", "--from", "n2").returncode == 0
    assert call(labs_folder, "kill", "-n", NAME, "n2").stdout == "n2\n"
    found = rows(labs_folder)
    assert (found["n1"]["power"], found["n1"]["cut_from"]) == ("on", ["n2"])
    assert (found["n2"]["power"], found["n2"]["pid"]) == ("off", None)
    table = call(labs_folder, "ls").stdout.splitlines()
    assert table[0].split() == ["LAB", "HOST", "ADDRESS", "POWER", "PID", "PYSWARMD", "CUT", "FROM"]
    assert any(line.split()[:4] == [NAME, "n2", "10.99.0.12", "off"] for line in table)
    refused = call(labs_folder, "exec", "-n", NAME, "n2", "--", "true")
    assert (refused.returncode, refused.stderr) == (1, "Error: host n2 is off (`pyswarm lab start n2`)\n")
    assert call(labs_folder, "start", "-n", NAME, "n2").returncode == 0
    assert call(labs_folder, "heal", "-n", NAME).returncode == 0
    assert rows(labs_folder)["n1"]["cut_from"] == []


def test_ls_shows_a_cut_one_way_at_its_sender(labs_folder: Path, up: str) -> None:
    assert call(labs_folder, "cut", "-n", NAME, "n1", "--to", "n2").returncode == 0
    found = rows(labs_folder)
    assert (found["n1"]["cut_from"], found["n2"]["cut_from"]) == (["n2 (one way)"], [])
    assert call(labs_folder, "heal", "-n", NAME, "n2").returncode == 0
    assert rows(labs_folder)["n1"]["cut_from"] == []


def test_exec_passes_code_input_and_environment(labs_folder: Path, up: str) -> None:
    result = call(
        labs_folder,
        "exec",
        "-n",
        NAME,
        "-e",
        "A=b c",
        "n1",
        "--",
        "sh",
        "-c",
        'cat; echo "$A" "$@"; exit 5',
        "-",
        "--x",
        "y",
        stdin_text="in ",
    )
    assert (result.returncode, result.stdout) == (5, "in b c --x y\n")
    assert call(labs_folder, "exec", "-n", NAME, "switch", "hostname").stdout == "switch\n"
    for wrong in (["-e", "novalue", "n1", "true"], ["n1"], ["n1", "--"]):
        assert call(labs_folder, "exec", "-n", NAME, *wrong).returncode == 2


def test_exec_gives_the_command_the_terminal(labs_folder: Path, up: str) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYSWARM_LAB_DIR": str(labs_folder)}
    command = [*PROGRAM, "exec", "-n", NAME, "n1", "--", "sh", "-c", "test -t 0 && test -t 1 && read line && echo got $line"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.write(ours, b"typed\n")
        assert process.wait(timeout=20) == 0
    os.close(theirs)
    assert b"got typed" in os.read(ours, 4096)
    os.close(ours)


def test_a_detached_command_stays(labs_folder: Path, up: str) -> None:
    result = call(labs_folder, "exec", "-n", NAME, "--detach", "n1", "--", "sh", "-c", "echo $$ $PPID; exec sleep 1000")
    log = Path(result.stdout.strip())
    assert log == labs_folder / NAME / "n1" / "sh.log"
    deadline_s = time.monotonic() + 5
    while not log.read_text():
        assert time.monotonic() < deadline_s
    pid, parent = log.read_text().split()
    assert call(labs_folder, "exec", "-n", NAME, "n1", "cat", f"/proc/{pid}/comm").stdout == "sleep\n"
    assert int(pid) > int(parent)


def test_clear_messages(labs_folder: Path, up: str) -> None:
    def error(*arguments: str) -> str:
        result = call(labs_folder, *arguments)
        assert result.returncode == 1
        return result.stderr

    assert error("up", "-n", NAME) == f"Error: lab {NAME!r} exists already; `pyswarm lab down --name {NAME}` removes it\n"
    assert error("exec", "-n", "nowhere", "n1", "true") == "Error: no lab named 'nowhere' (see `pyswarm lab ls`)\n"
    assert error("kill", "-n", NAME, "n7") == f"Error: lab {NAME!r} has no host 'n7'; it has switch, n1, n2\n"
    assert error("cut", "-n", NAME, "n1", "--from", "n1") == "Error: host n1 cannot be cut from itself\n"
    assert error("logs", "-n", NAME, "n1").startswith("Error: no daemon was started in host n1")
    assert error("start", "-n", NAME, "n1") == "Error: host n1 is on already\n"
    assert "daemon command" in error("up", "-n", "other", "--daemon-command", "'")
