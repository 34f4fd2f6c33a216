"""A lab: hosts made of namespaces on one machine, joined by a bridge in a switch of their own.

    with Lab.create("demo", hosts=3) as lab:
        lab.host("n1").run(["ping", "-c1", lab.host("n2").address])

The host `switch` is the outside: it has the subnet's first address, and registries and clients can run in it. Nothing of
a lab is in the machine's own network namespace or mount namespace. Everything is found again by the lab's name, so that
`down` works from another process, after a crash half way, and twice.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from pyswarm_cli.lab import cgroups, network, power, traces
from pyswarm_cli.lab.host import DAEMON_START_TIMEOUT_S, Host
from pyswarm_cli.lab.state import (
    STATE_FILE,
    SWITCH,
    HostState,
    LabState,
    ProcessIdentity,
    labs_directory,
    load_state,
    locked,
    save_state,
)
from pyswarm_common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PyswarmError

__all__ = ["Host", "Lab"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_DOWN_PATIENCE_S = 10.0


class Lab:
    """A handle on one lab, by name; leaving it as a context manager takes the lab down."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"invalid lab name {name!r}: use up to 32 lower-case letters, digits and dashes")
        self.name = name
        self.directory = labs_directory() / name
        self._last_known: LabState | None = None

    @classmethod
    def create(
        cls,
        name: str,
        hosts: int = 3,
        *,
        subnet: str | None = None,
        daemon: bool = False,
        daemon_command: Sequence[str] | None = None,
    ) -> "Lab":
        """Bring up a lab with hosts n1, n2, …, with pyswarmd in each if `daemon`; on failure nothing of it stays.

        `daemon_command` defaults to pyswarmd taking the lab's own subnet for insecure registries.
        """
        lab = cls(name)
        lab._require_root()
        if not 1 <= hosts <= network.MAX_HOSTS:
            raise InvalidArgument(f"a lab has 1 to {network.MAX_HOSTS} hosts, not {hosts}")
        lab._claim_name(hosts, subnet, daemon_command)
        try:
            with lab.changing() as state:
                power.write_etc(lab.directory, state)
                power.power_on(lab.directory, state, state.hosts)
            if daemon:
                lab.start_daemons([host.name for host in lab.hosts])
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def open(cls, name: str) -> "Lab":
        """Return the lab with this name; `NotFound` when there is none."""
        lab = cls(name)
        lab.state()
        return lab

    @classmethod
    def all(cls) -> "list[Lab]":
        """Return every lab of the machine, by name."""
        with contextlib.suppress(FileNotFoundError):
            return [cls(path.name) for path in sorted(labs_directory().iterdir()) if (path / STATE_FILE).exists()]
        return []

    def state(self) -> LabState:
        """Read the lab's state."""
        self._last_known = load_state(self.directory)
        return self._last_known

    @contextlib.contextmanager
    def changing(self) -> Iterator[LabState]:
        """Hold the lab's lock, yield its state, and save what was changed in it (also when the body fails)."""
        self.state()
        with locked(self.directory):
            state = self.state()
            try:
                yield state
            finally:
                save_state(self.directory, state)

    @property
    def subnet(self) -> str:
        """The subnet that the hosts and the switch share."""
        return self.state().subnet

    @property
    def share(self) -> Path:
        """A folder that the machine and all hosts see under the same path."""
        return self.directory / "share"

    @property
    def switch(self) -> Host:
        """The switch, which is also the outside."""
        return Host(self, SWITCH)

    def host(self, name: str) -> Host:
        """Return the host with this name (`switch` is one); `NotFound` when there is none."""
        self.require_host(name, self.state())
        return Host(self, name)

    @property
    def hosts(self) -> list[Host]:
        """The hosts n1, n2, … without the switch."""
        return [Host(self, name) for name in self.state().hosts if name != SWITCH]

    def require_host(self, name: str, state: LabState) -> None:
        """Raise `NotFound` unless the lab has this host."""
        if name not in state.hosts:
            raise NotFound(f"lab {self.name!r} has no host {name!r}; it has {', '.join(state.hosts)}")

    def start_daemons(
        self,
        names: Sequence[str],
        arguments: Sequence[str] | None = None,
        *,
        wait_s: float = DAEMON_START_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start pyswarmd in these hosts and wait until each answers; `wait_s=0` does not wait.

        `arguments` are added to the lab's daemon command, and kept for later starts; `env` is for this start only.
        """
        with self.changing() as state:
            for name in names:
                host, handle = state.hosts[name], Host(self, name)
                if host.daemon is not None and host.daemon.is_running:
                    raise FailedPrecondition(f"pyswarmd runs in host {name} already (pid {host.daemon.pid})")
                host.has_daemon = True
                host.daemon_arguments = host.daemon_arguments if arguments is None else list(arguments)
                command = [*state.daemon_command, *host.daemon_arguments]
                host.daemon = ProcessIdentity.of(handle.spawn(command, handle.log_path, env))
        if wait_s:
            for name in names:
                Host(self, name).wait_daemon_ready(wait_s)

    def heal(self) -> None:
        """Undo every cut."""
        with self.changing() as state:
            state.cut_hosts, state.cut_pairs, state.cut_ways = [], [], []
            power.apply_cuts(state)

    def down(self) -> None:
        """Remove every trace of the lab. Works on what is left of one, and when there is none."""
        with contextlib.suppress(PyswarmError):
            self.state()
        deadline_s = time.monotonic() + _DOWN_PATIENCE_S
        while pids := cgroups.lab_processes(self.name) | traces.labelled_processes(self.name):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline_s:
                raise PyswarmError(f"processes of lab {self.name} do not die: {sorted(pids)}")
            time.sleep(0.005)
        cgroups.remove_group(self.name)
        if self.directory.exists():
            shutil.rmtree(self.directory)
        with contextlib.suppress(OSError):
            self.directory.parent.rmdir()

    def leftovers(self) -> list[str]:
        """Return a line for each thing of the lab that exists: processes, namespaces, links, mounts, cgroups, tables, files."""
        with contextlib.suppress(PyswarmError):
            self.state()
        known = self._last_known.hosts.values() if self._last_known is not None else []
        return traces.leftovers(self.name, self.directory, {h.net_namespace for h in known if h.net_namespace is not None})

    def __enter__(self) -> "Lab":
        """Return the lab itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the lab down."""
        self.down()

    def _claim_name(self, count: int, subnet: str | None, daemon_command: Sequence[str] | None) -> None:
        """Choose the subnet and write the first state, before anything else exists, so that `down` finds all of it."""
        parent = self.directory.parent
        parent.mkdir(parents=True, exist_ok=True)
        with locked(parent):
            if self.directory.exists():
                raise AlreadyExists(f"lab {self.name!r} exists already; `pyswarm lab down --name {self.name}` removes it")
            taken = [other.state().subnet for other in Lab.all()]
            network_used = network.parse_subnet(subnet or network.choose_subnet(taken), count)
            hosts = {SWITCH: HostState(SWITCH, network.switch_address(network_used))}
            for index in range(count):
                hosts[f"n{index + 1}"] = HostState(f"n{index + 1}", network.host_address(network_used, index))
            (self.directory / "share").mkdir(parents=True)
            command = list(daemon_command or default_daemon_command(str(network_used)))
            save_state(self.directory, LabState(self.name, str(network_used), hosts, command))

    def _require_root(self) -> None:
        if os.geteuid() != 0:
            raise FailedPrecondition("labs are made of namespaces, which needs root: use sudo")


def default_daemon_command(subnet: str) -> list[str]:
    """Return the command that starts pyswarmd in a lab: the one installed beside this Python."""
    return [str(Path(sys.executable).parent / "pyswarmd"), "--insecure-registry", subnet]


def parse_daemon_command(text: str) -> list[str]:
    """Split a daemon command as a shell does; `InvalidArgument` when its quotes do not match or it is empty."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid daemon command {text!r}: {error}") from None
    if not words:
        raise InvalidArgument("the daemon command is empty")
    return words
