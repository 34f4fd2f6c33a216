"""Several managers: joining, promotion, demotion, leaving, and what is refused; the API on every one of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of five hosts that begins with one manager."""
    folder: Path = tmp_path_factory.mktemp("managers")
    with running_cluster(folder, build_images(folder), hosts=5) as cluster:
        yield cluster


def test_workers_are_promoted_together_and_keep_their_tasks(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "5", "--network", "app", cluster.image("nginx"))
    before = {t["ID"] for t in cluster.wait_running(service_name, 5)}
    promoted = cluster.pyswarm("node", "promote", "n2", "n3")
    assert promoted.stdout.splitlines() == [f"Node {name} promoted to a manager in the swarm." for name in ("n2", "n3")]
    cluster.wait_managers("n1", "n2", "n3")
    assert {t["ID"] for t in cluster.wait_running(service_name, 5)} == before


def test_every_manager_answers_and_takes_changes(cluster: Cluster, service_name: str) -> None:
    for name in ("n1", "n2", "n3"):
        cluster.pyswarm("service", "create", "--name", f"{service_name}-{name}", "--replicas", "0", "nginx", host=name)
        for other in ("n1", "n2", "n3"):
            assert f"{service_name}-{name}" in {s["Spec"]["Name"] for s in cluster.api("/services", host=other)}
    refused = cluster.pyswarm("service", "ls", host="n4", check=False)
    assert refused.returncode != 0
    assert "This node is not a swarm manager" in refused.stderr


def test_demoting_the_leader_hands_over_and_keeps_its_tasks(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "5", "--network", "app", cluster.image("nginx"))
    before = {t["ID"] for t in cluster.wait_running(service_name, 5)}
    leader = next(name for name, state in cluster.managers().items() if state == "leader")
    others = [name for name in ("n1", "n2", "n3") if name != leader]
    cluster.pyswarm("node", "demote", leader, host=others[0])
    cluster.wait_managers(*others, host=others[0])
    wait_until("the demoted node is a worker", lambda: cluster.api("/info", host=leader)["Swarm"]["ControlAvailable"] is False)
    held = cluster.lab.host(leader).run(["sh", "-c", "cd /var/lib/pyswarm/swarm && ls && cat certificates/node-keys.json"]).stdout
    assert "etcd" not in held.split()
    assert '"data_keys":""' in held or "data_keys" not in held
    cluster.pyswarm("node", "promote", leader, host=others[0])
    cluster.wait_managers("n1", "n2", "n3")
    assert {t["ID"] for t in cluster.wait_running(service_name, 5)} == before


def test_a_manager_that_was_demoted_and_promoted_while_it_was_down_comes_back(cluster: Cluster) -> None:
    """Its role is right then, but its certificate was revoked with the demotion."""
    others = ("n1", "n2")
    cluster.lab.host("n3").kill_daemon()
    cluster.wait_node("n3", "down")
    cluster.pyswarm("node", "demote", "n3")
    cluster.wait_managers(*others)
    cluster.pyswarm("node", "promote", "n3")
    cluster.lab.host("n3").start_daemon()
    cluster.wait_managers(*others, "n3")


def test_managers_that_join_at_once_queue_up(cluster: Cluster) -> None:
    for name in ("n4", "n5"):
        cluster.pyswarm("swarm", "leave", host=name)
        cluster.wait_node(name, "down")
        cluster.pyswarm("node", "rm", name)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: cluster.join(name, "manager"), ("n4", "n5")))
    cluster.wait_managers("n1", "n2", "n3", "n4", "n5")


def test_a_manager_leaves_and_the_others_go_on(cluster: Cluster) -> None:
    refused = cluster.pyswarm("swarm", "leave", host="n5", check=False)
    assert refused.returncode != 0
    assert "participating as a manager" in refused.stderr
    cluster.pyswarm("swarm", "leave", "--force", host="n5")
    cluster.wait_managers("n1", "n2", "n3", "n4")
    assert cluster.api("/info", host="n5")["Swarm"]["LocalNodeState"] == "inactive"
    cluster.wait_node("n5", "down")
    cluster.pyswarm("node", "rm", "n5")


def test_a_dead_manager_is_demoted_and_removed_by_the_others(cluster: Cluster) -> None:
    cluster.lab.host("n4").power_cut()
    cluster.wait_node("n4", "down")
    refused = cluster.pyswarm("node", "rm", "--force", "n4", check=False)
    assert "must be demoted to worker before removal" in refused.stderr
    cluster.pyswarm("node", "demote", "n4")
    cluster.wait_managers("n1", "n2", "n3")
    cluster.pyswarm("node", "rm", "n4")


def test_what_would_lose_the_quorum_is_refused(cluster: Cluster) -> None:
    cluster.wait_managers("n1", "n2", "n3")
    cluster.lab.host("n3").power_cut()
    try:
        for asked in ("n1", "n2"):  # whichever leads decides, by what it finds itself
            wait_until("n3 is unreachable", lambda asked=asked: cluster.managers(asked)["n3"] == "unreachable")  # type: ignore[misc]
        refused = cluster.pyswarm("node", "demote", "n2", check=False)
        assert refused.returncode != 0
        assert "this would result in a loss of quorum" in refused.stderr
    finally:
        cluster.lab.host("n3").power_on()
    cluster.wait_managers("n1", "n2", "n3")


def test_the_last_manager_is_not_demoted(cluster: Cluster) -> None:
    for name in ("n2", "n3"):
        cluster.pyswarm("node", "demote", name)
    cluster.wait_managers("n1")
    refused = cluster.pyswarm("node", "demote", "n1", check=False)
    assert refused.returncode != 0
    assert "attempting to demote the last manager of the swarm" in refused.stderr
