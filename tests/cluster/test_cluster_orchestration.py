"""What becomes of services when they are updated, their nodes come and go, and jobs run: with real containers, on three hosts."""

import collections
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lab_cluster import Cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

REPLICAS = 4


class Watcher(threading.Thread):
    """Looks at a service's tasks as long as the block lasts: the fewest and the most that ran, and all that ever were."""

    def __init__(self, cluster: Cluster, service: str) -> None:
        super().__init__()
        self._cluster = cluster
        self._service = service
        self._end = threading.Event()
        self.fewest, self.most = 10**9, 0
        self.seen: set[str] = set()
        self.looks = 0
        self.dead_node_ids: frozenset[str] = frozenset()
        """Nodes without power: their tasks stand as `running` in the managers' last knowledge, but run no more."""

    def __enter__(self) -> "Watcher":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        """Look until told to end."""
        while not self._end.wait(0.02):
            tasks = self._cluster.tasks(self._service)
            running = [t for t in tasks if t["Status"]["State"] == "running"]
            count = sum(t["NodeID"] not in self.dead_node_ids for t in running)
            self.fewest, self.most = min(self.fewest, count), max(self.most, count)
            self.seen.update(t["ID"] for t in tasks)
            self.looks += 1


@contextmanager
def client_of(cluster: Cluster, service: str) -> Iterator[list[str]]:
    """While the block runs, fetch from the service's virtual IP again and again; then give how each fetch ended."""
    name, outcomes = f"{service[:40]}-client", []
    script = f"while sleep 0.01; do wget -q -O /dev/null http://{service}/ && echo ok || echo failed; done"
    cluster.pyswarm(
        "service", "create", "--name", name, "--network", "app", "--constraint", "node.hostname==n1", "--stop-signal", "SIGKILL",
        cluster.image("busybox"), "sh", "-c", script,
    )  # fmt: skip
    fetches = lambda: [line.rpartition("| ")[2] for line in cluster.pyswarm("service", "logs", name).stdout.splitlines()]  # noqa: E731
    wait_until("the client fetches", lambda: len(fetches()) > 10)
    yield outcomes
    so_far = len(fetches())
    wait_until("it goes on", lambda: len(fetches()) > so_far + 10)
    outcomes += fetches()


def update_state(cluster: Cluster, service: str) -> str:
    status: dict[str, Any] = cluster.api(f"/services/{service}").get("UpdateStatus") or {}
    return str(status.get("State", ""))


def images(cluster: Cluster, service: str) -> set[str]:
    """The images of the tasks that run, without the digests that the manager has recorded."""
    return {t["Spec"]["ContainerSpec"]["Image"].partition("@")[0] for t in cluster.tasks(service, running=True)}


def test_an_update_with_a_failing_image_rolls_back_by_itself(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--replicas", str(REPLICAS), "--update-failure-action", "rollback",
        "--update-monitor", "2s", "--restart-delay", "0s", cluster.image("nginx"),
    )  # fmt: skip
    with Watcher(cluster, service_name) as watcher:
        updated = cluster.pyswarm("service", "update", "--image", cluster.image("missing"), service_name, check=False)
    assert updated.returncode == 1
    assert "rolled back" in updated.stdout + updated.stderr
    assert update_state(cluster, service_name) == "rollback_completed"
    cluster.wait_running(service_name, REPLICAS)
    assert images(cluster, service_name) == {cluster.image("nginx")}
    assert watcher.looks > 10
    assert REPLICAS - 1 <= watcher.fewest <= watcher.most == REPLICAS, "one at a time, the old one stopped first"


def test_a_paused_update_goes_on_with_the_next(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "2", "--restart-delay", "0s", cluster.image("nginx"))
    failed = cluster.pyswarm("service", "update", "--image", cluster.image("missing"), service_name, check=False)
    assert (failed.returncode, update_state(cluster, service_name)) == (1, "paused")
    cluster.pyswarm("service", "update", "--image", cluster.image("busybox"), "--args", "sleep 1000", service_name)
    assert update_state(cluster, service_name) == "completed"
    assert images(cluster, service_name) == {cluster.image("busybox")}


def test_a_start_first_update_under_load_drops_no_request(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--replicas", str(REPLICAS), "--network", "app",
        "--update-order", "start-first", "--update-monitor", "0s", cluster.image("nginx"),
    )  # fmt: skip
    before = {t["ID"] for t in cluster.wait_running(service_name, REPLICAS)}
    with client_of(cluster, service_name) as outcomes, Watcher(cluster, service_name) as watcher:
        cluster.pyswarm("service", "update", "--force", "--env-add", "GENERATION=2", service_name)
    after = {t["ID"] for t in cluster.wait_running(service_name, REPLICAS)}
    assert not before & after
    assert watcher.fewest >= REPLICAS
    print("fetches during a start-first update:", collections.Counter(outcomes))
    assert collections.Counter(outcomes)["ok"] > 20
    assert set(outcomes) == {"ok"}


def test_draining_a_node_under_load_drops_no_request_and_no_replica(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--replicas", str(REPLICAS), "--network", "app", cluster.image("nginx")
    )
    cluster.wait_running(service_name, REPLICAS)
    node_id = cluster.nodes()["n2"]["ID"]
    assert any(t["NodeID"] == node_id for t in cluster.tasks(service_name, running=True))
    try:
        with client_of(cluster, service_name) as outcomes, Watcher(cluster, service_name) as watcher:
            cluster.pyswarm("node", "update", "--availability", "drain", "n2")
            wait_until("nothing runs there", lambda: not on_node(cluster, service_name, node_id))
            cluster.wait_running(service_name, REPLICAS)
    finally:
        cluster.pyswarm("node", "update", "--availability", "active", "n2")
    assert watcher.fewest >= REPLICAS
    print("fetches during a drain:", collections.Counter(outcomes))
    assert set(outcomes) == {"ok"}


