"""What of a create or update body is not offered: refused by name, so that nothing is silently without effect. Pure.

Members that describe the client's side (attached streams, id file, console size) pass.
"""

from collections.abc import Mapping
from typing import Any

from pyswarm_agent.local_containers.create_body import CreateBody
from pyswarm_common.errors import InvalidArgument, NotFound, Unimplemented

_NOT_OFFERED = {
    "Annotations": "--annotation",
    "CpuRealtimePeriod": "--cpu-rt-period",
    "CpuRealtimeRuntime": "--cpu-rt-runtime",
    "KernelMemory": "--kernel-memory",
    "KernelMemoryTCP": "KernelMemoryTCP",
    "OomKillDisable": "--oom-kill-disable",
    "StorageOpt": "--storage-opt",
    "CpuCount": "--cpu-count",
    "CpuPercent": "--cpu-percent",
    "IOMaximumIOps": "--io-maxiops",
    "IOMaximumBandwidth": "--io-maxbandwidth",
}
_UPDATABLE_TEXT = (
    "memory memoryreservation memoryswap memoryswappiness nanocpus cpushares cpuperiod cpuquota cpusetcpus cpusetmems "
    "blkioweight pidslimit restartpolicy"
)
_UPDATABLE = frozenset(_UPDATABLE_TEXT.split())
_RUNTIMES = ("", "crun", "runc", "default")


def refuse_what_is_not_offered(body: CreateBody, posted: Mapping[str, Any]) -> None:
    """Raise Unimplemented for what a create body asks for and nobody would do, InvalidArgument for what there is not."""
    host = body.host_config
    posted_host = posted.get("HostConfig") or {}
    refused: dict[str, Any] = {
        "--pid": host.pid_mode,
        "--ipc": host.ipc_mode if host.ipc_mode not in ("", "private", "shareable") else "",
        "--uts": host.uts_mode,
        "--userns": host.userns_mode if host.userns_mode != "host" else "",
        "--cgroupns": "" if posted_host.get("CgroupnsMode") in (None, "", "private") else posted_host["CgroupnsMode"],
        "--cgroup-parent": host.cgroup_parent,
        "--volumes-from": host.volumes_from,
        "--domainname": body.domainname,
        "--volume-driver": host.volume_driver if host.volume_driver != "local" else "",
        "NetworkDisabled": posted.get("NetworkDisabled"),
        **{option: posted_host.get(member) for member, option in _NOT_OFFERED.items()},
    }
    if host.links:
        raise Unimplemented(
            "--link is not offered: containers on one network find each other by name (network create, then run --network)"
        )
    for option, value in refused.items():
        if value:
            raise Unimplemented(f"{option} is not supported yet")
    if posted_host.get("Runtime") not in (None, *_RUNTIMES):
        raise InvalidArgument(f"unknown or invalid runtime name: {posted_host['Runtime']}")
    if posted_host.get("Isolation") not in (None, "", "default"):
        raise InvalidArgument(f"invalid isolation '{posted_host['Isolation']}' on linux")


def refuse_to_update(posted: Mapping[str, Any]) -> None:
    """Raise Unimplemented for what an update body asks for and only a new container can have."""
    for member, value in posted.items():
        if value and member.lower() not in _UPDATABLE:
            raise Unimplemented(f"{member} cannot be changed by an update: make the container anew")


def check_platform(asked: str, image: str, operating_system: str, architecture: str) -> None:
    """Raise NotFound unless an image is for the platform that was asked for, as `linux/amd64`; "" is any."""
    has = (operating_system or "linux", architecture)
    if asked and architecture and tuple(asked.lower().split("/"))[:2] not in (has, has[:1]):
        raise NotFound(
            f"image with reference {image} was found but does not match the specified platform: "
            f"wanted {asked}, actual: {'/'.join(has)}"
        )
