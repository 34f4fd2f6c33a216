"""A worker whose disk is full, whose files somebody removes, or that loses its power: what it says is true, and it recovers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_traces import Traces, assert_nothing_left, traces
from agent_work import AgentWork
from lab_cluster import Cluster, build_images, running_cluster, wait_until

from pyswarm_cli.lab.host import Host

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]
WORKER = "n2"
DATA = "/var/lib/pyswarm"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A manager and a worker that has one of the images."""
    folder: Path = tmp_path_factory.mktemp("agent-damage")
    with running_cluster(folder, build_images(folder), hosts=2) as cluster:
        cluster.pyswarm("pull", cluster.image("busybox"), host=WORKER)
        yield cluster


@pytest.fixture(scope="module")
def host(cluster: Cluster) -> Host:
    """The worker."""
    return cluster.lab.host(WORKER)


@pytest.fixture(scope="module")
def work(cluster: Cluster) -> AgentWork:
    """What makes services with everything."""
    return AgentWork(cluster, WORKER)


@pytest.fixture
def before(host: Host, work: AgentWork) -> Iterator[Traces]:
    """What is on the worker before the test; afterwards there is nothing more."""
    found = traces(host)
    yield found
    work.remove_everything([name.strip("/") for container in work.containers() for name in container["Names"]])
    assert_nothing_left(host, found)


def ended(cluster: Cluster, service: str, state: str) -> list[str]:
    """Return what the service's tasks in a state say."""
    return [t["Status"].get("Err", "") for t in cluster.tasks(service) if t["Status"]["State"] == state]


def container_of(cluster: Cluster, service: str) -> str:
    """Return the container's id of the service's only running task."""
    (task,) = cluster.tasks(service, running=True)
    return str(task["Status"]["ContainerStatus"]["ContainerID"])


def test_an_image_that_finds_no_room_is_refused_and_comes_when_there_is(
    cluster: Cluster, work: AgentWork, host: Host, before: Traces
) -> None:
    work.create("first", 1)
    work.wait_settled({"first": 1})
    kept = container_of(cluster, "first")
    host.run(["mount", "-t", "tmpfs", "-o", "size=1m", "full", f"{DATA}/images"])
    try:
        host.run(["mkdir", "-p", f"{DATA}/images/temporary"])
        work.create("web", 1, Image=cluster.image("nginx"))
        messages = wait_until("it is refused", lambda: ended(cluster, "web", "rejected"))
    finally:
        host.run(["umount", "--lazy", f"{DATA}/images"])
    assert "no space left" in messages[0].lower(), messages
    work.wait_settled({"first": 1, "web": 1})
    assert container_of(cluster, "first") == kept


def test_a_container_that_finds_no_room_is_refused_and_comes_when_there_is(
    cluster: Cluster, work: AgentWork, host: Host, before: Traces
) -> None:
    work.create("first", 1)
    work.wait_settled({"first": 1})
    host.run(["mount", "-t", "tmpfs", "-o", "size=8k,nr_inodes=3", "full", f"{DATA}/containers"])
    try:
        host.run(["sh", "-c", f"dd if=/dev/zero of={DATA}/containers/ballast bs=1k 2>/dev/null; true"])
        work.create("web", 1)
        messages = wait_until("it is refused", lambda: ended(cluster, "web", "rejected"))
    finally:
        host.run(["umount", "--lazy", f"{DATA}/containers"])
    assert "No space left on device" in messages[0], messages
    work.wait_settled({"first": 1, "web": 1})


def test_a_bundle_that_somebody_removes_is_told_when_the_container_ends(
    cluster: Cluster, work: AgentWork, host: Host, before: Traces
) -> None:
    work.create("web", 1)
    work.wait_settled({"web": 1})
    host.run(["sh", "-c", f"rm -rf --one-file-system /run/pyswarm/bundles/{container_of(cluster, 'web')}/*"])
    (task,) = cluster.tasks("web", running=True)
    host.run(["kill", "-9", str(task["Status"]["ContainerStatus"]["PID"])])
    messages = wait_until("it has failed", lambda: ended(cluster, "web", "failed"))
    assert "were removed while it ran; how it ended is unknown" in messages[0], messages
    work.wait_settled({"web": 1})


def test_a_container_whose_files_somebody_removes_has_failed_after_a_restart(
    cluster: Cluster, work: AgentWork, host: Host, before: Traces
) -> None:
    work.create("web", 1)
    work.wait_settled({"web": 1})
    host.kill_daemon()
    host.run(["sh", "-c", f"rm -rf {DATA}/containers/{container_of(cluster, 'web')}"])
    host.start_daemon()
    messages = wait_until("it has failed", lambda: ended(cluster, "web", "failed"))
    assert messages == ["the container is gone: its node has lost the record of it, in a power cut or as files were removed"]
    work.wait_settled({"web": 1})


def test_a_data_folder_that_is_unmounted_is_told_and_a_reboot_mends_it(
    cluster: Cluster, work: AgentWork, host: Host, before: Traces
) -> None:
    work.create("web", 1)
    work.wait_settled({"web": 1})
    host.run(["umount", "--lazy", DATA])
    work.create("late", 1)
    messages = wait_until("it is refused", lambda: ended(cluster, "late", "rejected") + ended(cluster, "late", "failed"))
    print(messages)
    assert DATA in messages[0], messages
    assert len(cluster.tasks("web", running=True)) == 1
    host.power_cut()
    host.power_on()
    work.wait_settled({"web": 1, "late": 1})


def test_after_a_reboot_containers_that_should_run_do_and_tasks_are_replaced(
    cluster: Cluster, work: AgentWork, host: Host, before: Traces
) -> None:
    work.create("web", 2)
    for name, policy in (
        ("kept", "always"),
        ("kept-too", "unless-stopped"),
        ("stopped", "unless-stopped"),
        ("once", ""),
        ("passing", ""),
    ):
        work.run_local(name, "exec sleep 1000", policy, removes_itself=name == "passing")
    assert cluster.request(WORKER, "POST", "/containers/stopped/stop?t=0")[0] == 204
    work.wait_settled({"web": 2})
    host.power_cut()
    host.power_on()
    work.wait_settled({"web": 2})
    wanted = {"/kept": "running", "/kept-too": "running", "/stopped": "exited", "/once": "exited"}

    def locals_as_wanted() -> bool:
        found = {name: c["State"] for c in work.containers() for name in c["Names"] if not name.startswith("/web.")}
        return found == wanted

    wait_until("local containers are as their policies say", locals_as_wanted)
    assert ended(cluster, "web", "failed") == ["the node was restarted"] * 2
