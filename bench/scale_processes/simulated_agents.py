#!/usr/bin/env python3
"""Many agents in one process, for benchmarks of managers: real joins, certificates and sessions, imagined containers.

    simulated_agents.py --manager HOST:PORT --token TOKEN --count 900 --prefix sim

Each agent is a node of its own: it joins by token with a key of its own, dials its own session over mutual TLS with the agent's
real dialer, beats, and reports through the agent's real reporter. Its tasks start by themselves, at once or after a delay.

The process takes one request per line on standard input and answers each with one line of JSON:

    progress    {"sessions": open sessions, "running": tasks whose RUNNING a manager has acknowledged and that are wanted}
    records     [[task id, service id, agent's number, ns of its assignment, ns of the acknowledgement of RUNNING or 0], …]
"""

import argparse
import asyncio
import contextlib
import ipaddress
import json
import logging
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import structlog
import uvloop

from pyswarm_agent.reporter import StatusReporter
from pyswarm_agent.session import SessionDialer, client_tls
from pyswarm_common import pki, wire
from pyswarm_common.objects import NodeDescription, NodeResources, TaskStatus
from pyswarm_common.task_states import TaskState

JOINS_AT_ONCE = 8
DIALS_PER_S = 150.0
"""How fast the first sessions are begun: a cluster of a thousand nodes does not appear at one blow."""
FIRST_ADDRESS = ipaddress.IPv4Address("10.200.0.0")
RESOURCES = NodeResources(nano_cpus=64 * 10**9, memory_bytes=256 << 30, pids=1 << 22)


@dataclass(eq=False)
class SimulatedTask:
    """A task as its agent sees it."""

    service_id: str
    assigned_ns: int
    state: TaskState = TaskState.ASSIGNED
    is_wanted: bool = True
    running_ns: int = 0
    """When a manager acknowledged that it runs."""


class ViewVersion(msgspec.Struct):
    """What is read of a network view, or of the change of one."""

    network_id: str
    version: int = 0
    to_version: int = 0


@dataclass(eq=False)
class SimulatedAgent:
    """One node; a `SessionHandler` whose containers are imagined."""

    number: int
    description: NodeDescription
    managers: tuple[wire.ManagerAddress, ...]
    tls: ssl.SSLContext
    start_delay_s: float
    tasks: dict[str, SimulatedTask] = field(default_factory=dict)
    ended: dict[str, SimulatedTask] = field(default_factory=dict)
    incarnation: int = 0

    def __post_init__(self) -> None:
        self._reporter = StatusReporter()
        self._sent = wire.StatusReport(number=0, updates=())
        self._views: dict[str, int] = {}
        self._awaited = asyncio.Event()
        self.dialer = SessionDialer(self, tls=lambda: self.tls, managers=lambda: self.managers)

    def hello(self) -> wire.Hello:
        """Return the greeting; it never holds a network view."""
        return wire.Hello(protocol_versions=wire.PROTOCOL_VERSIONS, description=self.description)

    def session_began(self) -> None:
        """Send again what was not acknowledged."""
        self._reporter.restart()
        self._views.clear()
        self._awaited.clear()

    async def next_report(self) -> wire.StatusReport:
        """Return the next report, and remember what is in it until it is acknowledged."""
        self._sent = await self._reporter.next_report()
        return self._sent

    async def next_views_applied(self) -> wire.ViewsApplied:
        """Return the versions of the views that it was sent, as soon as a manager asks."""
        await self._awaited.wait()
        self._awaited.clear()
        return wire.ViewsApplied(versions=self._views)

    async def handle(self, message: wire.ManagerMessage) -> None:
        """Take in what the manager says."""
        match message:
            case wire.Assignments():
                self._apply(message)
            case wire.StatusAcknowledgement():
                self._reporter.acknowledge(message.number)
                if message.number == self._sent.number:
                    self._note_running(self._sent)
            case wire.NodeState():
                self.managers = message.managers or self.managers

    def _note_running(self, report: wire.StatusReport) -> None:
        now_ns = time.time_ns()
        for update in report.updates:
            task = self.tasks.get(update.task_id)
            if task is not None and update.status.state is TaskState.RUNNING and not task.running_ns:
                task.running_ns = now_ns

    def _apply(self, message: wire.Assignments) -> None:
        assigned = {assignment.task_id for assignment in message.tasks}
        gone = [t for t in self.tasks if t not in assigned] if message.is_complete else []
        for task_id in (*message.removed_tasks, *gone):
            if (task := self.tasks.pop(task_id, None)) is not None:
                task.is_wanted = False
                self.ended[task_id] = task
            self._reporter.forget(task_id)
        for assignment in message.tasks:
            self._assign(assignment)
        for raw in (*message.views, *message.view_deltas):
            version = msgspec.msgpack.decode(raw, type=ViewVersion)
            self._views[version.network_id] = version.version or version.to_version
        if message.is_answer_awaited:
            self._awaited.set()

    def _assign(self, assignment: wire.TaskAssignment) -> None:
        task = self.tasks.get(assignment.task_id)
        if task is None:
            task = self.tasks[assignment.task_id] = SimulatedTask(assignment.service_id, time.time_ns())
        task.is_wanted = assignment.desired_state is TaskState.RUNNING
        if assignment.desired_state > TaskState.RUNNING:
            self._report(assignment.task_id, task, TaskState.SHUTDOWN)
        elif assignment.desired_state is TaskState.READY:
            self._report(assignment.task_id, task, TaskState.READY)
        elif not self.start_delay_s:
            self._report(assignment.task_id, task, TaskState.RUNNING)
        elif task.state <= TaskState.READY:
            self._report(assignment.task_id, task, TaskState.STARTING)
            asyncio.get_running_loop().call_later(self.start_delay_s, self._report, assignment.task_id, task, TaskState.RUNNING)

    def _report(self, task_id: str, task: SimulatedTask, state: TaskState) -> None:
        if task.state < state and self.tasks.get(task_id) is task:
            task.state = state
            container_id = (task_id * 3)[:64]
            status = TaskStatus(state=state, at_ns=time.time_ns(), message="started", container_id=container_id, pid=4711)
            self._reporter.put(task_id, status)


