"""Machines whose address changes while their daemon is down: workers and managers are found again."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until

from pyswarm_cli.lab.lab import Host

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three managers and a worker."""
    folder: Path = tmp_path_factory.mktemp("addresses")
    with running_cluster(folder, build_images(folder), hosts=4, managers=3) as cluster:
        yield cluster


@pytest.mark.parametrize("name", ["n3", "n4"])
def test_a_node_whose_address_changed_is_found_again(cluster: Cluster, name: str) -> None:
    cluster.wait_managers("n1", "n2", "n3")
    given = cluster.lab.host(name).address
    other = f"{given.rpartition('.')[0]}.9{name[1]}"
    for old, new in ((given, other), (other, given)):
        readdress(cluster.lab.host(name), old, new)
        expected = (new, f"{new}:2377" if name == "n3" else None)
        wait_until("its new addresses are known", lambda expected=expected: addresses(cluster, name) == expected, 60.0)  # type: ignore[misc]
        cluster.wait_node(name, "ready")
        cluster.wait_managers("n1", "n2", "n3")
        assert addresses(cluster, name) == expected


def test_another_manager_can_join_after_that(cluster: Cluster) -> None:
    """The leader's etcd may still take the member that moved for gone; then another manager leads."""
    cluster.pyswarm("node", "promote", "n4")
    cluster.wait_managers("n1", "n2", "n3", "n4", timeout_s=90.0)


def addresses(cluster: Cluster, name: str) -> tuple[str, str | None]:
    """Where the cluster thinks that a node, and its manager if it is one, are reached."""
    node = cluster.nodes()[name]
    return node["Status"]["Addr"], node.get("ManagerStatus", {}).get("Addr")


def readdress(host: Host, old: str, new: str) -> None:
    """Give a host another address while its daemon is down."""
    host.kill_daemon(signal.SIGTERM)
    host.run(["ip", "addr", "del", f"{old}/24", "dev", "eth0"])
    host.run(["ip", "addr", "add", f"{new}/24", "dev", "eth0"])
    host.start_daemon()
