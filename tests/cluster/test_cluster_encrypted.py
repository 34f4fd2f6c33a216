"""An encrypted network of two hosts: what travels between them is WireGuard's alone, and who cannot encrypt gets no task."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

MARKER = "a-marker-in-plain-text"
TUNNEL_PORT = 4789
SERVE = f"mkdir -p /www; echo {MARKER} $(hostname) > /www/index.html; exec httpd -f -h /www"
CAPTURE = """
import json, select, socket, struct, sys
seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
seen.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
print("ready", flush=True)
datagrams, marked, other = {}, 0, set()
marker = sys.argv[1].encode()
while True:
    ready = select.select([seen, sys.stdin], [], [])[0]
    if seen not in ready:
        break
    frame = seen.recv(65536)
    if frame[12:14] != b"\\x08\\x00" or not {socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])} <= set(sys.argv[2:]):
        continue
    if frame[23] == 17:
        port = str(struct.unpack_from("!H", frame, 16 + 4 * (frame[14] & 15))[0])
        datagrams[port] = datagrams.get(port, 0) + len(frame)
    elif frame[23] != 6:
        other.add(frame[23])
    marked += marker in frame
print(json.dumps({"datagrams": datagrams, "marked": marked, "other": sorted(other)}))
"""
"""Shows what passes between the hosts: bytes by UDP port, frames with the marker, protocols other than TCP and UDP."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two hosts of its own, with the encrypted network `vault`."""
    folder: Path = tmp_path_factory.mktemp("encrypted")
    with running_cluster(folder, build_images(folder), hosts=2) as cluster:
        cluster.pyswarm("network", "create", "--driver", "overlay", "--opt", "encrypted", "vault")
        yield cluster


@contextlib.contextmanager
def captured(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """Watch the lab's switch while the block runs; then give what passed between the hosts."""
    addresses = [host.address for host in cluster.lab.hosts]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    watcher = cluster.lab.switch.popen(["python3", "-c", CAPTURE, MARKER, *addresses], **pipes)
    assert watcher.stdout is not None
    assert watcher.stdout.readline().strip() == "ready"
    found: dict[str, Any] = {}
    try:
        yield found
    finally:
        text, _ = watcher.communicate("end\n", timeout=60)
    found |= json.loads(text)


def ports_of_encryption(cluster: Cluster) -> set[str]:
    """Return the UDP ports behind which the nodes' WireGuard is."""
    return {str(node["Description"]["Encryption"]["Port"]) for node in cluster.nodes().values()}


def serve(cluster: Cluster, name: str, network: str) -> str:
    """Run a task of the service on each host; returns its virtual IP on the network."""
    cluster.pyswarm(
        "service", "create", "--quiet", "--name", name, "--network", network, "--replicas", "2", "--replicas-max-per-node", "1",
        "--hostname", "h{{.Task.Slot}}", "--stop-grace-period", "1s", cluster.image("busybox"), "sh", "-c", SERVE,
    )  # fmt: skip
    assert len({task["NodeID"] for task in cluster.wait_running(name, 2)}) == 2
    network_id = cluster.api(f"/networks/{network}")["Id"]
    (address,) = [v["Addr"] for v in cluster.api(f"/services/{name}")["Endpoint"]["VirtualIPs"] if v["NetworkID"] == network_id]
    return str(address.partition("/")[0])


def answers(cluster: Cluster, service: str, network: str, virtual_ip: str) -> set[str]:
    """Ask both tasks by name, by virtual IP and by the tasks' own name from a task on one host; returns way and answer."""
    name = f"{service[:40]}-client"
    ways = {"name": service, "address": virtual_ip, "tasks": f"tasks.{service}"}
    asked = "; ".join(f"echo {way} $(wget -q -O - http://{host}/ || echo failed)" for way, host in ways.items())
    cluster.pyswarm(
        "service", "create", "--quiet", "--name", name, "--network", network, "--constraint", "node.hostname==n1",
        "--stop-signal", "SIGKILL", cluster.image("busybox"), "sh", "-c", f"while true; do {asked}; sleep 0.05; done",
    )  # fmt: skip
    cluster.wait_running(name, 1)

    def seen() -> set[str]:
        return {line.rpartition("| ")[2] for line in cluster.pyswarm("service", "logs", name).stdout.splitlines()}

    def is_complete() -> bool:
        """They are asked in turn, whichever way: so it takes both ways to hear both."""
        heard = {tuple(line.split()[::2]) for line in seen() if MARKER in line}
        return {way for way, _ in heard} == set(ways) and {host for _, host in heard} == {"h1", "h2"}

    wait_until("both tasks answer by name and address", is_complete)
    return seen()


def test_what_travels_between_the_hosts_is_wireguard_alone(cluster: Cluster, service_name: str) -> None:
    with captured(cluster) as found:
        virtual_ip = serve(cluster, service_name, "vault")
        heard = answers(cluster, service_name, "vault", virtual_ip)
    assert any(line.startswith(f"tasks {MARKER}") for line in heard)
    assert not [line for line in heard if "failed" in line]
    assert found["marked"] == 0
    assert set(found["datagrams"]) == ports_of_encryption(cluster)
    assert found["other"] == []
    assert sum(found["datagrams"].values()) > 3000


def test_the_capture_would_see_plain_text(cluster: Cluster, service_name: str) -> None:
    with captured(cluster) as found:
        answers(cluster, service_name, "app", serve(cluster, service_name, "app"))
    assert found["marked"] > 0
    assert str(TUNNEL_PORT) in found["datagrams"]


def test_a_node_that_cannot_encrypt_gets_no_task_and_says_why(cluster: Cluster, service_name: str) -> None:
    host = cluster.lab.host("n2")
    program = host.run(["sh", "-c", "command -v wireguard-go"]).stdout.strip()
    host.kill_daemon()
    host.run(["mount", "--bind", "/dev/null", program])
    host.start_daemon()
    try:
        wait_until(
            "n2 says that it cannot", lambda: cluster.nodes()["n2"]["Description"].get("Encryption", {}).get("Kind") == "none"
        )
        problem = cluster.nodes()["n2"]["Description"]["Encryption"]["Problem"]
        assert "wireguard-go is not installed" in problem
        cluster.wait_node("n2", "ready")
        cluster.pyswarm(
            "service", "create", "--detach", "--name", service_name, "--network", "vault", "--replicas", "2",
            "--replicas-max-per-node", "1", cluster.image("busybox"), "sleep", "1000",
        )  # fmt: skip
        (running,) = wait_until("one task runs", lambda: cluster.tasks(service_name, running=True))
        assert running["NodeID"] == cluster.nodes()["n1"]["ID"]
        shown = lambda: cluster.pyswarm("service", "ps", "--no-trunc", service_name).stdout  # noqa: E731
        wait_until("it is said why", lambda: "encrypted overlays are not possible on 1 node" in shown())
        (waiting,) = [task for task in cluster.tasks(service_name) if task["ID"] != running["ID"]]
        assert waiting["Status"]["State"] == "pending"
        assert not waiting.get("NodeID")
    finally:
        host.run(["umount", program])
        host.kill_daemon()
        host.start_daemon()
    cluster.wait_running(service_name, 2)
