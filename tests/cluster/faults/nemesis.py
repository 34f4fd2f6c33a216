"""Carries out planned faults on a lab, and heals each after its time. Whatever happens, `heal_all` leaves every host whole."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from faults import plan
from faults.history import Fault, History
from faults.plan import PlannedFault
from pyswarm_cli.lab.host import Host
from pyswarm_cli.lab.lab import Lab
from pyswarm_common.errors import PyswarmError

FLAP_S = (0.05, 1.0)
STOP_PATIENCE_S = 20.0


def etcd_pid(host: Host) -> int | None:
    """Return the pid of the host's etcd, as the machine counts; None when it does not run."""
    daemon = host.daemon_pid
    for child in _children(daemon) if daemon is not None else []:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text() == "etcd\n":
                return child
    return None


def send(pid: int | None, number: int) -> None:
    """Send a signal to a process that may be gone."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Nemesis(threading.Thread):
    """Strikes as planned, beginning when it is started; joined, everything it did is healed.

    `find_leader` returns the host name of the leader, if anybody knows; faults that aim at the leader strike its host then.
    """

    def __init__(
        self, lab: Lab, planned: Sequence[PlannedFault], history: History, seed: int, find_leader: Callable[[], str | None]
    ) -> None:
        super().__init__(name="nemesis", daemon=True)
        self.problems: list[str] = []
        """What did not go as faults should: a daemon that did not stop or start, for example."""
        self._lab = lab
        self._planned = planned
        self._history = history
        self._seed = seed
        self._find_leader = find_leader
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Carry out the plan."""
        started_s = time.monotonic()
        strikes = []
        for number, fault in enumerate(self._planned):
            time.sleep(max(0.0, started_s + fault.at_s - time.monotonic()))
            if hosts := self._claim(fault):
                strike = threading.Thread(target=self._strike, args=(number, fault, hosts), daemon=True)
                strike.start()
                strikes.append(strike)
        for strike in strikes:
            strike.join()
        self.heal_all()

    def heal_all(self) -> None:
        """Make every host whole, whatever state the faults left it in."""
        self._lab.heal()
        for host in self._lab.hosts:
            with self._noting(f"healing {host.name}"):
                _bring_back(host)
                host.plug()
                for pid in (host.daemon_pid, etcd_pid(host)):
                    send(pid, signal.SIGCONT)

    def _claim(self, fault: PlannedFault) -> tuple[str, ...]:
        """Return the hosts to strike, now busy; none when those that are free are too few."""
        leader = self._find_leader() if fault.aims_at_leader else None
        with self._lock:
            hosts = [name for name in ([leader] if leader else []) + list(fault.hosts) if name not in self._busy]
            chosen = tuple(dict.fromkeys(hosts))[: len(fault.hosts)]
            if len(chosen) < len(fault.hosts):
                return ()
            self._busy.update(chosen)
            return chosen

    def _strike(self, number: int, fault: PlannedFault, names: tuple[str, ...]) -> None:
        hosts = [self._lab.host(name) for name in names]
        chance = random.Random(f"{self._seed}/{number}")
        began_s = time.monotonic()
        try:
            with self._noting(f"{fault.kind} of {', '.join(names)}"):
                STRIKES[fault.kind](hosts, fault.lasts_s, chance)
        finally:
            self._history.add(Fault(fault.kind, names, began_s, time.monotonic()))
            with self._lock:
                self._busy.difference_update(names)

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (PyswarmError, OSError) as error:
            self.problems.append(f"{what}: {error}")


def _kill_daemon(hosts: Sequence[Host], lasts_s: float, _: random.Random) -> None:
    _kill_and_bring_back(hosts[0], lasts_s, signal.SIGKILL)


def _stop_daemon(hosts: Sequence[Host], lasts_s: float, _: random.Random) -> None:
    _kill_and_bring_back(hosts[0], lasts_s, signal.SIGTERM)


def _kill_both(hosts: Sequence[Host], lasts_s: float, _: random.Random) -> None:
    send(etcd_pid(hosts[0]), signal.SIGKILL)
    _kill_and_bring_back(hosts[0], lasts_s, signal.SIGKILL)


