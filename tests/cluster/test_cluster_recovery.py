"""Coming back: a backup restored on a fresh machine, a new cluster forced from one manager, and managers that lost their data."""

import contextlib
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until

from pyswarm_common import failpoints

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

IDLE = {"TaskTemplate": {"ContainerSpec": {"Image": "x"}}, "Mode": {"Replicated": {"Replicas": 0}}}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build_images(tmp_path_factory.mktemp("images"))


def create(cluster: Cluster, name: str, replicas: int) -> None:
    """Create a service on the workers."""
    cluster.pyswarm(
        "service", "create", "--name", name, "--replicas", str(replicas), "--network", "app", "--restart-delay", "0s",
        "--constraint", "node.role==worker", cluster.image("nginx"),
    )  # fmt: skip
    cluster.wait_running(name, replicas)


def pids(cluster: Cluster, name: str, host: str = "n1") -> dict[str, int]:
    """Return the pid of each running task, as the API of a host tells."""
    tasks: list[dict[str, Any]] = cluster.api("/tasks", host=host)
    services = {s["ID"]: s["Spec"]["Name"] for s in cluster.api("/services", host=host)}
    return {
        t["ID"]: t["Status"]["ContainerStatus"]["PID"]
        for t in tasks
        if services.get(t.get("ServiceID", "")) == name and t["Status"]["State"] == "running" and t["DesiredState"] == "running"
    }


def services(cluster: Cluster, host: str = "n1") -> dict[str, str]:
    return {s["ID"]: s["Spec"]["Name"] for s in cluster.api("/services", host=host)}


def answers(cluster: Cluster, host: str = "n1") -> bool:
    try:
        return bool(cluster.api("/nodes", host=host))
    except (OSError, RuntimeError):
        return False


def accepts(cluster: Cluster, name: str, host: str = "n1") -> bool:
    """Whether a host's API takes a new service."""
    try:
        cluster.api("/services/create", "POST", {"Name": name, **IDLE}, host=host)
    except (OSError, RuntimeError):
        return False
    return True


def wipe(cluster: Cluster, name: str) -> None:
    """Make a fresh machine of a host: its disk is empty, its address the same."""
    host = cluster.lab.host(name)
    host.power_cut()
    for path in host.disk.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    host.power_on()


@contextlib.contextmanager
def writing(cluster: Cluster) -> Iterator[list[str]]:
    """Create services as fast as it goes; yields the ids of those that were acknowledged."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            spec = {"Name": f"w{len(acknowledged)}", **IDLE}
            acknowledged.append(cluster.api("/services/create", "POST", spec)["ID"])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        writer.join()


def restart_dying_at(cluster: Cluster, name: str, failpoint: str) -> None:
    """Start a host's daemon anew so that it kills itself at a failpoint."""
    host = cluster.lab.host(name)
    host.kill_daemon()
    host.start_daemon(env={failpoints.VARIABLE: failpoint})


def test_a_backup_brings_a_destroyed_cluster_back_and_no_task_notices(archives: dict[str, Path], tmp_path: Path) -> None:
    with running_cluster(tmp_path, archives, hosts=3) as cluster:
        create(cluster, "web", 4)
        before = pids(cluster, "web")
        index = {s["ID"]: s["Version"]["Index"] for s in cluster.api("/services")}
        file = cluster.lab.share / "backup"
        with writing(cluster) as acknowledged:
            wait_until("some writes are acknowledged", lambda: len(acknowledged) >= 20)
            earlier = set(acknowledged)
            said = cluster.pyswarm("swarm", "backup", str(file)).stdout
            wait_until("writes go on", lambda: len(acknowledged) >= len(earlier) + 5)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "keep it as safe as the managers" in said
        assert cluster.pyswarm("swarm", "backup", str(file), check=False).returncode != 0, "no backup is overwritten unasked"

        wipe(cluster, "n1")
        damaged = cluster.lab.share / "damaged"
        damaged.write_bytes(file.read_bytes()[:-100])
        refused = cluster.pyswarm("swarm", "restore", str(damaged), check=False)
        assert "this backup is damaged: it is cut off" in refused.stderr
        assert_in_no_swarm(cluster)

        restart_dying_at(cluster, "n1", "begin/stored")
        assert cluster.pyswarm("swarm", "restore", str(file), "--advertise-addr", cluster.manager.address, check=False).returncode
        wait_until("it dies", lambda: cluster.manager.daemon_pid is None)
        cluster.manager.start_daemon()
        assert_in_no_swarm(cluster)

        said = cluster.pyswarm("swarm", "restore", str(file), "--advertise-addr", cluster.manager.address).stdout
        assert "come back by themselves" in said
        restored = services(cluster)
        assert earlier <= set(restored), "every write that was acknowledged before the backup is there"
        order = [i for i in acknowledged if i in restored]
        assert order == acknowledged[: len(order)], "the backup is one moment"
        for name in ("n2", "n3"):
            wait_until(f"{name} is back", lambda name=name: node_state(cluster, name) == "ready")  # type: ignore[misc]
        after = cluster.api("/services")
        assert all(s["Version"]["Index"] > index[s["ID"]] for s in after if s["ID"] in index)
        cluster.pyswarm("service", "scale", "web=6")
        cluster.wait_running("web", 6)
        assert before.items() <= pids(cluster, "web").items(), "no task was restarted"
        former = [n for n in cluster.api("/nodes") if n["Spec"]["Role"] == "worker" and n["Description"]["Hostname"] == "n1"]
        wait_until("the former manager is down", lambda: cluster.api(f"/nodes/{former[0]['ID']}")["Status"]["State"] == "down")
        cluster.pyswarm("node", "rm", former[0]["ID"])
        cluster.lab.host("n3").kill_daemon()
        cluster.lab.host("n3").start_daemon()
        cluster.wait_node("n3", "ready")


