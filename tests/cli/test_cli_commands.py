"""The commands against the real API."""

import asyncio
import io
import json
import struct
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID
from click.testing import Result

from pyswarm_common.ids import new_id
from pyswarm_common.objects import Service, Task, TaskStatus
from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store
from pyswarm_node.api.fake_control import FakeNodeControl

Run = Callable[..., Awaitable[Result]]


async def add_task(store: Store, service_name: str, slot: int, state: TaskState, **changes: Any) -> Task:
    """Add a task to a service, as the orchestrator and an agent would."""
    service = store.view.services.named(service_name)[0]
    status = TaskStatus(state=state, at_ns=1_700_000_000_000_000_000, error=changes.pop("error", ""))
    fields = {"desired_state": TaskState.RUNNING, "node_id": WORKER_ID, **changes}
    task = Task(
        id=new_id(),
        task_spec_id=service.task_spec_id,
        spec_generation=service.spec_generation,
        service_id=service.id,
        slot=slot,
        status=status,
        **fields,
    )
    await store.update(lambda tx: tx.create(task))
    return task


async def created(pyswarm: Run, *arguments: str) -> str:
    result = await pyswarm("service", "create", "--detach", *arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout.strip())


async def test_service_create_and_inspect(pyswarm: Run) -> None:
    await pyswarm("network", "create", "app")
    service_id = await created(
        pyswarm, "--name", "web", "--network", "app", "--env", "A=1", "--replicas", "2", "nginx:1", "sh", "-c", "x"
    )
    (found,) = json.loads((await pyswarm("service", "inspect", "web")).stdout)
    assert found["ID"] == service_id
    container = found["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert (container["Image"], container["Args"], container["Env"]) == ("nginx:1", ["sh", "-c", "x"], ["A=1"])
    assert (await pyswarm("service", "inspect", "--format", "{{.Spec.Name}}", service_id[:6])).stdout == "web\n"
    pretty = (await pyswarm("service", "inspect", "--pretty", "web")).stdout
    for line in ("Service Mode: replicated", "Replicas: 2", " Image: nginx:1", " Args: sh -c x", " Delay: 5s", "Networks: app"):
        assert line in pretty


async def test_service_ls(pyswarm: Run, store: Store) -> None:
    service_id = await created(pyswarm, "--name", "web", "--replicas", "2", "nginx:1@sha256:" + "0" * 64)
    await created(pyswarm, "--name", "api", "--replicas-max-per-node", "1", "nginx:2")
    await add_task(store, "web", 1, TaskState.RUNNING)
    lines = (await pyswarm("service", "ls")).stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]
    assert lines[1].split()[1:] == ["api", "replicated", "0/1", "(max", "1", "per", "node)", "nginx:2"]
    assert lines[2].split() == [service_id[:12], "web", "replicated", "1/2", "nginx:1"]
    row = json.loads((await pyswarm("service", "ls", "--format", "json", "--filter", "name=web")).stdout)
    assert row["Replicas"] == "1/2"
    assert (await pyswarm("service", "list", "-q", "-f", "name=web")).stdout == f"{service_id[:12]}\n"


async def test_service_ps_shows_where_tasks_are_and_why_they_failed(pyswarm: Run, store: Store) -> None:
    await created(pyswarm, "--name", "web", "--replicas", "2", "nginx:1")
    await add_task(store, "web", 1, TaskState.REJECTED, error="No such image: nginx:1", desired_state=TaskState.SHUTDOWN)
    await add_task(store, "web", 1, TaskState.RUNNING)
    await add_task(store, "web", 2, TaskState.PENDING, node_id="", error="no suitable node (insufficient resources on 2 nodes)")
    rows = [json.loads(line) for line in (await pyswarm("service", "ps", "web", "--format", "json")).stdout.splitlines()]
    assert [(row["Name"], row["Node"], row["CurrentState"].split()[0], row["Error"]) for row in rows] == [
        ("web.1", "worker1", "Running", ""),
        (" \\_ web.1", "worker1", "Rejected", "No such image: nginx:1"),
        ("web.2", "", "Pending", "no suitable node (insufficient resources on 2 nodes)"),
    ]
    filtered = (await pyswarm("service", "ps", "-q", "-f", "desired-state=shutdown", "web")).stdout
    assert filtered == rows[1]["ID"] + "\n"
    assert len((await pyswarm("node", "ps", "worker1", "-q")).stdout.splitlines()) == 2
    assert (await pyswarm("node", "ps", "-q")).stdout == ""