def _kill_and_bring_back(host: Host, lasts_s: float, number: int) -> None:
    try:
        if host.daemon_pid is not None:
            host.kill_daemon(number, wait_s=STOP_PATIENCE_S)
        time.sleep(lasts_s)
    finally:
        if number == signal.SIGTERM and host.daemon_pid is not None:
            host.kill_daemon(signal.SIGKILL)
        _bring_back(host)


def _kill_etcd(hosts: Sequence[Host], lasts_s: float, chance: random.Random) -> None:
    """Kill it as often as it comes back."""
    until_s = time.monotonic() + lasts_s
    while time.monotonic() < until_s:
        send(etcd_pid(hosts[0]), signal.SIGKILL)
        time.sleep(chance.uniform(0.5, 3.0))


def _power_cut(hosts: Sequence[Host], lasts_s: float, _: random.Random) -> None:
    try:
        for host in hosts:
            host.power_cut()
        time.sleep(lasts_s)
    finally:
        for host in hosts:
            _bring_back(host)


def _bring_back(host: Host) -> None:
    if not host.is_on:
        host.power_on(wait_s=0)
    elif host.daemon_pid is None and host.state.has_daemon:
        host.start_daemon(wait_s=0)


def _pause_daemon(hosts: Sequence[Host], lasts_s: float, _: random.Random) -> None:
    _pause([hosts[0].daemon_pid], lasts_s)


def _pause_etcd(hosts: Sequence[Host], lasts_s: float, _: random.Random) -> None:
    _pause([etcd_pid(hosts[0])], lasts_s)


def _pause_both(hosts: Sequence[Host], lasts_s: float, _: random.Random) -> None:
    _pause([hosts[0].daemon_pid, etcd_pid(hosts[0])], lasts_s)


def _pause(pids: Sequence[int | None], lasts_s: float) -> None:
    try:
        for pid in pids:
            send(pid, signal.SIGSTOP)
        time.sleep(lasts_s)
    finally:
        for pid in pids:
            send(pid, signal.SIGCONT)


def _cut_off(hosts: Sequence[Host], lasts_s: float, _: random.Random) -> None:
    _cut(hosts, lasts_s, hosts[0].cut)


def _cut_pair(hosts: Sequence[Host], lasts_s: float, _: random.Random) -> None:
    _cut(hosts, lasts_s, lambda: hosts[0].cut(hosts[1].name))


def _cut_one_way(hosts: Sequence[Host], lasts_s: float, chance: random.Random) -> None:
    sender, receiver = hosts if chance.random() < 0.5 else reversed(hosts)
    _cut(hosts, lasts_s, lambda: sender.cut_to(receiver.name))


def _cut(hosts: Sequence[Host], lasts_s: float, cut: Callable[[], None]) -> None:
    try:
        cut()
        time.sleep(lasts_s)
    finally:
        for host in hosts:
            host.heal()


def _flap(hosts: Sequence[Host], lasts_s: float, chance: random.Random) -> None:
    until_s = time.monotonic() + lasts_s
    try:
        while time.monotonic() < until_s:
            hosts[0].unplug()
            time.sleep(chance.uniform(*FLAP_S))
            hosts[0].plug()
            time.sleep(chance.uniform(*FLAP_S))
    finally:
        hosts[0].plug()


STRIKES: dict[str, Callable[[Sequence[Host], float, random.Random], None]] = {
    plan.KILL_DAEMON: _kill_daemon,
    plan.KILL_ETCD: _kill_etcd,
    plan.KILL_BOTH: _kill_both,
    plan.STOP_DAEMON: _stop_daemon,
    plan.POWER_CUT: _power_cut,
    plan.POWER_CUT_ALL: _power_cut,
    plan.PAUSE_DAEMON: _pause_daemon,
    plan.PAUSE_ETCD: _pause_etcd,
    plan.PAUSE_BOTH: _pause_both,
    plan.CUT_OFF: _cut_off,
    plan.CUT_PAIR: _cut_pair,
    plan.CUT_ONE_WAY: _cut_one_way,
    plan.FLAP: _flap,
}


def _children(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(child) for child in (thread / "children").read_text().split()]
    return found
