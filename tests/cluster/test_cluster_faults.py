"""What happens when things die: containers, daemons, hosts."""

import re
import signal
import threading
import time

import pytest
from lab_cluster import Cluster, wait_until, wait_until_gone

from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID
from pyswarm_netplugin.naming import digest

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]


def create(cluster: Cluster, name: str, replicas: int, *options: str) -> None:
    cluster.pyswarm(
        "service", "create", "--name", name, "--replicas", str(replicas), "--network", "app", "--restart-delay", "0s",
        *options, cluster.image("nginx"),
    )  # fmt: skip
    cluster.wait_running(name, replicas)


def pids(cluster: Cluster, name: str) -> dict[str, int]:
    return {t["ID"]: t["Status"]["ContainerStatus"]["PID"] for t in cluster.tasks(name, running=True)}


def test_a_killed_container_is_replaced(cluster: Cluster, service_name: str) -> None:
    create(cluster, service_name, 3)
    victim = cluster.tasks(service_name, running=True)[0]
    host = next(h for h in cluster.lab.hosts if cluster.nodes()[h.name]["ID"] == victim["NodeID"])
    host.run(["kill", "-KILL", str(victim["Status"]["ContainerStatus"]["PID"])])
    wait_until("the victim is replaced", lambda: victim["ID"] not in pids(cluster, service_name))
    cluster.wait_running(service_name, 3)
    failed = next(t for t in cluster.tasks(service_name) if t["ID"] == victim["ID"])
    assert (failed["Status"]["State"], failed["Status"]["ContainerStatus"]["ExitCode"]) == ("failed", 137)


def test_a_power_cut_moves_the_tasks_and_the_returned_node_is_clean(cluster: Cluster, service_name: str) -> None:
    create(cluster, service_name, 3)
    host = cluster.lab.host("n2")
    node_id = cluster.nodes()["n2"]["ID"]
    cut_s = time.monotonic()
    host.power_cut()
    wait_until(
        "three tasks run elsewhere",
        lambda: len([t for t in cluster.tasks(service_name, running=True) if t["NodeID"] != node_id]) == 3,
        timeout_s=6.0,
    )
    print(f"tasks ran elsewhere {time.monotonic() - cut_s:.2f} s after the power cut")
    host.power_on()
    cluster.wait_node("n2", "ready")
    cluster.wait_running(service_name, 3)
    wait_until_gone("strays", lambda: stray(cluster, "n2"))


def stray(cluster: Cluster, name: str) -> set[str]:
    """Return the containers and sandboxes on a host that none of the tasks running there explains."""
    host = cluster.lab.host(name)
    node_id = cluster.nodes()[name]["ID"]
    tasks = [t for t in cluster.api("/tasks") if t["NodeID"] == node_id and t["Status"]["State"] == "running"]
    containers = {t["Status"]["ContainerStatus"]["ContainerID"] for t in tasks}
    processes = set(re.findall(r"--cid (\w{64})", host.run(["ps", "-eo", "args"]).stdout))
    cgroups = set(re.findall(r"\b\w{64}\b", host.run(["find", "/sys/fs/cgroup", "-type", "d"], check=False).stdout))
    mounts = host.run(["cat", "/proc/mounts"]).stdout
    sandboxes = set(re.findall(r"netns/s-(\S+)", mounts)) - {MESH_SANDBOX_ID}
    links = host.run(["ip", "-o", "link"]).stdout
    strays = (processes | cgroups) - containers | sandboxes - {t["ID"] for t in tasks}
    if not tasks:
        mesh = {f"o-{n['Id']}" for n in cluster.api("/networks") if n["Ingress"]}
        ports = set(re.findall(r"\w+e[0-9a-f]{8}(?=@)", links))
        strays |= {port for port in ports if not port.endswith(digest(MESH_SANDBOX_ID))}
        strays |= set(re.findall(r"netns/(o-\w+)", mounts)) - mesh
    return strays


@pytest.mark.parametrize("name", ["n1", "n2", "n3"])
def test_a_killed_daemon_restarts_no_container(cluster: Cluster, service_name: str, name: str) -> None:
    create(cluster, service_name, 3)
    before = pids(cluster, service_name)
    host = cluster.lab.host(name)
    host.kill_daemon(signal.SIGKILL)
    host.start_daemon()
    wait_until("the manager answers", lambda: _answers(cluster))
    assert_nothing_restarted(cluster, service_name, before)


def assert_nothing_restarted(cluster: Cluster, service_name: str, before: dict[str, int]) -> None:
    """Double the replicas, so that every node takes a task from the manager: the old containers still run, each with its pid."""
    cluster.pyswarm("service", "scale", f"{service_name}={2 * len(before)}")
    tasks = cluster.wait_running(service_name, 2 * len(before))
    assert len({t["NodeID"] for t in tasks if t["ID"] not in before}) == 3
    assert before.items() <= pids(cluster, service_name).items()


def _answers(cluster: Cluster) -> bool:
    try:
        return bool(cluster.api("/nodes"))
    except (OSError, RuntimeError):
        return False


def test_a_power_cut_of_the_only_manager_stops_no_container_elsewhere(cluster: Cluster, service_name: str) -> None:
    create(cluster, service_name, 3)
    manager_id = cluster.nodes()["n1"]["ID"]
    elsewhere = {t["ID"] for t in cluster.tasks(service_name, running=True) if t["NodeID"] != manager_id}
    assert elsewhere
    cluster.manager.power_cut()
    cluster.manager.power_on()
    wait_until("the manager answers", lambda: _answers(cluster))
    cluster.wait_node("n1", "ready")
    cluster.wait_running(service_name, 3)
    assert elsewhere <= set(pids(cluster, service_name))
    wait_until_gone("strays", lambda: stray(cluster, "n1"))


def test_a_stopped_daemon_leaves_its_containers_running(cluster: Cluster, service_name: str) -> None:
    create(cluster, service_name, 3)
    before = pids(cluster, service_name)
    host = cluster.lab.host("n3")
    host.kill_daemon(signal.SIGTERM)
    host.start_daemon()
    assert_nothing_restarted(cluster, service_name, before)


def test_nothing_acknowledged_is_lost_when_the_manager_dies_while_writing(cluster: Cluster, service_name: str) -> None:
    acknowledged: list[str] = []
    stop = threading.Event()

    def write() -> None:
        index = 0
        while not stop.is_set():
            index += 1
            spec = {"Name": f"w{index}", "TaskTemplate": {"ContainerSpec": {"Image": "x"}}, "Mode": {"Replicated": {"Replicas": 0}}}
            try:
                acknowledged.append(cluster.api("/services/create", "POST", spec)["ID"])
            except (OSError, RuntimeError, ValueError):
                return

    writer = threading.Thread(target=write)
    writer.start()
    wait_until("some writes are acknowledged", lambda: len(acknowledged) >= 20)
    cluster.manager.kill_daemon(signal.SIGKILL)
    stop.set()
    writer.join()
    cluster.manager.start_daemon()
    wait_until("the manager answers", lambda: _answers(cluster))
    stored = {s["ID"] for s in cluster.api("/services")}
    assert set(acknowledged) <= stored
    print(f"{len(acknowledged)} acknowledged writes, all there after the restart")