def node_state(cluster: Cluster, name: str) -> str:
    return next(str(n["Status"]["State"]) for n in cluster.api("/nodes") if n["Description"]["Hostname"] == name)


def assert_in_no_swarm(cluster: Cluster) -> None:
    assert cluster.api("/info")["Swarm"]["LocalNodeState"] == "inactive"
    assert not (cluster.manager.disk / "swarm").exists()


@pytest.mark.parametrize("failpoint", ["force/asked", "force/alone", "force/noted", "force/stored", "force/readdressed"])
def test_a_forced_new_cluster_that_was_cut_off_is_finished(lone: Cluster, failpoint: str) -> None:
    before, container = services(lone), lone.manager.run(["pgrep", "-x", "nginx"]).stdout
    index = lone.api("/swarm")["Version"]["Index"]
    restart_dying_at(lone, "n1", failpoint)
    wait_until("the manager serves", lambda: answers(lone))
    assert lone.pyswarm("swarm", "init", "--force-new-cluster", check=False).returncode != 0
    wait_until("it dies", lambda: lone.manager.daemon_pid is None)
    lone.manager.start_daemon()
    wait_until("the manager serves", lambda: answers(lone))
    assert services(lone) == before
    assert lone.api("/swarm")["Version"]["Index"] > index + (1 << 31), "it was forced, once"
    assert "force-new-cluster.json" not in [path.name for path in (lone.manager.disk / "swarm").iterdir()]
    wait_until("it takes writes", lambda: accepts(lone, failpoint.replace("/", "-")))
    assert lone.manager.run(["pgrep", "-x", "nginx"]).stdout == container


