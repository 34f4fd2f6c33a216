"""Pulling from a real registry: what arrives, what is shared, and what is refused."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from image_builder import (
    OCI_INDEX,
    OCI_MANIFEST,
    BuiltImage,
    Entry,
    compact_json,
    debian_architecture,
    descriptor,
    digest_of,
    gzip_compress,
    make_layer,
    write_docker_archive,
)
from image_registries import RealRegistry, Reply, ScriptedServer, free_port, random_bytes

from pyswarm_agent.images import ImageStore, PullProgress
from pyswarm_common.errors import InvalidArgument, NotFound, PyswarmError, Unavailable

pytestmark = pytest.mark.kernel


def make_image(seed: str, layers: int = 2, size_bytes: int = 50_000) -> BuiltImage:
    """Return an image with one file a layer."""
    content = [make_layer([Entry(f"file{n}", random_bytes(size_bytes, f"{seed}{n}"))]) for n in range(layers)]
    return BuiltImage(content, {"Cmd": ["sh"], "Labels": {"seed": seed}})


def files_of(store: ImageStore, name: str) -> dict[str, bytes]:
    """Return the files in an image's layers, the upper ones winning."""
    image = store.get(name)
    assert image is not None
    return {path.name: path.read_bytes() for layer in reversed(store.layer_paths(image)) for path in layer.iterdir()}


