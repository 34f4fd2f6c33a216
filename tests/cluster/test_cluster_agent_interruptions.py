"""Killing a worker's daemon between the steps of making, starting, stopping and removing containers: each is finished or undone.

Each test lets the daemon kill itself at a failpoint (`pyswarm_common.failpoints`), starts it again, and expects the service to run
as it is wanted, and nothing to be left when it is removed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_traces import Traces, assert_nothing_left, traces
from agent_work import AgentWork, attempt
from lab_cluster import Cluster, build_images, running_cluster, wait_until

from pyswarm_common import failpoints

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]
WORKER = "n2"
MAKING = ("task/sandboxed", "task/volumes-made", "task/created")
STARTING = ("container/volumes-filled", "container/monitor-begun", "container/made", "container/started")
STOPPING = ("container/signalled", "container/ended")
REMOVING = ("container/forgotten", "task/removed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A manager and a worker that has the image."""
    folder: Path = tmp_path_factory.mktemp("agent-interruptions")
    with running_cluster(folder, build_images(folder), hosts=2) as cluster:
        cluster.pyswarm("pull", cluster.image("busybox"), host=WORKER)
        yield cluster


@pytest.fixture(scope="module")
def work(cluster: Cluster) -> AgentWork:
    """What makes services with everything."""
    return AgentWork(cluster, WORKER)


@pytest.fixture
def before(cluster: Cluster, work: AgentWork) -> Iterator[Traces]:
    """What is on the worker before the test; afterwards there is nothing more."""
    found = traces(cluster.lab.host(WORKER))
    yield found
    work.remove_everything(["kept"])
    assert_nothing_left(cluster.lab.host(WORKER), found)


@contextlib.contextmanager
def dying_at(cluster: Cluster, failpoint: str) -> Iterator[None]:
    """Let the worker's daemon kill itself at a failpoint inside the block; it runs again afterwards."""
    host = cluster.lab.host(WORKER)
    host.kill_daemon()
    host.start_daemon(env={failpoints.VARIABLE: failpoint})
    cluster.wait_node(WORKER, "ready")
    yield
    wait_until(f"the daemon dies at {failpoint}", lambda: host.daemon_pid is None, 20.0)
    host.start_daemon()


def story(cluster: Cluster) -> list[tuple[str, str]]:
    """Return what the service's tasks say, oldest first."""
    tasks = sorted(cluster.tasks("web"), key=lambda task: str(task["CreatedAt"]))
    return [(task["Status"]["State"], task["Status"].get("Err", "")) for task in tasks]


@pytest.mark.parametrize("failpoint", [*MAKING, *STARTING])
def test_a_task_that_was_being_made_or_started_runs(cluster: Cluster, work: AgentWork, before: Traces, failpoint: str) -> None:
    with dying_at(cluster, failpoint):
        work.create("web", 1)
    work.wait_settled({"web": 1})
    # A machine that is slow to start the daemon again may have its node taken for down, and the task replaced.
    assert {state for state, _ in story(cluster)} <= {"running", "shutdown"}


@pytest.mark.parametrize("failpoint", STOPPING)
def test_a_task_that_was_being_stopped_is_replaced(cluster: Cluster, work: AgentWork, before: Traces, failpoint: str) -> None:
    work.create("web", 1)
    work.wait_settled({"web": 1})
    with dying_at(cluster, failpoint):
        work.update("web", 1, generation=2)
    work.wait_settled({"web": 1})
    assert {state for state, _ in story(cluster)} == {"shutdown", "running"}


@pytest.mark.parametrize("failpoint", REMOVING)
def test_a_task_that_was_being_removed_is_gone(cluster: Cluster, work: AgentWork, before: Traces, failpoint: str) -> None:
    work.create("web", 1)
    work.wait_settled({"web": 1})
    with dying_at(cluster, failpoint):
        cluster.api("/services/web", "DELETE")


@pytest.mark.parametrize("failpoint", ["local/saved", "container/made", "container/started"])
def test_a_local_container_that_was_being_made_is_there_or_not(
    cluster: Cluster, work: AgentWork, before: Traces, failpoint: str
) -> None:
    with dying_at(cluster, failpoint):
        assert attempt(lambda: work.run_local("kept", "exec sleep 1000", "always"))
    if failpoint == "local/saved":
        assert work.containers() == []
        work.run_local("kept", "exec sleep 1000", "always")
    wait_until("it runs", lambda: [c["State"] for c in work.containers()] == ["running"])


@pytest.mark.parametrize("failpoint", ["local/forgotten", "container/forgotten"])
def test_a_local_container_that_was_being_removed_is_gone(
    cluster: Cluster, work: AgentWork, before: Traces, failpoint: str
) -> None:
    work.run_local("kept", "exec sleep 1000", "always")
    with dying_at(cluster, failpoint):
        assert attempt(lambda: work.remove_local("kept"))
    wait_until("it is gone", lambda: not work.containers())
