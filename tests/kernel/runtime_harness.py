"""A real container runtime on folders of its own, with a root filesystem of one busybox."""

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pyswarm_agent.runtime import ContainerConfig, ContainerRuntime, ExitStatus
from pyswarm_common.clock import SystemClock
from pyswarm_common.ids import new_container_id
from pyswarm_common.wire import LogRequest

EVERYTHING = LogRequest(task_id="", follow=True)
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv/web:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:33:\nstaff:x:50:web\n"


def make_layer(directory: Path) -> Path:
    """Return a folder with busybox under its usual names, users, and places to bind a host's /usr."""
    for name in ("bin", "etc", "root", "tmp", "usr"):
        (directory / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        with contextlib.suppress(FileExistsError):
            (directory / "bin" / applet).symlink_to("busybox")
    (directory / "lib").symlink_to("usr/lib")
    (directory / "lib64").symlink_to("usr/lib64")
    (directory / "etc/passwd").write_text(PASSWD)
    (directory / "etc/group").write_text(GROUP)
    (directory / "tmp").chmod(0o1777)
    return directory


class RuntimeNode:
    """One node's folders and tag; `runtime` can be closed and opened again on them."""

    def __init__(self, directory: Path, layer: Path) -> None:
        self.data_dir = directory / "data"
        self.runtime_dir = directory / "run"
        self.tag = secrets.token_hex(3)
        self.layer = layer
        self.runtime = self.new_runtime()

    def new_runtime(self) -> ContainerRuntime:
        """Return another runtime on the same folders, not yet started."""
        return ContainerRuntime(data_dir=self.data_dir, runtime_dir=self.runtime_dir, instance_tag=self.tag, clock=SystemClock())

    def config(self, script: str, **changes: Any) -> ContainerConfig:
        """Return a configuration that runs a shell script."""
        settings: dict[str, Any] = {
            "args": ("sh", "-c", script),
            "env": ("PATH=/bin",),
            "hostname": "box",
            "stop_grace_period_s": 2.0,
            "layer_paths": (str(self.layer),),
        }
        return ContainerConfig(id=new_container_id(), **{**settings, **changes})

    async def started(self, script: str, **changes: Any) -> str:
        """Start a container that writes a line when it is ready; return its id once it has."""
        config = self.config(script, **changes)
        await self.runtime.create(config)
        await self.runtime.start_container(config.id)
        async for _ in self.runtime.logs(config.id, EVERYTHING):
            return config.id
        raise AssertionError(f"the container ended without a word: {await self.runtime.wait(config.id)}")

    async def run(self, script: str, **changes: Any) -> tuple[ExitStatus, str]:
        """Run a script to its end; return how it ended and everything it wrote."""
        config = self.config(script, **changes)
        await self.runtime.create(config)
        await self.runtime.start_container(config.id)
        status = await self.runtime.wait(config.id)
        return status, await self.output(config.id)

    async def output(self, container_id: str) -> str:
        """Return everything that a container has written."""
        lines = [line.line async for line in self.runtime.logs(container_id, LogRequest(task_id=""))]
        return b"".join(lines).decode()

    async def remove_all(self) -> None:
        """Remove every container and close the runtime."""
        for record in self.runtime.list():
            await self.runtime.remove(record.config.id)
        await self.runtime.close()

    def traces(self) -> list[str]:
        """Return what there is on the machine of this node's containers."""
        # os.walk bears that others' cgroups go meanwhile.
        walk = ((parent, name) for parent, names, _ in os.walk("/sys/fs/cgroup") for name in names)
        found = [f"cgroup {parent}/{name}" for parent, name in walk if name.startswith(f"pyswarm-{self.tag}")]
        for place in (self.data_dir / "containers", self.runtime_dir / "bundles", self.runtime_dir / "oci"):
            found += [f"file {path}" for path in place.glob("*")]
        found += [
            f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.runtime_dir) in line
        ]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if str(self.runtime_dir).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(f"process {pid}")
        return found


@contextlib.asynccontextmanager
async def runtime_node(directory: Path, layer: Path) -> AsyncIterator[RuntimeNode]:
    """Yield a node whose runtime is started; afterwards nothing of it may be left."""
    node = RuntimeNode(directory, layer)
    await node.runtime.start()
    try:
        yield node
    finally:
        await node.remove_all()
    assert node.traces() == []
