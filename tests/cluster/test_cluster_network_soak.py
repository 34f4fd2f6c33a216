"""A short soak of the networks (`network_soak.py` runs for as long as is asked for), and proof that its eyes are open."""

import json

import network_truth
import pytest
from lab_cluster import Cluster
from network_soak import Soak, soaked_cluster
from network_tables import NAMESPACES, differences, wait_until_true

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

BLIND_HOST = "n2"


def test_after_random_work_and_damage_every_table_equals_the_store() -> None:
    with soaked_cluster() as cluster:
        soak = Soak(cluster, seed=24)
        soak.run(40.0)
        assert soak.steps > 20
        soak.remove_containers()
        see_what_is_foreign(cluster)


def see_what_is_foreign(cluster: Cluster) -> None:
    """While no daemon repairs, put in what nobody wants: it must be named. Then the daemon takes it out."""
    host = cluster.lab.host(BLIND_HOST)
    (ingress,) = (n["Id"] for n in cluster.api("/networks") if n["Ingress"])
    namespace = ["nsenter", f"--net={NAMESPACES}/o-{ingress}"]
    host.run(["ip", "link", "add", "stray0", "type", "bridge"])
    assert any("stray0" in line for line in network_truth.differences(cluster))
    host.run(["ip", "link", "del", "stray0"])
    host.kill_daemon()
    host.run([*namespace, "bridge", "fdb", "add", "02:42:0a:00:00:fa", "dev", "vxlan0", "dst", "10.9.9.9"])
    try:
        found = differences(cluster)
        assert any(line.startswith(f"{BLIND_HOST} peers of {ingress}") and "02:42:0a:00:00:fa" in line for line in found), found
    finally:
        host.start_daemon()
    wait_until_true(cluster)
    assert "02:42:0a:00:00:fa" not in json.dumps(host.run([*namespace, "bridge", "fdb", "show"]).stdout)
