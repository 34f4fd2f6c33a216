"""The data plane on three hosts: all reach all, many tasks, many networks, nodes that die, and no stale entry anywhere."""

import ipaddress
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until
from network_tables import NAMESPACES, wait_until_true

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

SERVE = "mkdir -p /www; hostname > /www/index.html; exec httpd -f -h /www"
ASK_RESOLVER = """
import json, socket, struct, sys
query = bytes.fromhex(sys.argv[1])
with socket.create_connection(("127.0.0.11", 53), 5) as resolver:
    resolver.sendall(struct.pack(">H", len(query)) + query)
    stream = resolver.makefile("rb")
    answer = stream.read(*struct.unpack(">H", stream.read(2)))
rows = range(len(query), len(query) + 16 * struct.unpack_from(">H", answer, 6)[0], 16)
print(json.dumps([socket.inet_ntoa(answer[row + 12 : row + 16]) for row in rows]))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three hosts of its own: networks come and go here."""
    folder: Path = tmp_path_factory.mktemp("data-plane")
    with running_cluster(folder, build_images(folder)) as cluster:
        for host in cluster.lab.hosts:
            cluster.pyswarm("image", "pull", "--quiet", cluster.image("busybox"), host=host.name)
        yield cluster


def serve(cluster: Cluster, name: str, replicas: int, *options: str, script: str = SERVE) -> list[dict[str, Any]]:
    """Run tasks that answer HTTP with their host name; returns them."""
    create(cluster, name, replicas, *options, script=script)
    return cluster.wait_running(name, replicas, 120.0)


def create(cluster: Cluster, name: str, replicas: int, *options: str, script: str = SERVE) -> None:
    """Ask for such tasks, without waiting."""
    cluster.pyswarm(
        "service", "create", "--detach", "--name", name, "--replicas", str(replicas), "--hostname", "h{{.Task.Slot}}",
        "--stop-grace-period", "2s", *options, cluster.image("busybox"), "sh", "-c", script,
    )  # fmt: skip


def address(task: dict[str, Any], network: str = "app") -> str:
    """Return a task's address on a network."""
    found = (a["Addresses"][0] for a in task["NetworksAttachments"] if a["Network"]["Spec"]["Name"] == network)
    return str(next(found).partition("/")[0])


def inside(cluster: Cluster, task: dict[str, Any], script: str, timeout_s: float = 60.0) -> str:
    """Run a shell script in a task's container, wherever it is; returns what it says."""
    return cluster.pyswarm("exec", task["ID"], "sh", "-c", script, check=False, timeout_s=timeout_s).stdout


def reached_from(cluster: Cluster, task: dict[str, Any], targets: list[str]) -> dict[str, str]:
    """Return what each target answered a task over HTTP; "" when nothing."""
    fetch = f'for t in {" ".join(targets)}; do echo "$t $(timeout 3 wget -q -O - http://$t/)"; done'
    rows: Iterator[Any] = (
        line.partition(" ")[::2] for line in inside(cluster, task, fetch, 30.0 + 4.0 * len(targets)).splitlines()
    )
    return dict(rows)


def looked_up(cluster: Cluster, task: dict[str, Any], name: str) -> set[str]:
    """Return the IPv4 addresses that a task's own resolver gives for a name, asked over TCP, as there may be many."""
    host = next(h for h in cluster.lab.hosts if cluster.nodes()[h.name]["ID"] == task["NodeID"])
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + bytes([0, 0, 1, 0, 1])
    query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + question
    text = host.run(["nsenter", f"--net={NAMESPACES}/s-{task['ID']}", "python3", "-c", ASK_RESOLVER, query.hex()]).stdout
    return set(json.loads(text))


def test_every_task_reaches_every_other_by_address_and_by_name(cluster: Cluster, service_name: str) -> None:
    tasks = serve(cluster, service_name, 9, "--network", "app")
    assert len({t["NodeID"] for t in tasks}) == 3
    by_address = {address(t): f"h{t['Slot']}" for t in tasks}
    by_name = {f"{service_name}.{t['Slot']}.{t['ID']}": f"h{t['Slot']}" for t in tasks}
    for task in tasks:
        assert reached_from(cluster, task, [*by_address, *by_name]) == by_address | by_name
    wait_until_true(cluster)


