"""Real software as services: PostgreSQL, redis and nginx with volumes, secrets, configs and healthchecks, and reaching into them.

The services run on other hosts than the one that the commands are given on.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_cluster import REPOSITORY, Cluster, push_archive, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]

PASSWORD = "correct horse battery staple"
NGINX_CONF = """\
user www-data; pid /run/nginx.pid; error_log stderr warn; events {}
http {
    access_log off;
    server { listen 80; location / { return 200 "{{.Service.Name}} {{.Task.Slot}} of {{.Node.Hostname}}\\n"; } }
}
"""


@pytest.fixture(scope="module")
def software(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster, whose registry has PostgreSQL and redis, too."""
    folder: Path = tmp_path_factory.mktemp("software")
    for name in ("postgres", "redis"):
        archive = folder / f"{name}.tar"
        subprocess.run([REPOSITORY / "scripts/build-image", name, archive], check=True, capture_output=True)
        push_archive(cluster.lab, cluster.registry, name, archive)
        archive.unlink()
    return cluster


@contextmanager
def content(cluster: Cluster, kind: str, name: str, data: str, *options: str) -> Iterator[str]:
    """A secret or config, which is removed afterwards, once nothing uses it."""
    cluster.manager.run(["pyswarm", kind, "create", *options, name, "-"], input=data)
    yield name
    wait_until(f"{kind} {name} can be removed", lambda: cluster.pyswarm(kind, "rm", name, check=False).returncode == 0)


def new_task(cluster: Cluster, service: str, former: str) -> str:
    """Wait for the service's one task to be another one; return its id."""

    def replaced() -> str | None:
        running = cluster.tasks(service, running=True)
        return running[0]["ID"] if len(running) == 1 and running[0]["ID"] != former else None

    return wait_until("another task runs", replaced, 60.0)


def test_postgresql_keeps_its_data_when_its_container_is_replaced(software: Cluster, service_name: str) -> None:
    cluster = software

    def sql(statement: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["psql", "--tuples-only", "--no-align", "--host", "127.0.0.1", "--username", "postgres", "--command", statement]
        return cluster.pyswarm("exec", "--env", f"PGPASSWORD={PASSWORD}", service_name, *command, check=check)

    with content(cluster, "secret", "pg-password", PASSWORD):
        cluster.pyswarm(
            "service", "create", "--name", service_name, "--constraint", "node.hostname==n2", "--network", "app",
            "--secret", "source=pg-password,target=password,uid=101,gid=101,mode=0400",
            "--env", "POSTGRES_PASSWORD_FILE=/run/secrets/password", "--restart-delay", "0s",
            "--mount", f"type=volume,source={service_name},target=/var/lib/postgresql/data", cluster.image("postgres"),
        )  # fmt: skip
        (first,) = cluster.wait_running(service_name, 1, timeout_s=90.0)
        sql("create table writes (number integer)")
        sql("insert into writes select generate_series(1, 1000)")
        wrong = cluster.pyswarm(
            "exec", "--env", "PGPASSWORD=guess", service_name, "psql", "--host", "127.0.0.1", "--username", "postgres",
            "--command", "select 1", check=False,
        )  # fmt: skip
        assert "password authentication failed" in wrong.stderr

        cluster.pyswarm("service", "update", "--force", service_name, timeout_s=120.0)
        second = new_task(cluster, service_name, first["ID"])
        assert sql("select count(*) from writes").stdout.strip() == "1000"

        sql("insert into writes select generate_series(1001, 2000)")
        pid = next(t for t in cluster.tasks(service_name) if t["ID"] == second)["Status"]["ContainerStatus"]["PID"]
        cluster.lab.host("n2").run(["kill", "-9", str(pid)], check=False)
        new_task(cluster, service_name, second)
        assert sql("select count(*) from writes").stdout.strip() == "2000"

        for kind, name in (("service", service_name), ("secret", "pg-password")):
            assert PASSWORD not in cluster.pyswarm(kind, "inspect", name).stdout
        cluster.pyswarm("service", "rm", service_name)


def test_redis_keeps_its_data_and_runs_only_when_healthy(software: Cluster, service_name: str) -> None:
    cluster = software
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--constraint", "node.hostname==n3", "--network", "app",
        "--restart-delay", "0s",
        "--mount", f"type=volume,source={service_name},target=/data", cluster.image("redis"),
    )  # fmt: skip
    (task,) = cluster.wait_running(service_name, 1, timeout_s=60.0)
    assert cluster.pyswarm("exec", service_name, "redis-cli", "set", "word", "kept").stdout.strip() == "OK"
    container = cluster.request("n3", "GET", f"/containers/{task['Status']['ContainerStatus']['ContainerID']}/json")[1]
    assert container["State"]["Health"]["Status"] == "healthy"
    assert [mount["Name"] for mount in container["Mounts"]] == [service_name]

    cluster.pyswarm("exec", service_name, "redis-cli", "shutdown", "nosave", check=False)
    new_task(cluster, service_name, task["ID"])
    assert cluster.pyswarm("exec", service_name, "redis-cli", "get", "word").stdout.strip() == "kept"


