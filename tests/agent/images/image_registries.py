"""Registries for tests: Debian's docker-registry as a process, and a scripted server that misbehaves as told."""

import asyncio
import contextlib
import hashlib
import re
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from image_builder import DOCKER_MANIFEST, OCI_MANIFEST, BuiltImage, digest_of, gzip_compress

_CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {storage}}}}}
http: {{addr: 127.0.0.1:{port}}}
{auth}"""


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class RealRegistry:
    """A running docker-registry."""

    host: str
    folder: Path
    authorization: str = ""

    def push(self, image: BuiltImage, name: str, tag: str, **how: object) -> str:
        """Upload an image; `how` goes to `BuiltImage.manifest`. Returns the manifest's digest."""
        manifest, blobs = image.manifest(**how)  # type: ignore[arg-type]
        for digest, data in blobs.items():
            self.push_blob(name, digest, data)
        self.push_manifest(name, tag, manifest, OCI_MANIFEST if how.get("oci") else DOCKER_MANIFEST)
        return digest_of(manifest)

    def push_blob(self, name: str, digest: str, data: bytes) -> None:
        """Upload one blob."""
        with self._request("POST", f"/v2/{name}/blobs/uploads/") as answer:
            location = answer.headers["location"]
        glue = "&" if "?" in location else "?"
        headers = {"content-type": "application/octet-stream"}
        self._request("PUT", f"{location}{glue}digest={digest}", data, headers).close()

    def push_manifest(self, name: str, tag: str, body: bytes, media_type: str) -> None:
        """Upload a manifest or index."""
        self._request("PUT", f"/v2/{name}/manifests/{tag}", body, {"content-type": media_type}).close()

    def blob_path(self, digest: str) -> Path:
        """Return where the registry keeps a blob."""
        digits = digest.removeprefix("sha256:")
        return self.folder / "storage/docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"

    def count_requests(self, pattern: str) -> int:
        """Return how many answered GET requests have a path that matches."""
        log = (self.folder / "log").read_text()
        return sum(1 for path in re.findall(r'"GET (\S+) HTTP/1.1" 200', log) if re.search(pattern, path))

    def _request(self, method: str, path: str, data: bytes | None = None, headers: dict[str, str] | None = None):  # type: ignore[no-untyped-def]
        url = path if path.startswith("http") else f"http://{self.host}{path}"
        all_headers = (headers or {}) | ({"authorization": self.authorization} if self.authorization else {})
        return urllib.request.urlopen(urllib.request.Request(url, data, all_headers, method=method), timeout=20)


@contextmanager
def running_registry(folder: Path, *, htpasswd: str = "") -> Iterator[RealRegistry]:
    """Run docker-registry in `folder` on a free loopback port."""
    port = free_port()
    auth = ""
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd + "\n")
        auth = f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n"
    (folder / "config.yml").write_text(_CONFIG.format(storage=folder / "storage", port=port, auth=auth))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        _wait_listening(port, process)
        yield RealRegistry(f"127.0.0.1:{port}", folder)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_listening(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, "docker-registry ended at once"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError("docker-registry does not listen")


@dataclass
class Request:
    """What the scripted server was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def offset(self) -> int:
        """Where the asked range begins."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


@dataclass
class Reply:
    """What the scripted server answers; it closes the connection after `cut_at` bytes of the body, and waits for `hold` first."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    hold_at: int | None = None
    hold: asyncio.Event | None = None


Handler = Callable[[Request], Reply]


@dataclass
class ScriptedServer:
    """An HTTP server that answers by `routes` (path without query → handler) and remembers what it was asked."""

    host: str = ""
    routes: dict[str, Handler] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    without_length: set[str] = field(default_factory=set)

    def serve_image(self, image: BuiltImage, name: str, tag: str = "latest", **how: object) -> list[str]:
        """Answer for an image as a registry does, ranges included; return its layer blobs' digests."""
        manifest, blobs = image.manifest(**how)  # type: ignore[arg-type]
        for key in (tag, digest_of(manifest)):
            self.routes[f"/v2/{name}/manifests/{key}"] = lambda _: Reply(manifest, headers={"content-type": DOCKER_MANIFEST})
        for digest, data in blobs.items():
            self.routes[f"/v2/{name}/blobs/{digest}"] = lambda request, data=data: ranged(request, data)
        return [digest_of(gzip_compress(layer)) for layer in image.layers]

    def asked(self, part: str) -> list[Request]:
        """Return the requests whose path contains `part`."""
        return [request for request in self.requests if part in request.path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (first := await reader.read(1)) and first != b"\x16":  # a TLS hello: this server is plain
                request = await _read_request(first, reader)
                self.requests.append(request)
                handler = self.routes.get(request.path.partition("?")[0], _not_found)
                if not await _write_reply(handler(request), writer, with_length=request.path not in self.without_length):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def scripted_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """Run a scripted server on a free loopback port; it answers pings from the start."""
    scripted = ScriptedServer()
    scripted.routes["/v2/"] = lambda _: Reply(b"{}")
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await scripted._serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scripted.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def ranged(request: Request, data: bytes, **more: object) -> Reply:
    """Return (the asked part of) `data`."""
    if "range" not in request.headers:
        return Reply(data, **more)  # type: ignore[arg-type]
    headers = {"content-range": f"bytes {request.offset}-{len(data) - 1}/{len(data)}"}
    return Reply(data[request.offset :], 206, headers, **more)  # type: ignore[arg-type]


async def _read_request(first: bytes, reader: asyncio.StreamReader) -> Request:
    head = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


async def _write_reply(reply: Reply, writer: asyncio.StreamWriter, *, with_length: bool) -> bool:
    headers = ({"content-length": str(len(reply.body))} if with_length else {}) | reply.headers
    head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    writer.write(f"HTTP/1.1 {reply.status} Scripted\r\n{head}\r\n".encode())
    if reply.hold is not None:
        writer.write(reply.body[: reply.hold_at])
        await writer.drain()
        await reply.hold.wait()
        writer.write(reply.body[reply.hold_at or 0 :])
    else:
        writer.write(reply.body[: reply.cut_at])
    await writer.drain()
    return reply.cut_at is None


def _not_found(_: Request) -> Reply:
    return Reply(b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', 404)


def random_bytes(size_bytes: int, seed: str) -> bytes:
    """Return bytes that do not compress, the same for the same seed."""
    return hashlib.shake_128(seed.encode()).digest(size_bytes)
