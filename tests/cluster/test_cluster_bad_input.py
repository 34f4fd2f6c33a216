"""Bad input: each kind gets a clear message and a failing exit code, and loses nothing."""

import subprocess
from collections.abc import Iterator

import pytest
from lab_cluster import Cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]


def refused(cluster: Cluster, *arguments: str, host: str = "n1") -> str:
    """Run a command that must fail; returns what it said."""
    result = cluster.pyswarm(*arguments, host=host, check=False)
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


def create_refused(cluster: Cluster, name: str, *options: str, image: str | None = None) -> str:
    return refused(cluster, "service", "create", "--name", name, "--restart-delay", "0s", *options, image or cluster.image("nginx"))


def test_unknown_image(cluster: Cluster, service_name: str) -> None:
    said = create_refused(cluster, service_name, image=cluster.image("nosuch"))
    assert "No such image" in said
    assert any("No such image" in t["Status"].get("Err", "") for t in cluster.tasks(service_name))


def test_unreachable_registry(cluster: Cluster, service_name: str) -> None:
    said = create_refused(cluster, service_name, image=f"{cluster.manager.address}:5999/nginx")
    assert "5999" in said
    assert "refused" in said


def test_corrupt_layer(cluster: Cluster, service_name: str) -> None:
    said = create_refused(cluster, service_name, image=cluster.corrupt_image())
    assert "verification failed" in said


def test_bad_name(cluster: Cluster) -> None:
    assert "name must be valid as a DNS name component" in create_refused(cluster, "bad_name!")


def test_a_constraint_that_nothing_satisfies_waits_and_says_why(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm(
        "service", "create", "-d", "--name", service_name, "--constraint", "node.hostname==nowhere", cluster.image("nginx")
    )
    reason = "no suitable node (scheduling constraints not satisfied on 3 nodes)"
    wait_until("the task says why", lambda: reason in cluster.pyswarm("service", "ps", "--no-trunc", service_name).stdout)
    assert [t["Status"]["State"] for t in cluster.tasks(service_name)] == ["pending"]


def test_a_malformed_constraint(cluster: Cluster, service_name: str) -> None:
    assert "constraint" in create_refused(cluster, service_name, "--constraint", "node.hostname")


def test_too_much_memory_asked(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "-d", "--name", service_name, "--reserve-memory", "900g", cluster.image("nginx"))
    wait_until(
        "the task says why", lambda: "memory on 3 nodes" in cluster.pyswarm("service", "ps", "--no-trunc", service_name).stdout
    )


def test_a_name_that_is_taken(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "-d", "--name", service_name, "--replicas", "0", cluster.image("nginx"))
    assert "already exists" in create_refused(cluster, service_name)


def test_an_unknown_network(cluster: Cluster, service_name: str) -> None:
    assert "network nosuch not found" in create_refused(cluster, service_name, "--network", "nosuch")


def test_joining_again_and_with_bad_tokens(cluster: Cluster) -> None:
    manager = f"{cluster.manager.address}:2377"
    assert "already part of a swarm" in refused(cluster, "swarm", "join", "--token", "SWMTKN-1-x-y", manager, host="n2")


@pytest.fixture
def outsider(cluster: Cluster) -> Iterator[str]:
    """A daemon of its own on n2 that is in no cluster."""
    host = cluster.lab.host("n2")
    options = ["--data-dir", "/var/lib/pyswarm/outsider", "--runtime-dir", "/run/outsider"]
    daemon = host.popen(["pyswarmd", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until("the outsider answers", lambda: host.run(["test", "-S", "/run/outsider/pyswarm.sock"], check=False).returncode == 0)
    yield "unix:///run/outsider/pyswarm.sock"
    daemon.terminate()
    assert daemon.wait(20) == 0
    host.run(["rm", "-rf", "/var/lib/pyswarm/outsider", "/run/outsider"])


def test_join_errors(cluster: Cluster, outsider: str) -> None:
    manager = f"{cluster.manager.address}:2377"
    token = cluster.pyswarm("swarm", "join-token", "-q", "worker").stdout.strip()

    def join(token: str, address: str = manager) -> str:
        return refused(cluster, "-H", outsider, "swarm", "join", "--token", token, address, host="n2")

    assert "invalid join token" in join("SWMTKN-1-x-y")
    prefix, one, digest, _secret = token.split("-")
    assert "a valid join token is necessary" in join("-".join((prefix, one, digest, "0" * 25)))
    assert "remote CA does not match fingerprint" in join("-".join((prefix, one, "0" * 50, _secret)))
    assert "no manager could be reached" in join(token, f"{cluster.manager.address}:2399")


def test_port_2377_taken(cluster: Cluster, outsider: str) -> None:
    host = cluster.lab.host("n2")
    holder = host.popen(["busybox", "nc", "-l", "-p", "2377"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("the port is taken", lambda: ":2377" in host.run(["ss", "-ltn"]).stdout)
        said = refused(cluster, "-H", outsider, "swarm", "init", "--advertise-addr", host.address, host="n2")
    finally:
        holder.kill()
        holder.wait()
    assert "2377" in said
    assert "taken" in said


def test_manager_routes_on_a_worker(cluster: Cluster) -> None:
    assert "This node is not a swarm manager" in refused(cluster, "service", "ls", host="n2")