def on_node(cluster: Cluster, service: str, node_id: str) -> list[str]:
    """The tasks of a service that run on a node, wanted there or not."""
    return [t["ID"] for t in cluster.tasks(service) if t.get("NodeID") == node_id and t["Status"]["State"] == "running"]


def test_a_global_service_follows_nodes_and_their_labels(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm(
        "service",
        "create",
        "--name",
        service_name,
        "--mode",
        "global",
        "--constraint",
        "node.labels.role!=idle",
        cluster.image("nginx"),
    )
    assert {t["NodeID"] for t in cluster.wait_running(service_name, 3)} == {n["ID"] for n in cluster.nodes().values()}
    cluster.pyswarm("node", "update", "--label-add", "role=idle", "n2")
    cluster.wait_running(service_name, 2)
    cluster.pyswarm("node", "update", "--label-rm", "role", "n2")
    cluster.wait_running(service_name, 3)
    cluster.pyswarm("swarm", "leave", host="n3")
    cluster.wait_node("n3", "down")
    cluster.pyswarm("node", "rm", "n3")
    cluster.wait_running(service_name, 2)
    cluster.join("n3", "worker")
    tasks = cluster.wait_running(service_name, 3)
    assert {t["NodeID"] for t in tasks} == {n["ID"] for n in cluster.nodes().values()}
    assert "3/3" in cluster.pyswarm("service", "ls").stdout


def test_a_job_completes_twenty_times_though_a_node_dies(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--mode", "replicated-job", "--replicas", "20", "--max-concurrent", "5",
        "--restart-delay", "0s", "--detach", cluster.image("busybox"), "sh", "-c", "sleep 1; echo done",
    )  # fmt: skip
    with Watcher(cluster, service_name) as watcher:
        wait_until("five are done", lambda: len(completed(cluster, service_name)) >= 5)
        n3_id = cluster.nodes()["n3"]["ID"]
        cluster.lab.host("n3").power_cut()
        watcher.dead_node_ids = frozenset({n3_id})
        try:
            wait_until("all are done", lambda: len(completed(cluster, service_name)) >= 20, 60.0)
        finally:
            cluster.lab.host("n3").power_on()
    cluster.wait_node("n3", "ready")
    assert watcher.most <= 5
    assert len(completed(cluster, service_name)) == 20
    assert len({t.get("Slot", 0) for t in completed(cluster, service_name)}) == 20
    assert "(20/20 completed)" in cluster.pyswarm("service", "ls").stdout


def completed(cluster: Cluster, service: str) -> list[dict[str, Any]]:
    return [t for t in cluster.tasks(service) if t["Status"]["State"] == "complete"]


def test_a_scheduled_job_runs_when_it_is_due(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--mode", "replicated-job", "--schedule", "* * * * *",
        cluster.image("busybox"), "sh", "-c", "echo ran",
    )  # fmt: skip
    created_s = time.time()
    assert completed(cluster, service_name) == [], "not at once"
    wait_until("it has run", lambda: completed(cluster, service_name), 75.0)
    assert int(time.time() // 60) > int(created_s // 60)
    runs = json.loads(cluster.pyswarm("service", "runs", service_name, "--format", "json").stdout.splitlines()[0])
    assert "completed" in json.dumps(runs)
    cluster.pyswarm("service", "rm", service_name)


def test_a_service_waits_for_those_that_it_depends_on(cluster: Cluster, service_name: str) -> None:
    front, back = f"{service_name[:30]}-web", f"{service_name[:30]}-db"
    cluster.pyswarm("service", "create", "--name", front, "--depends-on", back, "--detach", cluster.image("nginx"))
    wait_until("it says what it waits for", lambda: back in cluster.pyswarm("service", "ps", "--no-trunc", front).stdout)
    assert cluster.tasks(front, running=True) == []
    cluster.pyswarm("service", "create", "--name", back, cluster.image("nginx"))
    cluster.wait_running(front, 1)


def test_a_task_that_fits_nowhere_is_explained_and_another_tells_its_story(cluster: Cluster, service_name: str) -> None:
    dry_run = cluster.pyswarm(
        "service", "create", "--name", service_name, "--dry-run", "--reserve-memory", "100t", cluster.image("nginx"), check=False
    )
    assert dry_run.returncode == 1
    assert "insufficient memory on 3 nodes" in dry_run.stdout
    assert cluster.api("/services") == []
    cluster.pyswarm("service", "create", "--name", service_name, "--reserve-memory", "100t", "--detach", cluster.image("nginx"))
    wait_until(
        "the reason",
        lambda: "insufficient memory on 3 nodes" in cluster.pyswarm("service", "ps", "--no-trunc", service_name).stdout,
    )
    shown = cluster.pyswarm("task", "explain", f"{service_name}.1").stdout
    assert len(re.findall(r"^\s*n[123]\b.*memory", shown, re.MULTILINE)) == 3, shown
    cluster.pyswarm("service", "update", "--reserve-memory", "0", service_name)
    cluster.wait_running(service_name, 1)
    assert "running" in cluster.pyswarm("task", "story", f"{service_name}.1").stdout
