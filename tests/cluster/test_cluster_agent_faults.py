"""A worker that has everything to do at once, and whose processes are killed again and again at random: it finishes or undoes.

`PYSWARM_AGENT_FAULT_SECONDS` makes the random test longer, `PYSWARM_FAULT_SEED` repeats one.
"""

import collections
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_traces import assert_nothing_left, files_with, traces
from agent_work import AgentWork, attempt
from lab_cluster import Cluster, build_images, running_cluster, wait_until

from pyswarm_cli.lab.cgroups import lab_processes

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]
SECONDS = float(os.environ.get("PYSWARM_AGENT_FAULT_SECONDS", "25"))
WORKER = "n2"
LOCAL_LINES = "trap 'exit 0' TERM; while :; do echo a line of a local container; sleep 0.1; done"
TRUE_MESSAGES = (
    "task: non-zero exit (137)",
    "task: non-zero exit (143)",
    "the container's monitor (conmon) was killed, so the container was killed too; its own exit code is unknown",
    "the container's monitor (conmon) failed: it was killed, or ended without a word",
    "OCI runtime create failed: read ",
    "OCI runtime create failed: write ",
    "is not running: unknown",
    "the node was restarted",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A manager and a worker."""
    folder: Path = tmp_path_factory.mktemp("agent-faults")
    with running_cluster(folder, build_images(folder), hosts=2) as cluster:
        cluster.pyswarm("pull", cluster.image("busybox"), host=WORKER)
        yield cluster


class Chaos:
    """Kills what runs on the worker, at moments of one seed. Whatever it did, `heal` leaves host and daemon running."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.host = cluster.lab.host(WORKER)
        self.strikes: collections.Counter[str] = collections.Counter()
        self._chance = random.Random(seed)

    def strike(self) -> None:
        """Wait some time, kill something, and bring it back."""
        time.sleep(self._chance.uniform(0.0, 1.2))
        kind = self._chance.choices(["daemon", "conmon", "crun", "process", "power"], [10, 3, 5, 2, 1])[0]
        if kind == "daemon":
            self.host.kill_daemon()
            time.sleep(self._chance.choice([0.0, 0.0, 0.3, 1.0]))
            self.host.start_daemon()
        elif kind == "power":
            self.host.power_cut()
            self.host.power_on()
        elif not self._kill_one(kind):
            return
        self.strikes[kind] += 1

    def heal(self) -> None:
        """Let the host and its daemon run."""
        if not self.host.is_on:
            self.host.power_on()
        if self.host.daemon_pid is None:
            self.host.start_daemon()

    def _kill_one(self, kind: str) -> bool:
        """Kill one of the host's monitors, OCI runtimes, or containers' processes; False if there was none for two seconds."""
        deadline_s = time.monotonic() + 2.0
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError):  # processes, and cgroups, come and go
                found = [pid for pid in sorted(lab_processes(self.host.lab.name, WORKER)) if _kind_of(pid) == kind]
                if found:
                    os.kill(self._chance.choice(found), signal.SIGKILL)
                    return True
        return False


def _kind_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        for kind, mark in (("conmon", b"conmon\0"), ("crun", b"crun\0"), ("process", b"sh\0-c\0trap")):
            if command.partition(b"\0")[0].endswith(mark[:-1]) or command.startswith(mark):
                return kind
    return ""


