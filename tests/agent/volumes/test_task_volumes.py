"""The volumes of tasks: made where the task runs, named ones stay, anonymous ones go with the container."""

from pathlib import Path

import msgspec
import pytest
from agent_bench import APP, Bench, assigned, container_spec, message
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive

from pyswarm_common.task_states import TaskState

MOUNT = {
    "Type": "volume",
    "Source": "data-{{.Task.Slot}}",
    "Target": "/data",
    "VolumeOptions": {"Labels": {"of": "{{.Service.Name}}"}},
}


async def assign(bench: Bench, *mounts: object, task_id: str = "t1") -> None:
    spec = container_spec(Mounts=list(mounts))
    await bench.agent.handle(message(assigned(task_id, spec=f"s-{task_id}"), task_specs={f"s-{task_id}": spec}))


async def forget(bench: Bench, task_id: str = "t1") -> None:
    await bench.agent.handle(msgspec.structs.replace(message(), removed_tasks=(task_id,)))
    await bench.until(lambda: bench.has_left_nothing(task_id))


@pytest.fixture
async def declaring_image(bench: Bench, tmp_path: Path) -> None:
    """The task's image declares two volumes."""
    config = {"Cmd": ["/hello"], "Volumes": {"/data": {}, "/var/cache": {}}}
    archive = tmp_path / "declaring.tar"
    write_docker_archive(archive, [(BuiltImage([make_layer([Entry("hello", b"y")])], config), [APP])])
    await bench.images.load(archive)


@pytest.mark.usefixtures("declaring_image")
async def test_named_volumes_stay_and_anonymous_ones_go_with_the_task(bench: Bench) -> None:
    await assign(bench, MOUNT)
    await bench.until_state("t1", TaskState.RUNNING)
    container = bench.container("t1")
    assert container is not None
    anonymous = next(mount.volume for mount in container.config.mounts if mount.target == "/var/cache")
    assert bench.volumes.need("data-1").labels == {"of": "web"}
    assert bench.volumes.users() == {"data-1": [container.config.id], anonymous: [container.config.id]}
    (bench.volumes.data_path("data-1") / "kept").touch()
    await forget(bench)
    assert [volume.name for volume in bench.volumes.list()] == ["data-1"]
    assert (bench.volumes.data_path("data-1") / "kept").exists()


@pytest.mark.usefixtures("declaring_image")
async def test_volumes_made_for_a_container_that_never_came_to_be_go_too(bench: Bench) -> None:
    await assign(bench, MOUNT, {"Type": "volume", "Source": "_bad", "Target": "/zzz"})
    await bench.until_state("t1", TaskState.REJECTED)
    assert "includes invalid characters for a local volume name" in bench.status("t1").error
    await forget(bench)
    assert [volume.name for volume in bench.volumes.list()] == ["data-1"]


async def test_a_task_that_asks_for_other_options_than_its_volume_has_is_rejected(bench: Bench) -> None:
    await bench.volumes.create("data-1", options={"type": "tmpfs", "device": "tmpfs"})
    options = {"DriverConfig": {"Options": {"type": "nfs", "device": ":/x", "o": "addr=10.0.0.7"}}}
    await assign(bench, {**MOUNT, "VolumeOptions": options})
    await bench.until_state("t1", TaskState.REJECTED)
    assert "a volume of this name exists with other options" in bench.status("t1").error
