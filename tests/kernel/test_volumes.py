"""Volumes in real containers: first content, sharing, folders of volumes, options, and that nothing leaks or is lost."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime import ContainerConfig, ContainerStartFailed, MountConfig
from pyswarm_agent.runtime.volume_content import CopyPlace
from pyswarm_agent.runtime.volume_mounts import part_key
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.mounting import ContainerMounts
from pyswarm_agent.volumes.use import volume_users
from pyswarm_common.clock import SystemClock
from pyswarm_common.container_spec import Driver, Mount, VolumeOptions
from pyswarm_common.errors import Conflict
from pyswarm_common.ids import new_container_id

pytestmark = pytest.mark.kernel

DAEMON = Path(__file__).with_name("runtime_daemon.py")
MANY = 10_000
WAIT_FOR = "while [ ! -e {} ]; do sleep 0.02; done"


@pytest.fixture
async def volumes(node: RuntimeNode) -> AsyncIterator[VolumeStore]:
    store = VolumeStore(node.data_dir, SystemClock(), lambda: volume_users(node.runtime))
    yield store
    await store.close()


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """An image layer with content at /data, with what a plain copy loses."""
    layer = tmp_path / "content"
    data = layer / "data"
    (data / "sub").mkdir(parents=True)
    (data / "file").write_text("from the image")
    os.chown(data / "file", 33, 50)
    (data / "file").chmod(0o4640)
    os.setxattr(data / "file", "user.note", b"kept")
    os.link(data / "file", data / "sub/twin")
    (data / "link").symlink_to("/etc/passwd")
    os.mkfifo(data / "pipe")
    os.chown(data, 33, 33)
    data.chmod(0o1770)
    return layer


async def mounted(volumes: VolumeStore, *mounts: Mount, container_id: str = "") -> tuple[MountConfig, ...]:
    async with ContainerMounts(volumes).prepared(mounts, (), container_id or new_container_id()) as configs:
        return configs


def at(name: str, target: str = "/data", **more: Any) -> Mount:
    return Mount(type="volume", source=name, target=target, **more)


def with_content(node: RuntimeNode, layer: Path) -> tuple[str, ...]:
    return (str(layer), str(node.layer))


async def test_an_empty_volume_gets_the_images_content_once(node: RuntimeNode, volumes: VolumeStore, content: Path) -> None:
    mounts = await mounted(volumes, at("vol"))
    look = "cat /data/file; echo; stat -c '%a %u:%g' /data /data/file; readlink /data/link; ls -a /data"
    script = f"{look}; [ /data/file -ef /data/sub/twin ] && echo one; rm -r /data/sub; echo x > /data/new"
    _, output = await node.run(script, mounts=mounts, layer_paths=with_content(node, content))
    assert output == "from the image\n1770 33:33\n4640 33:50\n/etc/passwd\n.\n..\nfile\nlink\npipe\nsub\none\n"
    copied = volumes.data_path("vol") / "file"
    assert os.getxattr(copied, "user.note") == b"kept"
    _, output = await node.run("ls /data", mounts=mounts, layer_paths=with_content(node, content))
    assert output == "file\nlink\nnew\npipe\n"
    assert sorted(path.name for path in volumes.data_path("vol").parent.iterdir()) == ["_data", "volume.json"]


async def test_a_volume_on_whose_folder_the_operator_mounted_a_disk(node: RuntimeNode, volumes: VolumeStore, content: Path) -> None:
    mounts = await mounted(volumes, at("vol"))
    folder = volumes.data_path("vol")
    subprocess.run(["mount", "-t", "tmpfs", "disk", folder], check=True)
    try:
        _, output = await node.run("cat /data/file; ls -a /data", mounts=mounts, layer_paths=with_content(node, content))
        assert output == "from the image.\n..\nfile\nlink\npipe\nsub\n"
        assert (folder / "file").exists()
    finally:
        subprocess.run(["umount", folder], check=True)
    assert list(folder.iterdir()) == []


async def test_the_image_is_not_copied_where_that_is_not_wanted(node: RuntimeNode, volumes: VolumeStore, content: Path) -> None:
    mounts = await mounted(volumes, at("vol", volume_options=VolumeOptions(no_copy=True)))
    _, output = await node.run("ls /data; stat -c '%a %u' /data", mounts=mounts, layer_paths=with_content(node, content))
    assert output == "755 0\n"


async def test_an_empty_folder_of_the_image_gives_owner_and_mode(node: RuntimeNode, volumes: VolumeStore, tmp_path: Path) -> None:
    layer = tmp_path / "empty"
    (layer / "data").mkdir(parents=True)
    os.chown(layer / "data", 33, 50)
    (layer / "data").chmod(0o2750)
    mounts = await mounted(volumes, at("vol"))
    _, output = await node.run("stat -c '%a %u:%g' /data", mounts=mounts, layer_paths=with_content(node, layer))
    assert output == "2750 33:50\n"


async def test_content_is_taken_from_the_merged_image_and_never_from_the_host(
    node: RuntimeNode, volumes: VolumeStore, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("the host's")
    layer = tmp_path / "hostile"
    (layer / "srv/real").mkdir(parents=True)
    (layer / "srv/real/own").write_text("the image's")
    decoy = layer / secret.relative_to("/")
    decoy.mkdir(parents=True)
    (decoy / "decoy").touch()
    (layer / "out").symlink_to(secret)
    (layer / "up").symlink_to("../../../../../.." + str(secret))
    (layer / "in").symlink_to("/srv/real")
    mounts = await mounted(volumes, at("v1", "/out"), at("v2", "/up"), at("v3", "/in"))
    await node.run("true", mounts=mounts, layer_paths=(str(layer), str(node.layer)))
    assert [os.listdir(volumes.data_path(name)) for name in ("v1", "v2", "v3")] == [["decoy"], ["decoy"], ["own"]]


async def test_two_containers_that_begin_at_once_share_one_copy(node: RuntimeNode, volumes: VolumeStore, content: Path) -> None:
    for number in range(200):
        (content / f"data/f{number:03}").write_text("x" * number)
    mounts = await mounted(volumes, at("vol"))
    configs = [
        node.config(f"ls /data | wc -l; echo {n} > /data/mine{n}", mounts=mounts, layer_paths=with_content(node, content))
        for n in range(4)
    ]
    for config in configs:
        await node.runtime.create(config)
    await asyncio.gather(*(node.runtime.start_container(config.id) for config in configs))
    for config in configs:
        assert (await node.runtime.wait(config.id)).exit_code == 0
        assert int(await node.output(config.id)) >= 204
    assert len(os.listdir(volumes.data_path("vol"))) == 208


async def test_data_outlives_its_container_and_read_only_is_read_only(node: RuntimeNode, volumes: VolumeStore) -> None:
    mounts = await mounted(volumes, at("vol"))
    await node.run("echo kept > /data/x", mounts=mounts)
    for record in node.runtime.list():
        await node.runtime.remove(record.config.id)
    script = "cat /data/x; touch /data/y 2> /dev/null || echo refused"
    _, output = await node.run(script, mounts=await mounted(volumes, at("vol", read_only=True)))
    assert output == "kept\nrefused\n"


async def test_a_folder_of_a_volume(node: RuntimeNode, volumes: VolumeStore) -> None:
    await volumes.create("vol")
    data = volumes.data_path("vol")
    (data / "a/b").mkdir(parents=True)
    (data / "a/b/x").write_text("inside")
    (data / "inner").symlink_to("a/b")
    for subpath in ("a/b", "inner"):
        mounts = await mounted(volumes, at("vol", volume_options=VolumeOptions(subpath=subpath)))
        assert (await node.run("ls /data; echo new > /data/y", mounts=mounts))[1].startswith("x\n")
    mounts = await mounted(volumes, at("vol", "/one", volume_options=VolumeOptions(subpath="a/b/x")))
    assert (await node.run("cat /one", mounts=mounts))[1] == "inside"


@pytest.mark.parametrize("subpath", ["up", "absolute", "a/up", "missing", "dangling"])
async def test_no_folder_of_a_volume_leads_out_of_it(node: RuntimeNode, volumes: VolumeStore, subpath: str, tmp_path: Path) -> None:
    await volumes.create("vol")
    data = volumes.data_path("vol")
    (data / "a").mkdir()
    (data / "up").symlink_to("..")
    (data / "absolute").symlink_to(tmp_path)
    (data / "a/up").symlink_to("../../..")
    (data / "dangling").symlink_to("nowhere")
    config = node.config("ls /data", mounts=await mounted(volumes, at("vol", volume_options=VolumeOptions(subpath=subpath))))
    await node.runtime.create(config)
    with pytest.raises(ContainerStartFailed, match=r"cannot access path .*(escapes|no such file)"):
        await node.runtime.start_container(config.id)


def tmpfs_volume(size: str = "1m") -> VolumeOptions:
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={size},uid=33,noexec"}
    return VolumeOptions(driver_config=Driver(name="local", options=options), no_copy=True)


async def test_a_volume_in_memory_is_one_for_all_its_containers_and_gone_with_the_last(
    node: RuntimeNode, volumes: VolumeStore
) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    mounts = await mounted(volumes, at("vol", volume_options=tmpfs_volume()))
    first = await node.started(f"echo hello > /data/x; echo ready; {WAIT_FOR.format('/data/end')}", mounts=mounts)
    script = "cat /data/x; stat -f -c %T /data; stat -c %u /data; head -c 2000000 /dev/zero 2> /dev/null > /data/big || echo full"
    script += "; rm /data/big; echo '#!/bin/sh' > /data/run; chmod +x /data/run; /data/run true 2> /dev/null || echo not run"
    _, output = await node.run(script, mounts=mounts)
    assert output == "hello\ntmpfs\n33\nfull\nnot run\n"
    assert os.listdir(volumes.data_path("vol")) == []
    assert Path("/proc/self/mountinfo").read_text() == before
    _, output = await node.run("touch /data/end", mounts=mounts)
    await node.runtime.wait(first)
    _, output = await node.run("ls -A /data", mounts=mounts)
    assert output == ""


async def test_first_content_of_a_volume_in_memory(node: RuntimeNode, volumes: VolumeStore, content: Path) -> None:
    options = msgspec.structs.replace(tmpfs_volume(), no_copy=False)
    mounts = await mounted(volumes, at("vol", volume_options=options))
    _, output = await node.run("ls -A /data; stat -c %a /data", mounts=mounts, layer_paths=with_content(node, content))
    assert output == "file\nlink\npipe\nsub\n1770\n"


async def test_a_container_cannot_lead_the_first_copy_out_of_a_volume_that_it_shares(
    node: RuntimeNode, volumes: VolumeStore, content: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    mounts = await mounted(volumes, at("vol", volume_options=tmpfs_volume()))
    names = [f"/data/.{step}-{socket.gethostname()}" for step in ("copying", "copied")]
    traps = "; ".join(f"ln -s {victim} {name}" for name in names)
    await node.started(f"{traps}; echo ready; sleep 60", mounts=mounts)
    mounts = await mounted(volumes, at("vol"))
    _, output = await node.run("ls -A /data", mounts=mounts, layer_paths=with_content(node, content))
    assert output == "file\nlink\npipe\nsub\n"
    assert os.listdir(victim) == ["precious"]


async def test_a_volume_that_is_a_bind_of_a_folder(node: RuntimeNode, volumes: VolumeStore, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x").write_text("the host's")
    driver = Driver(options={"type": "none", "device": str(folder), "o": "bind,ro"})
    mounts = await mounted(volumes, at("vol", volume_options=VolumeOptions(driver_config=driver)))
    _, output = await node.run("cat /data/x; touch /data/y 2>/dev/null || echo refused", mounts=mounts)
    assert output == "the host'srefused\n"


async def test_a_volume_that_cannot_be_mounted_says_why_but_no_secret(node: RuntimeNode, volumes: VolumeStore) -> None:
    driver = Driver(options={"type": "ext4", "device": "/nonexistent", "o": "password=hush"})
    mounts = await mounted(volumes, at("vol", volume_options=VolumeOptions(driver_config=driver)))
    config = node.config("true", mounts=mounts)
    await node.runtime.create(config)
    with pytest.raises(ContainerStartFailed, match="failed to mount local volume: mount /nonexistent") as raised:
        await node.runtime.start_container(config.id)
    assert "hush" not in str(raised.value)


async def test_what_containers_use_stays_and_anonymous_volumes_go_with_theirs(node: RuntimeNode, volumes: VolumeStore) -> None:
    config = node.config("echo x > /anonymous/x; echo y > /data/y")
    async with ContainerMounts(volumes).prepared((at("vol"),), ("/anonymous", "/data"), config.id) as mounts:
        with pytest.raises(Conflict, match="volume is in use - \\[a container that is being made\\]"):
            await volumes.remove("vol")
        await node.runtime.create(msgspec.structs.replace(config, mounts=mounts))
    await node.runtime.start_container(config.id)
    await node.runtime.wait(config.id)
    anonymous = next(volume.name for volume in volumes.list() if volume.is_anonymous)
    assert (volumes.data_path(anonymous) / "x").read_text() == "x\n"
    for name in ("vol", anonymous):
        with pytest.raises(Conflict, match=f"remove {name}: volume is in use - \\[{config.id}\\]"):
            await volumes.remove(name)
    await node.runtime.remove(config.id)
    await ContainerMounts(volumes).discard(config.id)
    assert [volume.name for volume in volumes.list()] == ["vol"]
    assert (volumes.data_path("vol") / "y").exists()


def run_daemon(node: RuntimeNode, configs: Sequence[ContainerConfig]) -> subprocess.Popen[bytes]:
    arguments = [str(node.data_dir), str(node.runtime_dir), node.tag, msgspec.json.encode(configs).decode()]
    return subprocess.Popen([sys.executable, str(DAEMON), *arguments], stdout=subprocess.PIPE)


async def open_again(node: RuntimeNode) -> None:
    await node.runtime.close()
    node.runtime = node.new_runtime()
    await node.runtime.start()


async def test_a_copy_that_a_killed_daemon_left_is_done_again(node: RuntimeNode, volumes: VolumeStore, content: Path) -> None:
    for number in range(MANY):
        (content / f"data/f{number:05}").write_bytes(b"x")
    config = node.config("true", mounts=await mounted(volumes, at("vol")), layer_paths=with_content(node, content))
    await node.runtime.close()
    folder = volumes.data_path("vol").parent
    with run_daemon(node, [config]) as daemon:
        while not any(os.listdir(path) for path in folder.glob(".copying-*")):
            assert daemon.poll() is None
        copying = children(daemon.pid)[0]
        os.kill(copying, signal.SIGSTOP)
        daemon.send_signal(signal.SIGKILL)
    assert os.listdir(folder / "_data") == []
    await open_again(node)
    again = asyncio.create_task(node.run("ls /data | wc -l", mounts=config.mounts, layer_paths=config.layer_paths))
    os.kill(copying, signal.SIGCONT)  # what the killed daemon began is waited for, and not counted upon
    assert (await again)[1] == f"{MANY + 4}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["_data", "volume.json"]


async def test_a_copy_that_was_cut_off_while_it_was_moved_into_the_volume_is_finished(
    node: RuntimeNode, volumes: VolumeStore, content: Path
) -> None:
    mounts = await mounted(volumes, at("vol"))
    await node.run("true", mounts=mounts, layer_paths=with_content(node, content))
    data = volumes.data_path("vol")
    place = CopyPlace.in_folder(data.parent, part_key(mounts[0]))
    place.copied.mkdir()
    for name in ("file", "sub"):
        (data / name).rename(place.copied / name)
    (place.copied / "link").write_text("what came later is kept")
    place.copying.mkdir()
    _, output = await node.run("ls /data; readlink /data/link", mounts=mounts, layer_paths=with_content(node, content))
    assert output == "file\nlink\npipe\nsub\n/etc/passwd\n"
    assert not place.copied.exists()


async def test_a_container_that_is_started_again_does_not_get_back_what_it_deleted(
    node: RuntimeNode, volumes: VolumeStore, content: Path
) -> None:
    mounts = await mounted(volumes, at("vol"))
    script = "ls /data | wc -l; rm -rf /data/*"
    config = node.config(script, mounts=mounts, layer_paths=with_content(node, content), keeps_layer=True)
    await node.runtime.create(config)
    for _ in range(2):
        await node.runtime.start_container(config.id)
        await node.runtime.wait(config.id)
    assert await node.output(config.id) == "4\n0\n"


def children(pid: int) -> list[int]:
    """Return the processes that the threads of a process have started."""
    lists = (path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for found in lists for child in found]
