"""The registry client against servers that break off, lie, redirect and demand credentials."""

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from image_builder import DOCKER_MANIFEST, BuiltImage, Entry, digest_of, gzip_compress, make_layer
from image_registries import RealRegistry, Reply, Request, ScriptedServer, random_bytes, ranged, running_registry, scripted_server

from pyswarm_agent.images import ImageStore, PullProgress, RegistryAuth, parse_reference
from pyswarm_agent.images.authentication import parse_challenges
from pyswarm_agent.images.endpoints import HTTPClients, InsecureRegistries
from pyswarm_agent.images.registry import Registry
from pyswarm_common.clock import SystemClock
from pyswarm_common.errors import NotFound, PyswarmError, Unauthenticated, Unavailable

pytestmark = pytest.mark.kernel

IMAGE = BuiltImage([make_layer([Entry("file", random_bytes(600_000, "transport"))])])
BLOB = gzip_compress(IMAGE.layers[0])
LAYER = digest_of(BLOB)
BLOB_PATH = f"/v2/web/blobs/{LAYER}"


class HastyClock(SystemClock):
    """Real time, but sleeps are only counted."""

    def __init__(self) -> None:
        self.sleeps_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps_s.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> HastyClock:
    return HastyClock()


@pytest_asyncio.fixture
async def hasty_store(tmp_path: Path, clock: HastyClock) -> AsyncIterator[ImageStore]:
    """A store that does not wait between tries."""
    store = ImageStore(tmp_path / "data", clock=clock)
    yield store
    await store.close()
    assert list((tmp_path / "data/images/temporary").iterdir()) == []


@pytest.fixture
def web(server: ScriptedServer) -> str:
    """The name of an image that the scripted server has."""
    server.serve_image(IMAGE, "web")
    return f"{server.host}/web"


async def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    hasty_store: ImageStore, server: ScriptedServer, web: str, clock: HastyClock
) -> None:
    server.routes[BLOB_PATH] = lambda request: ranged(request, BLOB, cut_at=200_000)
    told: list[PullProgress] = []
    image = await hasty_store.pull(web, progress=told.append)
    assert image.id == IMAGE.id
    offsets = [request.offset for request in server.asked(LAYER)]
    assert offsets == [0, 200_000, 400_000, 600_000]
    assert len(clock.sleeps_s) == 3
    amounts = [progress.current_bytes for progress in told if progress.status == "Downloading"]
    assert amounts == sorted(amounts)
    assert amounts[-1] == len(BLOB)


