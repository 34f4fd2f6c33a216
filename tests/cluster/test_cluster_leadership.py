"""The API on every manager while leaders go, die and pause: what clients see of it."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until, wait_until_gone

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

MANAGERS = ("n1", "n2", "n3")
DOCKERS_WORDS = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. "
    "Make sure more than half of the managers are online."
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of four hosts, three of them managers."""
    folder: Path = tmp_path_factory.mktemp("leadership")
    with running_cluster(folder, build_images(folder), hosts=4, managers=3) as cluster:
        cluster.wait_managers(*MANAGERS)
        yield cluster


@pytest.fixture(autouse=True)
def _all_are_well(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.wait_managers(*MANAGERS)
    wait_until("all nodes are ready", lambda: {n["Status"]["State"] for n in cluster.api("/nodes")} == {"ready"})


def spec(name: str) -> dict[str, Any]:
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "none"}}, "Mode": {"Replicated": {"Replicas": 0}}}


class Creator(threading.Thread):
    """Creates service after service through one manager, each under a new name, until told to stop."""

    def __init__(self, cluster: Cluster, host: str, prefix: str) -> None:
        super().__init__(daemon=True)
        self.accepted: list[tuple[float, str]] = []
        self.refused: list[tuple[str, int, str]] = []
        self._cluster = cluster
        self._host = host
        self._prefix = prefix
        self._stopped = threading.Event()

    def run(self) -> None:
        """Create."""
        number = 0
        while not self._stopped.is_set():
            number += 1
            name = f"{self._prefix}-{self._host}-{number}"
            status, answer = self._cluster.request(self._host, "POST", "/services/create", spec(name))
            if status == 201:
                self.accepted.append((time.monotonic(), name))
            else:
                self.refused.append((name, status, answer["message"]))

    def wait_more(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until so many more were accepted."""
        target = len(self.accepted) + count
        wait_until(f"{count} more services are created through {self._host}", lambda: len(self.accepted) >= target, timeout_s)

    def end(self) -> None:
        """Stop, and wait for the last answer."""
        self._stopped.set()
        self.join(30)
        assert not self.is_alive()

    def longest_gap_s(self, since_s: float) -> float:
        """How long nothing was accepted, from a moment on."""
        times_s = [since_s, *(at_s for at_s, _ in self.accepted if at_s > since_s)]
        return max(after - before for before, after in itertools.pairwise(times_s))


def check_accepted(cluster: Cluster, creators: list[Creator]) -> None:
    """What was acknowledged is there, once, and nothing that certainly failed is."""
    names = [s["Spec"]["Name"] for s in cluster.api("/services")]
    assert len(names) == len(set(names))
    for creator in creators:
        assert {name for _, name in creator.accepted} <= set(names)
        certainly_not = {name for name, _, message in creator.refused if "may or may not" not in message}
        assert certainly_not.isdisjoint(names)


def remove_services(cluster: Cluster) -> None:
    for service in cluster.api("/services"):
        cluster.api(f"/services/{service['ID']}", "DELETE")


def followers(leader: str) -> list[str]:
    return [name for name in MANAGERS if name != leader]


def running_containers(cluster: Cluster, host: str) -> set[str]:
    return {container["Id"] for container in cluster.api("/containers/json", host=host)}


def docker(cluster: Cluster, host: str, *arguments: str) -> str:
    command = ["docker", "-H", "unix:///run/pyswarm/pyswarm.sock", *arguments]
    return cluster.lab.host(host).run(command, timeout_s=60).stdout


@pytest.mark.parametrize("host", MANAGERS)
def test_the_docker_cli_works_on_every_manager(cluster: Cluster, service_name: str, host: str) -> None:
    image = cluster.image("busybox")
    docker(cluster, host, "network", "create", "--driver", "overlay", f"net-{host}")
    command = ["sh", "-c", "echo hello from the task; sleep 1000"]
    create = ["service", "create", "--detach=false", "--quiet", "--name", service_name, "--network", f"net-{host}"]
    docker(cluster, host, *create, "--replicas", "2", image, *command)
    docker(cluster, host, "service", "scale", "--detach", f"{service_name}=3")
    cluster.wait_running(service_name, 3)
    docker(cluster, host, "service", "update", "--detach", "--label-add", "a=b", service_name)
    for other in MANAGERS:
        assert docker(cluster, other, "service", "inspect", "--format", "{{.Spec.Labels.a}}", service_name).strip() == "b"
        assert docker(cluster, other, "service", "ps", "-q", service_name).split()
        logs = wait_until(f"the logs on {other}", lambda other=other: docker(cluster, other, "service", "logs", service_name))
        assert "hello from the task" in logs
    docker(cluster, host, "node", "update", "--label-add", f"seen={host}", "n4")
    assert docker(cluster, "n1", "node", "inspect", "--format", "{{.Spec.Labels.seen}}", "n4").strip() == host
    docker(cluster, host, "service", "rm", service_name)
    wait_until_gone("tasks", lambda: cluster.api("/tasks"))
    docker(cluster, host, "network", "rm", f"net-{host}")


def test_a_leader_that_is_stopped_hands_over_and_no_create_fails(cluster: Cluster) -> None:
    gaps_s: list[float] = []
    for round_ in range(3):
        leader = cluster.wait_managers(*MANAGERS)
        creators = [Creator(cluster, host, f"stop{round_}") for host in followers(leader)]
        for creator in creators:
            creator.start()
        for creator in creators:
            creator.wait_more(20)
        began_s = time.monotonic()
        cluster.lab.host(leader).kill_daemon(signal.SIGTERM)
        for creator in creators:
            creator.wait_more(20)
            creator.end()
        gaps_s += [creator.longest_gap_s(began_s) for creator in creators]
        cluster.lab.host(leader).start_daemon()
        cluster.wait_managers(*MANAGERS)
        assert [creator.refused for creator in creators] == [[], []]
        check_accepted(cluster, creators)
    print("gaps of a graceful stop (s):", [round(gap_s, 3) for gap_s in sorted(gaps_s)])
    remove_services(cluster)


def test_creates_go_on_when_the_leader_is_killed_and_nothing_is_done_twice(cluster: Cluster) -> None:
    gaps_s: list[float] = []
    for round_ in range(3):
        leader = cluster.wait_managers(*MANAGERS)
        creators = [Creator(cluster, host, f"kill{round_}") for host in followers(leader)]
        for creator in creators:
            creator.start()
        for creator in creators:
            creator.wait_more(20)
        killed_s = time.monotonic()
        cluster.lab.host(leader).kill_daemon()
        for creator in creators:
            creator.wait_more(20)
            creator.end()
        gaps_s += [creator.longest_gap_s(killed_s) for creator in creators]
        cluster.lab.host(leader).start_daemon()
        cluster.wait_managers(*MANAGERS)
        for creator in creators:
            assert {status for _, status, _ in creator.refused} <= {503}, "a second create of one name would have been a conflict"
            lost = [message for _, _, message in creator.refused if "may or may not" in message]
            assert len(lost) <= 1, "only what was under way when the leader died"
        check_accepted(cluster, creators)
    print("gaps of a kill (s):", [round(gap_s, 3) for gap_s in sorted(gaps_s)])
    remove_services(cluster)


def test_a_leader_that_pauses_is_replaced_and_no_task_moves(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "4", cluster.image("nginx"))
    before = {t["ID"] for t in cluster.wait_running(service_name, 4)}
    leader = cluster.wait_managers(*MANAGERS)
    first, second = followers(leader)
    pid = cluster.lab.host(leader).daemon_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    stopped_s = time.monotonic()
    try:
        wait_until(
            "a create through another manager",
            lambda: cluster.request(first, "POST", "/services/create", spec(f"{service_name}-during"))[0] in (201, 409),
            9.0,
        )
        print(f"paused leader: next accepted create after {time.monotonic() - stopped_s:.2f} s")
        time.sleep(max(0.0, stopped_s + 10 - time.monotonic()))
    finally:
        os.kill(pid, signal.SIGCONT)
    status, answer = cluster.request(leader, "POST", "/services/create", spec(f"{service_name}-after"))
    assert status == 201, answer
    for host in (leader, first, second):
        names = {s["Spec"]["Name"] for s in cluster.api("/services", host=host)}
        assert {f"{service_name}-during", f"{service_name}-after"} <= names
    wait_until("the paused one follows", lambda: cluster.managers(second)[leader] == "reachable")
    assert {t["ID"] for t in cluster.wait_running(service_name, 4)} == before
    assert {t["ID"] for t in cluster.tasks(service_name)} == before, "no task was made anew"


def test_without_a_quorum_changes_fail_at_once_reads_answer_and_containers_go_on(cluster: Cluster, service_name: str) -> None:
    placed = ["--constraint", "node.hostname!=n2", "--constraint", "node.hostname!=n3"]
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "2", *placed, cluster.image("nginx"))
    before = {t["ID"] for t in cluster.wait_running(service_name, 2)}
    containers = {host: running_containers(cluster, host) for host in ("n1", "n4")}
    assert sum(len(ids) for ids in containers.values()) == 2
    for name in ("n2", "n3"):
        cluster.lab.host(name).power_cut()
    lost_s = time.monotonic()

    def fails() -> bool:
        status, answer = cluster.request("n1", "POST", "/services/create", spec(f"{service_name}-without"))
        return status == 503 and answer["message"].startswith(DOCKERS_WORDS)

    wait_until("writes fail in Docker's words", fails, 12.0)
    print(f"quorum lost: the first refusal in Docker's words after {time.monotonic() - lost_s:.2f} s")
    for _ in range(3):
        began_s = time.monotonic()
        status, answer = cluster.request("n1", "POST", "/services/create", spec(f"{service_name}-without"))
        assert time.monotonic() - began_s < 1.0
        assert status == 503
        assert answer["message"].startswith(DOCKERS_WORDS)
        assert "force-new-cluster" in answer["message"]
        began_s = time.monotonic()
        assert service_name in {s["Spec"]["Name"] for s in cluster.api("/services")}
        assert time.monotonic() - began_s < 1.0
    assert {host: running_containers(cluster, host) for host in ("n1", "n4")} == containers
    for name in ("n2", "n3"):
        cluster.lab.host(name).power_on()
    cluster.wait_managers(*MANAGERS)
    assert {t["ID"] for t in cluster.wait_running(service_name, 2)} == before
    assert {host: running_containers(cluster, host) for host in ("n1", "n4")} == containers
    assert f"{service_name}-without" not in {s["Spec"]["Name"] for s in cluster.api("/services")}
