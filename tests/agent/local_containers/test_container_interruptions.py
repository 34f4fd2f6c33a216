"""A daemon that is killed in the middle of making or removing a container leaves nothing of it behind, and nothing more is lost."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive

from pyswarm_agent.events import EventBus
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.images import ImageStore
from pyswarm_agent.local_containers.fake_network import FakeLocalNetwork
from pyswarm_agent.local_containers.keeper import LocalContainers
from pyswarm_agent.runtime import ContainerConfig, FakeContainerRuntime
from pyswarm_agent.runtime.access.fake import FakeContainerAccess
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.mounting import ContainerMounts
from pyswarm_agent.volumes.use import volume_users
from pyswarm_common.clock import ManualClock

BODY = {"Image": "box:1", "Cmd": ["go"]}


class Disk:
    """A node's disk and the containers that its runtime has; `crashed` is what a kill at this moment would leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configs: list[ContainerConfig] = []

    def crashed(self, runtime: FakeContainerRuntime, name: str) -> "Disk":
        copy = Disk(self.folder.parent / name)
        shutil.copytree(self.folder, copy.folder)
        copy.configs = [record.config for record in runtime.list()]
        return copy


class WatchedMounts(ContainerMounts):
    """Calls back before a container's volumes are removed."""

    def watch(self, before_discard: Callable[[], None]) -> "WatchedMounts":
        object.__setattr__(self, "_before_discard", before_discard)
        return self

    async def discard(self, container_id: str) -> None:
        self.__dict__.get("_before_discard", lambda: None)()
        await super().discard(container_id)


class Life:
    """One daemon's part that keeps containers."""

    def __init__(self, local: LocalContainers, runtime: FakeContainerRuntime, volumes: VolumeStore) -> None:
        self.local, self.runtime, self.volumes = local, runtime, volumes

    def left(self) -> tuple[int, int]:
        """How many containers and volumes there are."""
        return len(self.runtime.list()), len(self.volumes.list())


@asynccontextmanager
async def life(
    disk: Disk,
    before_each: Callable[[str, str], Awaitable[None]] | None = None,
    before_discard: Callable[[], None] = lambda: None,
) -> AsyncIterator[Life]:
    clock = ManualClock()
    runtime = FakeContainerRuntime(clock)
    for config in disk.configs:
        await runtime.create(config)
    runtime.before_each = before_each or runtime.before_each
    volumes, images = VolumeStore(disk.folder, clock, lambda: volume_users(runtime)), ImageStore(disk.folder)
    local = LocalContainers(
        images=images,
        runtime=runtime,
        mounts=WatchedMounts(volumes).watch(before_discard),
        network=FakeLocalNetwork(),
        health=HealthMonitors(runtime, FakeContainerAccess(runtime), clock),
        folder=disk.folder / "local-containers",
        clock=clock,
        events=EventBus(clock),
        hostname=lambda: "node",
    )
    running = asyncio.ensure_future(local.run())
    await local.wait_running()
    try:
        yield Life(local, runtime, volumes)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await runtime.close()
        await volumes.close()
        await images.close()


@pytest.fixture
async def disk(tmp_path: Path) -> Disk:
    """A node's disk with an image that declares a volume."""
    folder = tmp_path / "node"
    images = ImageStore(folder)
    archive = tmp_path / "image.tar"
    write_docker_archive(archive, [(BuiltImage([make_layer([Entry("x")])], {"Volumes": {"/data": {}}}), ["box:1"])])
    await images.load(archive)
    await images.close()
    return Disk(folder)


async def test_a_removal_with_volumes_that_was_cut_short_is_finished(disk: Disk) -> None:
    crashes: list[Disk] = []

    async def before_each(step: str, container_id: str) -> None:
        if step == "remove":
            crashes.append(disk.crashed(running.runtime, "before-the-runtime"))

    def before_discard() -> None:
        crashes.append(disk.crashed(running.runtime, "before-the-volumes"))

    async with life(disk, before_each, before_discard) as running:
        await running.local.create("kept", BODY)
        container_id = await running.local.create("gone", BODY)
        await running.local.remove(container_id, with_volumes=True)
        assert running.left() == (1, 1)
    assert [len(crash.configs) for crash in crashes] == [2, 1]
    for crash in crashes:
        async with life(crash) as after:
            assert after.left() == (1, 1)
            assert [record.config.name for record in after.runtime.list()] == ["kept"]
        async with life(crash) as later:
            assert later.left()[1] == 1


async def test_a_removal_without_volumes_that_was_cut_short_keeps_them(disk: Disk) -> None:
    crashes: list[Disk] = []

    async def before_each(step: str, container_id: str) -> None:
        if step == "remove":
            crashes.append(disk.crashed(running.runtime, "crash"))

    async with life(disk, before_each) as running:
        container_id = await running.local.create("gone", BODY)
        await running.local.remove(container_id)
        assert running.left() == (0, 1)
    async with life(crashes[0]) as after:
        assert after.left() == (0, 1)


async def test_a_creation_that_was_cut_short_leaves_no_volumes(disk: Disk) -> None:
    crashes: list[Disk] = []

    async def before_each(step: str, container_id: str) -> None:
        if step == "create":
            crashes.append(disk.crashed(running.runtime, "crash"))

    async with life(disk, before_each) as running:
        await running.local.create("web", BODY)
    assert any((crashes[0].folder / "volumes").iterdir())
    async with life(crashes[0]) as after:
        assert after.left() == (0, 0)
        assert not list((crashes[0].folder / "local-containers").iterdir())


async def test_a_creation_that_fails_leaves_nothing(disk: Disk) -> None:
    async def before_each(step: str, container_id: str) -> None:
        if step == "create":
            raise OSError(28, "No space left on device")

    async with life(disk, before_each) as running:
        with pytest.raises(OSError, match="No space left"):
            await running.local.create("web", BODY)
        assert running.left() == (0, 0)
        assert not list((disk.folder / "local-containers").iterdir())
