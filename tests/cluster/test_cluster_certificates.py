"""The root CA changes while the cluster works; and what a stolen certificate is good for: nothing."""

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until

from pyswarm_common import failpoints, pki

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

LONGEST_WAIT_S = 2.0
THIEF = Path(__file__).with_name("certificate_thief.py")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of four hosts that begins with one manager."""
    folder: Path = tmp_path_factory.mktemp("certificates")
    with running_cluster(folder, build_images(folder), hosts=4) as cluster:
        yield cluster


@dataclass
class Traffic:
    """Somebody who uses the API of some hosts in turn, for as long as the block runs; notes every failure and the longest wait."""

    cluster: Cluster
    hosts: tuple[str, ...]
    requests: int = 0
    longest_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> "Traffic":
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._use, args=(host,)) for host in self.hosts]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _use(self, host: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            name = f"traffic-{host}-{number}"
            self._request(host, "POST", "/services/create", {"Name": name, **TEMPLATE})
            self._request(host, "GET", "/services")
            self._request(host, "DELETE", f"/services/{name}")

    def _request(self, host: str, method: str, path: str, body: Any = None) -> None:
        began_s = time.monotonic()
        try:
            self.cluster.api(path, method, body, host=host)
        except (RuntimeError, OSError, http.client.HTTPException) as error:
            self.failures.append(f"{host}: {method} {path}: {error!r}")
        self.requests += 1
        self.longest_s = max(self.longest_s, time.monotonic() - began_s)


TEMPLATE = {"TaskTemplate": {"ContainerSpec": {"Image": "nginx"}}, "Mode": {"Replicated": {"Replicas": 0}}}


def running_tasks(cluster: Cluster, service: str, count: int) -> set[tuple[str, str]]:
    tasks = cluster.wait_running(service, count)
    return {(task["ID"], task["Status"]["ContainerStatus"]["ContainerID"]) for task in tasks}


def root_digest(cluster: Cluster) -> str:
    return pki.root_digest(cluster.api("/swarm")["TLSInfo"]["TrustRoot"])


def rotate_under_traffic(cluster: Cluster, service_name: str, *managers: str) -> Traffic:
    """Change the root while services are made and removed; every node must take it up, no request fail, no task restart."""
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "4", "--network", "app", cluster.image("nginx"))
    tasks, before = running_tasks(cluster, service_name, 4), root_digest(cluster)
    changes_before = times_forgotten(cluster, managers)
    with Traffic(cluster, managers) as traffic:
        shown = cluster.pyswarm("swarm", "ca", "--rotate", timeout_s=60.0)
        after = root_digest(cluster)
        wait_former_root_forgotten(cluster, managers, changes_before + 1)
    assert after != before
    assert f"CA certificates: {len(cluster.nodes())}/{len(cluster.nodes())} nodes" in shown.stdout
    assert shown.stdout.rstrip().endswith("-----END CERTIFICATE-----")
    assert traffic.requests > 10
    assert traffic.failures == []
    assert traffic.longest_s <= LONGEST_WAIT_S
    assert running_tasks(cluster, service_name, 4) == tasks
    return traffic


def wait_former_root_forgotten(cluster: Cluster, managers: tuple[str, ...], count: int) -> None:
    """Wait until no etcd member trusts a former root any more, as often as that has happened then."""
    wait_until("every etcd trusts the new root alone", lambda: times_forgotten(cluster, managers) >= count, 60.0)


def times_forgotten(cluster: Cluster, managers: tuple[str, ...]) -> int:
    return sum(cluster.lab.host(name).log_path.read_text().count("root.former_forgotten") for name in managers)


def test_the_root_changes_under_traffic_with_one_manager(cluster: Cluster, service_name: str) -> None:
    rotate_under_traffic(cluster, service_name, "n1")


def test_a_node_that_is_down_holds_the_change_up_and_comes_back_into_it(cluster: Cluster) -> None:
    before = root_digest(cluster)
    cluster.lab.host("n4").kill_daemon()
    cluster.wait_node("n4", "down")
    cluster.pyswarm("swarm", "ca", "--rotate", "--detach")
    wait_until(
        "the others are done", lambda: statuses(cluster) == {"n1": "Ready", "n2": "Ready", "n3": "Ready", "n4": "Needs Rotation"}
    )
    assert cluster.api("/swarm")["RootRotationInProgress"] is True
    cluster.lab.host("n4").start_daemon()
    wait_until("the change ends", lambda: not cluster.api("/swarm")["RootRotationInProgress"])
    wait_until("all are done", lambda: set(statuses(cluster).values()) == {"Ready"})
    assert root_digest(cluster) != before


@pytest.mark.parametrize(
    ("host", "failpoint"),
    [
        ("n4", "renew/trusted"),
        ("n4", "renew/answered"),
        ("n4", "renew/saved"),
        ("n1", "renew/answered"),
        ("n1", "renew/saved"),
        ("n1", "root/handed-over"),
        ("n1", "root/restarted"),
    ],
)
def test_a_change_goes_on_when_a_daemon_is_killed_in_the_middle(cluster: Cluster, host: str, failpoint: str) -> None:
    before, victim = root_digest(cluster), cluster.lab.host(host)
    victim.kill_daemon()
    victim.start_daemon(env={failpoints.VARIABLE: failpoint})
    cluster.wait_managers("n1")
    cluster.wait_node(host, "ready")
    cluster.pyswarm("swarm", "ca", "--rotate", "--detach")
    wait_until(f"{host} dies at {failpoint}", lambda: victim.daemon_pid is None, 40.0)
    victim.start_daemon()
    cluster.wait_managers("n1")
    wait_until("the change ends", lambda: not cluster.api("/swarm")["RootRotationInProgress"])
    wait_until("all are done", lambda: set(statuses(cluster).values()) == {"Ready"})
    assert root_digest(cluster) != before
    wait_until("the cross certificate is dropped", lambda: is_new_leaf_single(cluster))


def is_new_leaf_single(cluster: Cluster) -> bool:
    """Whether a certificate that is issued now goes without a cross certificate."""
    loot = steal(cluster, "n2")
    return attempt(cluster, "n2", loot, "n1", "certificate", "")["certificates"] == 1


def statuses(cluster: Cluster) -> dict[str, str]:
    """Return the nodes' TLS status as docker shows it."""
    lines = cluster.docker("node", "ls", "--format", "{{.Hostname}} {{.TLSStatus}}").stdout.splitlines()
    return dict(line.split(" ", 1) for line in lines)