def test_nginx_is_configured_by_a_template(software: Cluster, service_name: str) -> None:
    cluster = software
    with content(cluster, "config", "nginx-conf", NGINX_CONF, "--template-driver", "golang"):
        cluster.pyswarm(
            "service", "create", "--name", service_name, "--replicas", "2", "--replicas-max-per-node", "1", "--network", "app",
            "--constraint", "node.hostname!=n1", "--config", "source=nginx-conf,target=/etc/nginx/nginx.conf",
            "--health-cmd", "wget -q -O /dev/null http://127.0.0.1/", "--health-interval", "500ms", cluster.image("nginx"),
        )  # fmt: skip
        tasks = cluster.wait_running(service_name, 2)
        names = {node["ID"]: name for name, node in cluster.nodes().items()}
        for task in tasks:
            said = cluster.pyswarm("exec", f"{service_name}.{task['Slot']}", "wget", "-q", "-O", "-", "http://127.0.0.1/").stdout
            assert said == f"{service_name} {task['Slot']} of {names[task['NodeID']]}\n"
        cluster.pyswarm("service", "rm", service_name)


def test_a_task_that_becomes_unhealthy_is_replaced(software: Cluster, service_name: str) -> None:
    cluster = software
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--constraint", "node.hostname==n2", "--restart-delay", "0s",
        "--health-cmd", "test ! -e /tmp/ill", "--health-interval", "200ms", "--health-retries", "2",
        cluster.image("busybox"), "sleep", "1000",
    )  # fmt: skip
    (task,) = cluster.wait_running(service_name, 1)
    cluster.pyswarm("exec", service_name, "touch", "/tmp/ill")
    new_task(cluster, service_name, task["ID"])
    former = next(t for t in cluster.tasks(service_name) if t["ID"] == task["ID"])
    assert former["Status"]["State"] == "failed"
    assert "unhealthy" in former["Status"]["Err"]


def test_a_task_is_reached_from_a_manager_on_another_host(software: Cluster, service_name: str) -> None:
    cluster = software
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--constraint", "node.hostname==n2", "--network", "app", cluster.image("nginx")
    )
    cluster.wait_running(service_name, 1)
    manager = cluster.manager

    shouted = manager.run(["pyswarm", "exec", "-i", service_name, "tr", "a-z", "A-Z"], input="said\n" * 50_000)
    assert shouted.stdout == "SAID\n" * 50_000
    failed = cluster.pyswarm("exec", service_name, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (failed.returncode, failed.stdout, failed.stderr) == (7, "out\n", "err\n")

    manager.run(["sh", "-c", "mkdir /tmp/up && echo carried > /tmp/up/file"])
    cluster.pyswarm("cp", "/tmp/up", f"{service_name}:/tmp/up")
    cluster.pyswarm("cp", f"{service_name}:/tmp/up/file", "/tmp/back")
    assert manager.run(["cat", "/tmp/back"]).stdout == "carried\n"

    assert "nginx: worker process" in cluster.pyswarm("top", service_name).stdout
    figures = json.loads(cluster.pyswarm("stats", "--no-stream", "--format", "json", service_name).stdout)
    assert int(figures["PIDs"]) >= 2
    assert figures["MemUsage"][0] != "0"


def test_a_port_of_a_task_is_forwarded(software: Cluster, service_name: str) -> None:
    cluster = software
    cluster.pyswarm("service", "create", "--name", service_name, "--constraint", "node.hostname==n3", cluster.image("nginx"))
    cluster.wait_running(service_name, 1)
    with cluster.manager.popen(["pyswarm", "port-forward", service_name, "0:80"]) as forwarding:
        try:
            assert forwarding.stdout is not None
            port = forwarding.stdout.readline().split(":")[1].split(" ")[0]
            fetched = cluster.manager.run(["busybox", "wget", "-q", "-O", "-", f"http://127.0.0.1:{port}/"])
            assert fetched.stdout.strip() != ""
        finally:
            forwarding.terminate()


def test_a_task_is_reached_from_a_manager_that_does_not_lead(software: Cluster, service_name: str) -> None:
    cluster = software
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--constraint", "node.hostname==n3", cluster.image("busybox"), "sleep", "1000"
    )
    cluster.wait_running(service_name, 1)
    refused = cluster.pyswarm("exec", service_name, "true", host="n2", check=False)
    assert "can be reached from a manager, which this node is not" in refused.stderr
    cluster.pyswarm("node", "promote", "n2")
    try:
        assert cluster.wait_managers("n1", "n2") == "n1"
        shouted = cluster.lab.host("n2").run(["pyswarm", "exec", "-i", f"{service_name}.1", "tr", "a-z", "A-Z"], input="said\n")
        assert shouted.stdout == "SAID\n"
    finally:
        cluster.pyswarm("node", "demote", "n2")
        wait_until("n1 is the only manager", lambda: list(cluster.managers()) == ["n1"])


def test_a_client_that_goes_away_ends_the_stream_to_its_task(software: Cluster, service_name: str) -> None:
    cluster = software
    cluster.pyswarm(
        "service", "create", "--name", service_name, "--constraint", "node.hostname==n2", cluster.image("busybox"), "sleep", "1000"
    )
    cluster.wait_running(service_name, 1)
    node = cluster.lab.host("n2")
    streams = lambda: node.run(["ss", "-xH", "state", "connected"]).stdout.count("/run/pyswarm/pyswarm.sock")  # noqa: E731
    before = streams()
    with cluster.manager.popen(
        ["pyswarm", "exec", "-i", service_name, "sh", "-c", "while sleep 0.05; do echo here; done"]
    ) as client:
        try:
            assert client.stdout is not None
            client.stdout.readline()
            assert streams() == before + 1
        finally:
            client.kill()
    wait_until("the stream ended", lambda: streams() == before)
