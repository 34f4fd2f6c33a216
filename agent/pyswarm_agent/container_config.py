"""From a task to its container's configuration: image and spec merged by Docker's rules; pure.

Source: SwarmKit `agent/exec/dockerapi/container.go` (what becomes of a ContainerSpec), `template/` (placeholders), and Moby
`daemon/commit.go` `merge` (what an image supplies).
"""

import re
from collections.abc import Sequence
from typing import Protocol

from pyswarm_agent.images import Image
from pyswarm_agent.runtime.records import (
    DEFAULT_STOP_GRACE_PERIOD_S,
    DEFAULT_STOP_SIGNAL,
    ContainerConfig,
    MountConfig,
)
from pyswarm_common.container_spec import ContainerSpec, Mount
from pyswarm_common.errors import InvalidArgument, Unimplemented
from pyswarm_common.generic_resources import environment_of
from pyswarm_common.objects import Record
from pyswarm_common.specs import SECOND_NS, ResourceAmounts, TaskTemplate
from pyswarm_common.wire import TaskAssignment

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHORT_ID_LENGTH = 12
_PLACEHOLDER = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")


class NodeInfo(Record, frozen=True, kw_only=True):
    """What a container may be told of its node."""

    id: str
    hostname: str
    architecture: str = ""
    os: str = "linux"


class Sandbox(Protocol):
    """A container's place on the network, as the netplugin made it; `netns_path` None is the host's own network."""

    @property
    def netns_path(self) -> str | None:
        """File of the network namespace."""
        ...

    @property
    def resolv_conf(self) -> str:
        """Text of the container's /etc/resolv.conf."""
        ...

    @property
    def hosts(self) -> str:
        """Text of the container's /etc/hosts."""
        ...


def build_container_config(
    assignment: TaskAssignment,
    template: TaskTemplate,
    image: Image,
    *,
    sandbox: Sandbox,
    node: NodeInfo,
    layer_paths: Sequence[str],
    container_id: str,
) -> ContainerConfig:
    """Return how to run the task's container. Raises InvalidArgument when nothing can make it right, Unimplemented."""
    spec = template.container_spec or ContainerSpec()
    values = _placeholder_values(assignment, node)
    hostname = container_hostname(assignment, template, node) or _default_hostname(sandbox, node, container_id)
    limits = (template.resources.limits if template.resources else None) or ResourceAmounts()
    return ContainerConfig(
        id=container_id,
        name=assignment.name,
        image=spec.image,
        image_id=image.id,
        labels={**image.config.labels, **(spec.labels or {}), **_swarm_labels(assignment, node)},
        args=_merged_args(spec, image),
        env=(*_merged_env(spec, image, values, hostname), *environment_of(assignment.generic_resources)),
        cwd=_working_directory(spec.dir or image.config.working_dir or "/"),
        user=spec.user or image.config.user,
        groups=tuple(spec.groups or ()),
        hostname=hostname,
        netns_path=sandbox.netns_path,
        layer_paths=tuple(str(path) for path in layer_paths),
        read_only=spec.read_only,
        tty=spec.tty,
        init=bool(spec.init),
        mounts=tuple(_mount(mount, values) for mount in spec.mounts or ()),
        resolv_conf=sandbox.resolv_conf,
        hosts=_with_extra_hosts(sandbox.hosts, spec.hosts or []),
        cap_add=tuple(spec.capability_add or ()),
        cap_drop=tuple(spec.capability_drop or ()),
        memory_bytes=limits.memory_bytes,
        nano_cpus=limits.nano_cpus,
        pids_limit=limits.pids,
        stop_signal=spec.stop_signal or image.config.stop_signal or DEFAULT_STOP_SIGNAL,
        stop_grace_period_s=_grace_period_s(spec),
    )


def container_hostname(assignment: TaskAssignment, template: TaskTemplate, node: NodeInfo) -> str:
    """Return the host name that the spec asks for, "" for none. Raises InvalidArgument for a bad placeholder."""
    spec = template.container_spec or ContainerSpec()
    return expand(spec.hostname, _placeholder_values(assignment, node), "hostname")