async def test_published_ports_from_one_end_to_the_other(pyswarm: Run, store: Store) -> None:
    await pyswarm("network", "create", "app")
    published = ("-p", "8000-8001:80-81", "--publish", "mode=host,target=53,protocol=udp", "-p", "9000:90")
    await created(pyswarm, "--name", "web", "--balance", "source-hash", "--network", "app", *published, "nginx:1")
    listed = "*:8000-8001->80-81/tcp, *:9000->90/tcp\n"
    assert (await pyswarm("service", "ls", "--format", "{{.Ports}}")).stdout == listed
    given = PortConfig(protocol="udp", target_port=53, published_port=32801, publish_mode="host")
    task = await add_task(store, "web", 1, TaskState.RUNNING)
    with_ports = msgspec.structs.replace(task, status=msgspec.structs.replace(task.status, ports=(given,)))
    await store.update(lambda tx: tx.update(with_ports))
    assert (await pyswarm("service", "ps", "web", "--format", "{{.Ports}}")).stdout == "*:32801->53/udp\n"
    pretty = (await pyswarm("service", "inspect", "--pretty", "web")).stdout
    assert "Networks: app\nEndpoint Mode: vip\nPorts:\n PublishedPort = 8000\n  Protocol = tcp\n  TargetPort = 80\n" in pretty
    assert " pyswarm.balance: source-hash" in pretty
    changes = ("--publish-rm", "53/udp", "--publish-rm", "90", "--publish-add", "9001:90/sctp", "--network-rm", "app")
    assert (await pyswarm("service", "update", "-d", *changes, "web")).exit_code == 0
    assert (await pyswarm("service", "ls", "--format", "{{.Ports}}")).stdout == "*:9001->90/sctp, *:8000-8001->80-81/tcp\n"
    refused = await pyswarm("service", "create", "-d", "-p", "8000:80", "nginx:1")
    assert (refused.exit_code, "port '8000' is already in use by service 'web'" in refused.stderr) == (1, True)


async def test_service_scale_and_update_change_the_spec(pyswarm: Run) -> None:
    await created(pyswarm, "--name", "web", "nginx:1")
    await created(pyswarm, "--name", "api", "nginx:1")
    result = await pyswarm("service", "scale", "--detach", "web=4", "api=2")
    assert result.stdout == "web scaled to 4\napi scaled to 2\n"
    result = await pyswarm("service", "update", "-d", "--image", "nginx:2", "--env-add", "A=1", "--force", "web")
    assert (result.exit_code, result.stdout) == (0, "web\n")
    (found,) = json.loads((await pyswarm("service", "inspect", "web")).stdout)
    template = found["Spec"]["TaskTemplate"]
    assert found["Spec"]["Mode"] == {"Replicated": {"Replicas": 4}}
    assert (template["ContainerSpec"]["Image"], template["ContainerSpec"]["Env"], template["ForceUpdate"]) == (
        "nginx:2",
        ["A=1"],
        1,
    )


async def test_service_rm(pyswarm: Run, store: Store) -> None:
    await created(pyswarm, "--name", "web", "nginx:1")
    result = await pyswarm("service", "rm", "nosuch", "web")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "web\n", "Error: service nosuch not found\n")
    assert not list(store.view.services)


