"""One cluster of three hosts for all tests of this folder, and a name for each test's service."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from lab_cluster import Cluster, build_images, running_cluster, wait_until_gone

LOG_LINES = 40
LINE_LENGTH = 400


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the daemons of its cluster logged last."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and report.when != "teardown" and isinstance(cluster, Cluster):
        for host in cluster.lab.hosts:
            lines = host.log_end().splitlines()[-LOG_LINES:]
            report.sections.append((f"log of {host.name}", "\n".join(line[:LINE_LENGTH] for line in lines)))
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Bring up the cluster; afterwards nothing of it may be left (`running_cluster` checks)."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    with running_cluster(folder, build_images(folder)) as cluster:
        yield cluster


@pytest.fixture
def service_name(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """A name for the test's service, which is removed afterwards together with any other that the test left."""
    yield f"s-{request.node.name.replace('_', '-').replace('[', '-').replace(']', '')[5:40].strip('-')}"
    for service in cluster.api("/services"):
        cluster.api(f"/services/{service['ID']}", "DELETE")
    wait_until_gone("tasks", lambda: cluster.api("/tasks"), 40.0)