def expand(text: str, values: dict[str, str], field: str) -> str:
    """Return `text` with its `{{.Service.Name}}` placeholders filled in. Raises InvalidArgument for any other one."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            raise InvalidArgument(
                f"expanding {field} failed: cannot evaluate {match.group(0)}; known are {', '.join(sorted(values))}"
            )
        return values[name]

    return _PLACEHOLDER.sub(value, text)


def merge_env(*layers: Sequence[str]) -> tuple[str, ...]:
    """Return the variables of all layers: a later `NAME=value` replaces an earlier one in its place, a bare `NAME` removes it."""
    merged: dict[str, str] = {}
    for layer in layers:
        for variable in layer:
            name, equals, _ = variable.partition("=")
            if equals:
                merged[name] = variable
            else:
                merged.pop(name, None)
    return tuple(merged.values())


def _placeholder_values(assignment: TaskAssignment, node: NodeInfo) -> dict[str, str]:
    return {
        ".Service.ID": assignment.service_id,
        ".Service.Name": assignment.service_name,
        ".Node.ID": node.id,
        ".Node.Hostname": node.hostname,
        ".Node.Platform.Architecture": node.architecture,
        ".Node.Platform.OS": node.os,
        ".Task.ID": assignment.task_id,
        ".Task.Name": assignment.name,
        ".Task.Slot": assignment.place,
    }


def _swarm_labels(assignment: TaskAssignment, node: NodeInfo) -> dict[str, str]:
    return {
        "com.docker.swarm.node.id": node.id,
        "com.docker.swarm.service.id": assignment.service_id,
        "com.docker.swarm.service.name": assignment.service_name,
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": assignment.task_id,
        "com.docker.swarm.task.name": assignment.name,
    }


def _merged_args(spec: ContainerSpec, image: Image) -> tuple[str, ...]:
    entrypoint = tuple(spec.command) if spec.command else image.config.entrypoint
    args = tuple(spec.args or ())
    if not spec.command and not args:
        args = image.config.cmd
    if entrypoint == ("",):
        entrypoint = ()
    if not (entrypoint + args):
        raise InvalidArgument("no command specified")
    return entrypoint + args


def _merged_env(spec: ContainerSpec, image: Image, values: dict[str, str], hostname: str) -> tuple[str, ...]:
    defaults = [DEFAULT_PATH, f"HOSTNAME={hostname}", *(["TERM=xterm"] if spec.tty else [])]
    return merge_env(defaults, image.config.env, [expand(variable, values, "env") for variable in spec.env or ()])


def _default_hostname(sandbox: Sandbox, node: NodeInfo, container_id: str) -> str:
    return node.hostname if sandbox.netns_path is None else container_id[:SHORT_ID_LENGTH]


def _working_directory(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    return path


def _grace_period_s(spec: ContainerSpec) -> float:
    return DEFAULT_STOP_GRACE_PERIOD_S if spec.stop_grace_period is None else spec.stop_grace_period / SECOND_NS


def _with_extra_hosts(hosts: str, extra: list[str]) -> str:
    if not extra:
        return hosts
    separator = "" if not hosts or hosts.endswith("\n") else "\n"
    return hosts + separator + "".join(f"{line}\n" for line in extra)


def _mount(mount: Mount, values: dict[str, str]) -> MountConfig:
    target = expand(mount.target, values, "mount target")
    source = expand(mount.source, values, "mount source")
    if not target.startswith("/"):
        raise InvalidArgument(
            f"invalid mount config for type {mount.type!r}: invalid mount path: '{target}' mount path must be absolute"
        )
    match mount.type:
        case "bind":
            return MountConfig(type="bind", source=source, target=target, read_only=mount.read_only)
        case "tmpfs":
            return MountConfig(type="tmpfs", target=target, read_only=mount.read_only)
        case "volume":
            raise Unimplemented(f"volume mounts are not offered yet: {target}")
    raise InvalidArgument(f"mount type unknown: {mount.type!r}")
