"""Leaving and coming back; what a node keeps and what it does not."""

import pytest
from lab_cluster import Cluster, wait_until, wait_until_gone

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]


def traces(cluster: Cluster, name: str) -> list[str]:
    """Return what of the cluster is still on a host: containers, sandboxes, overlays, links, nft tables, keys."""
    host = cluster.lab.host(name)
    found = host.run(
        ["sh", "-c", "ls -d /run/pyswarm/netns/* /var/lib/pyswarm/containers/* /var/lib/pyswarm/swarm 2>/dev/null; true"]
    )
    processes = host.run(["sh", "-c", "ps -eo comm | grep -E '^(conmon|pyswarm-dns|etcd)' || true"])
    links = [line for line in host.run(["ip", "-o", "link"]).stdout.splitlines() if " lo:" not in line and " eth0@" not in line]
    tables = host.run(["nft", "list", "tables"]).stdout.splitlines()
    return [*found.stdout.split(), *processes.stdout.split(), *links, *tables]


def test_a_worker_leaves_without_a_trace_and_joins_again(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "3", "--network", "app", cluster.image("nginx"))
    before = cluster.nodes()["n3"]["ID"]
    assert traces(cluster, "n3") != []

    cluster.pyswarm("swarm", "leave", host="n3")
    wait_until_gone("traces", lambda: traces(cluster, "n3"))
    cluster.wait_running(service_name, 3)
    wait_until("the node is down", lambda: cluster.nodes()["n3"]["Status"]["State"] == "down")
    cluster.pyswarm("node", "rm", before)

    token = cluster.pyswarm("swarm", "join-token", "-q", "worker").stdout.strip()
    cluster.pyswarm("swarm", "join", "--token", token, f"{cluster.manager.address}:2377", host="n3")
    cluster.wait_node("n3", "ready")
    assert cluster.nodes()["n3"]["ID"] != before
    cluster.pyswarm("service", "scale", f"{service_name}=6")
    cluster.wait_running(service_name, 6)
    assert traces(cluster, "n3") != []


def test_a_manager_does_not_leave_by_accident(cluster: Cluster) -> None:
    refused = cluster.pyswarm("swarm", "leave", check=False)
    assert refused.returncode != 0
    assert "Removing the last manager erases all current state of the swarm" in refused.stderr


def test_a_node_that_is_ready_is_not_removed(cluster: Cluster) -> None:
    refused = cluster.pyswarm("node", "rm", "n2", check=False)
    assert refused.returncode != 0
    assert "is not down and can't be removed" in refused.stderr


def test_a_drained_node_gives_its_tasks_away(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "3", "--network", "app", cluster.image("nginx"))
    drained = cluster.nodes()["n2"]["ID"]
    cluster.pyswarm("node", "update", "--availability", "drain", "n2")
    try:
        wait_until("no task runs there", lambda: drained not in {t["NodeID"] for t in cluster.wait_running(service_name, 3)})
    finally:
        cluster.pyswarm("node", "update", "--availability", "active", "n2")


def test_a_cut_node_is_replaced_and_its_containers_end_when_it_is_back(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--replicas", "3", "--network", "app", "--restart-delay", "0s",
        cluster.image("nginx"),
    )  # fmt: skip
    host, node_id = cluster.lab.host("n2"), cluster.nodes()["n2"]["ID"]
    host.cut()
    try:
        wait_until(
            "three tasks run elsewhere",
            lambda: len([t for t in cluster.tasks(service_name, running=True) if t["NodeID"] != node_id]) == 3,
        )
        assert "conmon" in host.run(["ps", "-eo", "comm"]).stdout
    finally:
        host.heal()
    cluster.wait_node("n2", "ready")
    wait_until("the old container has ended", lambda: "conmon" not in host.run(["ps", "-eo", "comm"]).stdout)
    cluster.wait_running(service_name, 3)
