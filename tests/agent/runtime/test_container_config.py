"""From a task to its container: Docker's merge rules."""

from typing import Any

import msgspec
import pytest

from pyswarm_agent.container_config import NodeInfo, build_container_config, merge_env
from pyswarm_agent.images import Image, ImageConfig
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.generic_resources import parse_generic_resources
from pyswarm_common.objects import Record
from pyswarm_common.specs import TaskTemplate
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import TaskAssignment
from pyswarm_netplugin.published_ports.records import PublishedPort

ASSIGNMENT = TaskAssignment(
    task_id="t1", task_spec_id="ts", desired_state=TaskState.RUNNING, service_id="s1", service_name="web", slot=3
)
NODE = NodeInfo(id="n1", hostname="host-a", architecture="x86_64")
CONTAINER_ID = "0123456789abcdef" * 4
IMAGE = Image(
    id="sha256:abc",
    config=ImageConfig(
        env=("PATH=/opt/bin", "LANG=C"),
        entrypoint=("/entry",),
        cmd=("serve", "--all"),
        working_dir="/srv",
        user="web",
        labels={"made.by": "us", "shared": "image"},
        stop_signal="SIGQUIT",
    ),
)


class Place(Record, frozen=True, kw_only=True):
    netns_path: str | None = "/run/netns/x"
    resolv_conf: str = "nameserver 127.0.0.11\n"
    hosts: str = "127.0.0.1\tlocalhost\n"
    ports: tuple[PublishedPort, ...] = ()
    network_names: dict[str, str] = {}


def build(
    spec: dict[str, Any],
    *,
    image: Image = IMAGE,
    place: Place | None = None,
    assignment: TaskAssignment = ASSIGNMENT,
    node: NodeInfo = NODE,
    **template: Any,
) -> ContainerConfig:
    whole = msgspec.convert({"ContainerSpec": {"Image": "web:1", **spec}, **template}, TaskTemplate)
    return build_container_config(
        assignment, whole, image, sandbox=place or Place(), node=node, layer_paths=["/l/2", "/l/1"], container_id=CONTAINER_ID
    )


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (None, None, ("/entry", "serve", "--all")),
        (None, ["check"], ("/entry", "check")),
        (["sh"], None, ("sh",)),
        (["sh", "-c"], ["true"], ("sh", "-c", "true")),
        ([""], ["ls", "-l"], ("ls", "-l")),
    ],
)
def test_command_and_args(command: list[str] | None, args: list[str] | None, expected: tuple[str, ...]) -> None:
    assert build({"Command": command, "Args": args}).args == expected


def test_no_command() -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        build({}, image=Image(id="sha256:0"))


def test_env_is_merged_in_order() -> None:
    config = build({"Env": ["LANG=de", "SLOT={{.Task.Slot}}", "PATH"], "TTY": True})
    assert config.env == ("HOSTNAME=0123456789ab", "TERM=xterm", "LANG=de", "SLOT=3")


def test_path_has_a_default() -> None:
    assert build({"Command": ["x"]}, image=Image(id="sha256:0")).env[0].startswith("PATH=/usr/local/sbin:")


def test_later_variables_replace_and_bare_names_remove() -> None:
    assert merge_env(["A=1", "B=2"], ["B=3", "C=4"], ["A"]) == ("B=3", "C=4")


def test_placeholders() -> None:
    env = ["A={{.Service.Name}}/{{.Service.ID}}", "B={{ .Task.Name }} {{.Task.ID}}", "C={{.Node.Hostname}}-{{.Node.ID}}"]
    config = build({"Hostname": "{{.Service.Name}}-{{.Task.Slot}}", "Env": env})
    assert config.hostname == "web-3"
    assert config.env[-3:] == ("A=web/s1", "B=web.3.t1 t1", "C=host-a-n1")
    assert "HOSTNAME=web-3" in config.env


def test_a_task_without_a_slot_is_named_by_its_node() -> None:
    of_node = msgspec.structs.replace(ASSIGNMENT, slot=0, node_id="n1")
    config = build({"Env": ["A={{.Task.Name}}", "B={{.Task.Slot}}"]}, assignment=of_node)
    assert (config.name, config.env[-2:]) == ("web.n1.t1", ("A=web.n1.t1", "B=n1"))


def test_a_container_is_told_what_it_got() -> None:
    given = parse_generic_resources(["gpu=uuid1", "gpu=uuid2", "ssd=2"])
    config = build({"Env": ["A=1"]}, assignment=msgspec.structs.replace(ASSIGNMENT, generic_resources=given))
    assert config.env[-3:] == ("A=1", "DOCKER_RESOURCE_GPU=uuid1,uuid2", "DOCKER_RESOURCE_SSD=2")


def test_unknown_placeholder() -> None:
    with pytest.raises(InvalidArgument, match=r"expanding env failed: cannot evaluate \{\{.Nope\}\}"):
        build({"Env": ["A={{.Nope}}"]})


def test_image_supplies_what_the_spec_leaves_out() -> None:
    config = build({})
    assert (config.cwd, config.user, config.stop_signal, config.image_id) == ("/srv", "web", "SIGQUIT", "sha256:abc")
    config = build({"Dir": "/d", "User": "1:2", "StopSignal": "SIGINT"})
    assert (config.cwd, config.user, config.stop_signal) == ("/d", "1:2", "SIGINT")


def test_relative_directory() -> None:
    with pytest.raises(InvalidArgument, match="needs to be an absolute path"):
        build({"Dir": "relative"})


def test_labels() -> None:
    assert build({"Labels": {"shared": "spec", "com.docker.swarm.task.id": "forged"}}).labels == {
        "made.by": "us",
        "shared": "spec",
        "com.docker.swarm.node.id": "n1",
        "com.docker.swarm.service.id": "s1",
        "com.docker.swarm.service.name": "web",
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": "t1",
        "com.docker.swarm.task.name": "web.3.t1",
    }


def test_network_and_names() -> None:
    config = build({"Hosts": ["10.1.1.1 db"]})
    assert (config.name, config.hostname, config.netns_path) == ("web.3.t1", CONTAINER_ID[:12], "/run/netns/x")
    assert config.hosts == "127.0.0.1\tlocalhost\n10.1.1.1 db\n"
    assert config.layer_paths == ("/l/2", "/l/1")
    assert build({}, place=Place(netns_path=None)).hostname == "host-a"


def test_limits_and_grace() -> None:
    config = build({"StopGracePeriod": 1_500_000_000}, Resources={"Limits": {"MemoryBytes": 64, "NanoCPUs": 5, "Pids": 7}})
    assert (config.memory_bytes, config.nano_cpus, config.pids_limit) == (64, 5, 7)
    assert config.stop_grace_period_s == 1.5
    assert build({"StopGracePeriod": 0}).stop_grace_period_s == 0
    assert build({}).stop_grace_period_s == 10
