"""`pyswarm image …`, `login` and `logout` against the real API, a real registry, and credential helpers."""

import base64
import json
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive
from image_registries import RealRegistry, running_registry

from pyswarm_agent.images.records import registry_auth_of_header
from pyswarm_cli.registry.docker_config import HUB, DockerConfig, address_of, auth_header, registry_of
from pyswarm_common.clock import SystemClock
from pyswarm_manager.api.image_pinning import ImagePinning
from pyswarm_manager.store.store import Store
from pyswarm_node.api.fake_control import FakeNodeControl

pytestmark = pytest.mark.kernel

Run = Callable[..., Awaitable[Result]]
BASE = make_layer([Entry("base", b"0123456789")])
IMAGE = BuiltImage([BASE, make_layer([Entry("hello", b"hi")])], {"Cmd": ["/hello"]})
HTPASSWD = "tester:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, for what login writes."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running_registry(tmp_path_factory.mktemp("guarded"), htpasswd=HTPASSWD) as registry:
        registry.authorization = "Basic " + base64.b64encode(b"tester:opensesame").decode()
        yield registry


@pytest.fixture
async def loaded(pyswarm: Run, tmp_path: Path) -> None:
    archive = tmp_path / "in.tar"
    write_docker_archive(archive, [(IMAGE, ["hello:1"]), (BuiltImage([BASE]), ["base:1"])])
    result = await pyswarm("load", "--input", str(archive))
    assert (result.exit_code, result.stdout) == (0, "Loaded image: hello:1\nLoaded image: base:1\n")


async def said(pyswarm: Run, *arguments: str, **more: Any) -> str:
    result = await pyswarm(*arguments, **more)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def config_of(home: Path) -> dict[str, Any]:
    return dict(json.loads((home / ".docker/config.json").read_text()))


