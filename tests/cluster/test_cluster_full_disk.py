"""A full disk: on one of three managers, and on the only one. Nothing is lost, nobody stops, and it goes on by itself."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aetcd import rpc
from lab_cluster import Cluster, wait_until

from pyswarm_cli.lab.lab import Host, Lab

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

DISK_MIB = 250
"""Enough for etcd's log, of which it reserves 64 MiB pieces, two at a time."""
FULL = "no space left on the disk of /var/lib/pyswarm"


@pytest.fixture
def make_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[int], Cluster]]:
    """Make a cluster of managers whose disks are small."""
    labs: list[Lab] = []

    def make(size: int) -> Cluster:
        lab = Lab.create(f"d{request.node.name[-8:-1].strip('_').replace('_', '')}", hosts=size)
        labs.append(lab)
        for host in lab.hosts:
            host.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "small", "/var/lib/pyswarm"])
            host.start_daemon([])
        cluster = Cluster(lab, "", tmp_path)
        cluster.pyswarm("swarm", "init", "--advertise-addr", cluster.manager.address)
        for host in lab.hosts[1:]:
            cluster.join(host.name, "manager")
        return cluster

    yield make
    for lab in labs:
        lab.down()
        assert lab.leftovers() == []


def fill(host: Host) -> None:
    """Leave no byte of the host's disk."""
    script = "for size in 1M 1k; do dd if=/dev/zero of=/var/lib/pyswarm/ballast-$size bs=$size 2>/dev/null; done; true"
    host.run(["sh", "-c", script])


def free(host: Host) -> None:
    host.run(["sh", "-c", "rm /var/lib/pyswarm/ballast-*"])


class Writes:
    """Creates services, each with a large label so that disks fill, and remembers which were acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.acknowledged: set[str] = set()
        self.refusals: list[str] = []
        self._count = 0

    def write(self, host: str) -> bool:
        """Create one; whether it was acknowledged."""
        self._count += 1
        spec: dict[str, Any] = {
            "Name": f"w{self._count}",
            "Labels": {"ballast": "x" * 20_000},
            "TaskTemplate": {"ContainerSpec": {"Image": "x"}},
            "Mode": {"Replicated": {"Replicas": 0}},
        }
        try:
            self.acknowledged.add(self._cluster.api("/services/create", "POST", spec, host=host)["ID"])
        except (OSError, RuntimeError) as error:
            self.refusals.append(str(error))
            return False
        return True

    def stored(self, host: str) -> set[str]:
        return {s["ID"] for s in self._cluster.api("/services", host=host)}


def error_of(cluster: Cluster, host: str) -> str:
    return str(cluster.api("/info", host=host)["Swarm"]["Error"])


def reachability(cluster: Cluster, name: str, host: str) -> str:
    nodes = {n["Description"]["Hostname"]: n["ManagerStatus"] for n in cluster.api("/nodes", host=host)}
    return str(nodes[name]["Reachability"])


def test_the_only_manager_reads_refuses_and_goes_on_when_there_is_space(make_cluster: Callable[[int], Cluster]) -> None:
    cluster = make_cluster(1)
    host, writes = cluster.manager, Writes(cluster)
    daemon_pid = host.daemon_pid
    assert writes.write("n1")
    fill(host)
    wait_until("a write is refused", lambda: not writes.write("n1"))
    wait_until("it says why", lambda: FULL in error_of(cluster, "n1"))
    assert writes.acknowledged <= writes.stored("n1")
    began_s = time.monotonic()
    assert not writes.write("n1")
    assert time.monotonic() - began_s <= 2.0
    assert "The swarm does not have a leader" in writes.refusals[-1]
    assert FULL in writes.refusals[-1]
    info = cluster.pyswarm("info")
    assert FULL in info.stdout
    assert f"WARNING: {FULL}" in info.stderr
    free(host)
    freed_s = time.monotonic()
    wait_until("writes are taken again", lambda: writes.write("n1"))
    print(f"the only manager took writes again {time.monotonic() - freed_s:.1f} s after there was space")
    assert host.daemon_pid == daemon_pid
    assert writes.acknowledged <= writes.stored("n1")
    assert error_of(cluster, "n1") == ""


def test_one_of_three_with_a_full_disk_stops_nobody_else(make_cluster: Callable[[int], Cluster]) -> None:
    cluster = make_cluster(3)
    writes = Writes(cluster)
    for victim, witness in (("n2", "n3"), ("n1", "n3")):
        host = cluster.lab.host(victim)
        daemon_pid = host.daemon_pid
        fill(host)
        wait_until("its member stops", lambda: writes.write(witness) and reachability(cluster, victim, witness) == "unreachable")  # noqa: B023
        wait_until("it says why", lambda: FULL in error_of(cluster, victim))  # noqa: B023
        began_s = time.monotonic()
        assert all(writes.write(witness) for _ in range(20))
        assert time.monotonic() - began_s <= 5.0
        assert writes.stored(victim)
        free(host)
        freed_s = time.monotonic()
        wait_until(
            "it is back",
            lambda: error_of(cluster, victim) == "" and reachability(cluster, victim, witness) == "reachable",  # noqa: B023
        )
        print(f"{victim} was back {time.monotonic() - freed_s:.1f} s after there was space")
        assert host.daemon_pid == daemon_pid
        assert writes.acknowledged <= writes.stored(victim)
    wait_until("all members hold the same", lambda: len(hashes(cluster)) == 1)


def test_a_manager_that_starts_on_a_full_disk_says_so_and_comes_up_when_there_is_space(
    make_cluster: Callable[[int], Cluster],
) -> None:
    cluster = make_cluster(1)
    host, writes = cluster.manager, Writes(cluster)
    assert writes.write("n1")
    fill(host)
    wait_until("a write is refused", lambda: not writes.write("n1"))
    host.kill_daemon()
    host.start_daemon()
    wait_until("it says why", lambda: FULL in error_of(cluster, "n1"))
    assert cluster.api("/info")["Swarm"]["LocalNodeState"] in ("pending", "error")
    free(host)
    wait_until("writes are taken again", lambda: writes.write("n1"), 60.0)
    assert writes.acknowledged <= writes.stored("n1")


def hashes(cluster: Cluster) -> set[int]:
    """Return the hash of what each etcd member holds, at the latest revision that all of them have."""
    members = [
        rpc.MaintenanceStub(grpc.insecure_channel(f"unix:{host.root}/run/pyswarm/etcd/client.sock:0")) for host in cluster.lab.hosts
    ]
    revision = min(member.Status(rpc.StatusRequest(), timeout=5).header.revision for member in members)
    return {member.HashKV(rpc.HashKVRequest(revision=revision), timeout=5).hash for member in members}
