"""Autolock on real hosts: a manager that stopped stays locked until the key is given, and its disk shows no secret."""

import base64
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from lab_cluster import Cluster, build_images, running_cluster, wait_until

from pyswarm_common import failpoints
from pyswarm_common.errors import Unauthenticated
from pyswarm_common.unlock_key import new_unlock_key, parse_unlock_key
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_node.key_file import KeyFile, Secrets

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

DATA_DIR, KEY_FILE = "var/lib/pyswarm", "var/lib/pyswarm/swarm/certificates/node-keys.json"
WORKING_COPY = "run/pyswarm/certificates/node.key"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of one manager and two workers."""
    folder: Path = tmp_path_factory.mktemp("autolock")
    with running_cluster(folder, build_images(folder), hosts=3) as cluster:
        yield cluster


@pytest.fixture
def autolock(cluster: Cluster) -> Iterator[str]:
    """The unlock key; the managers have locked their files. Afterwards autolock is off, and all managers are unlocked."""
    cluster.pyswarm("swarm", "update", "--autolock")
    key = unlock_key(cluster)
    wait_lock(cluster, "n1", key)
    yield key
    cluster.pyswarm("swarm", "update", "--autolock=false")
    for name in cluster.managers():
        wait_lock(cluster, name, "")


def unlock_key(cluster: Cluster) -> str:
    return cluster.pyswarm("swarm", "unlock-key", "-q").stdout.strip()


def place(cluster: Cluster, host: str, path: str) -> Path:
    """Return where a path of a host is seen from here."""
    return Path(f"/proc/{cluster.lab.host(host).pid}/root/{path}")


def secrets_of(cluster: Cluster, host: str, key: str) -> Secrets | None:
    """Return what the host's key file holds, if it lies under exactly this key ("": plain)."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "node-keys.json"
        copy.write_bytes(place(cluster, host, KEY_FILE).read_bytes())
        file = KeyFile(copy)
        if file.is_locked != bool(key):
            return None
        with contextlib.suppress(Unauthenticated):
            if key:
                file.unlock(key)
        return None if file.is_locked else file.secrets


def wait_lock(cluster: Cluster, host: str, key: str) -> Secrets:
    return wait_until(f"the keys of {host} follow", lambda: secrets_of(cluster, host, key))


