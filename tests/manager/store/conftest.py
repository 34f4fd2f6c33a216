"""Real etcd members for the store's tests: certificates as the cluster's CA signs them, ports and directories of their own."""

import datetime
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyswarm_common import pki
from pyswarm_manager.etcd.member import free_peer_port
from pyswarm_manager.etcd.settings import EtcdSettings

EtcdCluster = Callable[[int], list[EtcdSettings]]
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Each process that runs tests has ports of its own: a member that is stopped and started again must find its port free.
_first_ports = itertools.count(20_000 + _WORKER % 2 * 6_000 + os.getpid() % 300 * 10, 10)


@pytest.fixture
def etcd_directory() -> Iterator[Path]:
    """A directory with a short name (socket paths are limited), removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="pst-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def etcd_cluster(etcd_directory: Path) -> EtcdCluster:
    """Make the settings of a new cluster with the given number of members, all on 127.0.0.1."""

    def make(size: int) -> list[EtcdSettings]:
        now = datetime.datetime.now(datetime.UTC)
        root, root_key = pki.new_root(now)
        (etcd_directory / "root.pem").write_text(root)
        ports: list[int] = []
        for _ in range(size):
            ports.append(free_peer_port("127.0.0.1", max([next(_first_ports), *(port + 1 for port in ports)])))
        names = [f"m{i}" for i in range(size)]
        for name in names:
            key = pki.new_private_key_pem()
            identity = pki.NodeIdentity(node_id=name, role="manager", cluster_id="c")
            request = pki.new_signing_request(key)
            (etcd_directory / f"{name}.key").write_text(key)
            (etcd_directory / f"{name}.pem").write_text(
                pki.sign_node_certificate(root, root_key, request, identity, ("127.0.0.1",), now)
            )
        urls = {name: f"https://127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
        return [
            EtcdSettings(
                name=name,
                data_dir=etcd_directory / name / "data",
                runtime_dir=etcd_directory / name / "run",
                peer_address="127.0.0.1",
                peer_port=port,
                certificate_path=etcd_directory / f"{name}.pem",
                key_path=etcd_directory / f"{name}.key",
                root_path=etcd_directory / "root.pem",
                other_members={n: u for n, u in urls.items() if n != name},
            )
            for name, port in zip(names, ports, strict=True)
        ]

    return make
