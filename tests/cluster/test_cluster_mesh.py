"""The routing mesh on three hosts: a published port answers on every node, and tasks see who asks."""

import contextlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until
from network_tables import wait_until_true

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

PORT = 8080
WHO = "/cgi-bin/who"
SERVE = """
mkdir -p /www/cgi-bin
printf '#!/bin/sh\\na=${REMOTE_ADDR##*ffff:}; echo; echo $(hostname) ${a%%]}\\n' > /www/cgi-bin/who
chmod +x /www/cgi-bin/who
exec httpd -f -h /www
"""
ASK = """
import http.client, json, select, sys, time
targets = sys.argv[2:]
end_s = time.monotonic() + float(sys.argv[1])
is_told = lambda: end_s == float("inf") and select.select([sys.stdin], [], [], 0)[0]
answers = []
while time.monotonic() < end_s and not is_told() or not answers:
    for target in targets:
        connection = http.client.HTTPConnection(target, timeout=5)
        try:
            connection.request("GET", "/cgi-bin/who")
            answers.append([target, connection.getresponse().read().decode().strip()])
        except OSError as error:
            answers.append([target, f"failed: {error!r}"])
        finally:
            connection.close()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three hosts of its own."""
    folder: Path = tmp_path_factory.mktemp("mesh")
    with running_cluster(folder, build_images(folder)) as cluster:
        yield cluster


def publish(cluster: Cluster, name: str, replicas: int, *options: str) -> list[dict[str, Any]]:
    """Run tasks that tell their host name and who asks, behind the port."""
    cluster.pyswarm(
        "service", "create", "--quiet", "--name", name, "--replicas", str(replicas), "--hostname", "h{{.Task.Slot}}",
        "--publish", f"{PORT}:80", "--stop-grace-period", "2s", *options, cluster.image("busybox"), "sh", "-c", SERVE,
    )  # fmt: skip
    return cluster.wait_running(name, replicas)


def everywhere(cluster: Cluster) -> list[str]:
    """Return the port on every host."""
    return [f"{host.address}:{PORT}" for host in cluster.lab.hosts]


def ask(cluster: Cluster, targets: list[str], duration_s: float = 0.0, host: str = "") -> list[tuple[str, str]]:
    """Ask each target in turn, from outside the cluster or from a host; returns (target, answer or why not)."""
    asker = cluster.lab.host(host) if host else cluster.lab.switch
    text = asker.run(["python3", "-c", ASK, str(duration_s), *targets], timeout_s=duration_s + 60.0).stdout
    return [(target, answer) for target, answer in json.loads(text)]


def wait_published(cluster: Cluster) -> None:
    """Wait until every host answers."""
    wait_until("every host answers", lambda: not [a for _, a in ask(cluster, everywhere(cluster)) if a.startswith("failed")])


def test_every_node_answers_and_tasks_see_the_clients_address(cluster: Cluster, service_name: str) -> None:
    publish(cluster, service_name, 3)
    wait_published(cluster)
    answers = ask(cluster, everywhere(cluster), 2.0)
    seen = {target: Counter(answer for t, answer in answers if t == target) for target in everywhere(cluster)}
    client = cluster.lab.switch.address
    for target, counts in seen.items():
        assert set(counts) == {f"h1 {client}", f"h2 {client}", f"h3 {client}"}, f"asked at {target}"
    wait_until_true(cluster)


def test_one_task_is_reached_through_all_nodes(cluster: Cluster, service_name: str) -> None:
    publish(cluster, service_name, 1, "--constraint", "node.hostname==n3")
    wait_published(cluster)
    client = cluster.lab.switch.address
    assert ask(cluster, everywhere(cluster)) == [(target, f"h1 {client}") for target in everywhere(cluster)]
    for name in ("n1", "n2", "n3"):
        answers = ask(cluster, [f"127.0.0.1:{PORT}", *everywhere(cluster)], host=name)
        assert [answer.split()[0] for _, answer in answers] == ["h1"] * 4, f"asked on {name}"


@pytest.mark.parametrize("order", ["start-first", "stop-first"])
def test_a_rolling_update_fails_no_request(cluster: Cluster, service_name: str, order: str) -> None:
    options = ["--update-order", order, "--update-monitor", "0s", "--network", "app"]
    before = {t["ID"] for t in publish(cluster, service_name, 4, *options)}
    wait_published(cluster)
    with asking(cluster, everywhere(cluster)) as through_mesh, asking_vip(cluster, service_name) as through_vip:
        cluster.pyswarm("service", "update", "--force", "--update-parallelism", "1", service_name)
        after = {t["ID"] for t in cluster.wait_running(service_name, 4)}
    assert not before & after
    for outcomes in (through_mesh, through_vip):
        print(f"{order}: {len(outcomes)} requests")
        assert len(outcomes) > 50
        assert not [outcome for outcome in outcomes if "failed" in outcome]