def test_three_hundred_tasks_share_a_network_that_grew(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("network", "create", "--driver", "overlay", "large")
    try:
        tasks = serve(cluster, service_name, 300, "--network", "large", "--update-order", "stop-first", script="exec sleep 10000")
        addresses = [address(t, "large") for t in tasks]
        assert len(set(addresses)) == 300
        subnets = [c["Subnet"] for c in cluster.api("/networks/large")["IPAM"]["Config"]]
        assert len(subnets) > 1, "a network of its own choosing grows before it is full"
        assert {s for s in subnets for a in addresses if ipaddress.ip_address(a) in ipaddress.ip_network(s)} == set(subnets)
        everywhere = lambda: looked_up(cluster, tasks[0], f"tasks.{service_name}") == set(addresses)  # noqa: E731
        wait_until("all 300 addresses have the service's name", everywhere, 5.0)
        pings = "; ".join(f"ping -c 1 -W 2 -q {a} > /dev/null && echo {a}" for a in addresses[::30])
        for task in (tasks[0], tasks[-1]):
            assert inside(cluster, task, pings).split() == addresses[::30]
        wait_until_true(cluster, 20.0)
    finally:
        cluster.api(f"/services/{service_name}", "DELETE")
        remove_network(cluster, "large")
    wait_until_true(cluster, 30.0)


def remove_network(cluster: Cluster, name: str) -> None:
    """Remove a network once its last task has ended."""
    wait_until(f"network {name} is removed", lambda: cluster.request("n1", "DELETE", f"/networks/{name}")[0] == 204)


def test_fifty_networks_are_each_a_world_of_their_own(cluster: Cluster) -> None:
    names = [f"net{number}" for number in range(50)]
    for name in names:
        cluster.api("/networks/create", "POST", {"Name": name, "Driver": "overlay", "Attachable": False})
    try:
        for name in names:
            create(cluster, f"w-{name}", 2, "--network", name)
        placed = {name: cluster.wait_running(f"w-{name}", 2, 120.0) for name in names}
        first, second = placed["net0"][0], placed["net1"][0]
        assert reached_from(cluster, first, [address(t, "net0") for t in placed["net0"]]) == {
            address(t, "net0"): f"h{t['Slot']}" for t in placed["net0"]
        }
        foreign = [address(second, "net1"), "w-net1", "tasks.w-net1"]
        assert reached_from(cluster, first, foreign) == dict.fromkeys(foreign, "")
        wait_until_true(cluster, 20.0)
    finally:
        for name in names:
            cluster.request("n1", "DELETE", f"/services/w-{name}")
        for name in names:
            remove_network(cluster, name)
    wait_until_true(cluster, 30.0)


def test_a_dead_node_vanishes_from_every_table_and_returns_with_none_of_its_own(cluster: Cluster, service_name: str) -> None:
    serve(cluster, service_name, 6, "--network", "app", "--restart-delay", "0s")
    node_id = cluster.nodes()["n3"]["ID"]
    lost = {address(t) for t in cluster.tasks(service_name, running=True) if t["NodeID"] == node_id}
    assert lost
    cluster.lab.host("n3").power_cut()
    try:
        cluster.wait_node("n3", "down")
        wait_until_true(cluster, 3.0)
        cluster.wait_running(service_name, 6)
        wait_until_true(cluster, 3.0)
        survivor = cluster.tasks(service_name, running=True)[0]
        found = looked_up(cluster, survivor, f"tasks.{service_name}")
        assert len(found) == 6
        assert not lost & found
    finally:
        cluster.lab.host("n3").power_on()
    cluster.wait_node("n3", "ready")
    wait_until_true(cluster)


def test_neither_other_networks_nor_the_host_are_reached(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("network", "create", "--driver", "overlay", "--internal", "closed")
    try:
        (inner,) = serve(cluster, f"{service_name[:30]}-in", 1, "--network", "closed", "--constraint", "node.hostname==n2")
        (outer,) = serve(cluster, service_name, 1, "--network", "app", "--constraint", "node.hostname==n2")
        switch = cluster.lab.switch.address
        assert reached_from(cluster, outer, [address(inner, "closed")]) == {address(inner, "closed"): ""}
        assert reached_from(cluster, inner, [address(outer)]) == {address(outer): ""}
        reach = f"timeout 3 nc -w 2 {switch} {cluster.registry.rpartition(':')[2]} < /dev/null && echo reached"
        assert inside(cluster, outer, reach).strip() == "reached", "from a network that is not internal there is a way out"
        assert inside(cluster, inner, reach).strip() == ""
        wait_until_true(cluster)
    finally:
        for name in (service_name, f"{service_name[:30]}-in"):
            cluster.request("n1", "DELETE", f"/services/{name}")
        remove_network(cluster, "closed")
