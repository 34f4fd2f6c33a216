"""What of a create or update body is not offered: refused by name, so that nothing is silently without effect. Pure.

Members that describe the client's side (attached streams, id file, console size) pass.
"""

from collections.abc import Mapping
from typing import Any

from pyswarm_agent.local_containers.create_body import CreateBody
from pyswarm_agent.local_containers.records import BRIDGE, HOST, NONE
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
_ENDPOINT = {"MacAddress": "--mac-address", "Links": "--link", "DriverOpts": "driver options", "Aliases": "--network-alias"}
_ADDRESSES = {"IPv4Address": "--ip", "IPv6Address": "--ip6", "LinkLocalIPs": "--link-local-ip"}
_DEFAULT_NETWORKS = ("", "default", BRIDGE, HOST, NONE)
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
        "--link": host.links,
        "--domainname": body.domainname,
        "--volume-driver": host.volume_driver if host.volume_driver != "local" else "",
        "--mac-address": posted.get("MacAddress"),
        "NetworkDisabled": posted.get("NetworkDisabled"),
        **{option: posted_host.get(member) for member, option in _NOT_OFFERED.items()},
        **_endpoint_wishes(posted),
    }
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


def _endpoint_wishes(posted: Mapping[str, Any]) -> dict[str, Any]:
    """What a place on the networks that every node has cannot be given: addresses, further names."""
    endpoints = (posted.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    found: dict[str, Any] = {}
    for name, endpoint in endpoints.items():
        if name in _DEFAULT_NETWORKS:
            given, addresses = endpoint or {}, (endpoint or {}).get("IPAMConfig") or {}
            found |= {option: given[member] for member, option in _ENDPOINT.items() if given.get(member)}
            found |= {option: addresses[member] for member, option in _ADDRESSES.items() if addresses.get(member)}
    return found
