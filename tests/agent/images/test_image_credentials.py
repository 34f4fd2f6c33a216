"""Logging in at registries, pushing with credentials, and mirrors of Docker Hub."""

import base64
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from image_builder import BuiltImage, Entry, digest_of, make_layer, write_docker_archive
from image_registries import RealRegistry, Reply, Request, ScriptedServer, running_registry

from pyswarm_agent.images import ImageStore, RegistryAuth
from pyswarm_agent.images.registries import domain_of_address
from pyswarm_agent.images.settings import RegistrySettings
from pyswarm_common.errors import InvalidArgument, PermissionDenied, PyswarmError, Unauthenticated, Unavailable

pytestmark = pytest.mark.kernel

IMAGE = BuiltImage([make_layer([Entry("f", b"1")])])
# The password is "opensesame", by bcrypt, the only form that docker-registry takes.
HTPASSWD = "tester:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi"
RIGHT, WRONG = RegistryAuth(username="tester", password="opensesame"), RegistryAuth(username="tester", password="wrong")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """A registry that wants credentials for everything."""
    with running_registry(tmp_path_factory.mktemp("guarded"), htpasswd=HTPASSWD) as registry:
        yield registry


async def test_login_checks_the_credentials(store: ImageStore, guarded: RealRegistry) -> None:
    for address in (guarded.host, f"http://{guarded.host}", f"https://{guarded.host}/v2/"):
        assert await store.log_in(address, RIGHT) == ""
    with pytest.raises(Unauthenticated) as caught:
        await store.log_in(guarded.host, WRONG)
    assert caught.value.message == f"login attempt to http://{guarded.host}/v2/ failed with status: 401 Unauthorized"
    with pytest.raises(Unauthenticated):
        await store.log_in(guarded.host, RegistryAuth())


async def test_login_at_a_token_service_gives_an_identity(store: ImageStore, server: ScriptedServer) -> None:
    def token(request: Request) -> Reply:
        asked = request.path.partition("?")[2].split("&")
        assert "offline_token=true" in asked
        if request.headers["authorization"] != "Basic " + base64.b64encode(b"tester:opensesame").decode():
            return Reply(b'{"details":"incorrect username or password"}', 401)
        return Reply(b'{"token":"t1","refresh_token":"identity"}')

    def ping(request: Request) -> Reply:
        if request.headers.get("authorization") == "Bearer t1":
            return Reply(b"{}")
        return Reply(status=401, headers={"www-authenticate": f'Bearer realm="http://{server.host}/token",service="s"'})

    server.routes |= {"/token": token, "/v2/": ping}
    assert await store.log_in(server.host, RIGHT) == "identity"
    with pytest.raises(Unauthenticated, match="unauthorized: incorrect username or password"):
        await store.log_in(server.host, WRONG)


@pytest.mark.parametrize(
    ("realm", "answer"),
    [
        ("http://{host}/token", b'{"token":"geheim\\n"}'),
        ("http://{host}/token", '{"token":"geheim\xfc"}'.encode()),
        ("http://{host}/token", b'{"token":"\xff"}'),
        ("http://{host}/token", b'{"a":' + b"[" * 100_000),
        ("http://\x7f/token", b""),
    ],
)
async def test_a_token_service_that_answers_with_nonsense_is_named_but_its_token_is_not(
    store: ImageStore, server: ScriptedServer, realm: str, answer: bytes
) -> None:
    challenge = f'Bearer realm="{realm.format(host=server.host)}"'
    server.routes["/token"] = lambda _: Reply(answer)
    server.routes["/v2/x/manifests/latest"] = lambda _: Reply(status=401, headers={"www-authenticate": challenge})
    with pytest.raises((Unauthenticated, Unavailable)) as caught:
        await store.pull(f"{server.host}/x")
    assert "http://" in caught.value.message
    assert "geheim" not in caught.value.message


async def test_a_token_for_ever_is_asked_for_again_all_the_same(store: ImageStore, server: ScriptedServer) -> None:
    names = server.serve_image(IMAGE, "x")
    manifest = server.routes["/v2/x/manifests/latest"]
    server.routes["/token"] = lambda _: Reply(b'{"token":"t","expires_in":' + b"9" * 400 + b"}")

    def guarded_manifest(request: Request) -> Reply:
        if "authorization" in request.headers:
            return manifest(request)
        return Reply(status=401, headers={"www-authenticate": f'Bearer realm="http://{server.host}/token"'})

    server.routes["/v2/x/manifests/latest"] = guarded_manifest
    await store.pull(f"{server.host}/x")
    assert server.asked(names[0])


