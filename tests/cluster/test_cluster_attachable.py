"""Single containers on an attachable network of the cluster: from any node, with an address and names of their own."""

import contextlib
import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import Cluster, Completed, build_images, running_cluster, wait_until, wait_until_gone

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

WORKER = "n2"
NETWORK = "open"
PLACE = '{{.State.Status}} {{(index .NetworkSettings.Networks "open").IPAddress}}'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A manager and a worker, with an attachable network and its service `web` on the manager."""
    folder: Path = tmp_path_factory.mktemp("attachable")
    with running_cluster(folder, build_images(folder), hosts=2) as cluster:
        cluster.pyswarm("network", "create", "--driver", "overlay", "--attachable", NETWORK)
        docker(cluster, WORKER, "pull", cluster.image("busybox"))
        docker(cluster, "n1", "pull", cluster.image("busybox"))
        page = "mkdir /www; echo served > /www/index.html; exec httpd -f -h /www"
        web = ["--name", "web", "--network", NETWORK, "--constraint", "node.hostname==n1"]
        cluster.pyswarm("service", "create", "--quiet", *web, cluster.image("busybox"), "sh", "-c", page)
        cluster.wait_running("web", 1)
        yield cluster


@pytest.fixture(autouse=True)
def left_clean(cluster: Cluster) -> Iterator[None]:
    """Remove the test's containers, and see that their addresses are free."""
    yield
    for host in ("n1", WORKER):
        for container_id in docker(cluster, host, "ps", "-aq").stdout.split():
            if "/web." not in docker(cluster, host, "inspect", "-f", "{{.Name}}", container_id).stdout:
                docker(cluster, host, "rm", "-f", container_id)
    wait_until_gone("attachments", lambda: attachments(cluster))


def docker(cluster: Cluster, host: str, *arguments: str, check: bool = True) -> Completed:
    """Run the docker CLI on a host."""
    return cluster.lab.host(host).run(["docker", "-H", "unix:///run/pyswarm/pyswarm.sock", *arguments], check=check, timeout_s=60)


def run(cluster: Cluster, name: str, *options: str, host: str = WORKER) -> str:
    """Run a container that sleeps on the network; returns its address."""
    docker(cluster, host, "run", "-d", "--name", name, "--network", NETWORK, *options, cluster.image("busybox"), "sleep", "1000")
    return address_of(cluster, name, host)


def address_of(cluster: Cluster, name: str, host: str = WORKER) -> str:
    """Return the address of a container that runs."""
    status, address = docker(cluster, host, "inspect", "-f", PLACE, name).stdout.split()
    assert status == "running"
    return address


