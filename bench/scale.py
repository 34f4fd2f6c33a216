#!/usr/bin/env python3
"""A thousand agents and thirty thousand tasks: how long until all run, what that costs the managers, what a power cut of 100 does.

Real managers (pyswarmd with etcd) on netns hosts; simulated agents (`scale_processes/`) with certificates and sessions of their
own, in two processes on two more hosts. Services are created through the Engine API. Measured:

sessions        seconds until all agents have their session
tasks           seconds until all tasks RUN, and per task, from the request that made its service to the acknowledgement of RUNNING
cost            CPU seconds and memory of pyswarmd and etcd; how late the leader's event loop ran
heartbeats      signs of life that the leader took in after their deadline; nodes that were declared down by mistake
failure         power cut of the second agents' host: seconds until the first and the last of its nodes is noticed to be down, and
                until all its tasks run elsewhere
leader killed   with three managers or more: seconds until all agents have a session with the next leader

Needs root, and leave to open two files per agent and process.
"""

import argparse
import contextlib
import datetime
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("bench", "tests/cluster", "scripts")]

from lab_cluster import Cluster
from memory import memory_mib, processes

from pyswarm_cli.lab.lab import Host, Lab

PROCESSES = Path(__file__).resolve().parent / "scale_processes"
POLL_S = 0.1
SETTLE_S = 10.0
"""How long to wait after a change of leader for what it might do by mistake."""
QUORUM_OF_ONE_LOST = 3
"""How many managers there must be so that one may die."""
DESCRIPTORS = 16_384
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Agents:
    """One process of simulated agents on a host of the lab."""

    def __init__(self, host: Host, manager: str, token: str, prefix: str, first: int, count: int, start_delay_s: float) -> None:
        options = {"manager": manager, "token": token, "prefix": prefix, "first": first, "count": count}
        command = [sys.executable, str(PROCESSES / "simulated_agents.py"), f"--start-delay-s={start_delay_s}"]
        command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.count = count
        self._process = host.popen(command, stdin=subprocess.PIPE, stderr=None)

    def progress(self) -> dict[str, int]:
        """Return how many sessions are open and how many tasks run."""
        answer: dict[str, int] = self._ask("progress")
        return answer

    def records(self) -> list[tuple[str, str, int, int, int]]:
        """Return (task id, service id, agent's number, ns of the assignment, ns of RUNNING) of every task."""
        return [tuple(row) for row in self._ask("records")]

    def _ask(self, question: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the simulated agents have ended")
        return json.loads(answer)

    def end(self) -> None:
        """Let the process end."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ScaleBench:
    """The cluster at work; each step adds its figures."""

    def __init__(self, arguments: argparse.Namespace, cluster: Cluster) -> None:
        self.figures: dict[str, Any] = {"parameters": {k: v for k, v in vars(arguments).items() if k not in ("out", "profile")}}
        self._arguments = arguments
        self._cluster = cluster
        self._groups: list[Agents] = []
        self._created_ns: dict[str, int] = {}
        self._victims: set[str] = set()
        self._gone: set[str] = set()
        self._down: set[str] = set()
        self._cut_s = 0.0
        self._printed = 0

    @property
    def _managers(self) -> list[Host]:
        """Those that are alive."""
        return [host for host in self._cluster.lab.hosts[: self._arguments.managers] if host.name not in self._down]

    def run(self) -> None:
        """Take all steps."""
        load = (self._found, self._begin_sessions, lambda: self._rest("idle"), self._create_services, lambda: self._rest("loaded"))
        failure = [self._cut_victims] if self._arguments.victims else []
        failure += [self._kill_leader] if self._arguments.managers >= QUORUM_OF_ONE_LOST else []
        try:
            for step in (*load, *failure, self._check):
                step()
                self.print_figures()
        finally:
            for group in self._groups:
                group.end()

    def _found(self) -> None:
        for host in self._managers:
            host.start_daemon()
        self._cluster.pyswarm("swarm", "init", "--advertise-addr", self._cluster.manager.address)
        for host in self._managers[1:]:
            self._cluster.join(host.name, "manager")
        self._cluster.wait_managers(*(host.name for host in self._managers))
        for name in self._cluster.nodes():
            self._cluster.pyswarm("node", "update", "--availability", "drain", name)
        for number in range(self._arguments.networks):
            subnet = f"10.{100 + number}.0.0/16"
            self._cluster.pyswarm("network", "create", "--driver", "overlay", "--subnet", subnet, f"overlay-{number}")

    def _begin_sessions(self) -> None:
        arguments = self._arguments
        token = self._cluster.pyswarm("swarm", "join-token", "-q", "worker").stdout.strip()
        survivors = arguments.agents - arguments.victims
        places = [("sim", 0, survivors), ("victim", survivors, arguments.victims)]
        began_s = time.monotonic()
        with self._cost("joining"):
            for host, (prefix, first, count) in zip(self._cluster.lab.hosts[arguments.managers :], places, strict=False):
                address = f"{self._cluster.manager.address}:2377"
                self._groups.append(Agents(host, address, token, prefix, first, count, arguments.start_delay_s))
            self._wait("all sessions are open", lambda: self._progress("sessions") == arguments.agents)
            self._note("joining", seconds_to_all_sessions=time.monotonic() - began_s)
        self._victims = {n["ID"] for name, n in self._cluster.nodes().items() if name.startswith("victim-")}

    def _create_services(self) -> None:
        arguments = self._arguments
        with self._cost("tasks"):
            began_s = time.monotonic()
            for number in range(arguments.services):
                share = arguments.tasks // arguments.services + (number < arguments.tasks % arguments.services)
                self._create_service(number, share)
            self._note("tasks", seconds_to_create_services=time.monotonic() - began_s)
            self._wait("all tasks run", lambda: self._progress("running") == arguments.tasks)
            self._note("tasks", seconds_to_all_running=time.monotonic() - began_s)
        records = [row for group in self._groups for row in group.records()]
        self._note("tasks", assigned_s=_spread([(a - self._created_ns[s]) / 1e9 for _, s, _, a, _ in records]))
        self._note("tasks", running_s=_spread([(r - self._created_ns[s]) / 1e9 for _, s, _, _, r in records]))

    def _create_service(self, number: int, replicas: int) -> None:
        networks = [{"Target": f"overlay-{number % self._arguments.networks}"}] if self._arguments.networks else []
        template = {
            "ContainerSpec": {"Image": "imagined:latest"},
            "RestartPolicy": {"Condition": "any", "Delay": 0},
            "Networks": networks,
        }
        spec = {"Name": f"service-{number}", "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": replicas}}}
        created_ns = time.time_ns()
        self._created_ns[self._cluster.api("/services/create", "POST", spec)["ID"]] = created_ns

    def _cut_victims(self) -> None:
        survivors, victims = self._groups
        lost = victims.progress()["running"]
        with self._cost("failure"):
            self._gone |= self._victims
            self._cut_s = time.time()
            self._cluster.lab.hosts[-1].power_cut()
            self._wait("the lost tasks run elsewhere", lambda: survivors.progress()["running"] == self._arguments.tasks)
            moved_s = time.time() - self._cut_s
        self._groups.remove(victims)
        victims.end()
        seen_s = [at_s - self._cut_s for at_s, nodes in self._declared_down() for node in nodes if node in self._victims]
        self._note("failure", lost_tasks=lost, nodes_noticed=len(seen_s), first_noticed_s=min(seen_s), last_noticed_s=max(seen_s))
        self._note("failure", all_running_elsewhere_s=moved_s)

    def _kill_leader(self) -> None:
        """Kill the leader's pyswarmd, and with it etcd; the rest of the cluster goes on without this manager."""
        leader, sessions = self._leader(), self._progress("sessions")
        self._gone.add(self._cluster.nodes()[leader]["ID"])
        began_s = time.monotonic()
        self._cluster.lab.host(leader).kill_daemon()
        self._down.add(leader)
        with self._cost("leader killed"):
            time.sleep(1.0)  # by then every agent knows
            self._note("leader killed", sessions_after_1_s=self._progress("sessions"))
            self._wait("all sessions are open again", lambda: self._progress("sessions") == sessions)
            self._note("leader killed", seconds_to_all_sessions=time.monotonic() - began_s)
            time.sleep(SETTLE_S)

    def _declared_down(self) -> Iterator[tuple[float, list[str]]]:
        """Yield the time and the nodes for each time that a manager declared some down."""
        for host in self._managers:
            for line in host.log_path.read_text().splitlines():
                if '"nodes.down"' in line:
                    entry = json.loads(line)
                    yield datetime.datetime.fromisoformat(entry["timestamp"]).timestamp(), entry["nodes"]

    def _check(self) -> None:
        """Ask the API whether all is as it should be, and note what went wrong meanwhile."""
        began_s = time.monotonic()
        tasks = self._cluster.api("/tasks", host=self._managers[0].name)
        self._note("check", seconds_to_list_tasks=time.monotonic() - began_s)
        running = sum(t["Status"]["State"] == t["DesiredState"] == "running" for t in tasks)
        mistaken = [
            node for at_s, nodes in self._declared_down() for node in nodes if node not in self._gone or not at_s > self._cut_s > 0
        ]
        lines = [line for host in self._managers for line in self._measured(host.name)]
        self._note(
            "check",
            running_tasks=running,
            nodes_mistaken_for_dead=len(mistaken),
            heartbeats=sum(line["heartbeats"] for line in lines),
            missed_heartbeats=sum(line["missed_heartbeats"] for line in lines),
            longest_gap_periods=max((line["longest_gap_periods"] for line in lines), default=0.0),
        )
        if running != self._arguments.tasks or mistaken:
            raise RuntimeError(f"{running} tasks run; nodes mistaken for dead: {mistaken}")

    def _rest(self, phase: str) -> None:
        """Measure for a while what it costs when nothing happens."""
        with self._cost(phase):
            time.sleep(self._arguments.idle_s)

    @contextlib.contextmanager
    def _cost(self, phase: str) -> Iterator[None]:
        """Note what the managers' processes took in a phase, and how late their event loops were."""
        before, began_s = self._cpu_s(), time.time()
        with self._profile(phase):
            yield
        time.sleep(1.0)  # the line of the last second
        seconds = time.time() - began_s
        for place, cpu_s in self._cpu_s().items():
            self._note(phase, **{f"{place} CPU s": cpu_s - before.get(place, 0.0)})
        for place, pid in self._pids().items():
            memory = memory_mib(pid)
            self._note(phase, **{f"{place} RSS MiB": memory["RSS"], f"{place} PSS MiB": memory["PSS"]})
        for host in self._managers:
            lines = [line for line in self._measured(host.name) if line["at_s"] > began_s]
            late = sorted((tuple(pair) for line in lines for pair in line["late_ms"]), reverse=True)
            self._note(phase, **{f"{host.name} loop late over 50 ms": sum(line["late_count"] for line in lines)})
            text = ", ".join(f"{wall} ({cpu})" for wall, cpu in late[:5])
            self._note(phase, **{f"{host.name} loop late, wall (CPU) ms": text})
            pauses = [line["longest_collection_ms"] for line in lines]
            collecting_s = sum(line["collecting_ms"] for line in lines) / 1000
            self._note(phase, **{f"{host.name} collector s, longest ms": f"{collecting_s:.2f}, {max(pauses, default=0.0)}"})
            names = sorted({name for line in lines for name in line["longest_steps_ms"]})
            longest = {name: max(line["longest_steps_ms"].get(name, 0.0) for line in lines) for name in names}
            self._note(phase, **{f"{host.name} longest steps, CPU ms": longest})
            stacks: dict[str, int] = {}
            for line in lines:
                for stack, count in line["stacks"].items():
                    stacks[stack] = stacks.get(stack, 0) + count
            self._note(phase, **{f"{host.name} late in": sorted(stacks.items(), key=lambda item: -item[1])[:8]})
        self._note(phase, seconds=seconds, load=os.getloadavg()[0])

    @contextlib.contextmanager
    def _profile(self, phase: str) -> Iterator[None]:
        """Sample the leader's stacks with py-spy when that was asked for."""
        leader = self._leader() if self._arguments.profile is not None else ""
        if not leader:
            yield
            return
        path = self._arguments.profile / f"{phase}.stacks"
        command = ["py-spy", "record", "--gil", "--format=raw", "--duration=3600", f"--output={path}"]
        pid = self._cluster.lab.host(leader).daemon_pid
        with subprocess.Popen([*command, f"--pid={pid}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sampler:
            try:
                yield
            finally:
                sampler.send_signal(signal.SIGINT)

    def _leader(self) -> str:
        states = self._cluster.managers(host=self._managers[0].name)
        return next((name for name, state in states.items() if state == "leader"), "")

    def print_figures(self) -> None:
        """Print what was not printed yet."""
        for phase, figures in list(self.figures.items())[self._printed :]:
            self._printed += 1
            print(f"\n{phase}")
            for name, value in figures.items():
                print(f"  {name:<34} {_readable(value)}", flush=True)

    def _note(self, phase: str, **figures: Any) -> None:
        self.figures.setdefault(phase, {}).update(figures)

    def _measured(self, name: str) -> list[dict[str, Any]]:
        path = self._cluster.lab.share / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _pids(self) -> dict[str, int]:
        return {f"{host.name} {program}": pid for host in self._managers for program, pid in _programs(host)}

    def _cpu_s(self) -> dict[str, float]:
        return {place: _cpu_s(pid) for place, pid in self._pids().items()}

    def _progress(self, name: str) -> int:
        return sum(group.progress()[name] for group in self._groups)

    def _wait(self, what: str, probe: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + self._arguments.patience_s
        while not probe():
            if time.monotonic() > deadline_s:
                logs = "\n".join(f"{host.name}: {host.log_end()}" for host in self._managers)
                raise TimeoutError(f"not within {self._arguments.patience_s:g} s: {what}\n{logs}")
            time.sleep(POLL_S)


def _programs(host: Host) -> Iterator[tuple[str, int]]:
    """Yield pyswarmd and etcd with their pids, as the machine counts."""
    if host.daemon_pid is not None:
        yield "pyswarmd", host.daemon_pid
    yield from ((program, pid) for program, pid in processes(host) if program == "etcd")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_readable(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "".join(f"\n      {each[1]:>6}  {each[0]}" for each in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _spread(seconds: list[float]) -> dict[str, float]:
    quantiles = statistics.quantiles(seconds, n=100)
    return {"p50": quantiles[49], "p90": quantiles[89], "p99": quantiles[98], "max": max(seconds)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Bring up a cluster, measure, take it down without leftovers; return the figures by phase."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(DESCRIPTORS, hard)), hard))
    name = f"scale-{os.getpid()}"
    command = [sys.executable, str(PROCESSES / "measured_daemon.py"), str(Lab(name).directory / "share")]
    lab = Lab.create(name, hosts=arguments.managers + (2 if arguments.victims else 1), daemon_command=command)
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = ScaleBench(arguments, Cluster(lab, "", Path(folder)))
            bench.run()
    finally:
        lab.down()
    leftovers = lab.leftovers()
    if leftovers:
        raise AssertionError(f"the lab left behind: {leftovers}")
    return bench.figures


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=30_000)
    parser.add_argument("--services", type=int, default=30)
    parser.add_argument("--managers", type=int, default=1)
    parser.add_argument("--victims", type=int, default=100, help="how many of the agents lose their power at the end")
    parser.add_argument("--networks", type=int, default=0, help="overlays (/16) that the services share; each task gets an address")
    parser.add_argument("--start-delay-s", type=float, default=0.0, help="how long an imagined container takes to start")
    parser.add_argument("--idle-s", type=float, default=10.0, help="how long to measure when nothing happens")
    parser.add_argument("--patience-s", type=float, default=600.0)
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="sample the leader's stacks there; needs py-spy in the PATH")
    parser.add_argument("--out", type=Path, help="write all figures there as JSON")
    return parser.parse_args(words)


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("scale: told to end"))  # not without taking the lab down
    figures = measure(arguments)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
