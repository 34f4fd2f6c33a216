"""A run: clients work, faults strike, everything is healed, and the checker reads what happened."""

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from lab_cluster import Cluster

from faults.checker import Violation, check
from faults.convergence import NotConverged, epochs_taken, wait_converged
from faults.engine_client import EngineClient
from faults.history import Fault, FinalState, History, Operation
from faults.nemesis import Nemesis
from faults.plan import Mix, plan_faults
from faults.workload import Client, Objects

ANCHOR = "anchor"
"""A service with running tasks, which must be back at its replicas in the end."""
ANCHOR_REPLICAS = 3
CLIENTS = 6
QUORUM_GAP_LIMIT_S = 20.0
"""How long no write may be acknowledged while a majority is unharmed: daemons start, hosts boot, members elect."""


class Report(msgspec.Struct):
    """What a run came to. `longest_gap_s`: without an acknowledged write; `longest_quorum_gap_s`: while a majority was unharmed."""

    seed: int
    seconds: float
    managers: int
    operations: dict[str, int]
    acknowledged: int
    unknown: int
    faults: dict[str, int]
    longest_gap_s: float
    longest_quorum_gap_s: float
    converged_s: float | None
    epochs: int
    violations: list[Violation]
    problems: list[str]

    @property
    def lost(self) -> int:
        """How many acknowledged writes are gone."""
        return sum(violation.is_loss for violation in self.violations)

    @property
    def is_good(self) -> bool:
        """Whether the cluster kept all its promises."""
        return not self.violations and not self.problems

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}s" for kind, count in sorted(self.operations.items()))
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        converged = f"{self.converged_s:.1f} s" if self.converged_s is not None else "never"
        lines = [
            f"seed {self.seed}, {self.managers} managers, {self.seconds:.0f} s",
            f"operations: {counts}; writes acknowledged {self.acknowledged}, unknown {self.unknown}",
            f"faults: {sum(self.faults.values())} ({faults or 'none'})",
            f"longest time without an acknowledged write: {self.longest_gap_s:.1f} s, while a majority was unharmed: "
            f"{self.longest_quorum_gap_s:.1f} s; epochs of the fence: {self.epochs}",
            f"converged after the healing: {converged}",
            f"lost: {self.lost}; violations: {len(self.violations)}; problems: {len(self.problems)}",
        ]
        lines += [f"  VIOLATION {v.rule} {v.item}: {v.text}" for v in self.violations]
        lines += [f"  PROBLEM {problem}" for problem in self.problems]
        return "\n".join(lines)


