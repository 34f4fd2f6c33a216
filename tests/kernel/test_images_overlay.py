"""Layers under a real overlayfs, and the images of scripts/build-image run from them."""

import http.client
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from image_builder import BuiltImage, Entry, directory, make_layer, symlink, write_docker_archive

from pyswarm_agent.images import Image, ImageStore

pytestmark = pytest.mark.kernel

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    """Open a store in a fresh folder."""
    store = ImageStore(tmp_path / "data")
    yield store
    await store.close()


@contextmanager
def mounted(store: ImageStore, image: Image, folder: Path) -> Iterator[Path]:
    """Mount the image's layers below an empty one; the paths are relative to the layers' folder, to fit the mount's options."""
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    lower = store.layer_paths(image)
    layers = lower[0].parents[1]
    options = f"lowerdir={':'.join(str(path.relative_to(layers)) for path in lower)},upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, folder / "root"], check=True, cwd=layers)
    try:
        yield folder / "root"
    finally:
        subprocess.run(["umount", folder / "root"], check=True)


async def load(store: ImageStore, folder: Path, image: BuiltImage) -> Image:
    """Return the image, loaded."""
    write_docker_archive(folder / "image.tar", [(image, ["test:1"])])
    await store.load(folder / "image.tar")
    loaded = store.get("test:1")
    assert loaded is not None
    return loaded


async def test_whiteouts_and_opaque_directories_hide_what_is_below(store: ImageStore, tmp_path: Path) -> None:
    lower = [directory("a"), Entry("a/gone"), Entry("a/kept", b"old"), directory("b"), Entry("b/old"), Entry("c/old")]
    middle = [Entry("a/.wh.gone"), Entry("a/kept", b"new"), Entry("b/.wh..wh..opq"), Entry("b/new"), Entry(".wh.c")]
    upper = [directory("c"), Entry("c/new"), symlink("a/gone", "kept")]
    image = await load(store, tmp_path, BuiltImage([make_layer(lower), make_layer(middle), make_layer(upper)]))
    with mounted(store, image, tmp_path / "mount") as root:
        assert sorted(os.listdir(root / "a")) == ["gone", "kept"]
        assert (root / "a/gone").read_bytes() == b"new"
        assert os.listdir(root / "b") == ["new"]
        assert os.listdir(root / "c") == ["new"]


async def test_as_many_layers_as_docker_allows_can_be_mounted(store: ImageStore, tmp_path: Path) -> None:
    count = 100
    layers = [make_layer([Entry(f"file{n}"), Entry("top", str(n).encode())]) for n in range(count)]
    image = await load(store, tmp_path, BuiltImage(layers))
    with mounted(store, image, tmp_path / "m") as root:
        assert len(os.listdir(root)) == count + 1
        assert (root / "top").read_text() == str(count - 1)


@pytest_asyncio.fixture
async def built(store: ImageStore, tmp_path: Path) -> ImageStore:
    """A store with the images nginx and busybox of scripts/build-image."""
    for name in ("nginx", "busybox"):
        archive = tmp_path / f"{name}.tar"
        subprocess.run([SCRIPTS / "build-image", name, archive], check=True, capture_output=True)
        assert await store.load(archive) == [f"{name}:latest"]
    return store


async def test_the_same_packages_give_the_same_images_that_share_their_base(built: ImageStore, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    subprocess.run([SCRIPTS / "build-image", "nginx", again, "--tag", "web:7"], check=True, capture_output=True)
    assert await built.load(again) == ["web:7"]
    nginx, busybox = built.get("nginx"), built.get("busybox")
    assert nginx is not None
    assert busybox is not None
    assert nginx.repo_tags == ("nginx:latest", "web:7")
    assert nginx.layer_ids[0] == busybox.layer_ids[0]
    assert (nginx.config.stop_signal, nginx.config.exposed_ports) == ("SIGQUIT", ("80/tcp",))


async def test_busybox_has_a_shell(built: ImageStore, tmp_path: Path) -> None:
    image = built.get("busybox")
    assert image is not None
    assert image.config.cmd == ("sh",)
    with mounted(built, image, tmp_path / "mount") as root:
        answer = subprocess.run(
            ["chroot", root, "sh", "-c", "id -un; echo made > /tmp/x; cat /tmp/x; wget --help 2>&1 | head -1"],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            check=True,
        )
    assert re.match(r"root\nmade\nBusyBox v1\.", answer.stdout)


async def test_nginx_answers_with_the_hostname_and_logs_to_its_output(built: ImageStore, tmp_path: Path) -> None:
    image = built.get("nginx")
    assert image is not None
    name = f"img{os.getpid()}"
    with mounted(built, image, tmp_path / "mount") as root:
        port = free_port()
        conf = root / "etc/nginx/nginx.conf"
        conf.write_text(conf.read_text().replace("listen 80", f"listen {port}"))
        (root / "dev/null").touch()
        # Private namespaces for hostname and mounts: /proc for /dev/stdout, the name to answer with.
        script = (
            f"hostname {name}; mount -t proc proc {root}/proc; ln -s /proc/self/fd/1 {root}/dev/stdout;"
            f"ln -s /proc/self/fd/2 {root}/dev/stderr; exec chroot {root} {' '.join(image.config.entrypoint)} -g 'daemon off;'"
        )
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(["unshare", "--uts", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        try:
            assert fetch(port, process) == f"{name}\n"
        finally:
            process.send_signal(signal.Signals[image.config.stop_signal])
            output = process.stdout.read().decode()
            process.stdout.close()
            assert process.wait(10) == 0, (tmp_path / "log").read_text()
        assert '"GET / HTTP/1.1" 200' in output


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def fetch(port: int, process: "subprocess.Popen[bytes]") -> str:
    """Return what the server answers, once it does."""
    deadline = time.monotonic() + 10
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            assert process.poll() is None, "nginx ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        finally:
            connection.close()
