"""Makes container images without docker: layers from entries or Debian packages, tarballs as `docker save` or OCI write them.

Everything is deterministic: the same entries give the same digests. The standard library alone is used, so that this runs before
anything is installed. `scripts/build-image` and the tests share it.
"""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EPOCH = "1970-01-01T00:00:00Z"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Entry:
    """One member of a layer. `type` is tarfile's; `target` is where a link points; `device` is (major, minor)."""

    name: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = 0
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, str] = field(default_factory=dict)

    def tar_info(self) -> tarfile.TarInfo:
        """Return the member's header."""
        info = tarfile.TarInfo(self.name)
        info.type, info.mode, info.uid, info.gid, info.mtime = self.type, self.mode, self.uid, self.gid, self.mtime
        info.linkname, (info.devmajor, info.devminor) = self.target, self.device
        info.size = len(self.data)
        info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in self.xattrs.items()}
        return info


def directory(name: str, mode: int = 0o755, **more: Any) -> Entry:
    """Return a directory."""
    return Entry(name, type=tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, target: str, **more: Any) -> Entry:
    """Return a symbolic link."""
    return Entry(name, type=tarfile.SYMTYPE, mode=0o777, target=target, **more)


def hard_link(name: str, target: str) -> Entry:
    """Return a hard link to another member."""
    return Entry(name, type=tarfile.LNKTYPE, target=target)