class FaultRun:
    """Clients on a cluster, and what they and everybody else recorded."""

    def __init__(self, cluster: Cluster, managers: Sequence[str], seed: int) -> None:
        self.cluster = cluster
        self.seed = seed
        self.history = History()
        self.problems: list[str] = []
        self.clients = {name: EngineClient.of_host(cluster.lab, name) for name in managers}
        self._node_count = len(cluster.lab.hosts)

    def find_leader(self) -> str | None:
        """Return the leader's host, as the first manager that knows it says."""
        leaders = (client.leader(timeout_s=1.0) for client in self.clients.values())
        return next((leader for leader in leaders if leader is not None), None)

    def start_anchor(self) -> None:
        """Run the service that must be back at its replicas in the end."""
        create = ["service", "create", "--name", ANCHOR, "--replicas", str(ANCHOR_REPLICAS), "--restart-delay", "0s"]
        self.cluster.pyswarm(*create, self.cluster.image("busybox"), "sleep", "1000000")
        self.cluster.wait_running(ANCHOR, ANCHOR_REPLICAS)

    def clear(self) -> None:
        """Remove what clients of an earlier run left: services and node labels. The cluster is whole."""
        client = next(iter(self.clients.values()))
        for service in client.ask("GET", "/services").content:
            if service["Spec"]["Name"] != ANCHOR:
                client.ask("DELETE", f"/services/{service['ID']}")
        for node in client.ask("GET", "/nodes").content:
            spec = {**node["Spec"], "Labels": {}}
            client.ask("POST", f"/nodes/{node['ID']}/update?version={node['Version']['Index']}", spec)

    @contextlib.contextmanager
    def working(self, clients: int = CLIENTS) -> Iterator[None]:
        """Let the clients work meanwhile."""
        stop = threading.Event()
        objects = Objects(f"{self.seed:x}", [host.name for host in self.cluster.lab.hosts])
        workers = [Client(n, self.seed, self.clients, objects, self.history, stop) for n in range(clients)]
        for worker in workers:
            worker.thread.start()
        try:
            yield
        finally:
            stop.set()
            for worker in workers:
                worker.thread.join()
            self.problems += [f"{w.thread.name} failed: {w.failure!r}" for w in workers if w.failure is not None]
            self.problems += sorted({strange for worker in workers for strange in worker.strange})

    def strike(self, mix: Mix, seconds: float) -> None:
        """Let the faults of a mix happen for this long; everything is healed afterwards."""
        planned = plan_faults(self.seed, seconds, list(self.clients), mix)
        nemesis = Nemesis(self.cluster.lab, planned, self.history, self.seed, self.find_leader)
        started_s = time.monotonic()
        nemesis.start()
        nemesis.join()
        self.problems += nemesis.problems
        time.sleep(max(0.0, started_s + seconds - time.monotonic()))

    def finish(self) -> Report:
        """Wait until the cluster has converged, and check the history."""
        healed_s = time.monotonic()
        finals: list[FinalState] = []
        converged_s = None
        try:
            finals = wait_converged(self.clients, ANCHOR, ANCHOR_REPLICAS, self._node_count)
            converged_s = time.monotonic() - healed_s
        except NotConverged as error:
            self.problems.append(str(error))
        epochs = [epoch for host in self.cluster.lab.hosts for epoch in epochs_taken(host)]
        self.history.extend([*finals, *epochs])
        operations = self.history.operations
        writes = [o for o in operations if o.kind != "read"]
        acknowledged = [o for o in writes if o.outcome == "ok"]
        quorum_gap_s = longest_gap_s(acknowledged, self.history.faults, len(self.clients))
        if quorum_gap_s > QUORUM_GAP_LIMIT_S:
            self.problems.append(f"for {quorum_gap_s:.1f} s no write was acknowledged, though faults struck a minority at most")
        return Report(
            seed=self.seed,
            seconds=max((o.ended_s for o in operations), default=0.0) - min((o.began_s for o in operations), default=0.0),
            managers=len(self.clients),
            operations=dict(Counter(o.kind for o in operations)),
            acknowledged=len(acknowledged),
            unknown=sum(o.outcome == "unknown" for o in writes),
            faults=dict(Counter(fault.kind for fault in self.history.faults)),
            longest_gap_s=longest_gap_s(acknowledged),
            longest_quorum_gap_s=quorum_gap_s,
            converged_s=converged_s,
            epochs=len({taken.epoch for taken in epochs}),
            violations=check(self.history),
            problems=self.problems,
        )

    def save(self, folder: Path) -> Path:
        """Keep the history and all daemons' logs in `folder`; returns the history's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"history-{self.seed}.jsonl"
        self.history.save(path)
        for host in self.cluster.lab.hosts:
            for log in (host.log_path, *host.disk.glob("**/etcd*.log")):
                if log.exists():
                    (folder / f"{host.name}-{log.name}").write_bytes(log.read_bytes())
        return path


def run_faults(
    cluster: Cluster, managers: Sequence[str], *, seed: int, seconds: float, mix: Mix, clients: int = CLIENTS
) -> FaultRun:
    """Work and strike for this long on a cluster whose anchor runs; call `finish` on what is returned."""
    run = FaultRun(cluster, managers, seed)
    run.clear()
    with run.working(clients):
        run.strike(mix, seconds)
    return run


def longest_gap_s(acknowledged: Sequence[Operation], faults: Sequence[Fault] = (), managers: int = 1) -> float:
    """Return the longest time without an acknowledged write while faults struck no more than a minority of the managers."""
    moments = sorted({o.ended_s for o in acknowledged} | {moment for f in faults for moment in (f.began_s, f.ended_s)})
    acknowledged_at = {o.ended_s for o in acknowledged}
    longest_s = gap_s = 0.0
    for earlier, later in itertools.pairwise(moments):
        struck = {host for fault in faults if fault.began_s <= earlier < fault.ended_s for host in fault.hosts}
        gap_s = 0.0 if earlier in acknowledged_at else gap_s
        gap_s = gap_s + later - earlier if len(struck) <= (managers - 1) // 2 else 0.0
        longest_s = max(longest_s, gap_s)
    return longest_s
