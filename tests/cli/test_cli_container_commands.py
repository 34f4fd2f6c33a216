"""Commands for containers without a daemon: what they load, how `run` ends, what their help teaches."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from pyswarm_cli.container.attached import StartFailed, read_ending
from pyswarm_cli.container.conversation import detach_filter
from pyswarm_cli.lazy_group import LazyGroup
from pyswarm_cli.main import pyswarm

HEAVY = {"asyncio", "concurrent", "cryptography", "httpx", "msgspec", "rich", "tarfile", "tempfile", "yaml", "zstandard"}
NOBODY = ["-H", "unix:///nonexistent/socket"]


@pytest.mark.parametrize("line", [["ps"], ["exec", "web", "true"], ["run", "busybox"], ["logs", "web"], ["inspect", "web"]])
def test_loads_little(line: list[str]) -> None:
    script = f"""
import sys
sys.argv = ["pyswarm", *{NOBODY + line!r}]
from pyswarm_cli.main import main
try:
    main()
finally:
    print(*sorted({HEAVY!r} & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (shown.stdout, "pyswarmd does not run" in shown.stderr) == ("\n", True)


@pytest.mark.parametrize(
    ("line", "code"),
    [(["run", "busybox"], 125), (["run"], 125), (["run", "--nosuch", "busybox"], 125), (["create", "busybox"], 1), (["ps"], 1)],
)
def test_run_ends_with_a_code_of_its_own(line: list[str], code: int) -> None:
    assert CliRunner().invoke(pyswarm, [*NOBODY, *line]).exit_code == code


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ("stat /x: no such file or directory", 127),
        ('exec: "/etc/passwd": permission denied', 126),
        ('exec: "/etc": is a directory', 126),
        ("Bind for 0.0.0.0:80 failed: port is already allocated", 125),
    ],
)
def test_why_it_could_not_start(message: str, code: int) -> None:
    assert StartFailed(400, message).code_of_run == code


def test_a_daemon_that_goes_away_is_no_exit_code() -> None:
    assert read_ending(b'{"StatusCode": 3}\n', "unix:///x")["StatusCode"] == 3
    with pytest.raises(click.ClickException, match="lost the connection to pyswarmd on unix:///x"):
        read_ending(b"", "unix:///x")


def test_keys_that_make_no_sense_are_refused() -> None:
    with pytest.raises(click.ClickException, match="invalid detach keys"):
        detach_filter("much")


def test_each_help_has_an_example() -> None:
    context = click.Context(pyswarm)
    group = pyswarm.get_command(context, "container")
    assert isinstance(group, LazyGroup)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        assert "Example" in (command.help or ""), name
