"""The volume store: names, options, conflicts, use, removal, and what it finds after a crash."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pyswarm_agent.volumes import ANONYMOUS_LABEL, VolumeStore
from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound

TMPFS = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}


class Stores:
    """Opens stores on one folder, as daemons do one after the other; `users` says who uses what."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.users: dict[str, list[str]] = {}
        self.opened: list[VolumeStore] = []

    def open(self) -> VolumeStore:
        self.opened.append(VolumeStore(self.data_dir, ManualClock(), lambda: self.users))
        return self.opened[-1]


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    stores = Stores(tmp_path)
    yield stores
    for store in stores.opened:
        await store.close()


async def test_a_volume_is_there_after_a_restart(stores: Stores) -> None:
    made = await stores.open().create("data", labels={"a": "b"}, options=TMPFS)
    store = stores.open()
    assert store.list() == [made]
    assert store.get("data") == made
    assert store.data_path("data") == stores.data_dir / "volumes/data/_data"
    assert store.data_path("data").stat().st_mode & 0o777 == 0o755
    assert made.created_at_ns == ManualClock().now_ns()


async def test_creating_again_returns_the_volume_and_keeps_it(stores: Stores) -> None:
    store = stores.open()
    made = await store.create("data", labels={"a": "b"}, options=TMPFS)
    assert await store.create("data", driver="local", labels={"c": "d"}) == made
    assert await store.create("data", options=TMPFS) == made
    with pytest.raises(Conflict, match=r"create data: .*volume name must be unique"):
        await store.create("data", options={**TMPFS, "o": "size=2m"})


