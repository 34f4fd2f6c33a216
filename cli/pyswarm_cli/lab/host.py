"""One host of a lab, as tests and the command line handle it: run things in it, cut its power, cut its cable.

lab = Lab.open("lab")
lab.host("n1").run(["ip", "address"])
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pyswarm_cli.lab import cgroups, power
from pyswarm_cli.lab.state import SWITCH, HostState
from pyswarm_common.errors import FailedPrecondition, InvalidArgument, PyswarmError

if TYPE_CHECKING:
    from pyswarm_cli.lab.lab import Lab

API_SOCKET = "/run/pyswarm/pyswarm.sock"
DAEMON_START_TIMEOUT_S = 30.0
_LOG_LINES_SHOWN = 20
_POLL_S = 0.02

type_of_redirection = int | IO[str] | IO[bytes] | None


class CommandError(subprocess.CalledProcessError):
    """A command in a host ended with a code that is not 0; the text shows what it printed."""

    def __str__(self) -> str:
        """Return the usual text with both outputs."""
        return f"{super().__str__()}\nstdout: {self.stdout}\nstderr: {self.stderr}"


class Host:
    """A handle on one host; its state is read from the lab whenever it is needed."""

    def __init__(self, lab: "Lab", name: str) -> None:
        self.lab = lab
        self.name = name

    @property
    def state(self) -> HostState:
        """What is written down about the host now."""
        return self.lab.state().hosts[self.name]

    @property
    def address(self) -> str:
        """The host's IPv4 address on the lab's network."""
        return self.state.address

    @property
    def is_on(self) -> bool:
        """Whether the host has power."""
        return self.state.is_on

    @property
    def pid(self) -> int:
        """The pid of the host's first process, as the machine counts; `FailedPrecondition` when the host is off."""
        init = self.state.init
        if init is None or not init.is_running:
            raise FailedPrecondition(f"host {self.name} is off (`pyswarm lab start {self.name}`)")
        return init.pid

    @property
    def daemon_pid(self) -> int | None:
        """The pid of the host's pyswarmd, as the machine counts; None when it does not run."""
        daemon = self.state.daemon
        return daemon.pid if daemon is not None and daemon.is_running else None

    @property
    def root(self) -> Path:
        """The host's files as seen from the machine, while it has power: `host.root / "run/pyswarm"`."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def socket_path(self) -> Path:
        """The host's Engine API socket as seen from the machine."""
        return self.root / API_SOCKET.removeprefix("/")

    @property
    def disk(self) -> Path:
        """The host's /var/lib/pyswarm as seen from the machine, also while it is off."""
        return self.lab.directory / self.name / "var-lib-pyswarm"

    @property
    def log_path(self) -> Path:
        """The file with what pyswarmd said, over all its starts."""
        return self.lab.directory / self.name / "pyswarmd.log"

    def enter_command(self, command: Sequence[str], env: Mapping[str, str] | None = None, log_file: str = "") -> list[str]:
        """Return what to execute on the machine in order to run `command` in the host."""
        config = {
            "pid": self.pid,
            "cgroup_entrances": [str(path) for path in cgroups.group_entrances(self.lab.name, self.name)],
            "environment": {**_environment(), **(env or {})},
            "directory": "/root" if Path("/root").is_dir() else "/",
            "log_file": log_file,
        }
        return [sys.executable, "-I", "-m", "pyswarm_cli.lab.enter", json.dumps(config), *command]

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,  # noqa: A002 (subprocess.run's word)
        timeout_s: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; `CommandError` when it fails and `check` is set, `TimeoutExpired` when it takes too long."""
        # An empty input instead of none: a command in a host never reads the caller's terminal.
        result: subprocess.CompletedProcess[str] = subprocess.run(
            self.enter_command(command, env), capture_output=True, text=True, input=input or "", timeout=timeout_s, check=False
        )
        if check and result.returncode != 0:
            raise CommandError(result.returncode, list(command), result.stdout, result.stderr)
        return result

    def popen(
        self,
        command: Sequence[str],
        *,
        stdin: type_of_redirection = subprocess.DEVNULL,
        stdout: type_of_redirection = subprocess.PIPE,
        stderr: type_of_redirection = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> "subprocess.Popen[str]":
        """Start a command; signals sent to the returned process reach it, and it dies with that process."""
        return subprocess.Popen(self.enter_command(command, env), stdin=stdin, stdout=stdout, stderr=stderr, text=True)

    def spawn(self, command: Sequence[str], log_file: Path, env: Mapping[str, str] | None = None) -> int:
        """Start a command that stays until the host loses its power; return its pid, as the machine counts."""
        starting = subprocess.run(self.enter_command(command, env, str(log_file)), capture_output=True, text=True, check=False)
        if starting.returncode != 0:
            raise PyswarmError(f"cannot start {command[0]} in host {self.name}: {starting.stderr.strip()}")
        return int(starting.stdout)

    def start_daemon(
        self,
        arguments: Sequence[str] | None = None,
        *,
        wait_s: float = DAEMON_START_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start pyswarmd with the lab's daemon command and wait until its API answers; `wait_s=0` does not wait.

        `arguments` are added to the command, now and at later starts; None adds those of the last time. `env` is for now only.
        """
        self.lab.start_daemons([self.name], arguments, wait_s=wait_s, env=env)

    def kill_daemon(self, number: int = signal.SIGKILL, *, wait_s: float = 20.0) -> None:
        """Send pyswarmd a signal and wait until it has ended (its containers go on)."""
        daemon = self.state.daemon
        if daemon is None or not daemon.is_running:
            raise FailedPrecondition(f"no daemon runs in host {self.name}")
        os.kill(daemon.pid, number)
        deadline_s = time.monotonic() + wait_s
        while daemon.is_running:
            if time.monotonic() > deadline_s:
                raise PyswarmError(f"pyswarmd in host {self.name} still runs {wait_s:g} s after signal {number}")
            time.sleep(_POLL_S)

    def wait_daemon_ready(self, timeout_s: float = DAEMON_START_TIMEOUT_S) -> None:
        """Wait until pyswarmd's API answers; if it ends or stays silent, fail with the end of its log."""
        deadline_s = time.monotonic() + timeout_s
        while not self.api_answers():
            problem = "has ended" if self.daemon_pid is None else ""
            if time.monotonic() > deadline_s:
                problem = f"does not answer after {timeout_s:g} s"
            if problem:
                log = f"The end of {self.log_path}:\n{self.log_end()}"
                raise PyswarmError(f"pyswarmd in host {self.name} {problem}. {log}")
            time.sleep(_POLL_S)

    def api_answers(self) -> bool:
        """Whether `GET /_ping` on the host's API socket answers 200."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(2)
                client.connect(str(self.socket_path))
                client.sendall(b"GET /_ping HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(4096), b""))
                return b" 200 " in answer.partition(b"\r\n")[0]
        except (OSError, FailedPrecondition):
            return False

    def log_end(self, lines: int = _LOG_LINES_SHOWN) -> str:
        """Return the last lines of the daemon's log."""
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def power_cut(self) -> None:
        """Cut the host's power: everything in it dies at once, its disk stays. Nothing happens when it is off."""
        self._refuse_switch("powered off")
        with self.lab.changing() as state:
            power.power_off(state, state.hosts[self.name])

    def power_on(self, *, wait_s: float = DAEMON_START_TIMEOUT_S) -> None:
        """Power the host on with its disk and address; its daemon starts again if it had one."""
        self._refuse_switch("powered on")
        with self.lab.changing() as state:
            host = state.hosts[self.name]
            if host.is_on:
                raise FailedPrecondition(f"host {self.name} is on already")
            power.power_off(state, host)
            power.power_on(self.lab.directory, state, [self.name])
        if host.has_daemon:
            self.start_daemon(wait_s=wait_s)

    def cut(self, other: str | None = None) -> None:
        """Lose every packet between the host and `other`, or and everything; the links keep their carrier."""
        self._refuse_switch("cut off; cut a host from it instead")
        with self.lab.changing() as state:
            if other is None:
                state.cut_hosts = sorted({*state.cut_hosts, self.name})
            else:
                self.lab.require_host(other, state)
                state.cut_pairs = sorted({*state.cut_pairs, _pair(self.name, other)})
            power.apply_cuts(state)

    def cut_to(self, other: str) -> None:
        """Lose every packet from the host to `other`; those from `other` still arrive."""
        self._refuse_switch("cut off; cut a host from it instead")
        _pair(self.name, other)
        with self.lab.changing() as state:
            self.lab.require_host(other, state)
            state.cut_ways = sorted({*state.cut_ways, (self.name, other)})
            power.apply_cuts(state)

    def heal(self, other: str | None = None) -> None:
        """Undo the cuts from and to `other`, or every cut of this host."""
        with self.lab.changing() as state:
            if other is None:
                state.cut_hosts = [name for name in state.cut_hosts if name != self.name]
                state.cut_pairs = [pair for pair in state.cut_pairs if self.name not in pair]
                state.cut_ways = [way for way in state.cut_ways if self.name not in way]
            else:
                pair = _pair(self.name, other)
                state.cut_pairs = [cut for cut in state.cut_pairs if cut != pair]
                state.cut_ways = [way for way in state.cut_ways if set(way) != set(pair)]
            power.apply_cuts(state)

    def unplug(self) -> None:
        """Pull the host's cable: its link loses its carrier, which the host sees, until `plug` or the next `power_on`."""
        self._refuse_switch("unplugged")
        with self.lab.changing() as state:
            power.set_carrier(state, self.name, is_up=False)

    def plug(self) -> None:
        """Plug the host's cable in again."""
        self._refuse_switch("unplugged")
        with self.lab.changing() as state:
            power.set_carrier(state, self.name, is_up=True)

    def _refuse_switch(self, what: str) -> None:
        if self.name == SWITCH:
            raise InvalidArgument(f"the switch cannot be {what}")


def _pair(one: str, other: str) -> tuple[str, str]:
    if one == other:
        raise InvalidArgument(f"host {one} cannot be cut from itself")
    return (one, other) if one < other else (other, one)


def _environment() -> dict[str, str]:
    """Return what a command in a host finds in its environment, whatever the caller's was."""
    scripts = Path(sys.executable).parent
    path = f"{scripts}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    basics = {"PATH": path, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8"}
    return basics | ({"TERM": os.environ["TERM"]} if "TERM" in os.environ else {})
