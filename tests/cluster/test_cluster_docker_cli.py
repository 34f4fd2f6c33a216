"""The unmodified docker CLI against a real cluster."""

import re

import pytest
from lab_cluster import Cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]


def test_a_service_through_its_life(cluster: Cluster, service_name: str) -> None:
    created = cluster.docker(
        "service", "create", "--name", service_name, "--replicas", "2", "--network", "app", cluster.image("nginx")
    )
    assert "converged" in created.stdout
    listed = cluster.docker("service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}").stdout
    assert f"{service_name} replicated 2/2 {cluster.image('nginx')}" in listed
    rows = cluster.docker(
        "service", "ps", service_name, "--format", "{{.Name}} {{.Node}} {{.DesiredState}} {{.CurrentState}}"
    ).stdout
    assert len(re.findall(rf"{service_name}\.\d n\d Running Running", rows)) == 2

    assert "converged" in cluster.docker("service", "scale", f"{service_name}=3").stdout
    cluster.wait_running(service_name, 3)

    removed = cluster.docker("service", "rm", service_name)
    assert removed.stdout.strip() == service_name
    wait_until("it is gone", lambda: service_name not in cluster.docker("service", "ls").stdout)


def test_logs(cluster: Cluster, service_name: str) -> None:
    cluster.docker("service", "create", "--name", service_name, "--replicas", "2", cluster.image("busybox"), "sh", "-c",
                   "echo hello; echo trouble >&2; sleep 1000")  # fmt: skip
    output = cluster.docker("service", "logs", service_name)
    assert len(re.findall(rf"{service_name}\.\d\.\w+@n\d +\| hello", output.stdout)) == 2
    assert len(re.findall(rf"{service_name}\.\d\.\w+@n\d +\| trouble", output.stderr)) == 2


def test_nodes_and_networks(cluster: Cluster) -> None:
    nodes = cluster.docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}").stdout
    assert sorted(line.strip() for line in nodes.splitlines()) == ["n1 Ready Active Leader", "n2 Ready Active", "n3 Ready Active"]
    networks = cluster.docker("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").stdout
    assert "app overlay swarm" in networks
