"""Names, removal, garbage, and what a store finds when it opens."""

import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from image_builder import BuiltImage, Entry, digest_of, make_layer, write_docker_archive
from image_registries import RealRegistry

from pyswarm_agent.images import Image, ImageStore, Removal
from pyswarm_agent.images.removal import ImageUser
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound, PyswarmError

pytestmark = pytest.mark.kernel

BASE = make_layer([Entry("base")])
OWN = make_layer([Entry("own")])
WEB = BuiltImage([BASE, OWN])
TOOL = BuiltImage([BASE], {"Cmd": ["tool"]})


@pytest_asyncio.fixture
async def loaded(store: ImageStore, tmp_path: Path) -> AsyncIterator[ImageStore]:
    """A store with the images `web:1`, also called `web:latest`, and `tool:1`."""
    archive = tmp_path / "images.tar"
    write_docker_archive(archive, [(WEB, ["web:1", "web:latest"]), (TOOL, ["tool:1"])])
    await store.load(archive)
    yield store


def found(store: ImageStore, name: str) -> Image:
    """Return an image that must be there."""
    image = store.get(name)
    assert image is not None, name
    return image


async def test_an_image_is_found_by_any_of_its_names(loaded: ImageStore) -> None:
    digits = WEB.id.removeprefix("sha256:")
    for name in ("web", "web:1", "docker.io/library/web:1", "library/web", WEB.id, digits, digits[:12], f"sha256:{digits[:6]}"):
        assert found(loaded, name).id == WEB.id, name
    for name in ("web:2", "we", "quay.io/web", "", "sha256:", "Web", "web@sha256:" + "0" * 64, "x" * 300):
        assert loaded.get(name) is None, name


async def test_the_beginning_of_two_ids_means_neither(loaded: ImageStore, tmp_path: Path) -> None:
    images = [BuiltImage([BASE], {"Labels": {"n": str(n)}}) for n in range(17)]
    archive = tmp_path / "many.tar"
    write_docker_archive(archive, [(image, []) for image in images])
    await loaded.load(archive)
    digits = sorted(image.id.removeprefix("sha256:")[0] for image in [*images, WEB, TOOL])
    common = next(digit for digit in digits if digits.count(digit) > 1)
    assert loaded.get(common) is None


async def test_a_tag_is_another_name_and_lasts(loaded: ImageStore, tmp_path: Path) -> None:
    await loaded.tag("web", "127.0.0.1:5000/mine:3")
    await loaded.tag(WEB.id, "tool:1")  # takes the name away from the other image
    with pytest.raises(NotFound, match="No such image: nothing"):
        await loaded.tag("nothing", "x")
    with pytest.raises(InvalidArgument):
        await loaded.tag("web", "Bad Name")
    with pytest.raises(InvalidArgument):
        await loaded.tag("web", WEB.id.join(["web@", ""]))
    assert found(loaded, "tool:1").id == WEB.id
    assert found(loaded, TOOL.id).repo_tags == ()
    reopened = ImageStore(tmp_path / "data")
    assert reopened.list() == loaded.list()
    assert found(reopened, "127.0.0.1:5000/mine:3").repo_tags == ("127.0.0.1:5000/mine:3", "tool:1", "web:1", "web:latest")
    await reopened.close()


async def test_the_last_name_takes_the_image_and_its_own_layers(loaded: ImageStore) -> None:
    own, base = loaded.layer_paths(found(loaded, "web"))
    assert await loaded.remove("web:1") == [Removal(untagged="web:1")]
    assert await loaded.remove("web") == [
        Removal(untagged="web:latest"),
        Removal(deleted=WEB.id),
        Removal(deleted=digest_of(OWN)),
    ]
    assert not own.exists()
    assert base.exists()  # tool's too
    with pytest.raises(NotFound, match="No such image: web"):
        await loaded.remove("web")
    await loaded.remove(TOOL.id)
    assert loaded.list() == []
    assert not base.exists()


async def test_an_id_with_names_in_several_repositories_must_be_forced(loaded: ImageStore) -> None:
    await loaded.tag("web", "other")
    with pytest.raises(Conflict, match=r"must be forced\) - image is referenced in multiple repositories"):
        await loaded.remove(WEB.id)
    removed = await loaded.remove(WEB.id, force=True)
    assert {removal.untagged for removal in removed} == {"web:1", "web:latest", "other:latest", ""}
    assert loaded.get(WEB.id) is None