def nothing_stays(store: ImageStore, data: Path) -> bool:
    """Whether a failed pull left no image, no layer and no temporary file."""
    return (
        store.list() == [] and list((data / "images/layers").iterdir()) == [] and list((data / "images/temporary").iterdir()) == []
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of the fixture `store`."""
    return tmp_path / "data"


@pytest.mark.parametrize("oci", [False, True])
async def test_a_pulled_image_has_its_files_names_and_configuration(store: ImageStore, registry: RealRegistry, oci: bool) -> None:
    built = make_image(f"whole{oci}")
    digest = registry.push(built, "team/whole", f"v{oci:d}", oci=oci)
    name = f"{registry.host}/team/whole:v{oci:d}"
    image = await store.pull(name)
    assert image == store.get(name)
    assert image.id == built.id
    assert image.repo_tags == (name,)
    assert image.repo_digests == (f"{registry.host}/team/whole@{digest}",)
    assert image.size_bytes == 100_000
    assert image.config.cmd == ("sh",)
    assert store.raw_config(image) == built.config
    assert files_of(store, name) == {f"file{n}": random_bytes(50_000, f"whole{oci}{n}") for n in range(2)}
    top, bottom = store.layer_paths(image)
    assert (top / "file1").exists()
    assert (bottom / "file0").exists()


async def test_an_image_pushed_by_skopeo_is_pulled_by_tag_and_by_digest(
    store: ImageStore, registry: RealRegistry, tmp_path: Path
) -> None:
    archive = tmp_path / "saved.tar"
    built = make_image("skopeo")
    write_docker_archive(archive, [(built, ["x:1"])])
    target = f"docker://{registry.host}/pushed/by-skopeo:1"
    subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"docker-archive:{archive}", target], check=True)
    image = await store.pull(f"{registry.host}/pushed/by-skopeo:1")
    assert image.id == built.id
    again = await store.pull(image.repo_digests[0])
    assert again.id == built.id
    assert store.get(image.repo_digests[0]) == again


async def test_a_manifest_list_gives_this_machines_image_and_zstd_layers_unpack(store: ImageStore, registry: RealRegistry) -> None:
    mine, other = make_image("mine"), make_image("other")
    entries = []
    for built, architecture in ((other, "s390x"), (mine, debian_architecture())):
        registry.push(built, "multi", architecture, oci=True, compress=zstandard.compress)
        manifest, _ = built.manifest(oci=True, compress=zstandard.compress)
        platform = {"os": "linux", "architecture": architecture}
        entries.append(descriptor(manifest, OCI_MANIFEST, platform=platform))
    index = compact_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    registry.push_manifest("multi", "latest", index, OCI_INDEX)
    image = await store.pull(f"{registry.host}/multi")
    assert image.id == mine.id
    assert image.repo_digests == (f"{registry.host}/multi@{digest_of(index)}",)
    descriptor_of = await store.resolve_digest(f"{registry.host}/multi")
    assert (descriptor_of.digest, descriptor_of.media_type, descriptor_of.size_bytes) == (
        digest_of(index),
        OCI_INDEX,
        len(index),
    )
    assert [str(platform) for platform in descriptor_of.platforms] == ["linux/s390x", f"linux/{debian_architecture()}"]


async def test_resolving_a_single_image_tells_its_platform_and_fetches_no_layer(store: ImageStore, registry: RealRegistry) -> None:
    digest = registry.push(make_image("resolve"), "resolve", "1")
    found = await store.resolve_digest(f"{registry.host}/resolve:1")
    assert found.digest == digest
    assert [str(platform) for platform in found.platforms] == ["linux/amd64"]
    assert registry.count_requests("resolve/blobs") == 1
    assert store.list() == []


async def test_progress_is_told_in_dockers_words(store: ImageStore, registry: RealRegistry) -> None:
    digest = registry.push(make_image("progress"), "progress", "1")
    name = f"{registry.host}/progress:1"
    told: list[PullProgress] = []
    await store.pull(name, progress=told.append)
    statuses = [progress.status for progress in told]
    assert told[0] == PullProgress(status="Pulling from progress", id="1")
    for status in ("Pulling fs layer", "Download complete", "Extracting", "Pull complete"):
        assert statuses.count(status) == 2
    downloading = [progress for progress in told if progress.status == "Downloading"]
    assert all(0 < progress.current_bytes <= progress.total_bytes for progress in downloading)
    assert statuses[-2:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {name}"]
    told.clear()
    await store.pull(name, progress=told.append)
    statuses = [progress.status for progress in told]
    assert statuses.count("Already exists") == 2
    assert statuses[-1] == f"Status: Image is up to date for {name}"


async def test_four_pulls_at_once_ask_the_registry_once(store: ImageStore, registry: RealRegistry) -> None:
    registry.push(make_image("shared", 3), "shared", "1")
    told: list[list[PullProgress]] = [[] for _ in range(4)]
    images = await asyncio.gather(*(store.pull(f"{registry.host}/shared:1", progress=listener.append) for listener in told))
    assert len({image.id for image in images}) == 1
    assert registry.count_requests("shared/blobs") == 4  # three layers and the configuration
    assert registry.count_requests("shared/manifests") == 1
    for listener in told:
        assert listener[-1].status.startswith("Status: Downloaded")


async def test_images_with_a_common_layer_fetch_it_once(store: ImageStore, registry: RealRegistry) -> None:
    base = make_layer([Entry("base", random_bytes(200_000, "common"))])
    for name in ("one", "two", "three"):
        registry.push(BuiltImage([base, make_layer([Entry(name)])]), f"common/{name}", "latest")
    await asyncio.gather(*(store.pull(f"{registry.host}/common/{name}") for name in ("one", "two", "three")))
    assert registry.count_requests(f"blobs/{digest_of(gzip_compress(base))}") == 1
    assert len(store.list()) == 3


async def test_a_layer_that_occurs_twice_is_one_lower_directory(store: ImageStore, registry: RealRegistry) -> None:
    a, b = make_layer([Entry("a")]), make_layer([Entry("b")])
    registry.push(BuiltImage([a, b, a]), "twice", "latest")
    image = await store.pull(f"{registry.host}/twice")
    assert len(image.layer_ids) == 3
    assert [[path.name for path in layer.iterdir()] for layer in store.layer_paths(image)] == [["a"], ["b"]]


async def test_a_tag_that_moved_is_pulled_anew_and_leaves_the_old_image_without_its_name(
    store: ImageStore, registry: RealRegistry
) -> None:
    name = f"{registry.host}/moving:1"
    registry.push(make_image("before"), "moving", "1")
    before = await store.pull(name)
    registry.push(make_image("after"), "moving", "1")
    after = await store.pull(name)
    assert before.id != after.id
    assert store.get(name) == after
    old = store.get(before.id)
    assert old is not None
    assert old.repo_tags == ()
    assert old.repo_digests == before.repo_digests


@pytest.mark.parametrize("kind", ["unknown tag", "unknown repository"])
async def test_an_unknown_image_is_not_found_in_dockers_words(store: ImageStore, registry: RealRegistry, kind: str) -> None:
    registry.push(make_image("known"), "known", "1")
    name = f"{registry.host}/known:2" if kind == "unknown tag" else f"{registry.host}/nobody:1"
    with pytest.raises(NotFound) as caught:
        await store.pull(name)
    assert str(caught.value) == f"manifest for {name} not found: manifest unknown: manifest unknown"


async def test_an_unreachable_registry_is_unavailable_and_says_what_to_check(store: ImageStore) -> None:
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable) as caught:
        await store.pull(f"{host}/web")
    assert str(caught.value) == (
        f'Get "http://{host}/v2/": dial tcp {host}: connect: connection refused '
        "(check that the registry runs, and that this node reaches it)"
    )
    with pytest.raises(Unavailable, match=r"lookup registry\.invalid: no such host"):
        await store.pull("registry.invalid/web")


async def test_a_bad_name_asks_nobody(store: ImageStore) -> None:
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        await store.pull("no such:name:")


@pytest.mark.parametrize("damage", ["changed", "shorter", "longer"])
async def test_a_corrupt_layer_is_refused_and_leaves_nothing(
    store: ImageStore, registry: RealRegistry, data: Path, damage: str
) -> None:
    built = make_image(f"corrupt {damage}")
    registry.push(built, f"corrupt/{damage}", "1")
    digest = digest_of(gzip_compress(built.layers[1]))
    path = registry.blob_path(digest)
    good = path.read_bytes()
    path.write_bytes({"changed": good[:5000] + b"!" + good[5001:], "shorter": good[:-100], "longer": good + b"more"}[damage])
    name = f"{registry.host}/corrupt/{damage}:1"
    with pytest.raises(PyswarmError) as caught:
        await store.pull(name)
    expected = f"filesystem layer verification failed for digest {digest}" if damage == "changed" else f"{digest}: the registry"
    assert str(caught.value).startswith(expected)
    assert nothing_stays_but_good_layers(store, data, {built.layers[0]})
    path.write_bytes(good)
    assert (await store.pull(name)).id == built.id


def nothing_stays_but_good_layers(store: ImageStore, data: Path, layers: set[bytes]) -> bool:
    """Whether nothing stays, save layers that were whole before the damaged one was noticed (garbage until the next pull)."""
    kept = {digest_of(layer).removeprefix("sha256:")[:32] for layer in layers}
    left = {path.name for path in (data / "images/layers").iterdir()}
    return store.list() == [] and left <= kept and list((data / "images/temporary").iterdir()) == []


async def test_a_layer_that_is_not_the_images_is_refused(store: ImageStore, registry: RealRegistry, data: Path) -> None:
    built, wrong = make_image("diff", 1), make_image("another", 1)
    config = built.config
    blob = gzip_compress(wrong.layers[0])
    manifest, _ = built.manifest()
    body = manifest.replace(
        compact_json(descriptor(gzip_compress(built.layers[0]), "application/vnd.docker.image.rootfs.diff.tar.gzip")),
        compact_json(descriptor(blob, "application/vnd.docker.image.rootfs.diff.tar.gzip")),
    )
    for data_ in (config, blob):
        registry.push_blob("diff", digest_of(data_), data_)
    registry.push_manifest("diff", "1", body, "application/vnd.docker.distribution.manifest.v2+json")
    with pytest.raises(PyswarmError, match=f"filesystem layer verification failed for digest {digest_of(blob)}: unpacked"):
        await store.pull(f"{registry.host}/diff:1")
    assert nothing_stays(store, data)


async def test_a_cancelled_pull_stops_and_leaves_nothing(store: ImageStore, server: ScriptedServer, data: Path) -> None:
    layer = serve_held_layer(server, "slow")
    pulls = [asyncio.create_task(store.pull(f"{server.host}/slow")) for _ in range(2)]
    await wait_until(lambda: bool(server.asked(layer)))
    pulls[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulls[0]
    assert not pulls[1].done()  # the other still wants it
    pulls[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulls[1]
    assert nothing_stays(store, data)


HELD_BYTES = 6_000_000
"""Enough for a part of it to be written to the disk before the rest comes."""


def serve_held_layer(server: ScriptedServer, name: str) -> str:
    """Serve an image whose one layer stops in the middle for ever; return the layer's digest."""
    built = make_image(name, 1, HELD_BYTES)
    (layer,) = server.serve_image(built, name)
    blob = gzip_compress(built.layers[0])
    server.routes[f"/v2/{name}/blobs/{layer}"] = lambda _: Reply(blob, hold_at=HELD_BYTES // 2, hold=asyncio.Event())
    return layer


@pytest.fixture
async def killed_at(server: ScriptedServer, tmp_path: Path) -> Path:
    """A data folder in which a process was killed in the middle of a pull of `server`'s image `slow`."""
    layer = serve_held_layer(server, "slow")
    program = (
        "import asyncio, sys; from pathlib import Path; from pyswarm_agent.images import ImageStore\n"
        "async def main(): await ImageStore(Path(sys.argv[1])).pull(sys.argv[2])\n"
        "asyncio.run(main())"
    )
    folder = tmp_path / "killed"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(folder), f"{server.host}/slow")
    await wait_until(lambda: bool(server.asked(layer)) and received_bytes(folder) > 0)
    process.kill()
    await process.wait()
    return folder


async def test_a_store_killed_in_the_middle_of_a_pull_works_again(server: ScriptedServer, killed_at: Path) -> None:
    received = received_bytes(killed_at)
    store = ImageStore(killed_at)
    try:
        assert nothing_stays(store, killed_at)
        server.serve_image(make_image("slow", 1, HELD_BYTES), "slow")
        image = await store.pull(f"{server.host}/slow")
        assert server.asked("slow/blobs")[-1].offset == received  # what had come is not fetched again
        assert received_bytes(killed_at) == 0
    finally:
        await store.close()
    reopened = ImageStore(killed_at)
    assert reopened.get(image.id) == image
    assert files_of(reopened, image.id)["file0"] == random_bytes(HELD_BYTES, "slow0")
    await reopened.close()


def received_bytes(data: Path) -> int:
    """Return how much of blobs that are not whole a store has."""
    return sum(path.stat().st_size for path in (data / "images/partial").glob("*"))


async def test_an_unpacker_stops_when_its_parent_is_killed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    # The parent hands its standard input on to an unpacker and is then killed.
    program = (
        "import subprocess, sys; "
        "p = subprocess.Popen([sys.executable, '-P', '-m', 'pyswarm_agent.images.unpack', *sys.argv[1:], '0']);"
        "print(p.pid, flush=True); p.wait()"
    )
    read_end, write_end = os.pipe()
    command = [sys.executable, "-c", program, target, tmp_path / "recording"]
    parent = subprocess.Popen(command, stdin=read_end, stdout=subprocess.PIPE)
    os.close(read_end)
    assert parent.stdout is not None
    unpacker = int(parent.stdout.readline())
    layer = make_layer([Entry("first", b"1")])[:1024] + make_layer([Entry("second", b"2" * 1_000_000)])
    os.write(write_end, layer[:20_000])
    await wait_until((target / "first").exists)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    os.write(write_end, layer[20_000:40_000])
    await wait_until(lambda: not is_alive(unpacker))
    os.close(write_end)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition, which nothing announces, holds; fail after 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie, which some PID 1 leave, does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
