"""Killing the daemon between the steps of joining, promotion, demotion and leaving: what was begun is finished or undone.

Each test lets one daemon kill itself at a failpoint (`pyswarm_common.failpoints`), starts it again, and expects the work to come
to its end without further help, or to have left nothing, so that it can be asked for again.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until

from pyswarm_cli.lab.lab import Host
from pyswarm_common import failpoints

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

SWARM_FOLDER = "/var/lib/pyswarm/swarm"
ENTERING = ("enter/announced", "enter/data-keys-saved", "enter/started", "enter/votes")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three hosts with two managers: a step that goes wrong would lose the quorum."""
    folder: Path = tmp_path_factory.mktemp("interruptions")
    with running_cluster(folder, build_images(folder), managers=2) as cluster:
        yield cluster


@contextlib.contextmanager
def dying_at(cluster: Cluster, host: str, failpoint: str) -> Iterator[None]:
    """Let the daemon of a host kill itself at a failpoint inside the block; it runs again afterwards. Fails if it did not die."""
    victim = cluster.lab.host(host)
    victim.kill_daemon()
    victim.start_daemon(env={failpoints.VARIABLE: failpoint})
    if host in cluster.nodes():
        cluster.wait_node(host, "ready")
        wait_until("its manager, if it is one, serves", lambda: serves(cluster, host))
    yield
    wait_until(f"{host} dies at {failpoint}", lambda: victim.daemon_pid is None, 40.0)
    victim.start_daemon()


def serves(cluster: Cluster, host: str) -> bool:
    """Whether the node is at work in its cluster."""
    return bool(cluster.api("/info", host=host)["Swarm"]["LocalNodeState"] == "active")


@pytest.mark.parametrize("failpoint", ["join/admitted", "join/certificate-saved"])
def test_a_join_that_was_cut_off_early_is_made_again(cluster: Cluster, failpoint: str) -> None:
    join_as_manager_and_die(cluster, failpoint)
    assert cluster.api("/info", host="n3")["Swarm"]["LocalNodeState"] == "inactive"
    cluster.join("n3", "manager")
    cluster.wait_managers("n1", "n2", "n3")
    assert [n["Description"]["Hostname"] for n in cluster.api("/nodes")].count("n3") == 1


@pytest.mark.parametrize("failpoint", ["join/remembered", *ENTERING])
def test_a_join_that_was_cut_off_later_is_finished(cluster: Cluster, failpoint: str) -> None:
    join_as_manager_and_die(cluster, failpoint)
    cluster.wait_managers("n1", "n2", "n3")
    cluster.wait_node("n3", "ready")


@pytest.mark.parametrize("failpoint", ["promote/certified", "promote/remembered", *ENTERING])
def test_a_promotion_that_was_cut_off_is_finished(cluster: Cluster, failpoint: str) -> None:
    be_worker(cluster, "n3")
    with dying_at(cluster, "n3", failpoint):
        cluster.pyswarm("node", "promote", "n3")
    cluster.wait_managers("n1", "n2", "n3")


@pytest.mark.parametrize("failpoint", ["demote/manager-ended", "demote/forgotten"])
def test_a_demotion_that_was_cut_off_is_finished(cluster: Cluster, failpoint: str) -> None:
    be_manager(cluster, "n3")
    with dying_at(cluster, "n3", failpoint):
        cluster.pyswarm("node", "demote", "n3")
    cluster.wait_managers("n1", "n2")
    wait_until("n3 is a worker", lambda: not cluster.api("/info", host="n3")["Swarm"]["ControlAvailable"])
    wait_until("its data is gone", lambda: "etcd" not in cluster.lab.host("n3").run(["ls", SWARM_FOLDER]).stdout.split())
    cluster.wait_node("n3", "ready")


@pytest.mark.parametrize("failpoint", ["leave/manager-removed", "leave/forgotten"])
def test_a_manager_that_was_cut_off_while_leaving_is_no_manager_any_more(cluster: Cluster, failpoint: str) -> None:
    be_manager(cluster, "n3")
    with dying_at(cluster, "n3", failpoint):
        cluster.pyswarm("swarm", "leave", "--force", host="n3", check=False)
    cluster.wait_managers("n1", "n2")
    if failpoint == "leave/manager-removed":  # it still belongs to the cluster, as a worker
        cluster.wait_node("n3", "ready")
    else:
        assert cluster.api("/info", host="n3")["Swarm"]["LocalNodeState"] == "inactive"