def test_the_docker_command_changes_the_root_and_shows_it(cluster: Cluster) -> None:
    before = cluster.docker("swarm", "ca").stdout
    assert "BEGIN CERTIFICATE" in before
    cluster.docker("swarm", "ca", "--rotate", "--quiet")
    after = cluster.docker("swarm", "ca").stdout
    assert after != before
    assert set(statuses(cluster).values()) == {"Ready"}
    cluster.docker("swarm", "update", "--cert-expiry", "2h")
    assert cluster.api("/swarm")["Spec"]["CAConfig"]["NodeCertExpiry"] == 2 * 3600 * 10**9
    refused = cluster.docker("swarm", "update", "--cert-expiry", "30m", check=False)
    assert "minimum certificate expiry time is: 1h0m0s" in refused.stderr


def steal(cluster: Cluster, host: str) -> Path:
    """Copy a node's certificate, key and roots to where they stay; returns the folder, as the hosts see it."""
    loot = f"/var/tmp/{host}"
    copy = f"mkdir -p {loot} && cp /var/lib/pyswarm/swarm/certificates/*.crt /run/pyswarm/certificates/node.key {loot}"
    cluster.lab.host(host).run(["sh", "-c", copy])
    return Path(loot)


def attempt(cluster: Cluster, host: str, loot: Path, manager: str, what: str, *arguments: str) -> Any:
    """Try something with stolen files, from that host; returns what the thief got."""
    address = cluster.lab.host(manager).address
    done = cluster.lab.host(host).run([sys.executable, str(THIEF), str(loot), address, what, *arguments], timeout_s=30.0)
    return json.loads(done.stdout)


