"""From what users ask to mount to what the runtime gets; options of mount(8)."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent.runtime.mount_options import kept_options, parse_mount_options, server_of, with_address
from pyswarm_agent.runtime.records import MountConfig, VolumeMountOptions
from pyswarm_agent.task_mounts import task_mounts
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.mounting import ContainerMounts, all_mounts
from pyswarm_common.clock import ManualClock
from pyswarm_common.container_spec import ContainerSpec, Mount
from pyswarm_common.errors import InvalidArgument, PyswarmError, Unimplemented

NAMES = {".Task.Slot": "3", ".Service.Name": "web"}
OPTIONS = ("ro", "rw", "noexec", "exec", "sync", "size=1m", "addr=a.example", "nfsvers=4", "rshared", "bind", "defaults")


def mount(**members: Any) -> Mount:
    return msgspec.convert({"Type": "volume", "Target": "/data", **members}, Mount)


async def resolve(tmp_path: Path, *mounts: Mount, image_volumes: tuple[str, ...] = ()) -> tuple[MountConfig, ...]:
    store = VolumeStore(tmp_path, ManualClock())
    try:
        async with ContainerMounts(store).prepared(mounts, image_volumes, "c" * 64) as configs:
            return configs
    finally:
        await store.close()


async def test_a_volume_is_a_bind_of_its_folder(tmp_path: Path) -> None:
    asked = mount(Source="db", ReadOnly=True, VolumeOptions={"NoCopy": True, "Subpath": "a/b", "Labels": {"x": "y"}})
    (config,) = await resolve(tmp_path, asked)
    assert config == MountConfig(
        type="bind",
        source=str(tmp_path / "volumes/db/_data"),
        target="/data",
        read_only=True,
        volume="db",
        volume_options=VolumeMountOptions(subpath="a/b"),
    )
    assert VolumeStore(tmp_path, ManualClock()).need("db").labels == {"x": "y"}


async def test_a_volumes_own_options_count_whoever_mounts_it(tmp_path: Path) -> None:
    options = {"type": "nfs", "device": ":/srv", "o": "addr=10.0.0.7,noexec,ro,nfsvers=4"}
    await resolve(tmp_path, mount(Source="media", VolumeOptions={"DriverConfig": {"Options": options}}))
    (config,) = await resolve(tmp_path, mount(Source="media"))
    wanted = VolumeMountOptions(copies_image=True, filesystem="nfs", device=":/srv", options="addr=10.0.0.7,noexec,ro,nfsvers=4")
    assert config.volume_options == wanted
    assert (config.read_only, config.options) == (True, ("noexec",))


async def test_images_volumes_are_anonymous_the_same_each_time_and_give_way(tmp_path: Path) -> None:
    asked = (mount(Source="db", Target="/db/"), mount(Type="tmpfs", Target="/scratch"))
    found = [await resolve(tmp_path, *asked, image_volumes=("/var/x", "/db", "/scratch")) for _ in range(2)]
    assert found[0] == found[1]
    assert [(config.target, config.type) for config in found[0]] == [("/db", "bind"), ("/scratch", "tmpfs"), ("/var/x", "bind")]
    store = VolumeStore(tmp_path, ManualClock())
    anonymous = [volume for volume in store.list() if volume.is_anonymous]
    assert [(len(volume.name), volume.container_id) for volume in anonymous] == [(64, "c" * 64)]
    assert found[0][2].volume_options.is_anonymous


def test_what_lies_below_is_mounted_after_what_it_lies_in() -> None:
    targets = [each.target for each in all_mounts([mount(Target=t) for t in ("/a/b/c", "/z", "/a/b", "//a//b/d/", "/a")], ())]
    assert targets == ["/z", "/a", "/a/b", "/a/b/c", "/a/b/d"]


@pytest.mark.parametrize(
    ("members", "error", "words"),
    [
        ({"Target": ""}, InvalidArgument, 'invalid mount config for type "volume": field Target must not be empty'),
        ({"Target": "data"}, InvalidArgument, "invalid mount path: 'data' mount path must be absolute"),
        ({"Target": "/x/.."}, InvalidArgument, "invalid specification: destination can't be '/'"),
        ({"Target": "//"}, InvalidArgument, "invalid specification: destination can't be '/'"),
        ({"Source": "/srv"}, InvalidArgument, "invalid volume mount source, must not be an absolute path: /srv"),
        ({"Source": "_x"}, InvalidArgument, "includes invalid characters for a local volume name"),
        ({"Type": "bind", "Source": "srv"}, InvalidArgument, "invalid bind mount source, must be an absolute path: srv"),
        ({"Type": "tmpfs", "Source": "x"}, InvalidArgument, "invalid tmpfs source, source must be empty"),
        ({"Type": "npipe"}, InvalidArgument, 'invalid mount config for type "npipe": mount type unknown'),
        ({"Type": "cluster", "Source": "x"}, Unimplemented, r"cluster volumes \(CSI\) are not offered"),
        ({"VolumeOptions": {"Subpath": "a"}}, InvalidArgument, "must not set Subpath when using anonymous volumes"),
        (
            {"Source": "db", "VolumeOptions": {"Subpath": "../a"}},
            InvalidArgument,
            "subpath must be a relative path",
        ),
        (
            {"Source": "db", "VolumeOptions": {"Subpath": "/a"}},
            InvalidArgument,
            "subpath must be a relative path",
        ),
        ({"Source": "db", "VolumeOptions": {"DriverConfig": {"Name": "x"}}}, PyswarmError, 'plugin "x" not found'),
    ],
)
async def test_mounts_that_cannot_be(tmp_path: Path, members: dict[str, Any], error: type[PyswarmError], words: str) -> None:
    with pytest.raises(error, match=words):
        await resolve(tmp_path, mount(**members))


async def test_two_mounts_on_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /data/"):
        await resolve(tmp_path, mount(Source="aa"), mount(Source="bb", Target="/data/"))


def test_placeholders_in_all_that_swarm_fills_in() -> None:
    options = {"Labels": {"l": "{{.Task.Slot}}"}, "DriverConfig": {"Options": {"o": "addr={{.Service.Name}}"}}}
    spec = ContainerSpec(mounts=[mount(Source="db-{{.Task.Slot}}", Target="/{{.Service.Name}}", VolumeOptions=options)])
    filled = {"Labels": {"l": "3"}, "DriverConfig": {"Options": {"o": "addr=web"}}}
    assert task_mounts(spec, NAMES) == [mount(Source="db-3", Target="/web", VolumeOptions=filled)]
    with pytest.raises(InvalidArgument, match="expanding mount source failed"):
        task_mounts(ContainerSpec(mounts=[mount(Source="{{.Nothing}}")]), NAMES)


@pytest.mark.parametrize(
    ("text", "flags", "propagation", "data"),
    [
        ("", 0, 0, ""),
        ("ro,noexec,size=1m,uid=33", 1 | 8, 0, "size=1m,uid=33"),
        ("ro,rw", 0, 0, ""),
        ("bind,rslave", 1 << 12, 1 << 19 | 1 << 14, ""),
        ("rbind,,noatime", 1 << 12 | 1 << 14 | 1 << 10, 0, ""),
        ("defaults,addr=10.0.0.7,nfsvers=4", 0, 0, "addr=10.0.0.7,nfsvers=4"),
    ],
)
def test_mount_options(text: str, flags: int, propagation: int, data: str) -> None:
    assert parse_mount_options(text) == (flags, propagation, data)


@given(st.lists(st.sampled_from(OPTIONS)))
def test_every_option_is_a_flag_or_the_file_systems_and_the_last_of_opposites_counts(options: list[str]) -> None:
    found = parse_mount_options(",".join(options))
    assert found.data.split(",") == ([option for option in options if "=" in option] or [""])
    last = next((option for option in reversed(options) if option in ("ro", "rw")), "rw")
    assert ("ro" in kept_options(",".join(options))) == (last == "ro")


@pytest.mark.parametrize(
    ("filesystem", "device", "options", "server"),
    [
        ("nfs", ":/srv", "ro,addr=nas.example,nfsvers=4", "nas.example"),
        ("nfs4", "nas.example:/srv", "clientaddr=10.0.0.1", "nas.example"),
        ("nfs", "[fd00::7]:/srv", "", "fd00::7"),
        ("cifs", "//nas.example/share/sub", "username=a", "nas.example"),
        ("cifs", "//nas.example/share", "addr=10.0.0.7", "10.0.0.7"),
        ("tmpfs", "tmpfs", "addr=x", ""),
    ],
)
def test_the_server_of_a_network_file_system(filesystem: str, device: str, options: str, server: str) -> None:
    assert server_of(filesystem, device, options) == server


def test_a_servers_name_is_replaced_by_its_address() -> None:
    assert with_address("ro,addr=nas.example,clientaddr=nas.example", "10.0.0.7") == "ro,clientaddr=nas.example,addr=10.0.0.7"
    assert with_address("", "10.0.0.7") == "addr=10.0.0.7"