@pytest.fixture(scope="module")
def lone(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One manager with a container."""
    with running_cluster(tmp_path_factory.mktemp("lone"), archives, hosts=1) as cluster:
        cluster.pyswarm("service", "create", "--name", "web", cluster.image("nginx"))
        cluster.wait_running("web", 1)
        yield cluster


def error_of(cluster: Cluster, host: str = "n1") -> str:
    return str(cluster.api("/info", host=host)["Swarm"]["Error"])


def last_log(cluster: Cluster, name: str) -> Path:
    return sorted((cluster.lab.host(name).disk / "swarm/etcd/member-data/member/wal").glob("*.wal"))[-1]


def flip_a_byte(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[len(content.rstrip(b"\0")) // 2] ^= 0xFF
    log.write_bytes(content)


def test_the_only_manager_says_what_to_do_about_damaged_data(lone: Cluster) -> None:
    before, container = services(lone), lone.manager.run(["pgrep", "-x", "nginx"]).stdout
    lone.manager.kill_daemon()
    log = last_log(lone, "n1")
    sound = log.read_bytes()
    flip_a_byte(log)
    lone.manager.start_daemon()
    said = wait_until("it says so", lambda: error_of(lone))
    assert "is damaged (" in said
    assert "/var/lib/pyswarm/swarm/etcd" in said
    assert "pyswarm swarm restore FILE" in said
    assert "is damaged (" in lone.pyswarm("service", "ls", check=False).stderr
    log.write_bytes(sound)
    wait_until("it serves once the data is back", lambda: answers(lone))
    assert services(lone) == before
    assert lone.manager.run(["pgrep", "-x", "nginx"]).stdout == container


@pytest.mark.parametrize("name", ["state.json", "certificates/node.crt", "certificates/node-keys.json"])
def test_a_node_with_a_damaged_file_answers_and_says_what_to_do(lone: Cluster, name: str) -> None:
    lone.manager.kill_daemon()
    file = lone.manager.disk / "swarm" / name
    sound = file.read_bytes()
    file.write_bytes(sound[:50])
    lone.manager.start_daemon()
    said = wait_until("it says so", lambda: error_of(lone))
    assert "join again" in said
    assert lone.api("/info")["Swarm"]["LocalNodeState"] == "error"
    assert lone.manager.run(["pgrep", "-x", "nginx"]).stdout.split(), "its container goes on"
    lone.manager.kill_daemon()
    file.write_bytes(sound)
    lone.manager.start_daemon()
    wait_until("it serves once the file is back", lambda: answers(lone))


def test_an_encrypted_backup_is_restored_with_its_key(lone: Cluster) -> None:
    lone.pyswarm("swarm", "update", "--autolock=true")
    key = lone.pyswarm("swarm", "unlock-key", "--quiet").stdout.strip()
    before, file = services(lone), lone.lab.share / "encrypted"
    assert "encrypted under the swarm's unlock key" in lone.pyswarm("swarm", "backup", str(file)).stdout
    assert b"PRIVATE KEY" not in file.read_bytes()
    wipe(lone, "n1")
    refused = lone.pyswarm("swarm", "restore", str(file), "--unlock-key", key[:-2] + "AA", check=False)
    assert "encrypted under another unlock key" in refused.stderr
    assert_in_no_swarm(lone)
    lone.pyswarm("swarm", "restore", str(file), "--unlock-key", key, "--advertise-addr", lone.manager.address)
    assert services(lone) == before
    lone.manager.kill_daemon()
    lone.manager.start_daemon()
    assert lone.api("/info")["Swarm"]["LocalNodeState"] == "locked"
    refused = lone.pyswarm("swarm", "init", "--force-new-cluster", check=False)
    assert "needs to be unlocked" in refused.stderr
    lone.api("/swarm/unlock", "POST", {"UnlockKey": key})
    wait_until("it serves", lambda: answers(lone))
    assert services(lone) == before


def damage_the_log(cluster: Cluster, name: str) -> None:
    flip_a_byte(last_log(cluster, name))


def lose_the_data(cluster: Cluster, name: str) -> None:
    shutil.rmtree(cluster.lab.host(name).disk / "swarm/etcd")


def test_a_manager_that_lost_its_data_enters_anew(archives: dict[str, Path], tmp_path: Path) -> None:
    with running_cluster(tmp_path, archives, hosts=3, managers=3) as cluster:
        cluster.wait_managers("n1", "n2", "n3")
        for damage in (damage_the_log, lose_the_data):
            victim = cluster.lab.host("n2")
            victim.kill_daemon()
            damage(cluster, "n2")
            cluster.api("/services/create", "POST", {"Name": damage.__name__.replace("_", "-"), **IDLE})
            victim.start_daemon()
            wait_until("it serves again", lambda: answers(cluster, "n2"), 60.0)
            cluster.wait_managers("n1", "n2", "n3", timeout_s=90.0)
            assert services(cluster, "n2") == services(cluster, "n1")
        assert [path.name for path in (victim.disk / "swarm").glob("etcd.damaged-*")]
        said = victim.log_path.read_text()
        assert "is damaged (" in said
        assert "is lost (there is no data)" in said


def test_a_forced_new_cluster_wins_over_the_former_majority(archives: dict[str, Path], tmp_path: Path) -> None:
    with running_cluster(tmp_path, archives, hosts=5, managers=3) as cluster:
        cluster.wait_managers("n1", "n2", "n3")
        create(cluster, "web", 4)
        before = pids(cluster, "web")
        refused = cluster.pyswarm("swarm", "init", "--force-new-cluster", check=False)
        assert "nothing needs to be forced" in refused.stderr
        refused = cluster.pyswarm("swarm", "init", "--force-new-cluster", host="n4", check=False)
        assert "This node is not a swarm manager" in refused.stderr

        for one, other in (("n1", "n2"), ("n1", "n3"), ("n4", "n2"), ("n4", "n3"), ("n1", "n5")):
            cluster.lab.host(one).cut(other)  # n2 and n3 are a majority, and have n5
        wait_until("n1 knows no leader", lambda: not accepts(cluster, "refused"))
        wait_until("the majority goes on", lambda: accepts(cluster, "of-the-majority", host="n2"), 60.0)
        cluster.pyswarm("swarm", "init", "--force-new-cluster")
        assert list(cluster.managers()) == ["n1"]
        cluster.api("/services/create", "POST", {"Name": "of-the-new-cluster", **IDLE})

        cluster.lab.heal()
        for name in ("n2", "n3"):
            wait_until(f"{name} is a worker", lambda name=name: not is_manager(cluster, name), 60.0)  # type: ignore[misc]
        for name in ("n2", "n3", "n4", "n5"):
            cluster.wait_node(name, "ready", 60.0)
        assert {"web", "of-the-new-cluster"} <= set(services(cluster).values())
        assert "of-the-majority" not in services(cluster).values()
        assert "manager.superseded" in cluster.lab.host("n2").log_path.read_text() + cluster.lab.host("n3").log_path.read_text()
        cluster.pyswarm("service", "scale", "web=6")
        cluster.wait_running("web", 6)
        kept = before.items() & pids(cluster, "web").items()
        print(f"{len(kept)} of {len(before)} tasks went on")
        assert len(kept) == len(before), "no task was restarted"
        cluster.pyswarm("node", "promote", "n2")
        cluster.pyswarm("node", "promote", "n3")
        cluster.wait_managers("n1", "n2", "n3", timeout_s=90.0)


def is_manager(cluster: Cluster, name: str) -> bool:
    return bool(cluster.api("/info", host=name)["Swarm"]["ControlAvailable"])