def test_a_stolen_worker_certificate_opens_nothing_but_its_own_node(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "4", "--network", "app", cluster.image("nginx"))
    tasks = cluster.wait_running(service_name, 4)
    ids = {name: node["ID"] for name, node in cluster.nodes().items()}
    own = {task["ID"] for task in tasks if task["NodeID"] == ids["n4"]}
    loot = steal(cluster, "n4")
    for pretended in ("", ids["n1"], ids["n3"]):
        session = attempt(cluster, "n4", loot, "n1", "session", pretended)
        assert (session["node_id"], set(session["tasks"])) == (ids["n4"], own)
        for method, path in (
            ("POST", "/managers/enter"),
            ("POST", "/managers/leave"),
            ("GET", "/engine/swarm"),
            ("POST", "/engine/services/create"),
        ):
            assert attempt(cluster, "n4", loot, "n1", "request", pretended, method, path)["status"] == 403, path
        certificate = attempt(cluster, "n4", loot, "n1", "certificate", pretended)
        assert (certificate["node_id"], certificate["role"]) == (ids["n4"], "worker")
    assert attempt(cluster, "n4", loot, "n1", "join")["status"] == 403
    peer_port = cluster.manager.run(["sh", "-c", "ss -Hltn | grep -o ':23[0-9][0-9]' | grep -v 2377 | head -1"]).stdout.strip(":\n")
    assert attempt(cluster, "n4", loot, "n1", "peer", peer_port)["answer"] == ""
    cluster.wait_node("n4", "ready")


def test_a_removed_node_s_certificate_is_refused(cluster: Cluster) -> None:
    loot = steal(cluster, "n4")
    cluster.pyswarm("swarm", "leave", host="n4")
    cluster.wait_node("n4", "down")
    cluster.pyswarm("node", "rm", "n4")
    assert "is not part of this cluster" in attempt(cluster, "n4", loot, "n1", "session", "")["refused"]
    assert attempt(cluster, "n4", loot, "n1", "request", "", "POST", "/certificate")["status"] == 403
    cluster.join("n4", "worker")
    cluster.wait_node("n4", "ready")


def test_a_former_manager_s_certificate_is_refused_by_etcd_s_peers(cluster: Cluster) -> None:
    cluster.pyswarm("node", "promote", "n2", "n3")
    cluster.wait_managers("n1", "n2", "n3")
    loot = steal(cluster, "n3")
    peer_port = cluster.manager.run(["sh", "-c", "ss -Hltn | grep -o ':23[0-9][0-9]' | grep -v 2377 | head -1"]).stdout.strip(":\n")
    assert attempt(cluster, "n3", loot, "n1", "peer", peer_port)["answer"].startswith("HTTP/1.1 200")
    cluster.pyswarm("node", "demote", "n3")
    cluster.wait_managers("n1", "n2")
    wait_until("the certificate is revoked", lambda: attempt(cluster, "n3", loot, "n1", "peer", peer_port)["answer"] == "", 20.0)
    assert attempt(cluster, "n3", loot, "n1", "request", "", "GET", "/engine/swarm")["status"] == 403
    cluster.pyswarm("node", "promote", "n3")
    cluster.wait_managers("n1", "n2", "n3")


def test_the_root_changes_under_traffic_with_three_managers(cluster: Cluster, service_name: str) -> None:
    cluster.wait_managers("n1", "n2", "n3")
    rotate_under_traffic(cluster, service_name, "n1", "n2", "n3")
    cluster.wait_managers("n1", "n2", "n3")