class Machine:
    """All agents of this process."""

    def __init__(self, manager: str, token: str, prefix: str, first: int, start_delay_s: float, folder: Path) -> None:
        self.agents: list[SimulatedAgent] = []
        self._manager = manager
        self._token = token
        self._prefix = prefix
        self._first = first
        self._start_delay_s = start_delay_s
        self._folder = folder

    async def join_all(self, count: int) -> None:
        """Let `count` nodes join the cluster."""
        insecure = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
        async with httpx.AsyncClient(verify=insecure, trust_env=False) as client:
            root_pem = (await client.get(f"https://{self._manager}{wire.CA_PATH}")).raise_for_status().text
        (self._folder / "root.pem").write_text(root_pem)
        turns = asyncio.Semaphore(JOINS_AT_ONCE)
        tls = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=root_pem)
        async with httpx.AsyncClient(verify=tls, trust_env=False, timeout=30.0) as client, asyncio.TaskGroup() as group:
            joining = [group.create_task(self._join(client, turns, self._first + n)) for n in range(count)]
        self.agents = [task.result() for task in joining]

    async def _join(self, client: httpx.AsyncClient, turns: asyncio.Semaphore, number: int) -> SimulatedAgent:
        hostname, address = f"{self._prefix}-{number:05}", str(FIRST_ADDRESS + number + 1)
        async with turns:
            key_pem = pki.new_private_key_pem()
            request = wire.JoinRequest(
                token=self._token, signing_request_pem=pki.new_signing_request(key_pem), hostname=hostname, address=address
            )
            answer = await client.post(
                f"https://{self._manager}{wire.JOIN_PATH}",
                content=msgspec.json.encode(request),
                extensions={"sni_hostname": pki.MANAGER_ROLE_NAME},
            )
            joined = msgspec.json.decode(answer.raise_for_status().content, type=wire.JoinAnswer)
        certificate, key = self._folder / f"{number}.pem", self._folder / f"{number}.key"
        certificate.write_text(joined.certificate_pem)
        key.write_text(key_pem)
        return SimulatedAgent(
            number=number,
            description=NodeDescription(
                hostname=hostname, architecture="x86_64", resources=RESOURCES, address=address, data_path_address=address
            ),
            managers=joined.managers,
            tls=client_tls(str(certificate), str(key), str(self._folder / "root.pem")),
            start_delay_s=self._start_delay_s,
        )

    async def run(self) -> None:
        """Keep all sessions open."""
        async with asyncio.TaskGroup() as group:
            for agent in self.agents:
                group.create_task(agent.dialer.run())
                await asyncio.sleep(1 / DIALS_PER_S)

    def progress(self) -> dict[str, int]:
        """Return the counts that change all the time."""
        tasks = (task for agent in self.agents for task in agent.tasks.values())
        return {
            "sessions": sum(agent.dialer.connected_to is not None for agent in self.agents),
            "running": sum(task.is_wanted and task.running_ns > 0 for task in tasks),
        }

    def records(self) -> list[tuple[str, str, int, int, int]]:
        """Return a row for each task that any agent ever had."""
        return [
            (task_id, task.service_id, agent.number, task.assigned_ns, task.running_ns)
            for agent in self.agents
            for tasks in (agent.tasks, agent.ended)
            for task_id, task in tasks.items()
        ]


async def answer_requests(machine: Machine) -> None:
    """Answer each line of standard input, until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        answer = machine.records() if line == "records" else machine.progress()
        print(json.dumps(answer), flush=True)


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Join, then run until standard input ends."""
    machine = Machine(arguments.manager, arguments.token, arguments.prefix, arguments.first, arguments.start_delay_s, folder)
    await machine.join_all(arguments.count)
    running = asyncio.ensure_future(machine.run())
    await asyncio.wait({running, asyncio.ensure_future(answer_requests(machine))}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manager", required=True, metavar="HOST:PORT")
    parser.add_argument("--token", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="the first agent's number, which must differ between processes")
    parser.add_argument("--prefix", default="sim")
    parser.add_argument("--start-delay-s", type=float, default=0.0, help="how long a container takes to start")
    arguments = parser.parse_args()
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with tempfile.TemporaryDirectory(prefix="pss-") as folder:
        uvloop.run(run(arguments, Path(folder)))


if __name__ == "__main__":
    main()