@pytest.mark.parametrize("step", ["AddLearner-decided", "AddLearner-taken", "Promote-decided", "Promote-taken"])
def test_a_promotion_whose_leader_dies_is_finished(cluster: Cluster, step: str) -> None:
    be_worker(cluster, "n3")
    with leader_dying_at(cluster, f"roles/{step}"):
        cluster.pyswarm("node", "promote", "n3")
    cluster.wait_managers("n1", "n2", "n3")


@pytest.mark.parametrize("step", ["Remove-decided", "Remove-taken"])
def test_a_demotion_whose_leader_dies_is_finished(cluster: Cluster, step: str) -> None:
    be_manager(cluster, "n3")
    with leader_dying_at(cluster, f"roles/{step}"):
        cluster.pyswarm("node", "demote", "n3")
    cluster.wait_managers("n1", "n2")
    wait_until("n3 is a worker", lambda: not cluster.api("/info", host="n3")["Swarm"]["ControlAvailable"])


def test_a_leader_that_dies_while_it_is_demoted_is_demoted(cluster: Cluster) -> None:
    be_manager(cluster, "n3")
    with leader_dying_at(cluster, "roles/MoveLeadership-decided"):
        leader = cluster.wait_managers("n1", "n2", "n3")
        other = "n1" if leader != "n1" else "n2"
        cluster.pyswarm("node", "demote", leader, host=other)
    rest = [name for name in ("n1", "n2", "n3") if name != leader]
    cluster.wait_managers(*rest, host=other)
    cluster.pyswarm("node", "promote", leader, host=other)
    cluster.wait_managers("n1", "n2", "n3", host=other)


@contextlib.contextmanager
def leader_dying_at(cluster: Cluster, failpoint: str) -> Iterator[None]:
    """Let whichever manager leads kill itself at a failpoint inside the block; all run again, without it, afterwards."""
    names = list(present_managers(cluster))
    hosts = [cluster.lab.host(name) for name in names]
    restart(hosts, {failpoints.VARIABLE: failpoint})
    cluster.wait_managers(*names)
    yield
    wait_until(f"the leader dies at {failpoint}", lambda: any(host.daemon_pid is None for host in hosts), 40.0)
    restart(hosts, {})


def restart(hosts: list[Host], environment: dict[str, str]) -> None:
    """Kill the daemons that run, and start all."""
    for host in hosts:
        if host.daemon_pid is not None:
            host.kill_daemon()
    for host in hosts:
        host.start_daemon(env=environment)


def join_as_manager_and_die(cluster: Cluster, failpoint: str) -> None:
    """Let n3, in no cluster, die while it joins, and start again."""
    cluster.pyswarm("swarm", "leave", "--force", host="n3", check=False)
    cluster.wait_managers("n1", "n2")
    remove_nodes(cluster, "n3")
    token = cluster.pyswarm("swarm", "join-token", "-q", "manager").stdout.strip()
    with dying_at(cluster, "n3", failpoint):
        cluster.pyswarm("swarm", "join", "--token", token, f"{cluster.manager.address}:2377", host="n3", check=False)


def present_managers(cluster: Cluster) -> dict[str, str]:
    """Return the managers, as soon as n1, whose daemon may just have been started, tells them."""

    def ask() -> dict[str, str] | None:
        with contextlib.suppress(RuntimeError, OSError):
            return cluster.managers()
        return None

    return wait_until("n1 tells the managers", ask)


def remove_nodes(cluster: Cluster, host: str) -> None:
    """Remove the nodes that a host was, before it joins as a new one of the same name."""
    for node in cluster.api("/nodes"):
        if node["Description"]["Hostname"] == host:
            cluster.pyswarm("node", "rm", "--force", node["ID"])


def be_worker(cluster: Cluster, host: str) -> None:
    """Let a host be a worker that is ready."""
    if cluster.api("/info", host=host)["Swarm"]["LocalNodeState"] == "inactive":
        remove_nodes(cluster, host)
        cluster.join(host, "worker")
    elif host in present_managers(cluster):
        cluster.pyswarm("node", "demote", host)
    cluster.wait_managers("n1", "n2")
    wait_until(f"{host} is a worker", lambda: not cluster.api("/info", host=host)["Swarm"]["ControlAvailable"])


def be_manager(cluster: Cluster, host: str) -> None:
    """Let a host be a manager that is ready."""
    if cluster.api("/info", host=host)["Swarm"]["LocalNodeState"] == "inactive":
        remove_nodes(cluster, host)
        cluster.join(host, "manager")
    elif host not in present_managers(cluster):
        cluster.pyswarm("node", "promote", host)
    cluster.wait_managers("n1", "n2", host)