async def test_service_rm_waits_until_its_tasks_are_gone(pyswarm: Run, store: Store) -> None:
    await created(pyswarm, "--name", "web", "nginx:1")
    task = await add_task(store, "web", 1, TaskState.RUNNING)
    with store.watch(Service) as changes:
        removing = asyncio.ensure_future(pyswarm("service", "rm", "--wait", "web"))
        await changes.wait()
    await asyncio.sleep(0.2)
    assert not removing.done()
    await store.update(lambda tx: tx.delete(Task, task.id))
    assert (await asyncio.wait_for(removing, 5)).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["service", "create", "-d", "--name", "bad name", "nginx"], "Error: name must be valid as a DNS name component\n"),
        (["service", "create", "-d", "--name", "web", "Nginx:"], 'Error: ContainerSpec: "Nginx:" is not a valid repository/tag\n'),
        (["service", "ps", "nosuch"], "Error: service nosuch not found\n"),
        (["network", "inspect", "nosuch"], "Error: network nosuch not found\n"),
        (["node", "inspect", "nosuch"], "Error: node nosuch not found\n"),
        (["service", "logs", "nosuch"], "Error: no such service or task: nosuch\n"),
        (["service", "ls", "--filter", "bogus=1"], "Error: Invalid filter 'bogus'\n"),
        (["image", "inspect", "nosuch:1"], "Error: No such image: nosuch:1\n"),
    ],
)
async def test_refusals_are_one_clear_line(pyswarm: Run, arguments: list[str], error: str) -> None:
    result = await pyswarm(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", error)


async def test_wrong_usage_ends_with_2(pyswarm: Run) -> None:
    for arguments in (
        ["service", "scale", "web"],
        ["service", "create"],
        ["nosuch"],
        ["service", "ls", "--format", "{{.X}}", "-f", "x"],
    ):
        result = await pyswarm(*arguments)
        assert result.exit_code == 2, result.output
        assert "Error: " in result.stderr


async def test_networks(pyswarm: Run, store: Store) -> None:
    network_id = (
        await pyswarm("network", "create", "--subnet", "10.9.0.0/24", "--label", "a=b", "--internal", "app")
    ).stdout.strip()
    assert store.view.networks.must_get(network_id).spec.internal
    lines = (await pyswarm("network", "ls")).stdout.splitlines()
    assert lines[0].split() == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    assert [network_id[:12], "app", "overlay", "swarm"] in [line.split() for line in lines]
    (found,) = json.loads((await pyswarm("network", "inspect", "app")).stdout)
    assert (found["Labels"], found["IPAM"]["Config"][0]["Subnet"]) == ({"a": "b"}, "10.9.0.0/24")
    result = await pyswarm("network", "create", "app")
    assert (result.exit_code, result.stderr) == (1, "Error: network with name app already exists\n")
    assert (await pyswarm("network", "rm", "app")).stdout == "app\n"
    result = await pyswarm("network", "create", "--gateway", "10.9.0.1", "app")
    assert (result.exit_code, "needs the --subnet" in result.stderr) == (2, True)


async def test_nodes(pyswarm: Run, store: Store) -> None:
    lines = [line.split() for line in (await pyswarm("node", "ls")).stdout.splitlines()]
    assert lines[0] == ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER", "STATUS", "ENGINE", "VERSION"]
    assert lines[1] == [MANAGER_ID, "*", "vm", "Ready", "Active", "Leader", "20.10.24"]
    assert lines[2] == [WORKER_ID, "worker1", "Ready", "Active", "20.10.24"]
    assert (await pyswarm("node", "ls", "-q", "--filter", "role=worker")).stdout == f"{WORKER_ID}\n"
    assert (await pyswarm("node", "inspect", "self", "--format", "{{.Description.Hostname}}")).stdout == "vm\n"
    pretty = (await pyswarm("node", "inspect", "--pretty", "worker1")).stdout
    assert "Hostname: worker1" in pretty
    assert " Memory: 23.54GiB" in pretty
    result = await pyswarm("node", "update", "--label-add", "disk=ssd", "--availability", "drain", "worker1")
    assert (result.exit_code, result.stdout) == (0, "worker1\n")
    assert store.view.nodes.must_get(WORKER_ID).spec.labels == {"disk": "ssd"}
    assert store.view.nodes.must_get(WORKER_ID).spec.availability == "drain"
    assert (await pyswarm("node", "update", "--label-rm", "nosuch", "worker1")).exit_code == 2
    assert (await pyswarm("node", "promote", "worker1")).stdout == "Node worker1 promoted to a manager in the swarm.\n"
    assert store.view.nodes.must_get(WORKER_ID).spec.role == "manager"
    assert (await pyswarm("node", "promote", "worker1")).stdout == f"Node {WORKER_ID} is already a manager.\n"
    assert (await pyswarm("node", "demote", "worker1")).stdout == "Manager worker1 demoted in the swarm.\n"
    result = await pyswarm("node", "demote", "worker1", "self")
    assert (result.exit_code, result.stdout) == (1, f"Node {WORKER_ID} is already a worker.\n")
    assert "attempting to demote the last manager of the swarm" in result.stderr
    result = await pyswarm("node", "rm", "worker1")
    assert (result.exit_code, "is not down and can't be removed" in result.stderr) == (1, True)
    assert (await pyswarm("node", "rm", "--force", "worker1")).stdout == "worker1\n"


async def test_swarm_join_token_rotates(pyswarm: Run, store: Store) -> None:
    before = (await pyswarm("swarm", "join-token", "-q", "worker")).stdout.strip()
    assert before == store.view.cluster.worker_join_token
    assert f"pyswarm swarm join --token {before} 127.0.0.1:2377" in (await pyswarm("swarm", "join-token", "worker")).stdout
    after = (await pyswarm("swarm", "join-token", "--rotate", "-q", "worker")).stdout.strip()
    assert after == store.view.cluster.worker_join_token != before


async def test_swarm_update(pyswarm: Run, store: Store) -> None:
    assert (await pyswarm("swarm", "update", "--task-history-limit", "2", "--dispatcher-heartbeat", "3s")).exit_code == 0
    assert (store.view.cluster.task_history_limit, store.view.cluster.heartbeat_period_s) == (2, 3.0)
    assert (await pyswarm("swarm", "update")).exit_code == 2


async def test_swarm_init_join_and_leave(pyswarm: Run, control: FakeNodeControl) -> None:
    result = await pyswarm("swarm", "init")
    assert result.exit_code == 1
    assert 'Use "pyswarm swarm leave" to leave this swarm' in result.stderr
    result = await pyswarm("swarm", "leave")
    assert (result.exit_code, "Use `--force` to ignore" in result.stderr) == (1, True)
    manager = control.manager
    assert (await pyswarm("swarm", "leave", "--force")).stdout == "Node left the swarm.\n"
    control.manager = manager
    result = await pyswarm("swarm", "init", "--advertise-addr", "192.0.2.1", "--task-history-limit", "3")
    assert f"current node ({MANAGER_ID}) is now a manager" in result.stdout
    assert "pyswarm swarm join --token SWMTKN-1-" in result.stdout
    request = control.requests[-1][1]
    assert (request["AdvertiseAddr"], request["Spec"]) == ("192.0.2.1", {"Orchestration": {"TaskHistoryRetentionLimit": 3}})
    await pyswarm("swarm", "leave", "--force")
    result = await pyswarm("swarm", "join", "--token", "SWMTKN-1-x-y", "192.0.2.1:2377")
    assert result.stdout == "This node joined a swarm as a worker.\n"
    assert control.requests[-1][1]["RemoteAddrs"] == ["192.0.2.1:2377"]
    result = await pyswarm("service", "ls")
    assert (result.exit_code, "Worker nodes can't be used to view or modify cluster state" in result.stderr) == (1, True)


async def test_info_and_version(pyswarm: Run) -> None:
    text = (await pyswarm("info")).stdout
    assert " State: active" in text
    assert " Is Manager: true" in text
    assert (await pyswarm("info", "--format", "{{.Swarm.LocalNodeState}}")).stdout == "active\n"
    assert json.loads((await pyswarm("info", "--format", "json")).stdout)["Name"] == "vm"
    text = (await pyswarm("version")).stdout
    assert "Client:" in text
    assert " API version: 1.41" in text


def image_archive(folder: Path) -> Path:
    """Make what `docker save` makes of an image of one empty layer."""
    import hashlib

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w"):
        pass
    digest = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest]}}
    ).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = json.dumps([{"Config": f"{name}.json", "RepoTags": ["tiny:1"], "Layers": ["layer.tar"]}]).encode()
    path = folder / "tiny.tar"
    with tarfile.open(path, "w") as archive:
        for file_name, data in ((f"{name}.json", config), ("layer.tar", layer.getvalue()), ("manifest.json", manifest)):
            member = tarfile.TarInfo(file_name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


async def test_images(pyswarm: Run, tmp_path: Path) -> None:
    archive = image_archive(tmp_path)
    result = await pyswarm("image", "load", "--input", str(archive))
    assert (result.exit_code, result.stdout) == (0, "Loaded image: tiny:1\n"), result.output
    result = await pyswarm("image", "load", input=archive.read_bytes())
    assert "Loaded image: tiny:1" in result.stdout
    lines = [line.split() for line in (await pyswarm("image", "ls")).stdout.splitlines()]
    assert lines[0] == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert lines[1][:2] == ["tiny", "1"]
    assert (await pyswarm("image", "tag", "tiny:1", "registry.example.com:5000/tiny")).exit_code == 0
    rows = [json.loads(line) for line in (await pyswarm("image", "ls", "--format", "json")).stdout.splitlines()]
    assert {(row["Repository"], row["Tag"]) for row in rows} == {("tiny", "1"), ("registry.example.com:5000/tiny", "latest")}
    assert len((await pyswarm("image", "ls", "-q")).stdout.splitlines()) == 1
    assert json.loads((await pyswarm("image", "inspect", "tiny:1")).stdout)[0]["Architecture"] == "amd64"
    assert "Untagged: tiny:1" in (await pyswarm("image", "rm", "tiny:1")).stdout
    result = await pyswarm("image", "load", input=b"no tarball")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


async def test_a_pull_that_fails_says_why(pyswarm: Run) -> None:
    result = await pyswarm("image", "pull", "127.0.0.1:1/nosuch:1")
    assert result.exit_code == 1
    assert "Error: " in result.stderr
    assert "127.0.0.1:1" in result.stderr


async def test_help_needs_no_daemon_and_every_command_has_an_example() -> None:
    import click

    from pyswarm_cli.main import pyswarm

    def commands(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
        context = click.Context(group)
        found = []
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            found += commands(command, f"{path} {name}") if isinstance(command, click.Group) else [(f"{path} {name}", command)]
        return found

    paths: dict[click.Command, list[str]] = {}
    for path, command in commands(pyswarm, "pyswarm"):
        paths.setdefault(command, []).append(path)  # some have two names, such as `pull` and `image pull`
    without = [named for command, named in paths.items() if not any(path in str(command.help) for path in named)]
    assert [named for named in without if " lab " not in named[0]] == []


async def test_no_daemon_is_told_with_what_to_do(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from pyswarm_cli.main import pyswarm

    result = CliRunner().invoke(pyswarm, ["-H", f"unix://{tmp_path}/x.sock", "service", "ls"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: pyswarmd does not run: nobody listens on unix://")
    assert f"`pyswarmd --runtime-dir {tmp_path}`" in result.stderr
    result = CliRunner().invoke(pyswarm, ["-H", "tcp://127.0.0.1:1", "service", "ls"])
    assert (result.exit_code, "not of the form unix:///PATH" in result.stderr) == (2, True)


def test_frames_are_taken_apart() -> None:
    from pyswarm_cli.frames import read_frames

    data = struct.pack(">BxxxL", 1, 3) + b"a b" + struct.pack(">BxxxL", 2, 0) + struct.pack(">BxxxL", 1, 9) + b"cut"
    assert list(read_frames(io.BytesIO(data).read1)) == [[(1, b"a b"), (2, b"")], [(1, b"cut")]]
