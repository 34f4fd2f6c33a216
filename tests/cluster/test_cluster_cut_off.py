"""A manager whose etcd is away while its daemon reaches the other managers: it goes on serving, through their leader."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from faults.nemesis import etcd_pid
from lab_cluster import Cluster, build_images, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

MANAGERS = ("n1", "n2", "n3")
RULES = (
    "add table inet no_etcd",
    "add chain inet no_etcd in { type filter hook input priority 0; }",
    "add chain inet no_etcd out { type filter hook output priority 0; }",
    *(f"add rule inet no_etcd {chain} tcp {side} 2380 drop" for chain in ("in", "out") for side in ("sport", "dport")),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three managers."""
    folder: Path = tmp_path_factory.mktemp("cut-off")
    with running_cluster(folder, build_images(folder), hosts=3, managers=3) as cluster:
        yield cluster


@contextlib.contextmanager
def frozen(cluster: Cluster, name: str) -> Iterator[None]:
    """Stop a host's etcd for as long as the block lasts."""
    pid = etcd_pid(cluster.lab.host(name))
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def without_etcd_traffic(cluster: Cluster, name: str) -> Iterator[None]:
    """Drop what a host's etcd sends to the others and gets from them, and nothing else."""
    host = cluster.lab.host(name)
    for rule in RULES:
        host.run(["nft", rule])
    try:
        yield
    finally:
        host.run(["nft", "delete", "table", "inet", "no_etcd"])


def spec(name: str) -> dict[str, Any]:
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "x"}}, "Mode": {"Replicated": {"Replicas": 0}}}


def is_created(cluster: Cluster, name: str, host: str) -> bool:
    try:
        cluster.api("/services/create", "POST", spec(name), host=host)
    except (OSError, RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("strikes_leader", [False, True], ids=["follower", "leader"])
@pytest.mark.parametrize("strike", [frozen, without_etcd_traffic])
def test_a_manager_without_its_etcd_serves_through_the_others_leader(
    cluster: Cluster, strike: Callable[[Cluster, str], AbstractContextManager[None]], strikes_leader: bool
) -> None:
    leader = cluster.wait_managers(*MANAGERS)
    struck = leader if strikes_leader else next(name for name in MANAGERS if name != leader)
    other = next(name for name in MANAGERS if name not in (leader, struck))
    label = f"{strike.__name__}-{strikes_leader}"
    with strike(cluster, struck):
        attempts = iter(range(1000))
        wait_until("a create through it", lambda: is_created(cluster, f"{label}-{next(attempts)}", struck), 15.0)
        for number in range(5):
            assert is_created(cluster, f"{label}-again-{number}", struck)
            names = {s["Spec"]["Name"] for s in cluster.api("/services", host=struck)}
            assert f"{label}-again-{number}" in names, "what was written through it is read back from it"
        told = [name for name, state in cluster.managers(struck).items() if state == "leader"]
        assert told == [name for name, state in cluster.managers(other).items() if state == "leader"]
        assert told != [struck]
    cluster.wait_managers(*MANAGERS)
    names = [s["Spec"]["Name"] for s in cluster.api("/services", host=struck)]
    assert len(names) == len(set(names))