class Churn(threading.Thread):
    """Changes services and local containers without pause, and takes no offence at refusals."""

    def __init__(self, work: AgentWork, seed: int) -> None:
        super().__init__(name="churn", daemon=True)
        self.replicas = {"steady": 2, "busy": 2}
        self.locals: set[str] = set()
        self.done: collections.Counter[str] = collections.Counter()
        self.refusals: collections.Counter[str] = collections.Counter()
        self.ending = threading.Event()
        self._work = work
        self._chance = random.Random(f"{seed}/churn")
        self._count = 0

    def run(self) -> None:
        """Go on until `ending` is set."""
        while not self.ending.wait(self._chance.uniform(0.1, 0.7)):
            self._count += 1
            kind = self._chance.choice(["scale", "update", "replace", "passing", "passing", "remove"])
            refusal = attempt(getattr(self, f"_{kind}"))
            self.done[kind] += not refusal
            if refusal:
                self.refusals[f"{kind}: {refusal[:100]}"] += 1

    def _scale(self) -> None:
        self.replicas["busy"] = self._chance.randint(1, 4)
        self._work.update("busy", self.replicas["busy"], 0)

    def _update(self) -> None:
        self._work.update("busy", self.replicas["busy"], self._count)

    def _replace(self) -> None:
        if "passing" in self.replicas:
            del self.replicas["passing"]
            self._work.cluster.api("/services/passing", "DELETE")
        else:
            self._work.create("passing", 2)
            self.replicas["passing"] = 2

    def _passing(self) -> None:
        name = f"passing-{self._count}"
        self.locals.add(name)
        self._work.run_local(name, self._chance.choice(["true", "sleep 0.3", LOCAL_LINES]), removes_itself=self._count % 2 == 0)

    def _remove(self) -> None:
        if self.locals:
            self._work.remove_local(self._chance.choice(sorted(self.locals)))


def test_a_worker_that_is_killed_again_and_again_finishes_or_undoes(cluster: Cluster) -> None:
    seed, host = a_seed(), cluster.lab.host(WORKER)
    work, before = AgentWork(cluster, WORKER), traces(host)
    chaos, churn = Chaos(cluster, seed), Churn(work, seed)
    work.create("steady", 2)
    work.create("busy", 2)
    work.run_local("kept-always", LOCAL_LINES, "always")
    work.run_local("kept-unless-stopped", LOCAL_LINES, "unless-stopped")
    work.run_local("fails", "sleep 0.2; exit 3", "on-failure")
    work.wait_settled({"steady": 2, "busy": 2})
    messages = Messages(cluster)
    churn.start()
    until_s = time.monotonic() + SECONDS
    try:
        while time.monotonic() < until_s:
            chaos.strike()
            messages.look()
    finally:
        churn.ending.set()
        churn.join()
        chaos.heal()
    print(f"{dict(chaos.strikes)}; changes {dict(churn.done)}; refused {dict(churn.refusals)}")
    try:
        work.wait_settled(churn.replicas)
    except BaseException:
        print("\n".join(work.why_unsettled(churn.replicas)))
        raise
    messages.look()
    print(f"messages: {dict(messages.seen)}")
    wait_until("containers with a restart policy run", lambda: {"/kept-always", "/kept-unless-stopped"} <= running_names(work))
    assert files_with(host, work.secret) == []
    assert files_with(cluster.manager, work.secret) == []
    work.remove_everything([*churn.locals, "kept-always", "kept-unless-stopped", "fails"])
    assert_nothing_left(host, before)
    assert files_with(host, work.secret) == []
    assert messages.untrue() == []


class Messages:
    """What failed tasks of the cluster say of themselves."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tasks: dict[str, str] = {}

    def look(self) -> None:
        """Take in what is said now."""
        for task in self._cluster.api("/tasks"):
            if task["Status"]["State"] in ("failed", "rejected", "complete", "orphaned"):
                self._tasks[task["ID"]] = f"{task['Status']['State']}: {task['Status'].get('Err', '')}"

    @property
    def seen(self) -> collections.Counter[str]:
        """How many tasks said what."""
        return collections.Counter(self._tasks.values())

    def untrue(self) -> list[str]:
        """Return what no fault of this test explains."""
        return [text for text in sorted(self.seen) if not any(true in text for true in TRUE_MESSAGES if true)]


def running_names(work: AgentWork) -> set[str]:
    """Return the names of the local containers that run."""
    return {name for c in work.containers() if c["State"] == "running" for name in c["Names"]}


def a_seed() -> int:
    """Return a new seed, or the one that is asked for; it is printed."""
    seed = int(os.environ.get("PYSWARM_FAULT_SEED", time.time_ns() % 1_000_000_000))
    print(f"seed {seed} (repeat it with PYSWARM_FAULT_SEED={seed})")
    return seed