async def test_a_volume_without_a_name_has_one_of_64_digits_and_a_label(stores: Stores) -> None:
    made = await stores.open().create(labels={"a": "b"})
    assert len(made.name) == 64
    assert int(made.name, 16)
    assert made.labels == {"a": "b", ANONYMOUS_LABEL: ""}
    assert made.is_anonymous


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a", "create a: volume name is too short, names should be at least two alphanumeric characters"),
        ("_a", 'create _a: "_a" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'),
        ("../x", 'create ../x: "../x" includes invalid characters'),
        ("a/b", 'create a/b: "a/b" includes invalid characters'),
        (".new", 'create .new: ".new" includes invalid characters'),
        ("ab\n", 'create ab\n: "ab\n" includes invalid characters'),
        ("x" * 256, "a volume name has 255 characters at most"),
    ],
)
async def test_names_that_cannot_be(stores: Stores, name: str, words: str) -> None:
    store = stores.open()
    with pytest.raises(InvalidArgument) as raised:
        await store.create(name)
    assert words in raised.value.message
    assert store.list() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"foo": "1"}, 'create data: invalid option: "foo"'),
        ({"type": "nfs"}, 'create data: missing required option: "device"'),
        ({"device": ":/x"}, 'create data: missing required option: "type"'),
        ({"o": "ro"}, 'create data: missing required option: "device"'),
        ({"size": "1G"}, "create data: quota size requested but no quota support"),
        ({"type": "nfs", "device": ""}, 'create data: missing required option: "device"'),
    ],
)
async def test_options_that_cannot_be(stores: Stores, options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await stores.open().create("data", options=options)
    assert raised.value.message.startswith(words)


async def test_there_is_only_the_local_driver(stores: Stores) -> None:
    with pytest.raises(NotFound, match='create data: error looking up volume plugin nosuch: plugin "nosuch" not found'):
        await stores.open().create("data", driver="nosuch")


async def test_what_is_used_or_held_cannot_be_removed(stores: Stores) -> None:
    store = stores.open()
    await store.create("data")
    stores.users = {"data": ["c1", "c2"]}
    with pytest.raises(Conflict) as raised:
        await store.remove("data", force=True)
    assert raised.value.message == "remove data: volume is in use - [c1, c2]"
    stores.users = {}
    with store.held(["data", "data"]), store.held(["data"]), pytest.raises(Conflict):
        await store.remove("data")
    await store.remove("data")
    assert stores.open().list() == []
    with pytest.raises(NotFound, match="get data: no such volume"):
        await store.remove("data")
    await store.remove("data", force=True)


async def test_pruning_counts_what_it_frees_and_leaves_what_is_used(stores: Stores) -> None:
    store = stores.open()
    for name in ("free", "used", "unwanted"):
        await store.create(name)
        data = store.data_path(name)
        (data / "file").write_bytes(bytes(1000))
        os.link(data / "file", data / "twin")
        (data / "folder").mkdir()
        (data / "folder/more").write_bytes(bytes(10))
        (data / "loop").symlink_to(data)
    stores.users = {"used": ["c1"]}
    assert await store.prune(lambda volume: volume.name != "unwanted") == (["free"], 1010)
    assert [volume.name for volume in store.list()] == ["unwanted", "used"]


async def test_pruning_looks_at_the_containers_once_for_all_that_is_used(stores: Stores) -> None:
    looks: list[None] = []

    def users() -> dict[str, list[str]]:
        looks.append(None)
        return {f"used{number}": ["c1"] for number in range(50)}

    store = VolumeStore(stores.data_dir, ManualClock(), users)
    stores.opened.append(store)
    for name in (*users(), "free"):
        await store.create(name)
    looks.clear()
    assert await store.prune(lambda _: True) == (["free"], 0)
    assert len(looks) == 2  # the second for the one that is removed


async def test_volumes_of_a_container_go_with_it_unless_another_uses_them(stores: Stores) -> None:
    store = stores.open()
    for name, container in (("own1", "c1"), ("own2", "c1"), ("other", "c2"), ("named", "")):
        await store.create(name, container_id=container)
    stores.users = {"own2": ["c3"]}
    await store.remove_of("c1")
    await store.remove_of("c1")
    assert [volume.name for volume in stores.open().list()] == ["named", "other", "own2"]


async def test_who_listens_hears_what_has_happened(stores: Stores) -> None:
    store, heard = stores.open(), []
    store.on_event = lambda action, volume: heard.append((action, volume.name, store.get(volume.name) is not None))
    await store.create("data")
    await store.create("data")
    await store.remove("data")
    assert heard == [("create", "data", True), ("destroy", "data", False)]


async def test_sizes(stores: Stores) -> None:
    store = stores.open()
    await store.create("data")
    await store.create("mounted", options=TMPFS)
    (store.data_path("data") / "x").write_bytes(bytes(7))
    assert [await store.size_bytes(name) for name in ("data", "mounted", "nosuch")] == [7, -1, 0]


async def test_what_a_crash_left_half_made_is_no_volume_and_its_name_is_free(stores: Stores) -> None:
    (stores.data_dir / "volumes/.new/data/_data").mkdir(parents=True)
    (stores.data_dir / "volumes/.removed/tmpx/old/_data").mkdir(parents=True)
    (stores.data_dir / "volumes/stray").mkdir()
    store = stores.open()
    assert store.list() == []
    await store.create("data")
    await store.close()
    assert list((stores.data_dir / "volumes/.removed").iterdir()) == []
    assert [volume.name for volume in stores.open().list()] == ["data"]


@pytest.mark.parametrize("text", [None, "", "{", json.dumps({"name": 1})])
async def test_data_is_kept_when_its_description_is_lost(stores: Stores, text: str | None) -> None:
    await stores.open().create("data", labels={"a": "b"})
    description = stores.data_dir / "volumes/data/volume.json"
    description.unlink() if text is None else description.write_text(text)
    (stores.data_dir / "volumes/data/_data/precious").touch()
    store = stores.open()
    assert [(volume.name, volume.labels) for volume in store.list()] == [("data", {})]
    assert (store.data_path("data") / "precious").exists()
