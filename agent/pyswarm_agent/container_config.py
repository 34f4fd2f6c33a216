"""From a task to its container's configuration: image and spec merged by Docker's rules; pure.

Source: SwarmKit `agent/exec/dockerapi/container.go` (what becomes of a ContainerSpec), `template/` (placeholders), and Moby
`daemon/commit.go` `merge` (what an image supplies).
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Protocol

from pyswarm_agent.health.merging import merge_healthcheck
from pyswarm_agent.images import Image
from pyswarm_agent.placeholders import NodeNames, Values, expand, placeholder_values
from pyswarm_agent.resolver_config import resolv_conf, with_extra_hosts
from pyswarm_agent.runtime.records import (
    DEFAULT_STOP_GRACE_PERIOD_S,
    DEFAULT_STOP_SIGNAL,
    ContainerConfig,
    DeviceConfig,
    LogConfig,
    MountConfig,
    UlimitConfig,
)
from pyswarm_agent.task_place import network_configs
from pyswarm_common.container_spec import ContainerSpec, Privileges, SeccompOptions
from pyswarm_common.errors import InvalidArgument, PermissionDenied
from pyswarm_common.generic_resources import environment_of
from pyswarm_common.host_access import HostAccess, host_access, refusals
from pyswarm_common.objects import NodePermissions
from pyswarm_common.specs import SECOND_NS, ResourceAmounts, ResourceRequirements, TaskTemplate
from pyswarm_common.wire import TaskAssignment
from pyswarm_netplugin.published_ports.records import PublishedPort

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHORT_ID_LENGTH = 12
_LONGEST_ENV = 6 << 20
"""What the kernel gives a process at most, with its arguments."""


class NodeInfo(NodeNames, frozen=True, kw_only=True):
    """What a container may be told of its node, and what it may have there."""

    permissions: NodePermissions = NodePermissions()


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

    @property
    def network_names(self) -> Mapping[str, str]:
        """Names of the overlays that it is on, by id."""
        ...

    @property
    def ports(self) -> Sequence[PublishedPort]:
        """The ports of the host that lead there."""
        ...


def build_container_config(
    assignment: TaskAssignment,
    template: TaskTemplate,
    image: Image,
    *,
    sandbox: Sandbox,
    node: NodeInfo,
    mounts: Sequence[MountConfig] = (),
    layer_paths: Sequence[str],
    container_id: str,
) -> ContainerConfig:
    """Return how to run the task's container.

    Raises InvalidArgument when nothing can make it right, PermissionDenied for what the node's operator does not allow.
    """
    spec = template.container_spec or ContainerSpec()
    values = placeholder_values(assignment, node)
    access = allowed_access(spec, node)
    privileges = spec.privileges or Privileges()
    hostname = container_hostname(assignment, template, node) or _default_hostname(sandbox, node, container_id)
    resources = template.resources or ResourceRequirements()
    limits, reservations = resources.limits or ResourceAmounts(), resources.reservations or ResourceAmounts()
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
        mounts=tuple(mounts),
        resolv_conf=resolv_conf(sandbox.resolv_conf, spec.dns_config),
        hosts=with_extra_hosts(sandbox.hosts, spec.hosts or []),
        cap_add=tuple(spec.capability_add or ()),
        cap_drop=tuple(spec.capability_drop or ()),
        memory_bytes=limits.memory_bytes,
        nano_cpus=limits.nano_cpus,
        pids_limit=limits.pids,
        stop_signal=spec.stop_signal or image.config.stop_signal or DEFAULT_STOP_SIGNAL,
        stop_grace_period_s=_grace_period_s(spec),
        log=_log(template),
        healthcheck=merge_healthcheck(spec.healthcheck, image),
        open_stdin=spec.open_stdin,
        ulimits=tuple(UlimitConfig(name=u.name, soft=u.soft, hard=u.hard) for u in spec.ulimits or ()),
        sysctls=spec.sysctls or {},
        oom_score_adj=spec.oom_score_adj,
        no_new_privileges=privileges.no_new_privileges,
        seccomp=_seccomp(privileges.seccomp),
        apparmor="unconfined" if privileges.app_armor is not None and privileges.app_armor.mode == "disabled" else "",
        is_privileged=access.is_privileged,
        devices=tuple(DeviceConfig(source=d.source, target=d.target, access=d.access) for d in access.devices),
        cdi_devices=access.cdi_devices,
        swap_bytes=resources.swap_bytes,
        memory_swappiness=None if resources.memory_swappiness == -1 else resources.memory_swappiness,
        memory_reservation_bytes=reservations.memory_bytes,
        networks=network_configs(assignment, template, sandbox.network_names),
        ports=tuple(sandbox.ports),
    )


def container_hostname(assignment: TaskAssignment, template: TaskTemplate, node: NodeInfo) -> str:
    """Return the host name that the spec asks for, "" for none. Raises InvalidArgument for a bad placeholder."""
    spec = template.container_spec or ContainerSpec()
    return expand(spec.hostname, placeholder_values(assignment, node), "hostname")


def allowed_access(spec: ContainerSpec, node: NodeInfo) -> HostAccess:
    """Return what the container gets of its node. Raises PermissionDenied for what the operator does not allow, InvalidArgument.

    Labels of the image do not count: who makes an image must not decide this.
    """
    access = host_access(spec.labels)
    refused = refusals(access, node.permissions)
    if refused:
        what, options = " and ".join(r.what for r in refused), " ".join(r.option for r in refused)
        raise PermissionDenied(
            f"node {node.hostname or node.id} does not allow {what}: its operator can, by starting pyswarmd there with {options}"
        )
    return access


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


def _merged_env(spec: ContainerSpec, image: Image, values: Values, hostname: str) -> tuple[str, ...]:
    defaults = [DEFAULT_PATH, f"HOSTNAME={hostname}", *(["TERM=xterm"] if spec.tty else [])]
    return merge_env(defaults, image.config.env, _expanded_env(spec, values))


def _expanded_env(spec: ContainerSpec, values: Values) -> list[str]:
    found: list[str] = []
    length = 0
    for variable in spec.env or ():
        found.append(expand(variable, values, "env"))
        length += len(found[-1])
        if length > _LONGEST_ENV:
            raise InvalidArgument(f"expanding env failed: all variables together have more than {_LONGEST_ENV} characters")
    return found


def _default_hostname(sandbox: Sandbox, node: NodeInfo, container_id: str) -> str:
    return node.hostname if sandbox.netns_path is None else container_id[:SHORT_ID_LENGTH]


def _working_directory(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    return path


def _log(template: TaskTemplate) -> LogConfig:
    driver = template.log_driver
    return LogConfig() if driver is None else LogConfig(driver=driver.name, options=driver.options or {})


def _grace_period_s(spec: ContainerSpec) -> float:
    return DEFAULT_STOP_GRACE_PERIOD_S if spec.stop_grace_period is None else spec.stop_grace_period / SECOND_NS


def _seccomp(options: SeccompOptions | None) -> str:
    """Return what the runtime is told: "", `unconfined`, or the JSON of a profile."""
    if options is None or options.mode in ("", "default"):
        return ""
    if options.mode == "unconfined":
        return "unconfined"
    try:
        return base64.b64decode(options.profile, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the seccomp profile is not base64 of a JSON text: {error}") from error
