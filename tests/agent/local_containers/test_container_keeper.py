"""The keeper of local containers, on a runtime and a network in memory, with a clock of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive

from pyswarm_agent.events import EventBus
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.images import ImageStore
from pyswarm_agent.local_containers.create_body import Resources, RestartPolicyBody
from pyswarm_agent.local_containers.fake_network import FakeLocalNetwork
from pyswarm_agent.local_containers.keeper import LocalContainers
from pyswarm_agent.local_containers.waiting import Ended, wait_ended
from pyswarm_agent.runtime import ContainerConfig, ContainerStartFailed, FakeContainerRuntime, FakeProgram
from pyswarm_agent.runtime.access.fake import FakeContainerAccess
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.mounting import ContainerMounts
from pyswarm_agent.volumes.use import volume_users
from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound, Unavailable


class Node:
    """What outlives the daemon: disk, runtime, network. `life` is one run of the daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.programs: dict[str, FakeProgram] = {}
        self.runtime = FakeContainerRuntime(self.clock, self._program)
        self.network = FakeLocalNetwork()
        self.images = ImageStore(folder)
        self.local: LocalContainers
        self.volumes: VolumeStore
        self.events: EventBus

    def _program(self, config: ContainerConfig) -> FakeProgram:
        return self.programs.get(config.args[-1], FakeProgram())

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Run the daemon's part for a while."""
        self.volumes = VolumeStore(self.folder, self.clock, lambda: volume_users(self.runtime))
        self.events = EventBus(self.clock)
        self.runtime.on_event = self.events.observe_container
        await self.runtime.start()
        self.local = LocalContainers(
            images=self.images,
            runtime=self.runtime,
            mounts=ContainerMounts(self.volumes),
            network=self.network,
            health=HealthMonitors(self.runtime, FakeContainerAccess(self.runtime), self.clock),
            folder=self.folder / "local-containers",
            clock=self.clock,
            events=self.events,
            hostname=lambda: "node",
        )
        running = asyncio.ensure_future(self.local.run())
        await self.local.wait_running()
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.runtime.close()
            await self.volumes.close()

    async def create(self, name: str, command: str = "go", **host_config: Any) -> str:
        """Make a container that runs one of the programs."""
        return await self.local.create(name, {"Image": "box:1", "Cmd": [command], "HostConfig": host_config})

    async def run(self, name: str, command: str = "go", **host_config: Any) -> str:
        """Make and start it."""
        container_id = await self.create(name, command, **host_config)
        assert await self.local.start(container_id)
        return container_id

    def state(self, container_id: str) -> str:
        """Return its state, `gone` when there is none."""
        held, record = self.local.get(container_id), self.runtime.get(container_id)
        if record is None:
            return "gone"
        return "restarting" if held is not None and held.is_restarting else record.state

    def count(self, container_id: str) -> int:
        """Return how often it was started again."""
        held = self.local.get(container_id)
        assert held is not None
        return held.container.restarts.count

    async def settled(self, container_id: str) -> None:
        """Wait until it is decided what becomes of a container that has ended."""
        held = self.local.get(container_id)
        if held is not None:
            await held.settled.wait()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node with an image."""
    node = Node(tmp_path)
    archive = tmp_path / "image.tar"
    write_docker_archive(archive, [(BuiltImage([make_layer([Entry("x")])], {"Volumes": {"/data": {}}}), ["box:1"])])
    await node.images.load(archive)
    yield node
    await node.images.close()


async def test_names(node: Node) -> None:
    async with node.life():
        first = await node.create("web")
        with pytest.raises(Conflict) as caught:
            await node.create("web")
        assert caught.value.message == (
            f'Conflict. The container name "/web" is already in use by container "{first}". You have to remove (or rename) that '
            "container to be able to reuse that name."
        )
        other = await node.create("")
        assert "_" in node.local.find(other).config.name
        with pytest.raises(Conflict):
            await node.local.rename(other, "web")
        await node.local.rename(first, "site")
        await node.local.rename(other, "web")
        assert node.local.find("site").config.id == first
        with pytest.raises(InvalidArgument, match="Neither old nor new names may be empty"):
            await node.local.rename(first, "")
        with pytest.raises(NotFound, match="No such image: nosuch:latest"):
            await node.local.create("x", {"Image": "nosuch"})


async def test_life(node: Node) -> None:
    async with node.life():
        web = await node.run("web")
        assert not await node.local.start(web)
        with pytest.raises(Conflict, match=f"You cannot remove a running container {web}"):
            await node.local.remove(web)
        assert node.network.places.keys() == {web}
        assert await node.local.stop(web)
        assert not await node.local.stop(web)
        assert not node.network.places
        assert await node.local.start(web)
        await node.local.restart(web)
        assert node.state(web) == "running"
        await node.local.remove(web, force=True)
        assert (node.state(web), node.network.places, list((node.folder / "local-containers").iterdir())) == ("gone", {}, [])


async def test_anonymous_volumes_go_when_asked(node: Node) -> None:
    async with node.life():
        kept, gone = await node.create("kept"), await node.create("gone")
        assert len(node.volumes.list()) == 2
        await node.local.remove(gone, with_volumes=True)
        await node.local.remove(kept)
        assert [volume.container_id for volume in node.volumes.list()] == [kept]


async def test_restarts_on_failure(node: Node) -> None:
    node.programs["fails"] = FakeProgram(runs_s=1, exit_code=3)
    async with node.life():
        web = await node.run("web", "fails", RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 2})
        for pause_s, count in ((0.1, 1), (0.2, 2)):
            await node.clock.advance(1)
            await node.settled(web)
            assert (node.state(web), node.count(web)) == ("restarting", count)
            await asyncio.sleep(0)
            await node.clock.advance(pause_s)
            await until(lambda: node.state(web) == "running")
        await node.clock.advance(1)
        await until(lambda: node.state(web) == "exited")
        assert node.count(web) == 2
        assert not node.network.places


async def test_a_stop_during_the_pause_ends_it(node: Node) -> None:
    node.programs["fails"] = FakeProgram(runs_s=1, exit_code=3)
    async with node.life():
        web = await node.run("web", "fails", RestartPolicy={"Name": "always"})
        await node.clock.advance(1)
        await until(lambda: node.state(web) == "restarting")
        with pytest.raises(Conflict, match="You cannot remove a restarting container"):
            await node.local.remove(web)
        assert await node.local.stop(web)
        await node.clock.advance(100)
        assert node.state(web) == "exited"
        assert await node.local.start(web)
        assert (node.state(web), node.count(web)) == ("running", 0)


async def test_stop_and_kill_are_respected(node: Node) -> None:
    node.programs["stubborn"] = FakeProgram(ignores_stop=True)
    async with node.life():
        web = await node.run("web", RestartPolicy={"Name": "always"})
        await node.local.stop(web)
        assert node.state(web) == "exited"
        await node.local.start(web)
        await node.local.kill(web, "KILL")
        assert node.state(web) == "exited"
        stubborn = await node.run("stubborn", "stubborn", RestartPolicy={"Name": "always"})
        await node.local.kill(stubborn, "HUP")
        assert node.state(stubborn) == "running"
        with pytest.raises(Conflict, match="is not running"):
            await node.local.kill(web, "TERM")


async def test_removed_at_its_end(node: Node) -> None:
    node.programs["ends"] = FakeProgram(runs_s=1, exit_code=5)
    async with node.life():
        web = await node.create("web", "ends", AutoRemove=True)
        waits = [
            asyncio.ensure_future(wait_ended(node.local, node.local.find(web), condition, node.events.listen()))
            for condition in ("removed", "next-exit")
        ]
        await node.local.start(web)
        await node.clock.advance(1)
        assert await asyncio.gather(*waits) == [Ended(5), Ended(5)]
        await until(lambda: not node.volumes.list())
        assert node.state(web) == "gone"
        await node.create("web", "ends")


async def test_what_cannot_be_started(node: Node) -> None:
    node.programs["nope"] = FakeProgram(start_error="not found")
    async with node.life():
        web = await node.create("web", "nope", AutoRemove=True)
        waiting = asyncio.ensure_future(wait_ended(node.local, node.local.find(web), "removed", node.events.listen()))
        with pytest.raises(ContainerStartFailed):
            await node.local.start(web)
        assert await waiting == Ended(127, "not found")
        assert not node.network.places


async def test_a_port_that_is_taken(node: Node) -> None:
    ports = {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}
    async with node.life():
        first, second = await node.run("first", **ports), await node.create("second", **ports)
        with pytest.raises(Exception, match="port is already allocated"):
            await node.local.start(second)
        held = node.local.get(second)
        assert held is not None
        assert (node.state(second), "already allocated" in held.container.start_error) == ("created", True)
        await node.local.stop(first)
        assert await node.local.start(second)


async def test_wait(node: Node) -> None:
    node.programs["ends"] = FakeProgram(runs_s=1, exit_code=5)
    async with node.life():
        web = await node.create("web", "ends", RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 1})
        assert await wait_ended(node.local, node.local.find(web), "not-running", node.events.listen()) == Ended(0)
        await node.local.start(web)
        waiting = asyncio.ensure_future(wait_ended(node.local, node.local.find(web), "not-running", node.events.listen()))
        await node.clock.advance(1)
        await until(lambda: node.state(web) == "restarting")
        assert not waiting.done()
        await node.clock.advance(0.1)
        await until(lambda: node.state(web) == "running")
        await node.clock.advance(1)
        assert await waiting == Ended(5)


async def test_container_networks(node: Node) -> None:
    async with node.life():
        web = await node.run("web")
        side = await node.create("side", NetworkMode="container:web")
        held = node.local.get(side)
        assert held is not None
        assert held.container.network_mode == f"container:{web}"
        with pytest.raises(NotFound):
            await node.create("lost", NetworkMode="container:nosuch")


async def test_update(node: Node) -> None:
    async with node.life():
        web = await node.run("web")
        warnings = await node.local.update(web, Resources(restart_policy=RestartPolicyBody(name="always"), memory=64 << 20), {})
        assert warnings == []
        held = node.local.get(web)
        assert held is not None
        assert held.container.restart_policy.name == "always"
        assert node.local.find(web).config.memory_bytes == 64 << 20


@pytest.mark.parametrize(
    ("policy", "stops", "after"),
    [
        ("no", False, "exited"),
        ("always", False, "running"),
        ("always", True, "running"),
        ("unless-stopped", False, "running"),
        ("unless-stopped", True, "exited"),
        ("on-failure", False, "running"),
        ("on-failure", True, "exited"),
    ],
)
async def test_when_the_daemon_starts(node: Node, policy: str, stops: bool, after: str) -> None:
    async with node.life():
        web = await node.run("web", RestartPolicy={"Name": policy})
        never = await node.create("never", RestartPolicy={"Name": policy})
        if stops:
            await node.local.stop(web)
    node.runtime.end_container(web, 255, error="the node was restarted")
    async with node.life():
        await until(lambda: node.local.get(web).settled.is_set())  # type: ignore[union-attr]
        await asyncio.sleep(0)
        await node.clock.advance(0.2)
        await until(lambda: node.state(web) == after)
        assert node.state(never) == "created"
        if after == "running":
            await node.local.stop(web)
            await node.local.start(web)
            node.runtime.end_container(web, 1)
            await until(lambda: node.state(web) == "restarting")


async def test_what_runs_is_followed_again(node: Node) -> None:
    async with node.life():
        web = await node.run("web", RestartPolicy={"Name": "always"})
        once = await node.run("once", AutoRemove=True)
    async with node.life():
        assert {node.state(web), node.state(once)} == {"running"}
        assert node.network.places.keys() == {web, once}
        node.runtime.end_container(web, 1)
        node.runtime.end_container(once, 0)
        await until(lambda: node.state(once) == "gone")
        await until(lambda: node.state(web) == "restarting")


async def test_what_was_cut_short_is_put_right(node: Node) -> None:
    async with node.life():
        lost, renamed, damaged = await node.create("lost"), await node.create("renamed"), await node.create("damaged")
    folder = node.folder / "local-containers"
    (folder / f"{lost}.json").unlink()
    half = "d" * 64
    (folder / f"{half}.json").write_text((folder / f"{renamed}.json").read_text().replace(renamed, half).replace("renamed", "half"))
    (folder / f"{renamed}.json").write_text((folder / f"{renamed}.json").read_text().replace('"renamed"', '"new-name"'))
    (folder / f"{damaged}.json").write_text("{")
    (folder / ".x.json.tmp").write_text("")
    async with node.life():
        assert (node.state(lost), node.state(half)) == ("gone", "gone")
        assert node.local.find("new-name").config.id == renamed
        assert node.local.find("damaged").config.id == damaged
        assert await node.local.start(damaged)
        assert sorted(path.stem for path in folder.iterdir()) == sorted([renamed, damaged])


async def test_removal_of_a_tasks_container(node: Node) -> None:
    async with node.life():
        await node.runtime.create(ContainerConfig(id="e" * 64, name="web.1.x", args=("go",)))
        await node.runtime.start_container("e" * 64)
        with pytest.raises(Conflict, match="belongs to a task"):
            await node.local.restart("e" * 64)
        with pytest.raises(Conflict, match="already in use"):
            await node.create("web.1.x")
        assert await node.local.stop("e" * 64)
        await node.local.remove("e" * 64)
        assert node.runtime.list() == []


async def test_waiting_ends_with_the_daemon(node: Node) -> None:
    async with node.life():
        web = await node.run("web")
        waiting = asyncio.ensure_future(node.runtime.wait(web))
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await waiting


async def until(is_so: Any) -> None:
    """Wait for what other tasks and threads do at once."""
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.001)
