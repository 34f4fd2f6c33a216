"""Containers on this node: crun under conmon, overlayfs, cgroups, seccomp; `ContainerRuntime` is the one entrance."""

from pyswarm_agent.runtime.container_runtime import ContainerRuntime
from pyswarm_agent.runtime.fake import FakeContainerRuntime, FakeProgram
from pyswarm_agent.runtime.interface import ContainerStartFailed, Runtime
from pyswarm_agent.runtime.records import (
    ContainerConfig,
    ContainerRecord,
    ContainerState,
    ExitStatus,
    MountConfig,
)

__all__ = [
    "ContainerConfig",
    "ContainerRecord",
    "ContainerRuntime",
    "ContainerStartFailed",
    "ContainerState",
    "ExitStatus",
    "FakeContainerRuntime",
    "FakeProgram",
    "MountConfig",
    "Runtime",
]