def test_daemons_that_die_and_return_fail_no_request(cluster: Cluster, service_name: str) -> None:
    publish(cluster, service_name, 3, "--network", "app")
    wait_published(cluster)
    with asking(cluster, everywhere(cluster)) as through_mesh, asking_vip(cluster, service_name) as through_vip:
        for host in cluster.lab.hosts:
            host.kill_daemon()
            host.start_daemon()
            cluster.wait_managers("n1")
            cluster.wait_node(host.name, "ready")
            cluster.wait_running(service_name, 3)
    for outcomes in (through_mesh, through_vip):
        print(f"{len(outcomes)} requests")
        assert len(outcomes) > 50
        assert not [outcome for outcome in outcomes if "failed" in outcome]


@contextlib.contextmanager
def asking(cluster: Cluster, targets: list[str]) -> Iterator[list[str]]:
    """Ask the targets again and again from outside while the block runs; then give the answers."""
    command = ["python3", "-c", ASK, "inf", *targets]
    client = cluster.lab.switch.popen(command, stdin=subprocess.PIPE)
    outcomes: list[str] = []
    try:
        yield outcomes
    finally:
        text, errors = client.communicate("end\n", timeout=60)
    outcomes += [answer for _, answer in json.loads(text or errors)]


@contextlib.contextmanager
def asking_vip(cluster: Cluster, service: str) -> Iterator[list[str]]:
    """Ask a service's virtual IP again and again from a task while the block runs; then give how each went."""
    name = f"{service[:40]}-client"
    script = f"while true; do wget -q -O - http://{service}{WHO} || echo failed; sleep 0.01; done"
    cluster.pyswarm(
        "service", "create", "--quiet", "--name", name, "--network", "app", "--stop-signal", "SIGKILL",
        cluster.image("busybox"), "sh", "-c", script,
    )  # fmt: skip
    lines = lambda: [line.rpartition("| ")[2] for line in cluster.pyswarm("service", "logs", name).stdout.splitlines()]  # noqa: E731
    wait_until("the client is served", lambda: len(lines()) > 10)
    outcomes: list[str] = []
    yield outcomes
    so_far = len(lines())
    wait_until("it goes on", lambda: len(lines()) > so_far + 10)
    outcomes += lines()


def test_a_service_without_tasks_refuses_at_once(cluster: Cluster, service_name: str) -> None:
    publish(cluster, service_name, 2)
    wait_published(cluster)
    cluster.pyswarm("service", "scale", f"{service_name}=0")
    connect = "import socket, sys, time\nt = time.monotonic()\n" + (
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)\n"
        "except ConnectionRefusedError: print(time.monotonic() - t)\n"
    )
    for host in cluster.lab.hosts:
        took = cluster.lab.switch.run(["python3", "-c", connect, host.address, str(PORT)]).stdout
        assert float(took or "inf") < 1.0, f"{host.name} does not refuse"


def test_a_published_port_goes_with_its_service(cluster: Cluster, service_name: str) -> None:
    publish(cluster, service_name, 1)
    wait_published(cluster)
    taken = cluster.pyswarm(
        "service", "create", "--name", f"{service_name[:40]}-2", "--publish", f"{PORT}:80", cluster.image("busybox"), check=False
    )
    assert f"port '{PORT}' is already in use by service '{service_name}'" in taken.stderr
    cluster.api(f"/services/{service_name}", "DELETE")
    wait_until("the port is closed", lambda: all("failed" in a for _, a in ask(cluster, everywhere(cluster))))
    for host in cluster.lab.hosts:
        rules = host.run(["nft", "list", "ruleset"]).stdout
        assert f"dport {PORT}" not in rules


def test_host_mode_publishes_on_the_tasks_node_alone(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm(
        "service", "create", "--quiet", "--name", service_name, "--hostname", "h{{.Task.Slot}}",
        "--constraint", "node.hostname==n2",
        "--publish", f"mode=host,published={PORT},target=80", cluster.image("busybox"), "sh", "-c", SERVE,
    )  # fmt: skip
    (task,) = cluster.wait_running(service_name, 1)
    assert task["Status"]["PortStatus"]["Ports"] == [
        {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": PORT, "PublishMode": "host"}
    ]
    answers = wait_until("n2 answers", lambda: dict(ask(cluster, everywhere(cluster))))
    own = f"{cluster.lab.host('n2').address}:{PORT}"
    assert answers.pop(own) == f"h1 {cluster.lab.switch.address}"
    assert all("failed" in answer for answer in answers.values())
