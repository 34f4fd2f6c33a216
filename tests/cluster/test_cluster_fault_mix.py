"""Random mixes of faults against three and five managers, and a few that are aimed: nothing is lost, and all comes back."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.convergence import wanted_tasks
from faults.harness import ANCHOR, ANCHOR_REPLICAS, FaultRun, run_faults
from faults.nemesis import etcd_pid, send
from faults.plan import MIXES
from lab_cluster import Cluster, build_images, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]
KEEP = Path(os.environ.get("PYSWARM_FAULT_HISTORY", "/tmp/pyswarm-fault-history"))
"""Where the histories of failed runs are kept, with the daemons' logs."""
MANAGERS = ["n1", "n2", "n3"]
PAUSE_S = 10.0
"""As long as a leader is paused, in its test."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three managers, and a service with tasks on them."""
    folder: Path = tmp_path_factory.mktemp("faults")
    with running_cluster(folder, build_images(folder), hosts=3, managers=3) as cluster:
        FaultRun(cluster, MANAGERS, 0).start_anchor()
        yield cluster


def a_seed() -> int:
    """Return a new seed, or the one that is asked for; it is printed, and pytest shows it when the test fails."""
    seed = int(os.environ.get("PYSWARM_FAULT_SEED", time.time_ns() % 1_000_000_000))
    print(f"seed {seed} (repeat it with PYSWARM_FAULT_SEED={seed})")
    return seed


def assert_good(run: FaultRun, acknowledged: int) -> None:
    """Wait until all is well again and check the history, which is kept when it shows a broken promise."""
    report = run.finish()
    print(report)
    if not report.is_good:
        pytest.fail(f"{report}\nthe history and the logs are kept: {run.save(KEEP)}", pytrace=False)
    assert report.acknowledged >= acknowledged, "the clients came to next to nothing: this run says little"


def test_three_managers_outlive_a_random_mix(cluster: Cluster) -> None:
    assert_good(run_faults(cluster, MANAGERS, seed=a_seed(), seconds=75.0, mix=MIXES["all"]), acknowledged=100)


def test_five_managers_outlive_a_random_mix(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(1, 6)]
    with running_cluster(tmp_path, build_images(tmp_path), hosts=5, managers=5) as cluster:
        FaultRun(cluster, names, 0).start_anchor()
        assert_good(run_faults(cluster, names, seed=a_seed(), seconds=60.0, mix=MIXES["all"], clients=4), acknowledged=100)


def running_tasks(run: FaultRun) -> dict[str, str]:
    """Return the ids of the tasks that run, with their nodes."""
    tasks = next(filter(None, (wanted_tasks(client, ANCHOR) for client in run.clients.values())), [])
    return {t["ID"]: t["NodeID"] for t in tasks if t["Status"]["State"] == "running"}


def aimed_run(cluster: Cluster) -> tuple[FaultRun, str]:
    """Return a new run on a healthy cluster, and the leader's host."""
    run = FaultRun(cluster, MANAGERS, a_seed())
    run.clear()
    wait_until("the anchor runs", lambda: len(running_tasks(run)) == ANCHOR_REPLICAS)
    return run, wait_until("there is a leader", run.find_leader)


def wait_acknowledged(run: FaultRun, count: int, since_s: float = 0.0) -> None:
    """Wait until this many writes that began since then were acknowledged."""

    def are_acknowledged() -> bool:
        writes = [o for o in run.history.operations if o.kind != "read" and o.outcome == "ok" and o.began_s > since_s]
        return len(writes) >= count

    wait_until(f"{count} writes are acknowledged", are_acknowledged)


def wait_other_leader(run: FaultRun, old: str, timeout_s: float) -> str:
    """Wait until another host leads, as the others say."""

    def other() -> str | None:
        leaders = {client.leader(timeout_s=1.0) for name, client in run.clients.items() if name != old}
        return next((leader for leader in leaders if leader not in (None, old)), None)

    return wait_until(f"another than {old} leads", other, timeout_s)


def test_a_leader_that_was_paused_moves_no_task_and_loses_no_write(cluster: Cluster) -> None:
    run, leader = aimed_run(cluster)
    before = running_tasks(run)
    daemon = cluster.lab.host(leader).daemon_pid
    with run.working():
        paused_s = time.monotonic()
        send(daemon, signal.SIGSTOP)
        try:
            wait_other_leader(run, leader, 8.0)
            time.sleep(max(0.0, paused_s + PAUSE_S - time.monotonic()))
        finally:
            send(daemon, signal.SIGCONT)
        wait_until("the paused manager knows a leader", run.clients[leader].knows_leader)
        wait_acknowledged(run, 50, time.monotonic())
    assert_good(run, acknowledged=50)
    assert running_tasks(run) == before


def test_a_leader_whose_etcd_is_killed_is_followed_by_another(cluster: Cluster) -> None:
    run, leader = aimed_run(cluster)
    before = running_tasks(run)
    host = cluster.lab.host(leader)
    with run.working():
        wait_acknowledged(run, 50)
        killed, killed_s = etcd_pid(host), time.monotonic()
        send(killed, signal.SIGKILL)
        wait_until("etcd is started again", lambda: etcd_pid(host) not in (None, killed))
        wait_acknowledged(run, 50, killed_s)
    assert_good(run, acknowledged=100)
    assert running_tasks(run) == before


def test_a_power_cut_of_all_hosts_loses_nothing(cluster: Cluster) -> None:
    run, _ = aimed_run(cluster)
    with run.working():
        wait_acknowledged(run, 50)
        for host in cluster.lab.hosts:
            host.power_cut()
        for host in cluster.lab.hosts:
            host.power_on(wait_s=0)
        wait_acknowledged(run, 50, time.monotonic())
    assert_good(run, acknowledged=100)