@pytest.mark.parametrize("location", ["http://\x7f/", "ftp://127.0.0.1/upload", "http://127.0.0.1:999999/upload"])
async def test_an_upload_to_nowhere_is_not_tried(store: ImageStore, server: ScriptedServer, tmp_path: Path, location: str) -> None:
    write_docker_archive(tmp_path / "in.tar", [(IMAGE, [f"{server.host}/up:1"])])
    await store.load(tmp_path / "in.tar")
    server.routes["/v2/up/blobs/uploads/"] = lambda _: Reply(status=202, headers={"location": location})
    with pytest.raises(Unavailable):
        await store.push(f"{server.host}/up:1")


async def test_a_registry_at_a_port_that_is_none_is_not_reached(store: ImageStore) -> None:
    with pytest.raises(Unavailable, match="address 99999: invalid port"):
        await store.pin("127.0.0.1:99999/x")


async def test_pushing_wants_credentials(store: ImageStore, guarded: RealRegistry, tmp_path: Path) -> None:
    name = f"{guarded.host}/private:1"
    write_docker_archive(tmp_path / "in.tar", [(IMAGE, [name])])
    await store.load(tmp_path / "in.tar")
    for auth in (None, WRONG):
        with pytest.raises(Unauthenticated, match="unauthorized: authentication required"):
            await store.push(name, auth=auth)
    (pushed,) = await store.push(name, auth=RIGHT)
    assert (await store.resolve_digest(name, auth=RIGHT)).digest == pushed.digest
    inspected = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--creds", "tester:opensesame", f"docker://{name}"],
        capture_output=True,
        check=True,
    )
    assert json.loads(inspected.stdout)["Digest"] == pushed.digest


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (403, b'{"errors":[{"code":"DENIED","message":"not yours"}]}', PermissionDenied, "denied: not yours"),
        (403, b"", PermissionDenied, "denied: requested access to the resource is denied"),
        (503, b"", Unavailable, "received unexpected HTTP status: 503 Scripted"),
        (429, b"", Unavailable, "toomanyrequests: "),
        (405, b'{"errors":[{"code":"UNSUPPORTED","message":"read only"}]}', PyswarmError, "unsupported: read only"),
    ],
)
async def test_a_registry_that_takes_nothing_says_why(
    store: ImageStore, server: ScriptedServer, tmp_path: Path, status: int, body: bytes, error: type[Exception], message: str
) -> None:
    name = f"{server.host}/web:1"
    write_docker_archive(tmp_path / "in.tar", [(IMAGE, [name])])
    await store.load(tmp_path / "in.tar")
    server.routes["/v2/web/blobs/uploads/"] = lambda _: Reply(body, status)
    with pytest.raises(error) as caught:
        await store.push(name)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("https://quay.io", "quay.io"),
        ("127.0.0.1:5000/v2/", "127.0.0.1:5000"),
    ],
)
def test_addresses_of_logins(address: str, domain: str) -> None:
    assert domain_of_address(address) == domain


@pytest.fixture
async def mirrored(tmp_path: Path, server: ScriptedServer) -> AsyncIterator[ImageStore]:
    """A store with two mirrors: one that is not there, and `server`."""
    store = ImageStore(tmp_path / "mirrored", mirrors=["http://127.0.0.1:1", f"http://{server.host}"])
    yield store
    await store.close()


async def test_docker_hubs_images_come_from_a_mirror_that_has_them(mirrored: ImageStore, server: ScriptedServer) -> None:
    server.serve_image(IMAGE, "library/nginx", "1")
    image = await mirrored.pull("nginx:1", auth=RIGHT)
    manifest, _ = IMAGE.manifest()
    assert (image.id, image.repo_tags, image.repo_digests) == (IMAGE.id, ("nginx:1",), (f"nginx@{digest_of(manifest)}",))
    assert await mirrored.pin("nginx:1") == f"nginx:1@{digest_of(manifest)}"
    assert all("authorization" not in request.headers for request in server.requests)


async def test_a_mirror_is_asked_for_no_other_registrys_images(
    mirrored: ImageStore, server: ScriptedServer, guarded: RealRegistry
) -> None:
    guarded.authorization = "Basic " + base64.b64encode(b"tester:opensesame").decode()
    guarded.push(IMAGE, "own", "1")
    await mirrored.pull(f"{guarded.host}/own:1", auth=RIGHT)
    assert server.requests == []


@pytest.mark.parametrize("url", ["mirror.example", "ftp://x", "https://user:word@x", "https://x/path", "https://x/?q"])
def test_what_is_no_mirror_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid mirror: "):
        RegistrySettings(mirrors=(url,)).check()
    RegistrySettings(mirrors=("https://x", "http://10.0.0.1:5000/")).check()
