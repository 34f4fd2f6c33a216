"""What a cluster of three managers and a worker says of itself while parts of it die, pause or hang, and how soon."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until, wait_until_gone

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

MANAGERS = ("n1", "n2", "n3")
WORKER = "n4"
DOCKERS_WORDS = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. "
    "Make sure more than half of the managers are online."
)
SCHEDULING_S = 1.0
"""What two busy processors, which run all four hosts, may add to a time."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three managers and a worker."""
    folder: Path = tmp_path_factory.mktemp("health")
    with running_cluster(folder, build_images(folder), hosts=4, managers=3) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def healthy(cluster: Cluster) -> None:
    """Begin with a cluster in which all is well, however the test before ended."""
    restore(cluster)


@pytest.fixture
def service_name(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """A name for the test's service, which is removed afterwards together with any other that the test left."""
    yield request.node.name[5:40].translate(str.maketrans("_[]", "---")).strip("-")
    restore(cluster)
    for service in cluster.api("/services"):
        cluster.api(f"/services/{service['ID']}", "DELETE")
    wait_until_gone("tasks", lambda: cluster.api("/tasks"), 40.0)


def restore(cluster: Cluster) -> None:
    """Power all hosts on, and wait until all is well."""
    for host in cluster.lab.hosts:
        if not host.is_on:
            host.power_on()
    wait_until("every manager finds all managers", lambda: all(is_well(cluster, name) for name in MANAGERS), 60.0)
    wait_until("all nodes are ready", lambda: {n["Status"]["State"] for n in cluster.nodes().values()} == {"ready"}, 60.0)


def managers(cluster: Cluster, host: str) -> dict[str, str]:
    """Return the managers by host name with their reachability, as a host tells it; the leader is `leader`."""
    nodes = {n["Description"]["Hostname"]: n.get("ManagerStatus") for n in cluster.api("/nodes", host=host)}
    return {name: "leader" if m.get("Leader") else m["Reachability"] for name, m in sorted(nodes.items()) if m}


def is_well(cluster: Cluster, host: str) -> bool:
    """Whether a manager finds all managers reachable, and one of them leading."""
    with contextlib.suppress(OSError, RuntimeError):
        return sorted(managers(cluster, host).values()) == ["leader", "reachable", "reachable"]
    return False


def leader_and_others(cluster: Cluster) -> tuple[str, list[str]]:
    """Return the leader's host and those of the other managers."""
    leader = next(name for name, state in managers(cluster, "n1").items() if state == "leader")
    return leader, [name for name in MANAGERS if name != leader]


def swarm_info(cluster: Cluster, host: str) -> dict[str, Any]:
    swarm: dict[str, Any] = cluster.api("/info", host=host)["Swarm"]
    return swarm


def create(cluster: Cluster, name: str, replicas: int, *more: str, host: str = "n1") -> None:
    cluster.pyswarm(
        "service", "create", "--name", name, "--replicas", str(replicas), "--network", "app", "--stop-signal", "SIGKILL",
        "--restart-delay", "0s", *more, cluster.image("nginx"), host=host,
    )  # fmt: skip


def running_on(cluster: Cluster, service: str, host: str) -> dict[str, str]:
    """Return the running tasks of a service, as a manager tells it: id → node id."""
    wanted = [s["ID"] for s in cluster.api("/services", host=host) if s["Spec"]["Name"] == service]
    tasks = [t for t in cluster.api("/tasks", host=host) if t["ServiceID"] in wanted and t["DesiredState"] == "running"]
    return {t["ID"]: t["NodeID"] for t in tasks if t["Status"]["State"] == "running"}


def seconds_until(cluster: Cluster, name: str, state: str, host: str) -> float:
    """Return after how many seconds a manager says that a node is in this state."""
    began_s = time.monotonic()

    def has_state() -> bool:
        nodes = {n["Description"]["Hostname"]: n["Status"]["State"] for n in cluster.api("/nodes", host=host)}
        return bool(nodes[name] == state)

    wait_until(f"{name} is {state}", has_state)
    return time.monotonic() - began_s


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process for as long as the block lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def etcd_pid(cluster: Cluster, name: str) -> int:
    """Return the pid of a host's etcd, as the machine counts."""
    daemon = cluster.lab.host(name).daemon_pid
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text() == "etcd\n" and f"\nPPid:\t{daemon}\n" in (entry / "status").read_text():
                return int(entry.name)
    raise AssertionError(f"no etcd runs in {name}")


def test_every_manager_tells_the_same(cluster: Cluster) -> None:
    leader, _ = leader_and_others(cluster)
    for name in MANAGERS:
        assert managers(cluster, name)[leader] == "leader"
        swarm = swarm_info(cluster, name)
        assert (swarm["LocalNodeState"], swarm["ControlAvailable"], swarm["Error"]) == ("active", True, "")
        assert (swarm["Managers"], swarm["Nodes"], len(swarm["RemoteManagers"])) == (3, 4, 3)


def test_a_dead_worker_is_noticed_in_three_and_a_half_seconds(cluster: Cluster) -> None:
    cluster.lab.host(WORKER).power_cut()
    took_s = seconds_until(cluster, WORKER, "down", "n1")
    print(f"a dead worker was noticed after {took_s:.2f} s")
    assert took_s <= 3.5


def test_a_dead_manager_is_noticed_in_three_and_a_half_seconds(cluster: Cluster) -> None:
    leader, others = leader_and_others(cluster)
    cluster.lab.host(others[0]).power_cut()
    took_s = seconds_until(cluster, others[0], "down", leader)
    print(f"a dead manager was noticed after {took_s:.2f} s")
    assert took_s <= 3.5
    wait_until("it is unreachable", lambda: managers(cluster, others[1])[others[0]] == "unreachable")


def test_a_manager_whose_daemon_was_killed_is_noticed_as_soon(cluster: Cluster) -> None:
    leader, others = leader_and_others(cluster)
    host = cluster.lab.host(others[0])
    host.kill_daemon(signal.SIGKILL)
    took_s = seconds_until(cluster, others[0], "down", leader)
    host.start_daemon()
    print(f"a killed daemon was noticed after {took_s:.2f} s")
    assert took_s <= 3.5


def test_another_heartbeat_period_takes_effect_at_once(cluster: Cluster) -> None:
    cluster.pyswarm("swarm", "update", "--dispatcher-heartbeat", "300ms")
    try:
        time.sleep(1.0)  # nodes hear of it, and beat
        cluster.lab.host(WORKER).power_cut()
        took_s = seconds_until(cluster, WORKER, "down", "n1")
        print(f"with a heartbeat of 0.3 s a dead worker was noticed after {took_s:.2f} s")
        assert took_s <= 1.4
    finally:
        cluster.pyswarm("swarm", "update", "--dispatcher-heartbeat", "1s")


def test_the_tasks_of_the_leaders_host_run_elsewhere_in_eight_seconds(cluster: Cluster, service_name: str) -> None:
    create(cluster, service_name, 4)
    cluster.wait_running(service_name, 4)
    leader, others = leader_and_others(cluster)
    lost = cluster.nodes()[leader]["ID"]
    before = running_on(cluster, service_name, others[0])
    cluster.lab.host(leader).power_cut()
    cut_s = time.monotonic()

    def run_elsewhere() -> bool:
        with contextlib.suppress(OSError, RuntimeError):
            return sum(node != lost for node in running_on(cluster, service_name, others[0]).values()) == 4
        return False

    wait_until("four tasks run elsewhere", run_elsewhere)
    took_s = time.monotonic() - cut_s
    print(f"the tasks of the leader's host ran elsewhere after {took_s:.2f} s")
    now = running_on(cluster, service_name, others[0])
    assert {task for task, node in before.items() if node != lost} <= now.keys()
    assert took_s <= 8.0


@pytest.mark.parametrize("who", ["leader", "other"])
def test_no_task_moves_when_a_manager_is_paused_for_ten_seconds(cluster: Cluster, service_name: str, who: str) -> None:
    create(cluster, service_name, 4)
    cluster.wait_running(service_name, 4)
    leader, others = leader_and_others(cluster)
    victim, witness = (leader, others[0]) if who == "leader" else (others[0], others[1])
    before = running_on(cluster, service_name, witness)
    pid = cluster.lab.host(victim).daemon_pid
    assert pid is not None
    with paused(pid):
        time.sleep(10.0)
    wait_until("all is well", lambda: all(is_well(cluster, name) for name in MANAGERS))
    time.sleep(2.0)
    assert running_on(cluster, service_name, witness) == before
    states = {n["Description"]["Hostname"]: n["Status"]["State"] for n in cluster.api("/nodes", host=witness)}
    assert set(states.values()) == {"ready"}


def test_without_a_quorum_reads_answer_and_writes_fail_in_dockers_words(cluster: Cluster, service_name: str) -> None:
    create(cluster, service_name, 4)
    cluster.wait_running(service_name, 4)
    before = running_on(cluster, service_name, "n1")
    here = cluster.nodes()["n1"]["ID"]
    for name in ("n2", "n3"):
        cluster.lab.host(name).power_cut()
    wait_until("n1 sees no leader", lambda: swarm_info(cluster, "n1")["Error"].startswith(DOCKERS_WORDS))
    began_s = time.monotonic()
    refused = cluster.pyswarm("service", "create", "--name", "x", "nginx", check=False)
    took_s = time.monotonic() - began_s
    print(f"a write without a quorum failed after {took_s:.2f} s")
    assert refused.returncode != 0
    assert "The swarm does not have a leader" in refused.stderr
    assert took_s <= 1.0 + SCHEDULING_S
    wait_until("n1 finds the others unreachable", lambda: managers(cluster, "n1")["n3"] == "unreachable")
    assert managers(cluster, "n1") == {"n1": "reachable", "n2": "unreachable", "n3": "unreachable"}
    swarm = swarm_info(cluster, "n1")
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"], swarm["Nodes"]) == ("active", True, 4)
    containers = cluster.api("/containers/json", host="n1")
    assert len(containers) == sum(node == here for node in before.values())
    restore(cluster)
    cluster.wait_running(service_name, 4, 60.0)
    kept = {task for task, node in before.items() if node == here}
    assert kept <= running_on(cluster, service_name, "n1").keys()


def test_leadership_moves_away_from_a_member_that_hangs(cluster: Cluster, service_name: str) -> None:
    leader, others = leader_and_others(cluster)
    with paused(etcd_pid(cluster, leader)):
        began_s = time.monotonic()
        wait_until("a write is accepted", lambda: _is_accepted(cluster, service_name, others[0]))
        took_s = time.monotonic() - began_s
        print(f"with the leader's etcd stopped a write was accepted after {took_s:.2f} s")
        assert took_s <= 5.0
        wait_until("the others say so", lambda: managers(cluster, others[0])[leader] == "unreachable")
        assert "leader" in managers(cluster, others[0]).values()
        wait_until("it says so itself", lambda: swarm_info(cluster, leader)["Error"] != "")
    wait_until("all is well", lambda: all(is_well(cluster, name) for name in MANAGERS))


def test_a_member_that_stutters_stops_nothing(cluster: Cluster, service_name: str) -> None:
    """A disk that stands still again and again, as the leader's member sees it: stopped for half of the time."""
    leader, others = leader_and_others(cluster)
    pid = etcd_pid(cluster, leader)
    accepted = 0
    for index in range(12):
        with paused(pid):
            time.sleep(0.4)
        accepted += _is_accepted(cluster, f"{service_name}-{index}", others[0])
        time.sleep(0.4)
    assert accepted >= 10
    wait_until("all is well", lambda: all(is_well(cluster, name) for name in MANAGERS))


def _is_accepted(cluster: Cluster, name: str, host: str) -> bool:
    spec = {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "x"}}, "Mode": {"Replicated": {"Replicas": 0}}}
    try:
        cluster.api("/services/create", "POST", spec, host=host)
    except (OSError, RuntimeError, ValueError) as error:
        return "AlreadyExists" in str(error)  # the answer to an earlier try was lost
    return True