@pytest.mark.parametrize("range_answer", ["ignored", "wrong place"])
async def test_a_server_without_ranges_starts_over(
    hasty_store: ImageStore, server: ScriptedServer, web: str, range_answer: str
) -> None:
    def answer(request: Request) -> Reply:
        if len(server.asked(LAYER)) == 1:
            return Reply(BLOB, cut_at=300_000)
        if range_answer == "wrong place" and "range" in request.headers:
            return Reply(BLOB, 206, {"content-range": f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"})
        return Reply(BLOB)

    server.routes[BLOB_PATH] = answer
    assert (await hasty_store.pull(web)).id == IMAGE.id
    assert len(server.asked(LAYER)) == 2


async def test_a_resumed_download_with_wrong_pieces_is_fetched_whole_once_more(
    hasty_store: ImageStore, server: ScriptedServer, web: str
) -> None:
    def answer(request: Request) -> Reply:
        if len(server.asked(LAYER)) == 1:
            return Reply(b"x" * len(BLOB), cut_at=300_000)
        return ranged(request, BLOB)

    server.routes[BLOB_PATH] = answer
    assert (await hasty_store.pull(web)).id == IMAGE.id
    assert [request.offset for request in server.asked(LAYER)] == [0, 300_000, 0]


async def test_a_registry_that_always_breaks_off_is_given_up(
    hasty_store: ImageStore, server: ScriptedServer, web: str, clock: HastyClock
) -> None:
    server.routes[BLOB_PATH] = lambda request: Reply(BLOB, cut_at=10)
    with pytest.raises(Unavailable):
        await hasty_store.pull(web)
    assert len(server.asked(LAYER)) == 5
    assert clock.sleeps_s == [0.25, 0.5, 1, 2]
    assert hasty_store.list() == []


async def test_more_bytes_than_the_manifest_says_are_never_read(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    server.routes[BLOB_PATH] = lambda _: Reply(BLOB + bytes(100))
    with pytest.raises(
        PyswarmError, match=f"the registry announces {len(BLOB) + 100} bytes, where the manifest leaves {len(BLOB)}"
    ):
        await hasty_store.pull(web)
    # Without an announcement (HTTP/1.1 to the connection's end) only counting helps.
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (BLOB, b"x" * 100)) + b"0\r\n\r\n"
    server.routes[BLOB_PATH] = lambda _: Reply(chunked, headers={"transfer-encoding": "chunked"})
    server.without_length.add(BLOB_PATH)
    with pytest.raises(PyswarmError, match=f"more than the {len(BLOB)} bytes that the manifest says"):
        await hasty_store.pull(web)


async def test_a_manifest_other_than_its_digest_is_refused(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    manifest, _ = IMAGE.manifest()
    server.routes[f"/v2/web/manifests/{digest_of(manifest)}"] = lambda _: Reply(manifest + b" ")
    with pytest.raises(PyswarmError, match=f"manifest verification failed for digest {digest_of(manifest)}"):
        await hasty_store.pull(f"{web}@{digest_of(manifest)}")


async def test_a_manifest_too_large_is_not_read_to_its_end(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    server.routes["/v2/web/manifests/latest"] = lambda _: Reply(b" " * (5 << 20), headers={"content-type": DOCKER_MANIFEST})
    with pytest.raises(PyswarmError, match="is larger than 4194304 bytes"):
        await hasty_store.pull(web)


async def test_a_busy_registry_is_asked_again(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    good = server.routes["/v2/web/manifests/latest"]
    server.routes["/v2/web/manifests/latest"] = lambda request: (
        Reply(status=503) if len(server.asked("manifests/latest")) < 3 else good(request)
    )
    assert (await hasty_store.pull(web)).id == IMAGE.id


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (Reply(status=500), Unavailable, "received unexpected HTTP status: 500 Scripted"),
        (Reply(status=429), Unavailable, "toomanyrequests: "),
        (Reply(status=403), NotFound, "pull access denied for {}, repository does not exist or may require 'docker login'"),
        (
            Reply(b'{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}', 404),
            NotFound,
            "repository {} not found: name unknown: repository name not known to registry",
        ),
        (Reply(b"<html>", 404), NotFound, "manifest for {}:latest not found: manifest unknown: manifest unknown"),
        (Reply(status=302, headers={"location": "ftp://x/y"}), Unavailable, "which is not followed"),
        (Reply(status=307, headers={"location": "/v2/web/manifests/latest"}), Unavailable, "stopped after 10 redirects"),
    ],
)
async def test_what_the_registry_answers_is_told(
    hasty_store: ImageStore, server: ScriptedServer, web: str, reply: Reply, error: type[PyswarmError], message: str
) -> None:
    server.routes["/v2/web/manifests/latest"] = lambda _: reply
    with pytest.raises(error) as caught:
        await hasty_store.pull(web)
    assert message.format(web) in str(caught.value)


def demand_token(server: ScriptedServer, *, expected: str = "Bearer t1") -> None:
    """Let the server give its image only to who shows a token from its own token service."""
    for path, handler in list(server.routes.items()):
        if path.startswith("/v2/web"):
            server.routes[path] = lambda request, handler=handler: (
                handler(request)
                if request.headers.get("authorization") == expected
                else Reply(
                    status=401,
                    headers={"www-authenticate": f'Bearer realm="http://{server.host}/token",service="test",scope="x"'},
                )
            )


async def test_bearer_tokens_are_fetched_once_and_used(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    demand_token(server)
    server.routes["/token"] = lambda _: Reply(b'{"token":"t1","expires_in":300}')
    await hasty_store.pull(web)
    (asked,) = server.asked("/token")
    assert asked.path == "/token?scope=repository%3Aweb%3Apull&service=test"
    assert "authorization" not in asked.headers
    assert all("authorization" in request.headers for request in server.asked("/blobs/"))


async def test_credentials_go_to_the_token_service_alone(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    demand_token(server)
    basic = "Basic " + base64.b64encode(b"me:secret").decode()
    server.routes["/token"] = lambda request: (
        Reply(b'{"access_token":"t1"}') if request.headers.get("authorization") == basic else Reply(status=401)
    )
    with pytest.raises(Unauthenticated, match=r"unauthorized: incorrect username or password"):
        await hasty_store.pull(web, auth=RegistryAuth(username="me", password="wrong"))
    await hasty_store.pull(web, auth=RegistryAuth(username="me", password="secret"))
    assert {request.headers.get("authorization", "none") for request in server.asked("/v2/web")} == {"none", "Bearer t1"}


async def test_an_identity_token_is_exchanged(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    demand_token(server)
    server.routes["/token"] = lambda _: Reply(b'{"access_token":"t1"}')
    await hasty_store.pull(web, auth=RegistryAuth(identity_token="refresh"))
    (asked,) = server.asked("/token")
    assert asked.method == "POST"
    assert b"grant_type=refresh_token&refresh_token=refresh" in asked.body


async def test_a_ready_token_is_shown_at_once(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    demand_token(server, expected="Bearer ready")
    await hasty_store.pull(web, auth=RegistryAuth(registry_token="ready"))
    assert server.asked("/token") == []


async def test_a_token_that_is_not_accepted_means_no_access(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    demand_token(server, expected="Bearer other")
    server.routes["/token"] = lambda _: Reply(b'{"token":"t1"}')
    with pytest.raises(NotFound, match="pull access denied for"):
        await hasty_store.pull(web)
    assert len(server.asked("/token")) == 1


async def test_a_redirect_takes_no_credentials_along(hasty_store: ImageStore, server: ScriptedServer, web: str) -> None:
    demand_token(server)
    server.routes["/token"] = lambda _: Reply(b'{"token":"t1"}')
    async with scripted_server() as storage:
        storage.routes["/blob"] = lambda request: ranged(request, BLOB, cut_at=400_000)
        guarded = server.routes[BLOB_PATH]
        server.routes[BLOB_PATH] = lambda request: (
            Reply(status=307, headers={"location": f"http://{storage.host}/blob?signature=1"})
            if guarded(request).status != 401
            else guarded(request)
        )
        assert (await hasty_store.pull(web)).id == IMAGE.id
        assert [request.offset for request in storage.requests] == [0, 400_000]
        assert all("authorization" not in request.headers for request in storage.requests)


async def test_basic_authentication_with_a_real_private_registry(store: ImageStore, tmp_path: Path) -> None:
    # The password is "opensesame", by bcrypt, the only form that docker-registry takes.
    line = "tester:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi"
    with running_registry(tmp_path, htpasswd=line) as private:
        private.authorization = "Basic " + base64.b64encode(b"tester:opensesame").decode()
        private.push(IMAGE, "secret", "1")
        name = f"{private.host}/secret:1"
        for auth in (None, RegistryAuth(username="tester", password="wrong")):
            with pytest.raises(NotFound, match=f"pull access denied for {private.host}/secret, repository does not exist or may"):
                await store.pull(name, auth=auth)
        image = await store.pull(name, auth=RegistryAuth(username="tester", password="opensesame"))
        assert image.id == IMAGE.id


async def manifest_error(host: str, *, is_insecure: bool) -> str:
    """Return what fetching `web`'s manifest says, whether or not the host may be insecure; empty if it works."""
    clients = HTTPClients()
    try:
        registry = Registry(host, clients, SystemClock(), is_insecure=is_insecure)
        await registry.fetch_manifest(parse_reference(f"{host}/web"), None)
        return ""
    except Unavailable as error:
        return str(error)
    finally:
        await clients.close()


async def test_http_needs_the_registry_to_be_listed_as_insecure(registry: RealRegistry) -> None:
    registry.push(IMAGE, "web", "latest")
    assert await manifest_error(registry.host, is_insecure=True) == ""
    assert await manifest_error(registry.host, is_insecure=False) == (
        f'Get "https://{registry.host}/v2/": http: server gave HTTP response to HTTPS client '
        "(if that is meant, list it under insecure registries)"
    )


async def test_a_certificate_that_nobody_vouches_for_needs_it_too(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    make_key = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x")
    subprocess.run([*make_key, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with scripted_server(context) as server:
        server.serve_image(IMAGE, "web")
        assert await manifest_error(server.host, is_insecure=True) == ""
        refusal = await manifest_error(server.host, is_insecure=False)
    assert refusal.startswith(f'Get "https://{server.host}/v2/": x509: self-signed certificate')


@pytest.mark.parametrize(
    ("domain", "is_insecure"),
    [
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("localhost:5000", True),
        ("[::1]:5000", True),
        ("10.1.2.3:5000", True),
        ("10.2.0.1", False),
        ("registry.lan:5000", True),
        ("registry.lan", False),
        ("other.lan:1", True),
        ("docker.io", False),
    ],
)
def test_which_registries_may_be_insecure(domain: str, is_insecure: bool) -> None:
    assert (domain in InsecureRegistries(["10.1.0.0/16", "registry.lan:5000", "other.lan"])) is is_insecure


def test_challenges_are_read_with_and_without_quotes() -> None:
    bearer, basic = parse_challenges(['Bearer realm="https://a/t?x=1,2",service=s , scope="a,b"', "Basic realm=x"])
    assert (bearer.scheme, bearer.parameters) == ("bearer", {"realm": "https://a/t?x=1,2", "service": "s", "scope": "a,b"})
    assert (basic.scheme, basic.parameters) == ("basic", {"realm": "x"})