def files_with(cluster: Cluster, host: str, secrets: list[bytes], folder: str = DATA_DIR) -> list[str]:
    """Return the files under a host's data directory, or a folder of it, that show one of these."""
    found = []
    for path in place(cluster, host, folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            found += [str(path) for secret in secrets if secret in content]
    return found


def appearances(secrets: Secrets, key: str) -> list[bytes]:
    """Return all that must not be seen: private key, data keys and unlock key, raw, in base64, in hex and as they are written."""
    raw = [*DataKeys.decode(secrets.data_keys).keys.values(), parse_unlock_key(key)]
    written = [key.removeprefix("SWMKEY-1-").encode()]
    for pem in secrets.private_keys:
        private_key = load_pem_private_key(pem.encode(), password=None)
        assert isinstance(private_key, ec.EllipticCurvePrivateKey)
        raw.append(private_key.private_numbers().private_value.to_bytes(32, "big"))
        written += [line.encode() for line in pem.splitlines() if len(line) > 20]
    return [*raw, *(base64.b64encode(each).rstrip(b"=") for each in raw), *(each.hex().encode() for each in raw), *written]


def local_state(cluster: Cluster, host: str = "n1") -> str:
    return str(cluster.api("/info", host=host)["Swarm"]["LocalNodeState"])


def restart_locked(cluster: Cluster, host: str = "n1", **options: dict[str, str]) -> None:
    """Start a host's daemon again after it was killed, and see that it is locked."""
    cluster.lab.host(host).start_daemon(**options)  # type: ignore[arg-type]
    assert local_state(cluster, host) == "locked"


def unlock(cluster: Cluster, key: str, host: str = "n1", *, check: bool = True) -> str:
    """Give a host the key, on standard input; returns what was said."""
    done = cluster.lab.host(host).run(["pyswarm", "swarm", "unlock"], input=f"{key}\n", check=check)
    return done.stdout + done.stderr


def containers(cluster: Cluster, host: str) -> list[str]:
    found = cluster.lab.host(host).run(["sh", "-c", "pgrep -x conmon || true"]).stdout
    return sorted(found.split())


def test_a_killed_manager_is_locked_its_containers_run_and_the_key_brings_it_back(
    cluster: Cluster, service_name: str, autolock: str
) -> None:
    cluster.pyswarm("service", "create", "--name", service_name, "--replicas", "3", "--network", "app", cluster.image("nginx"))
    tasks = {t["ID"] for t in cluster.wait_running(service_name, 3)}
    seen = containers(cluster, "n1")
    assert seen
    secrets = wait_lock(cluster, "n1", autolock)
    cluster.lab.host("n1").kill_daemon(signal.SIGKILL)
    restart_locked(cluster)

    assert files_with(cluster, "n1", appearances(secrets, autolock)) == []
    assert files_with(cluster, "n1", [b"PRIVATE KEY"], DATA_DIR + "/swarm") == []
    assert not place(cluster, "n1", WORKING_COPY).exists()
    assert "etcd" not in cluster.lab.host("n1").run(["ps", "-eo", "comm"]).stdout.split()
    assert containers(cluster, "n1") == seen
    refused = cluster.pyswarm("service", "ls", check=False)
    assert (refused.returncode, 'Please use "pyswarm swarm unlock" to unlock it.' in refused.stderr) == (1, True)
    assert "Swarm is encrypted and locked. Please unlock it first" in cluster.pyswarm("swarm", "leave", check=False).stderr

    assert "swarm could not be unlocked: invalid key provided" in unlock(cluster, new_unlock_key(), check=False)
    assert "invalid key string" in unlock(cluster, "nonsense", check=False)
    assert local_state(cluster) == "locked"
    assert unlock(cluster, autolock) == ""
    assert local_state(cluster) == "active"
    assert {t["ID"] for t in cluster.wait_running(service_name, 3)} == tasks
    assert containers(cluster, "n1") == seen
    assert files_with(cluster, "n1", appearances(secrets, autolock)) == []
    assert files_with(cluster, "n1", [b"PRIVATE KEY"], DATA_DIR + "/swarm") == []
    assert "swarm is not locked" in unlock(cluster, autolock, check=False)


def test_a_graceful_stop_leaves_no_plain_key(cluster: Cluster, autolock: str) -> None:
    assert place(cluster, "n1", WORKING_COPY).exists()
    cluster.lab.host("n1").kill_daemon(signal.SIGTERM)
    assert not place(cluster, "n1", WORKING_COPY).exists()
    restart_locked(cluster)
    unlock(cluster, autolock)


def test_the_docker_cli_does_it_all(cluster: Cluster) -> None:
    assert "no unlock key is set" in cluster.docker("swarm", "unlock-key", check=False).stderr
    on = cluster.docker("swarm", "update", "--autolock=true")
    first = cluster.docker("swarm", "unlock-key", "-q").stdout.strip()
    assert f"    {first}" in on.stdout
    wait_lock(cluster, "n1", first)
    cluster.docker("swarm", "unlock-key", "--rotate")
    second = cluster.docker("swarm", "unlock-key", "-q").stdout.strip()
    assert second != first
    wait_lock(cluster, "n1", second)
    cluster.lab.host("n1").kill_daemon()
    restart_locked(cluster)
    assert "Swarm is encrypted and needs to be unlocked" in cluster.docker("node", "ls", check=False).stderr
    assert "Swarm: locked" in cluster.docker("info", check=False).stdout
    command = ["docker", "-H", "unix:///run/pyswarm/pyswarm.sock", "swarm", "unlock"]
    wrong = cluster.manager.run(command, input=f"{first}\n", check=False)
    assert "swarm could not be unlocked: invalid key provided" in wrong.stderr
    cluster.manager.run(command, input=f"{second}\n")
    cluster.docker("node", "ls")
    cluster.docker("swarm", "update", "--autolock=false")
    wait_lock(cluster, "n1", "")
    cluster.lab.host("n1").kill_daemon()
    cluster.lab.host("n1").start_daemon()
    wait_until("it serves without a key", lambda: local_state(cluster) == "active")


def rejoin(cluster: Cluster, host: str, role: str) -> None:
    """Let a host leave and join again in another role."""
    managers = sorted({*cluster.managers()} - {host})
    cluster.pyswarm("swarm", "leave", "--force", host=host)
    cluster.wait_managers(*managers)
    cluster.wait_node(host, "down")
    cluster.pyswarm("node", "rm", "--force", host)
    cluster.join(host, role)
    cluster.wait_managers(*managers, *([host] if role == "manager" else []))


@pytest.mark.parametrize("failpoint", ["unlock-key/known", "unlock-key/followed"])
def test_a_rotation_that_was_cut_off_is_finished(cluster: Cluster, autolock: str, failpoint: str) -> None:
    rejoin(cluster, "n2", "manager")
    joined = secrets_of(cluster, "n2", autolock)
    assert joined is not None
    assert files_with(cluster, "n2", appearances(joined, autolock)) == []
    host = cluster.lab.host("n2")
    host.kill_daemon()
    restart_locked(cluster, "n2", env={failpoints.VARIABLE: failpoint})
    unlock(cluster, autolock, "n2")
    cluster.wait_managers("n1", "n2")
    cluster.pyswarm("swarm", "unlock-key", "--rotate")
    wait_until("it dies there", lambda: host.daemon_pid is None)
    rotated = unlock_key(cluster)
    restart_locked(cluster, "n2")
    keys = [rotated, autolock] if failpoint == "unlock-key/known" else [autolock, rotated]
    assert "invalid key provided" in unlock(cluster, keys[0], "n2", check=False)
    unlock(cluster, keys[1], "n2")
    for name in ("n1", "n2"):
        wait_lock(cluster, name, rotated)
    cluster.wait_managers("n1", "n2")
    rejoin(cluster, "n2", "worker")
    assert secrets_of(cluster, "n2", "") is not None


def test_a_manager_that_is_down_during_a_rotation_opens_with_its_key_and_follows(cluster: Cluster, autolock: str) -> None:
    for name in ("n2", "n3"):
        rejoin(cluster, name, "manager")
    cluster.lab.host("n2").kill_daemon()
    cluster.pyswarm("swarm", "unlock-key", "--rotate")
    rotated = unlock_key(cluster)
    for name in ("n1", "n3"):
        wait_lock(cluster, name, rotated)
    restart_locked(cluster, "n2")
    assert "invalid key provided" in unlock(cluster, rotated, "n2", check=False)
    unlock(cluster, autolock, "n2")
    wait_lock(cluster, "n2", rotated)
    cluster.wait_managers("n1", "n2", "n3")
    for name in ("n3", "n2"):
        rejoin(cluster, name, "worker")


def test_a_worker_locks_its_keys_when_it_is_promoted_and_opens_them_when_it_is_demoted(cluster: Cluster, autolock: str) -> None:
    cluster.pyswarm("node", "promote", "n2")
    cluster.wait_managers("n1", "n2")
    promoted = wait_lock(cluster, "n2", autolock)
    assert files_with(cluster, "n2", appearances(promoted, autolock)) == []
    cluster.pyswarm("node", "demote", "n2")
    demoted = wait_lock(cluster, "n2", "")
    assert (demoted.data_keys, len(demoted.private_keys)) == (b"", 1)
    cluster.wait_managers("n1")
    cluster.wait_node("n2", "ready")


def test_a_locked_manager_can_leave_by_force(cluster: Cluster, autolock: str) -> None:
    for name in ("n2", "n3"):
        rejoin(cluster, name, "manager")
    assert secrets_of(cluster, "n3", autolock) is not None
    cluster.lab.host("n3").kill_daemon()
    restart_locked(cluster, "n3")
    cluster.pyswarm("swarm", "leave", "--force", host="n3")
    assert local_state(cluster, "n3") == "inactive"
    assert not place(cluster, "n3", DATA_DIR + "/swarm").exists()
    cluster.wait_node("n3", "down")
    cluster.pyswarm("node", "demote", "n3")
    cluster.wait_managers("n1", "n2")
    cluster.pyswarm("node", "rm", "n3")
    cluster.join("n3", "worker")
    rejoin(cluster, "n2", "worker")