def attachments(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the attachment tasks."""
    filters = json.dumps({"runtime": ["attachment"]}, separators=(",", ":")).replace('"', "%22")
    found: list[dict[str, Any]] = cluster.api(f"/tasks?filters={filters}")
    return found


def in_web(cluster: Cluster, *command: str) -> str:
    """Run a command in the service's container; returns what it says."""
    task = cluster.wait_running("web", 1)[0]
    container_id = task["Status"]["ContainerStatus"]["ContainerID"]
    return docker(cluster, "n1", "exec", container_id, *command, check=False).stdout.strip()


def fetch(cluster: Cluster, name: str, url: str, host: str = WORKER) -> str:
    """Fetch a page from inside a container."""

    def page() -> str:
        return docker(cluster, host, "exec", name, "timeout", "3", "wget", "-q", "-O", "-", url, check=False).stdout.strip()

    return wait_until(f"{name} fetches {url}", page)


def test_a_container_reaches_services_and_is_reached_by_its_names(cluster: Cluster) -> None:
    serve = "mkdir /www; echo mine > /www/index.html; exec httpd -f -h /www"
    arguments = ["--name", "tool", "--network", NETWORK, "--network-alias", "helper", cluster.image("busybox"), "sh", "-c", serve]
    docker(cluster, WORKER, "run", "-d", *arguments)
    assert fetch(cluster, "tool", "http://web") == "served"
    for name in ("tool", "helper"):
        assert (
            wait_until(f"{name} answers", partial(in_web, cluster, "timeout", "3", "wget", "-q", "-O", "-", f"http://{name}"))
            == "mine"
        )
    members = cluster.api(f"/networks/{NETWORK}")["Containers"].values()
    assert address_of(cluster, "tool") in [m["IPv4Address"].partition("/")[0] for m in members if m["Name"] == "tool"]


def test_each_container_has_its_own_address_and_nobody_else_sees_attachments(cluster: Cluster) -> None:
    found = [run(cluster, "one"), run(cluster, "two"), run(cluster, "three", host="n1")]
    used = found + [a.partition("/")[0] for t in cluster.tasks("web") for n in t["NetworksAttachments"] for a in n["Addresses"]]
    assert len(set(used)) == len(used)
    assert len(attachments(cluster)) == 3
    assert {task["ServiceID"] for task in cluster.api("/tasks")} == {cluster.api("/services/web")["ID"]}
    docker(cluster, WORKER, "stop", "-t", "0", "one")
    wait_until("its address is free", lambda: len(attachments(cluster)) == 2)
    docker(cluster, WORKER, "start", "one")
    assert fetch(cluster, "one", "http://web") == "served"


def test_an_address_and_a_published_port_can_be_asked_for(cluster: Cluster) -> None:
    subnet = cluster.api(f"/networks/{NETWORK}")["IPAM"]["Config"][0]["Subnet"]
    wanted = subnet.rpartition(".")[0] + ".200"
    serve = "mkdir /www; echo published > /www/index.html; exec httpd -f -h /www"
    options = ["--name", "open-door", "--network", NETWORK, "--ip", wanted, "-p", "18080:80", cluster.image("busybox")]
    docker(cluster, WORKER, "run", "-d", *options, "sh", "-c", serve)
    assert address_of(cluster, "open-door") == wanted
    url = f"http://{cluster.lab.host(WORKER).address}:18080/"
    page = partial(cluster.manager.run, ["busybox", "wget", "-q", "-O", "-", url], check=False)
    assert wait_until("the port leads there", lambda: page().stdout.strip()) == "published"
    twice = ["run", "--rm", "--network", NETWORK, "--ip", wanted, cluster.image("busybox"), "true"]
    assert f"Address already in use: {wanted}" in docker(cluster, "n1", *twice, check=False).stderr


def test_a_network_in_use_stays_and_others_refuse(cluster: Cluster) -> None:
    run(cluster, "user")
    refused = docker(cluster, "n1", "network", "rm", NETWORK, check=False)
    assert "in use by" in refused.stderr
    busybox = cluster.image("busybox")
    closed = docker(cluster, WORKER, "run", "--rm", "--network", "app", busybox, "true", check=False)
    assert (
        "Could not attach to network app: rpc error: code = PermissionDenied desc = network app not manually attachable"
        in closed.stderr
    )
    missing = docker(cluster, WORKER, "run", "--rm", "--network", "nowhere", busybox, "true", check=False)
    assert "network nowhere not found" in missing.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_starts_again_keeps_what_runs(cluster: Cluster, number: signal.Signals) -> None:
    before = run(cluster, "kept", "--restart", "always")
    run(cluster, "ended")
    run(cluster, "again", "--restart", "always")
    gone = docker(cluster, WORKER, "inspect", "-f", "{{.State.Pid}}", "ended", "again").stdout.split()
    host = cluster.lab.host(WORKER)
    host.kill_daemon(number)
    host.run(["kill", "-9", *gone])
    host.start_daemon(["--insecure-registry", cluster.registry])
    cluster.wait_node(WORKER, "ready")
    assert fetch(cluster, "again", "http://web") == "served"
    wait_until("the ended one's address is free", lambda: len(attachments(cluster)) == 2)
    assert address_of(cluster, "kept") == before
    assert fetch(cluster, "kept", "http://web") == "served"
    docker(cluster, WORKER, "restart", "-t", "0", "kept")
    assert fetch(cluster, "kept", "http://web") == "served"


def test_without_a_manager_what_runs_goes_on_and_what_starts_fails_clearly(cluster: Cluster) -> None:
    run(cluster, "steady")
    with manager_stopped(cluster):
        assert fetch(cluster, "steady", "http://web") == "served"
        refused = docker(cluster, WORKER, "run", "--rm", "--network", NETWORK, cluster.image("busybox"), "true", check=False)
        assert f"Could not attach to network {NETWORK}" in refused.stderr
    cluster.wait_node(WORKER, "ready")
    wait_until("only the steady one is attached", lambda: len(attachments(cluster)) == 1)


@contextlib.contextmanager
def manager_stopped(cluster: Cluster) -> Iterator[None]:
    """End the manager's daemon for a while; its containers go on."""
    host = cluster.manager
    host.kill_daemon(signal.SIGTERM)
    try:
        yield
    finally:
        host.start_daemon(["--insecure-registry", cluster.registry])
        wait_until("the manager answers", lambda: cluster.request("n1", "GET", "/nodes")[0] == 200)