async def test_an_image_in_use_stays(loaded: ImageStore) -> None:
    await loaded.remove("web:1", in_use=[WEB.id])  # another name is left
    users = {WEB.id: ImageUser(container_id="c" * 64, is_running=False)}
    with pytest.raises(Conflict) as by_name:
        await loaded.remove("web", in_use=[WEB.id], users=users)
    assert by_name.value.message == (
        'conflict: unable to remove repository reference "web" (must force) - '
        f"container cccccccccccc is using its referenced image {WEB.id[7:19]}"
    )
    with pytest.raises(Conflict, match=r"\(must be forced\) - image is being used by stopped container cccccccccccc"):
        await loaded.remove(WEB.id, in_use=[WEB.id], users=users)
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by a task of this node"):
        await loaded.remove(WEB.id, in_use=[WEB.id], force=True)
    assert await loaded.remove("web", force=True, in_use=[WEB.id]) == [Removal(untagged="web:latest")]
    left = found(loaded, WEB.id)
    assert left.repo_tags == ()
    assert all(path.exists() for path in loaded.layer_paths(left))
    with pytest.raises(Conflict, match="cannot be forced"):
        await loaded.remove(WEB.id, force=True, in_use=[WEB.id])
    assert Removal(deleted=WEB.id) in await loaded.remove(WEB.id)


async def test_a_repositorys_digest_goes_with_its_last_tag(store: ImageStore, registry: RealRegistry) -> None:
    digest = registry.push(WEB, "removal", "1")
    name = f"{registry.host}/removal"
    await store.pull(f"{name}:1")
    removed = await store.remove(f"{name}:1")
    assert removed[:3] == [
        Removal(untagged=f"{name}:1"),
        Removal(untagged=f"{name}@{digest}"),
        Removal(deleted=WEB.id),
    ]
    assert store.list() == []


async def test_garbage_is_what_no_image_has(loaded: ImageStore, tmp_path: Path) -> None:
    # As after a crash between the last layer and the index.
    index = tmp_path / "data/images/index.json"
    state = json.loads(index.read_bytes())
    index.write_text(json.dumps({"format": 1, "images": [TOOL.id], "names": {"docker.io/library/tool:1": TOOL.id}}))
    store = ImageStore(tmp_path / "data")
    assert WEB.id in state["images"]
    assert store.get(WEB.id) is None
    assert await store.collect_garbage([digest_of(OWN)]) == []
    assert await store.collect_garbage() == [digest_of(OWN)]
    assert await store.collect_garbage() == []
    assert all(path.exists() for path in store.layer_paths(found(store, "tool:1")))
    await store.close()


async def test_what_a_crash_left_is_cleared_and_a_lost_layer_takes_its_image(loaded: ImageStore, tmp_path: Path) -> None:
    own, _ = loaded.layer_paths(found(loaded, "web"))
    images = tmp_path / "data/images"
    (images / "temporary/blob-x").write_bytes(b"half")
    deep = images / "temporary/layer-y/diff"
    deep.mkdir(parents=True)
    (images / "layers/0123/diff").mkdir(parents=True)  # a layer without its layer.json
    (images / "trash/old").mkdir()
    nest(deep, 1100)
    shutil.rmtree(own)
    reopened = ImageStore(tmp_path / "data")
    assert list((images / "temporary").iterdir()) == []
    assert [image.id for image in reopened.list()] == [TOOL.id]
    assert reopened.get("web") is None
    await reopened.close()
    assert list((images / "trash").iterdir()) == []
    assert len(list((images / "layers").iterdir())) == 1


def nest(folder: Path, levels: int) -> None:
    """Make a tree deeper than a path can be long, or than Python can recurse."""
    descriptor = os.open(folder, os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("deep", dir_fd=descriptor)
        below = os.open("deep", os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


async def test_a_damaged_index_is_named_rather_than_emptied(loaded: ImageStore, tmp_path: Path) -> None:
    index = tmp_path / "data/images/index.json"
    good = index.read_bytes()
    for bad, message in ((b"{", "is damaged"), (json.dumps({**json.loads(good), "format": 9}).encode(), "has format 9")):
        index.write_bytes(bad)
        with pytest.raises(PyswarmError, match=message):
            ImageStore(tmp_path / "data")
    index.write_bytes(good)


async def test_a_configuration_that_changed_on_the_disk_is_not_believed(loaded: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "data/images/configs" / WEB.id.removeprefix("sha256:")
    path.write_bytes(path.read_bytes().replace(b"linux", b"minix"))
    reopened = ImageStore(tmp_path / "data")
    assert [image.id for image in reopened.list()] == [TOOL.id]
    await reopened.close()


async def test_others_may_not_look_into_the_layers(loaded: ImageStore, tmp_path: Path) -> None:
    assert (tmp_path / "data/images").stat().st_mode & 0o777 == 0o700
