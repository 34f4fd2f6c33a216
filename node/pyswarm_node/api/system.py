"""The routes about the node itself: ping, version, info, disk use."""

import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pyswarm_agent.api.container_rendering import render_container
from pyswarm_agent.api.images import images_disk_use
from pyswarm_agent.api.volumes import volumes_with_usage
from pyswarm_agent.images.registries import Registries
from pyswarm_common.engine_api.responses import API_VERSION, MINIMUM_API_VERSION, JSONResponse, rfc3339
from pyswarm_common.log_drivers import DRIVERS
from pyswarm_node.api.control import LocalState, NodeControl
from pyswarm_node.api.swarm_info import describe_swarm, describe_warnings
from pyswarm_node.api.version_middleware import ARCHITECTURE, ENGINE_VERSION, PRODUCT_VERSION

router = APIRouter()

_NETWORK_DRIVERS = ("bridge", "host", "null", "overlay")
_CGROUP_V2_MARKER = Path("/sys/fs/cgroup/cgroup.controllers")
_OS_RELEASE = Path("/etc/os-release")


@router.api_route("/_ping", methods=["GET", "HEAD"])
async def ping(request: Request) -> Response:
    """Say that the daemon is there, and in which state it is towards the swarm."""
    local = _control(request).local
    word = f"active/{'manager' if local.is_manager else 'worker'}" if local.swarm_state == "active" else local.swarm_state
    headers = {"Swarm": word, "Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": "0"}, media_type="text/plain")
    return PlainTextResponse("OK", headers=headers)


@router.get("/version")
async def show_version(request: Request) -> Response:
    """Show versions: the engine's is that of the Docker release whose API this is."""
    details = {
        "ApiVersion": API_VERSION,
        "Arch": ARCHITECTURE,
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": platform.release(),
        "MinAPIVersion": MINIMUM_API_VERSION,
        "Os": "linux",
    }
    python = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return JSONResponse(
        {
            "Platform": {"Name": f"pyswarm {PRODUCT_VERSION}"},
            "Components": [
                {"Name": "Engine", "Version": ENGINE_VERSION, "Details": details},
                {"Name": "pyswarm", "Version": PRODUCT_VERSION, "Details": {"PythonVersion": python}},
            ],
            "Version": ENGINE_VERSION,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MINIMUM_API_VERSION,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": ARCHITECTURE,
            "KernelVersion": platform.release(),
            "BuildTime": "",
        }
    )


@router.get("/info")
async def show_info(request: Request) -> Response:
    """Show the node: its resources, containers, and place in the swarm."""
    control = _control(request)
    local = control.local
    swarm = describe_swarm(control)
    machine = _describe_machine(local, control.agent.clock.now_ns())
    machine["RegistryConfig"] = _describe_registries(control.agent.images.registries)
    warnings = describe_warnings(local, swarm, control.agent.network_watch.warnings())
    return JSONResponse({**_describe_agent(control), **machine, "Warnings": warnings, "Swarm": swarm})


@router.get("/system/df")
async def show_disk_use(request: Request) -> Response:
    """Show what images, containers and volumes there are, with sizes."""
    agent = _control(request).agent
    return JSONResponse(
        {
            **images_disk_use(agent),
            "Containers": [
                render_container(container, agent.clock.now_ns(), held=agent.local.get(container.config.id))
                for container in agent.containers.list()
            ],
            "Volumes": await volumes_with_usage(agent),
            "BuildCache": [],
            "BuilderSize": 0,
        }
    )


@router.post("/build/prune")
async def prune_builds(request: Request) -> Response:
    """Remove build caches: there are none."""
    return JSONResponse({"CachesDeleted": None, "SpaceReclaimed": 0})


def _describe_agent(control: NodeControl) -> dict[str, Any]:
    containers = control.agent.containers.list()
    states = Counter(container.state for container in containers)
    return {
        "ID": control.local.node_id,
        "Containers": len(containers),
        "ContainersRunning": states["running"],
        "ContainersPaused": states["paused"],
        "ContainersStopped": states["created"] + states["exited"],
        "Images": len(control.agent.images.list()),
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "overlayfs"]],
        "Plugins": {"Volume": ["local"], "Network": list(_NETWORK_DRIVERS), "Authorization": None, "Log": list(DRIVERS)},
        "LoggingDriver": control.local.log_driver,
        "Runtimes": {"crun": {"path": "crun"}},
        "DefaultRuntime": "crun",
        "LiveRestoreEnabled": True,
        "InitBinary": "tini",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": {"ID": "", "Expected": ""},
        "InitCommit": {"ID": "", "Expected": ""},
        "SecurityOptions": ["name=seccomp,profile=default"],
    }


def _describe_machine(local: LocalState, now_ns: int) -> dict[str, Any]:
    release = _os_release()
    return {
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "OomKillDisable": False,
        "IPv4Forwarding": True,
        "BridgeNfIptables": True,
        "BridgeNfIp6tables": True,
        "Debug": False,
        "NFd": -1,
        "NGoroutines": -1,
        "NEventsListener": 0,
        "SystemTime": rfc3339(now_ns),
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if _CGROUP_V2_MARKER.exists() else "1",
        "KernelVersion": platform.release(),
        "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
        "OSVersion": release.get("VERSION_ID", ""),
        "OSType": "linux",
        "Architecture": platform.machine(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "NCPU": local.resources.nano_cpus // 1_000_000_000,
        "MemTotal": local.resources.memory_bytes,
        "GenericResources": msgspec.to_builtins(local.resources.generic_resources) or None,
        "DockerRootDir": str(local.data_dir),
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": local.hostname,
        "Labels": [],
        "ExperimentalBuild": False,
        "ServerVersion": ENGINE_VERSION,
        "Isolation": "",
    }


def _describe_registries(registries: Registries) -> dict[str, Any]:
    mirrors = [f"{url.rstrip('/')}/" for url in registries.settings.mirrors]
    networks = registries.insecure_networks
    index = {"docker.io": {"Name": "docker.io", "Mirrors": mirrors, "Secure": True, "Official": True}}
    insecure = [name for name in registries.settings.insecure if "/" not in name]
    return {
        "AllowNondistributableArtifactsCIDRs": [],
        "AllowNondistributableArtifactsHostnames": [],
        "InsecureRegistryCIDRs": [network for network in networks if network != "::1/128"],
        "IndexConfigs": {**index, **{name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in insecure}},
        "Mirrors": mirrors,
    }


def _os_release() -> dict[str, str]:
    if not _OS_RELEASE.exists():
        return {}
    pairs = (line.partition("=") for line in _OS_RELEASE.read_text().splitlines())
    return {name: value.strip('"') for name, _, value in pairs}


def _control(request: Request) -> NodeControl:
    control: NodeControl = request.app.state.control
    return control