def make_layer(entries: Iterable[Entry]) -> bytes:
    """Return the entries as an uncompressed layer, in the order given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            tar.addfile(entry.tar_info(), io.BytesIO(entry.data))
    return buffer.getvalue()


def digest_of(data: bytes) -> str:
    """Return the sha256 digest as registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compact_json(value: Any) -> bytes:
    """Return canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def gzip_compress(data: bytes) -> bytes:
    """Return `data` as gzip without a time in it."""
    return gzip.compress(data, compresslevel=6, mtime=0)


@dataclass(frozen=True)
class BuiltImage:
    """An image in memory: uncompressed layers, bottom first, and the run configuration in Docker's JSON form."""

    layers: Sequence[bytes]
    run_config: dict[str, Any] = field(default_factory=dict)
    architecture: str = "amd64"

    @property
    def config(self) -> bytes:
        """The configuration file; its digest is the image's id."""
        return compact_json(
            {
                "architecture": self.architecture,
                "os": "linux",
                "created": EPOCH,
                "config": self.run_config,
                "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in self.layers]},
                "history": [{"created": EPOCH, "created_by": "pyswarm build-image"} for _ in self.layers],
            }
        )

    @property
    def id(self) -> str:
        """`sha256:…` of the configuration."""
        return digest_of(self.config)

    def manifest(
        self, *, oci: bool = False, compress: Callable[[bytes], bytes] = gzip_compress, layer_type: str = ""
    ) -> tuple[bytes, dict[str, bytes]]:
        """Return the manifest and the blobs that it names, by digest."""
        config = self.config
        blobs = [compress(layer) for layer in self.layers]
        layer_type = layer_type or (OCI_LAYER if oci else DOCKER_LAYER)
        body = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST if oci else DOCKER_MANIFEST,
            "config": descriptor(config, OCI_CONFIG if oci else DOCKER_CONFIG),
            "layers": [descriptor(blob, layer_type) for blob in blobs],
        }
        return compact_json(body), {digest_of(data): data for data in (config, *blobs)}


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """Return a pointer to `data` as manifests hold it."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def write_docker_archive(path: Path, images: Sequence[tuple[BuiltImage, Sequence[str]]]) -> None:
    """Write images with their tags as `docker save` does."""
    saved, files = [], {}
    for image, tags in images:
        config_name = f"{image.id.removeprefix('sha256:')}.json"
        layer_names = [f"{digest_of(layer).removeprefix('sha256:')}/layer.tar" for layer in image.layers]
        files |= {config_name: image.config, **dict(zip(layer_names, image.layers, strict=True))}
        saved.append({"Config": config_name, "RepoTags": list(tags), "Layers": layer_names})
    _write_tar(path, {"manifest.json": compact_json(saved), **files})


def write_oci_archive(path: Path, image: BuiltImage, name: str = "", *, compress: Callable[[bytes], bytes] = gzip_compress) -> None:
    """Write one image as an OCI layout tarball; `name` goes into the annotation `org.opencontainers.image.ref.name`."""
    manifest, blobs = image.manifest(oci=True, compress=compress)
    annotations = {"org.opencontainers.image.ref.name": name} if name else {}
    index = {"schemaVersion": 2, "manifests": [descriptor(manifest, OCI_MANIFEST, annotations=annotations)]}
    files = {"oci-layout": compact_json({"imageLayoutVersion": "1.0.0"}), "index.json": compact_json(index)}
    for data in (manifest, *blobs.values()):
        files["blobs/" + digest_of(data).replace(":", "/")] = data
    _write_tar(path, files)


def _write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in sorted(files.items()):
            tar.addfile(Entry(name, data).tar_info(), io.BytesIO(data))


class PackageCache:
    """Debian packages as files in a folder, downloaded by apt on first use (later uses need no network)."""

    def __init__(self, folder: Path, *, refresh: bool = False) -> None:
        self._folder = folder
        self._refresh = refresh
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(self, packages: Sequence[str]) -> list[Path]:
        """Return the packages' files, in the order asked. Raises RuntimeError with apt's words."""
        missing = [name for name in packages if self._refresh or self._find(name) is None]
        if missing:
            for name in missing:
                for path in self._folder.glob(f"{name}_*.deb"):
                    path.unlink()
            self._download(missing)
        found = [self._find(name) for name in packages]
        return [path for path in found if path is not None]

    def _find(self, package: str) -> Path | None:
        return next(iter(sorted(self._folder.glob(f"{package}_*.deb"))), None)

    def _download(self, packages: Sequence[str]) -> None:
        command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
        first = subprocess.run(command, cwd=self._folder, capture_output=True, text=True)
        if first.returncode == 0:
            return
        subprocess.run(["apt-get", "-q", "update"], capture_output=True)  # no package lists yet, or old ones
        again = subprocess.run(command, cwd=self._folder, capture_output=True, text=True)
        if again.returncode != 0:
            raise RuntimeError(f"apt-get download {' '.join(packages)} failed:\n{again.stderr.strip()}")


_USR_MERGED = ("bin", "sbin", "lib", "lib64")
_LEFT_OUT = ("usr/share/doc/", "usr/share/man/", "usr/share/lintian/", "usr/share/bug/", "usr/share/locale/")
_LEFT_OUT_PARTS = ("/gconv/", "/engines-3/", "/ossl-modules/")


def package_entries(path: Path) -> list[Entry]:
    """Return a Debian package's files below a merged /usr, without documentation and character sets."""
    stream = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE, check=True).stdout
    entries = []
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        for member in tar:
            name = _merged(member.name.removeprefix("./").strip("/."))
            if member.isdir() or name.startswith(_LEFT_OUT) or any(part in name for part in _LEFT_OUT_PARTS):
                continue
            content = tar.extractfile(member) if member.isreg() else None
            target = _merged(member.linkname.removeprefix("./")) if member.islnk() else member.linkname
            entries.append(
                Entry(
                    name,
                    content.read() if content is not None else b"",
                    type=member.type,
                    mode=member.mode,
                    mtime=member.mtime,
                    target=target,
                )
            )
    return entries


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries ordered by name, each after the directories above it; the last of several with one name wins."""
    named = {entry.name: entry for entry in entries}
    for name in list(named):
        for parent in Path(name).parents:
            if str(parent) != "." and str(parent) not in named:
                named[str(parent)] = directory(str(parent))
    return [entry for _, entry in sorted(named.items(), key=lambda item: item[0].split("/"))]


def _merged(name: str) -> str:
    return f"usr/{name}" if name.split("/", 1)[0] in _USR_MERGED else name


def debian_architecture() -> str:
    """Return this machine's architecture as Debian and OCI both call it: `amd64`, `arm64`."""
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def timed(what: str, started_s: float) -> str:
    """Return a line that says how long something took."""
    return f"{what} in {time.monotonic() - started_s:.1f} s"
