"""Images that go by themselves: which, in which order, how many; and what a disk without room says."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from image_builder import BuiltImage, Entry, gzip_compress, make_layer, write_docker_archive, write_oci_archive
from image_registries import RealRegistry, random_bytes

from pyswarm_agent.images import Image, ImageStore
from pyswarm_agent.images.collector import DiskState, ImageCollector, excess, order
from pyswarm_agent.images.disk import free_bytes
from pyswarm_agent.images.settings import CollectorSettings
from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import InvalidArgument, PyswarmError

pytestmark = pytest.mark.kernel

ROOMY = DiskState(total_bytes=1000, used_bytes=10)
FULL = DiskState(total_bytes=1000, used_bytes=1000)


def image(name: str, *, fetched: bool = True, tagged: bool = True) -> Image:
    return Image(
        id=name, repo_tags=(f"{name}:1",) if tagged else (), repo_digests=(f"{name}@sha256:{'0' * 64}",) if fetched else ()
    )


def test_the_longest_unused_goes_first_and_what_cannot_be_had_again_stays() -> None:
    images = [image("new"), image("old"), image("older"), image("used"), image("loaded", fetched=False), image("young")]
    images.append(image("nameless", fetched=False, tagged=False))
    last_used_s = {"new": 800.0, "old": 500.0, "older": 100.0, "used": 0.0, "loaded": 0.0, "young": 990.0, "nameless": 600.0}
    settings = CollectorSettings(unused_age_s=450)
    assert order(images, {"used"}, last_used_s, 1000.0, settings) == [
        ("older", True),
        ("old", True),
        ("nameless", False),
        ("new", False),
    ]
    assert all(not is_old for _, is_old in order(images, {"used"}, last_used_s, 1000.0, CollectorSettings()))


@pytest.mark.parametrize(
    ("used_bytes", "freed_bytes"), [(0, 0), (850, 0), (851, 51), (1000, 200)], ids=["empty", "at the mark", "above", "full"]
)
def test_how_much_is_freed(used_bytes: int, freed_bytes: int) -> None:
    assert excess(DiskState(1000, used_bytes), CollectorSettings()) == freed_bytes


@pytest.mark.parametrize("settings", [CollectorSettings(80, 80), CollectorSettings(101, 0), CollectorSettings(50, -1)])
def test_marks_that_make_no_sense_are_refused(settings: CollectorSettings) -> None:
    with pytest.raises(InvalidArgument, match="give HIGH:LOW"):
        settings.check()


@pytest.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def pulled(store: ImageStore, registry: RealRegistry, tmp_path: Path) -> ImageStore:
    """A store with three pulled images of a base, and a loaded one."""
    base = make_layer([Entry("base", random_bytes(1000, "collector"))])
    for number in range(3):
        registry.push(BuiltImage([base, make_layer([Entry(f"f{number}", b"x" * 100)])]), f"gc/{number}", "1")
        await store.pull(f"{registry.host}/gc/{number}:1")
    write_docker_archive(tmp_path / "in.tar", [(BuiltImage([make_layer([Entry("mine")])]), ["mine:1"])])
    await store.load(tmp_path / "in.tar")
    return store


def names(store: ImageStore) -> set[str]:
    return {tag.rpartition("/")[2] for image in store.list() for tag in image.repo_tags}


async def test_space_is_freed_until_there_is_enough(pulled: ImageStore, clock: ManualClock) -> None:
    collector = ImageCollector(pulled, lambda: set(), clock)
    assert await collector.collect(FULL) == []  # all came just now
    await clock.advance(200)
    assert await collector.collect(ROOMY) == []
    assert len(await collector.collect(DiskState(total_bytes=1000, used_bytes=990))) == 2  # 100 bytes each; 190 are wanted
    assert await collector.collect(FULL)
    assert names(pulled) == {"mine:1"}


async def test_parts_of_blobs_go_before_images(pulled: ImageStore, clock: ManualClock) -> None:
    await clock.advance(10_000)
    collector = ImageCollector(pulled, lambda: set(), clock)
    part = pulled.directory / "partial" / ("a" * 64)
    for seconds, disk, stays in ((1000, ROOMY, True), (1000, FULL, False), (10, FULL, True), (100_000, ROOMY, False)):
        part.write_bytes(b"x" * 200)
        os.utime(part, (time.time() - seconds,) * 2)
        assert await collector.collect(disk) == []  # none that came just now
        assert part.exists() is stays


async def test_what_is_used_or_wanted_is_never_touched(pulled: ImageStore, registry: RealRegistry, clock: ManualClock) -> None:
    in_container = pulled.get(f"{registry.host}/gc/0:1")
    assert in_container is not None
    wanted = [f"{registry.host}/gc/1:1"]
    collector = ImageCollector(pulled, lambda: {in_container.id} | pulled.wanted_ids(), clock)
    with pulled.kept_for(lambda: wanted):
        await collector.collect(ROOMY)
        await clock.advance(10_000)
        await collector.collect(FULL)
        assert names(pulled) == {"0:1", "1:1", "mine:1"}
    wanted.clear()
    await clock.advance(100)
    await collector.collect(FULL)
    assert names(pulled) == {"0:1", "1:1", "mine:1"}  # used a moment ago
    await clock.advance(200)
    await collector.collect(FULL)
    assert names(pulled) == {"0:1", "mine:1"}


async def test_age_outlives_the_daemon_and_damage_to_its_notes(
    pulled: ImageStore, registry: RealRegistry, tmp_path: Path, clock: ManualClock
) -> None:
    settings = CollectorSettings(unused_age_s=1000)
    await ImageCollector(pulled, lambda: set(), clock, settings).collect(ROOMY)
    await clock.advance(900)
    await ImageCollector(pulled, lambda: set(), clock, settings).collect(ROOMY)
    assert len(names(pulled)) == 4
    await clock.advance(200)
    damaged = tmp_path / "data/images/last-used.json"
    good = damaged.read_bytes()
    damaged.write_bytes(b"{")
    assert await ImageCollector(pulled, lambda: set(), clock, settings).collect(ROOMY) == []
    damaged.write_bytes(good)
    assert len(await ImageCollector(pulled, lambda: set(), clock, settings).collect(ROOMY)) == 3


async def test_it_looks_now_and_then_and_goes_on_after_a_fault(pulled: ImageStore, clock: ManualClock) -> None:
    looks = 0

    def in_use() -> set[str]:
        nonlocal looks
        looks += 1
        raise OSError(5, "Input/output error")

    running = asyncio.ensure_future(ImageCollector(pulled, in_use, clock, CollectorSettings(period_s=10)).run())
    async with asyncio.timeout(10):
        while looks < 3:
            await clock.advance(10)
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_old_parts_of_blobs_go(store: ImageStore, tmp_path: Path) -> None:
    folder = tmp_path / "data/images/partial"
    for name, age_s in (("a" * 64, 90_000), ("b" * 64, 10)):
        (folder / name).write_bytes(b"x" * 10)
        os.utime(folder / name, (time.time() - age_s,) * 2)
    assert store.discard_partial() == 10
    assert [path.name for path in folder.iterdir()] == ["b" * 64]


async def test_a_disk_without_room_says_so_before_anything_is_fetched(tmp_path: Path, registry: RealRegistry) -> None:
    registry.push(BuiltImage([make_layer([Entry("f", random_bytes(100_000, "room"))])]), "room", "1")
    store = ImageStore(tmp_path / "tight", reserve_bytes=free_bytes(tmp_path) * 2)
    with pytest.raises(PyswarmError) as caught:
        await store.pull(f"{registry.host}/room:1")
    assert "no space left on device" in str(caught.value)
    assert "image prune --all" in str(caught.value)
    await store.close()
    assert list((tmp_path / "tight/images/partial").iterdir()) == []


async def test_a_bomb_is_stopped_before_the_disk_is_full(tmp_path: Path) -> None:
    bomb = BuiltImage([make_layer([Entry(f"zeros{n}", bytes(64 << 20)) for n in range(4)])])
    write_oci_archive(tmp_path / "bomb.tar", bomb, "bomb:1")
    (tmp_path / "bomb.tar.gz").write_bytes(gzip_compress(make_layer([Entry("zeros", bytes(64 << 20))]) * 4))
    assert (tmp_path / "bomb.tar").stat().st_size < 1 << 20
    store = ImageStore(tmp_path / "data", reserve_bytes=free_bytes(tmp_path) - (32 << 20))
    with pytest.raises(PyswarmError, match=r"No space left on device: it would leave less than the .* bytes kept free"):
        await store.load(tmp_path / "bomb.tar")
    with pytest.raises(PyswarmError, match=r"loading images: no space left on device"):
        await store.load(tmp_path / "bomb.tar.gz")
    await store.close()
    for folder in ("layers", "temporary", "trash"):
        assert list((tmp_path / "data/images" / folder).iterdir()) == []
