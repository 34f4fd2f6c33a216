"""The main job: spread, scale, names, balancing, logs, on three hosts."""

import collections
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lab_cluster import Cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

FETCHES = 24


def test_three_replicas_run_on_three_hosts(cluster: Cluster, service_name: str) -> None:
    result = cluster.pyswarm(
        "service", "create", "--name", service_name, "--replicas", "3", "--network", "app", cluster.image("nginx")
    )
    assert result.returncode == 0
    tasks = cluster.wait_running(service_name, 3)
    assert len({t["NodeID"] for t in tasks}) == 3
    addresses = {a for t in tasks for n in t["NetworksAttachments"] for a in n["Addresses"]}
    assert len(addresses) == 3


def test_scale_up_and_down(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "3", "--network", "app", cluster.image("nginx"))
    cluster.wait_running(service_name, 3)
    cluster.pyswarm("service", "scale", f"{service_name}=10")
    tasks = cluster.wait_running(service_name, 10)
    per_node = collections.Counter(t["NodeID"] for t in tasks)
    assert sorted(per_node.values()) == [3, 3, 4]
    cluster.pyswarm("service", "scale", f"{service_name}=2")
    cluster.wait_running(service_name, 2)
    wait_until("the surplus tasks are gone", lambda: len(cluster.tasks(service_name)) == 2)


def fetcher(cluster: Cluster, name: str, target: str, count: int = FETCHES) -> list[str]:
    """Run a client service whose one task fetches `target` and logs the answers; returns them."""
    script = f"i=0; while [ $i -lt {count} ]; do wget -q -O - http://{target}/ || echo failed; echo; i=$((i+1)); done"
    script += "; echo done; sleep 1000"
    cluster.pyswarm(
        "service", "create", "--name", name, "--network", "app", "--constraint", "node.hostname==n3", "--stop-signal", "SIGKILL",
        cluster.image("busybox"), "sh", "-c", script,
    )  # fmt: skip
    log = wait_until("the client is done", lambda: _finished_log(cluster, name), 60.0)
    return [line for line in log if line not in ("", "done")]


def _finished_log(cluster: Cluster, name: str) -> list[str] | None:
    log = [re.sub(r"^.*\| ?", "", line) for line in cluster.pyswarm("service", "logs", name).stdout.splitlines()]
    return log if "done" in log else None


def test_the_name_is_balanced_over_all_replicas_across_hosts(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "3", "--network", "app", cluster.image("nginx"))
    tasks = cluster.wait_running(service_name, 3)
    answers = collections.Counter(fetcher(cluster, f"{service_name}-client", service_name))
    assert sum(answers.values()) == FETCHES
    assert set(answers) == {t["Status"]["ContainerStatus"]["ContainerID"][:12] for t in tasks}


def test_tasks_dot_name_gives_every_address(cluster: Cluster, service_name: str) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "3", "--network", "app", cluster.image("nginx"))
    tasks = cluster.wait_running(service_name, 3)
    addresses = {a.partition("/")[0] for t in tasks for n in t["NetworksAttachments"] for a in n["Addresses"]}
    client = f"{service_name}-client"
    script = f"nslookup tasks.{service_name}; echo done; sleep 1000"
    cluster.pyswarm(
        "service",
        "create",
        "--name",
        client,
        "--network",
        "app",
        "--stop-signal",
        "SIGKILL",
        cluster.image("busybox"),
        "sh",
        "-c",
        script,
    )
    log = wait_until("the look-up is done", lambda: _finished_log(cluster, client))
    assert addresses <= set(re.findall(r"\d+\.\d+\.\d+\.\d+", "\n".join(log)))


def test_containers_reach_the_outside(cluster: Cluster, service_name: str) -> None:
    answers = fetcher(cluster, service_name, f"{cluster.registry}/v2", count=1)
    assert answers == ["{}"]


def test_traffic_between_hosts_is_vxlan(cluster: Cluster, service_name: str) -> None:
    watch = ["timeout", "60", "tcpdump", "-n", "-l", "-c", "5", "-i", "eth0", "udp", "port", "4789"]
    capture = cluster.lab.host("n3").popen(watch, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "2", "--network", "app",
                    "--constraint", "node.hostname!=n3", cluster.image("nginx"))  # fmt: skip
    fetcher(cluster, f"{service_name}-client", service_name)
    output, _ = capture.communicate(timeout=70)
    assert output.count("VXLAN") >= 5


def test_an_image_that_was_loaded_needs_no_registry(cluster: Cluster, service_name: str) -> None:
    host = cluster.lab.host("n2")
    archive = cluster.archive("local-only")
    loaded = subprocess.run(
        ["pyswarm", "-H", f"unix://{host.socket_path}", "image", "load", "-i", str(archive)],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "local-only:latest" in loaded.stdout
    assert "local-only" in cluster.pyswarm("image", "ls", host="n2").stdout
    cluster.pyswarm("service", "create", "--name", service_name, "--constraint", "node.hostname==n2", "--stop-signal", "SIGKILL",
                    "local-only", "sleep", "1000")  # fmt: skip
    cluster.wait_running(service_name, 1)