@pytest.mark.usefixtures("loaded")
async def test_images_are_listed_named_and_removed(pyswarm: Run) -> None:
    assert await said(pyswarm, "images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}", "hello") == "hello:1 12B\n"
    assert (await said(pyswarm, "image", "ls", "--digests")).split("\n")[0].split() == [
        *("REPOSITORY", "TAG", "DIGEST", "IMAGE", "ID", "CREATED", "SIZE")
    ]
    await said(pyswarm, "tag", "hello:1", "quay.io/x/hello:2")
    assert await said(pyswarm, "rmi", "hello:1") == "Untagged: hello:1\n"
    lines = (await said(pyswarm, "history", "quay.io/x/hello:2")).split("\n")
    assert lines[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert lines[1].split() == [IMAGE.id[7:19], "N/A", "pyswarm", "build-image", "2B"]
    assert lines[2].startswith("<missing>")


@pytest.mark.usefixtures("loaded")
async def test_what_is_saved_can_be_loaded(pyswarm: Run, tmp_path: Path) -> None:
    saved = tmp_path / "out.tar"
    await said(pyswarm, "save", "-o", str(saved), "hello:1", "base")
    assert [path.name for path in tmp_path.glob(".out*")] == []
    await said(pyswarm, "image", "rm", "hello:1", "base:1")
    assert await said(pyswarm, "images", "-q") == ""
    assert sorted((await said(pyswarm, "image", "load", input=saved.read_bytes())).split("\n"))[1:] == [
        "Loaded image: base:1",
        "Loaded image: hello:1",
    ]
    failed = await pyswarm("save", "-o", str(tmp_path / "none.tar"), "nosuch:1")
    assert (failed.exit_code, failed.stderr) == (1, "Error: No such image: nosuch:1\n")
    assert not (tmp_path / "none.tar").exists()


@pytest.mark.usefixtures("loaded")
async def test_nothing_but_a_file_is_replaced_by_what_is_saved(pyswarm: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused = await pyswarm("save", "-o", str(tmp_path / "pipe"), "hello:1")
    assert (refused.exit_code, "must be a regular file" in refused.stderr) == (1, True)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.tar").symlink_to("folder/real.tar")
    await said(pyswarm, "save", "-o", str(tmp_path / "link.tar"), "hello:1")
    assert (tmp_path / "link.tar").is_symlink()
    assert (tmp_path / "folder" / "real.tar").stat().st_size > 0


async def test_import_and_prune(pyswarm: Run, tmp_path: Path) -> None:
    files = tmp_path / "files.tar"
    files.write_bytes(BASE)
    image_id = (await said(pyswarm, "import", "-c", "CMD /base", "-c", "ENV A=1", "-m", "by hand", str(files), "mine:1")).strip()
    (found,) = json.loads(await said(pyswarm, "image", "inspect", "mine:1"))
    assert (found["Id"], found["Config"]["Cmd"], found["Config"]["Env"]) == (image_id, ["/bin/sh", "-c", "/base"], ["A=1"])
    assert found["Comment"] == "by hand"
    assert await said(pyswarm, "image", "prune", "--force") == "Total reclaimed space: 0B\n"
    refused = await pyswarm("image", "prune", "--all", input=b"n\n")
    assert refused.exit_code == 1
    assert "all images without at least one container associated to them" in refused.output
    pruned = await said(pyswarm, "image", "prune", "--all", input=b"y\n")
    assert f"untagged: mine:1\ndeleted: {image_id}\n" in pruned
    assert pruned.endswith("\nTotal reclaimed space: 10B\n")


@pytest.mark.usefixtures("loaded")
async def test_login_push_pull_logout(pyswarm: Run, guarded: RealRegistry, home: Path) -> None:
    name = f"{guarded.host}/team/hello:1"
    await said(pyswarm, "tag", "hello:1", name)
    refused = await pyswarm("push", name)
    assert refused.exit_code == 1
    assert f"unauthorized: authentication required (pyswarm login {guarded.host})" in refused.stderr
    wrong = await pyswarm("login", "-u", "tester", "--password-stdin", guarded.host, input=b"wrong\n")
    assert (wrong.exit_code, "failed with status: 401 Unauthorized" in wrong.stderr) == (1, True)
    assert not (home / ".docker").exists()
    right = await pyswarm("login", "-u", "tester", "--password-stdin", guarded.host, input=b"opensesame\n")
    assert (right.exit_code, right.stdout) == (0, "Login Succeeded\n")
    assert "kept unencrypted in" in right.stderr
    assert config_of(home) == {"auths": {guarded.host: {"auth": base64.b64encode(b"tester:opensesame").decode()}}}
    assert stat.S_IMODE((home / ".docker/config.json").stat().st_mode) == 0o600
    pushed = await said(pyswarm, "push", name)
    assert "1: digest: sha256:" in pushed
    assert (await said(pyswarm, "image", "push", "--all-tags", "--quiet", name.removesuffix(":1"))).strip() == name.removesuffix(
        ":1"
    )
    await said(pyswarm, "rmi", name)
    assert f"Status: Downloaded newer image for {name}" in await said(pyswarm, "pull", name)
    await said(pyswarm, "rmi", name)
    created = await pyswarm("create", name)
    assert (created.exit_code, created.stderr.splitlines()[:1]) == (0, [f"Unable to find image '{name}' locally"]), created.output
    assert await said(pyswarm, "logout", guarded.host) == f"Removing login credentials for {guarded.host}\n"
    assert await said(pyswarm, "logout", guarded.host) == f"Not logged in to {guarded.host}\n"
    assert config_of(home) == {"auths": {}}


@pytest.fixture
def pinning(control: FakeNodeControl) -> None:
    async def pin(image: str, registry_auth: str) -> str:
        return await control.agent.images.pin(image, auth=registry_auth_of_header(registry_auth))

    object.__setattr__(control.manager, "image_pinning", ImagePinning(pin, SystemClock()))


@pytest.mark.usefixtures("pinning")
async def test_services_get_digests_and_credentials(pyswarm: Run, guarded: RealRegistry, store: Store) -> None:
    name = f"{guarded.host}/svc"
    digests = [guarded.push(image, "svc", tag) for image, tag in ((IMAGE, "1"), (BuiltImage([BASE]), "2"))]
    await said(pyswarm, "login", "-u", "tester", "--password-stdin", guarded.host, input=b"opensesame")

    def container() -> Any:
        return store.view.task_specs.must_get(store.view.services.resolve("web").task_spec_id).template.container_spec

    without = await pyswarm("service", "create", "-d", "--name", "web", f"{name}:1")
    assert "could not be accessed on a registry to record its digest" in without.stderr
    assert (container().image, container().pull_options) == (f"{name}:1", None)
    await said(pyswarm, "service", "update", "-d", "--with-registry-auth", "--image", f"{name}:2", "web")
    assert container().image == f"{name}:2@{digests[1]}"
    assert b"opensesame" in base64.urlsafe_b64decode(container().pull_options.registry_auth)
    await said(pyswarm, "service", "update", "-d", "--no-resolve-image", "--image", f"{name}:1", "web")
    assert container().image == f"{name}:1"
    assert container().pull_options is not None  # kept
    guarded.push(BuiltImage([BASE], {"Cmd": ["newer"]}), "svc", "2")
    shown = await said(pyswarm, "service", "inspect", "web")
    assert "PullOptions" not in shown


def test_docker_configuration_is_read_and_the_rest_of_it_kept(home: Path) -> None:
    (home / ".docker").mkdir(parents=True)
    kept = {
        "psFormat": "table",
        "auths": {HUB: {"auth": base64.b64encode(b"ada:word:with:colons").decode()}, "https://quay.io/v1/": {}},
    }
    (home / ".docker/config.json").write_text(json.dumps(kept))
    config = DockerConfig()
    assert config.credentials(HUB) == {"username": "ada", "password": "word:with:colons", "serveraddress": HUB}
    assert config.credentials("quay.io") is None
    config.store("host:5000", {"username": "u", "password": "p", "identitytoken": "t", "serveraddress": "host:5000"})
    assert DockerConfig().credentials("host:5000") == {
        "username": "u",
        "password": "",
        "serveraddress": "host:5000",
        "identitytoken": "t",
    }
    assert DockerConfig().erase("quay.io")
    assert config_of(home)["psFormat"] == "table"
    header = auth_header("nginx:1")["X-Registry-Auth"]
    assert json.loads(base64.urlsafe_b64decode(header))["username"] == "ada"
    assert auth_header("quay.io/x") == {}
    (home / ".docker/config.json").write_text("{")
    with pytest.raises(click.ClickException, match="cannot read"):
        DockerConfig()


HELPER = """#!/bin/sh
set -e
cat > "{folder}/$1"
[ "$1" != get ] || [ -e "{folder}/store" ] || {{ echo "credentials not found in native keychain"; exit 1; }}
[ "$1" != get ] || cat "{folder}/store"
[ "$1" != erase ] || rm "{folder}/store"
"""


def test_credential_helpers_keep_what_they_are_for(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "helper"
    folder.mkdir()
    (folder / "docker-credential-own").write_text(HELPER.format(folder=folder))
    (folder / "docker-credential-own").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (home / ".docker").mkdir(parents=True)
    (home / ".docker/config.json").write_text(json.dumps({"credHelpers": {"host:5000": "own", "gone": "missing"}}))
    config = DockerConfig()
    assert config.credentials("host:5000") is None
    config.store("host:5000", {"username": "u", "password": "secret"})
    assert "secret" not in (home / ".docker/config.json").read_text()
    assert config.credentials("host:5000") == {"username": "u", "password": "secret", "serveraddress": "host:5000"}
    config.store("host:5000", {"username": "u", "password": "x", "identitytoken": "token"})
    assert config.credentials("host:5000") == {"identitytoken": "token", "serveraddress": "host:5000"}
    assert config.erase("host:5000")
    assert not config.erase("host:5000")
    with pytest.raises(click.ClickException, match="docker-credential-missing is not installed"):
        config.credentials("gone")


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("nginx", HUB),
        ("team/web:1", HUB),
        ("docker.io/x", HUB),
        ("localhost/x", "localhost"),
        ("h:5/x", "h:5"),
        ("q.io/a/b", "q.io"),
    ],
)
def test_an_images_registry(image: str, registry: str) -> None:
    assert registry_of(image) == registry


@pytest.mark.parametrize(("name", "address"), [("", HUB), ("https://h:5/v2/", "h:5"), ("docker.io", HUB), ("http://x", "x")])
def test_a_registrys_address(name: str, address: str) -> None:
    assert address_of(name) == address
