"""Which images the node holds and under which names: `index.json` (names) and `configs/` (each image's configuration, verbatim).

Changed in memory first, then written as a whole by one rename. Readers see memory.
"""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from pyswarm_agent.images.manifest import decode_image, digest_of
from pyswarm_agent.images.records import Image
from pyswarm_agent.images.reference import Reference, is_digest, parse_reference
from pyswarm_common.errors import InvalidArgument, PyswarmError
from pyswarm_common.files import write_atomically

_FORMAT = 1
_HEX_DIGITS = frozenset("0123456789abcdef")


class _IndexFile(msgspec.Struct):
    format: int
    images: list[str]
    names: dict[str, str]


class ImageIndex:
    """Images by id and by name. A name is a full reference with a tag or a digest: `docker.io/library/nginx:latest`."""

    def __init__(self, directory: Path, *, complete: Callable[[Image], Image | None]) -> None:
        """Read the index. `complete` fills in an image's size, or says None when it is not whole any more (a layer was lost)."""
        self._file = directory / "index.json"
        self._configs = directory / "configs"
        self._configs.mkdir(parents=True, exist_ok=True)
        self._images: dict[str, Image] = {}
        self._names: dict[str, str] = {}
        self._unwritten: dict[str, bytes] = {}
        self._changes = 0
        self._written = 0
        self._write_lock = threading.Lock()
        self._load(complete)

    def images(self) -> list[Image]:
        """Return all images with their names, ordered by id."""
        names: dict[str, list[Reference]] = {}
        for name, image_id in self._names.items():
            names.setdefault(image_id, []).append(parse_reference(name))
        return [_named(image, names.get(image.id, [])) for _, image in sorted(self._images.items())]

    def get(self, image_id: str) -> Image | None:
        """Return an image by its full id."""
        image = self._images.get(image_id)
        return None if image is None else _named(image, self.names_of(image_id))

    def names_of(self, image_id: str) -> list[Reference]:
        """Return the names that point at an image, sorted."""
        return [parse_reference(name) for name, named_id in sorted(self._names.items()) if named_id == image_id]

    def find(self, text: str) -> str | None:
        """Return the id of the image that a person means: an id, a name (short or full), or a unique beginning of an id."""
        if f"sha256:{text}" in self._images:
            return f"sha256:{text}"
        if text in self._images:
            return text
        try:
            name = _lookup_name(parse_reference(text))
        except InvalidArgument:
            name = ""
        if name in self._names:
            return self._names[name]
        return self._find_by_prefix(text)

    def id_of(self, reference: Reference) -> str | None:
        """Return the id of the image under exactly this name."""
        return self._names.get(_lookup_name(reference))

    def tags_of(self, repository: str) -> list[Reference]:
        """Return the names with a tag in a repository (its full name), sorted."""
        names = map(parse_reference, sorted(self._names))
        return [name for name in names if name.name == repository and name.tag and not name.digest]

    def config(self, image_id: str) -> bytes:
        """Return an image's configuration as it came."""
        return self._unwritten.get(image_id) or self._config_path(image_id).read_bytes()

    def add(self, image: Image, raw_config: bytes) -> None:
        """Add an image without a name; one that is there stays as it is."""
        if image.id not in self._images:
            self._images[image.id] = image
            self._unwritten[image.id] = raw_config
            self._changes += 1

    def name(self, reference: Reference, image_id: str) -> None:
        """Point a name at an image, away from whatever had it."""
        self._names[_lookup_name(reference)] = image_id
        self._changes += 1

    def unname(self, reference: Reference) -> None:
        """Take a name away."""
        self._names.pop(_lookup_name(reference), None)
        self._changes += 1

    def delete(self, image_id: str) -> None:
        """Forget an image and its names."""
        del self._images[image_id]
        self._unwritten.pop(image_id, None)
        self._names = {name: named_id for name, named_id in self._names.items() if named_id != image_id}
        self._changes += 1

    def snapshot(self) -> Callable[[], None]:
        """Return a function that makes the present state durable, for a thread; an older state never replaces a newer one."""
        state = _IndexFile(format=_FORMAT, images=sorted(self._images), names=dict(sorted(self._names.items())))
        return partial(self._write, state, dict(self._unwritten), self._changes)

    def _write(self, state: _IndexFile, configs: dict[str, bytes], change: int) -> None:
        with self._write_lock:
            if change <= self._written:
                return
            for image_id, raw in configs.items():
                write_atomically(self._config_path(image_id), raw)
            write_atomically(self._file, msgspec.json.format(msgspec.json.encode(state), indent=1))
            self._remove_strays(state.images)
            self._written = change
        for image_id, raw in configs.items():
            if self._unwritten.get(image_id) is raw:
                del self._unwritten[image_id]

    def _config_path(self, image_id: str) -> Path:
        return self._configs / image_id.removeprefix("sha256:")

    def _find_by_prefix(self, text: str) -> str | None:
        prefix = text.removeprefix("sha256:")
        if not prefix or not _HEX_DIGITS.issuperset(prefix):
            return None
        found = [image_id for image_id in self._images if image_id.startswith(f"sha256:{prefix}")]
        return found[0] if len(found) == 1 else None

    def _load(self, complete: Callable[[Image], Image | None]) -> None:
        try:
            state = msgspec.json.decode(self._file.read_bytes(), type=_IndexFile)
        except FileNotFoundError:
            return
        except msgspec.DecodeError as error:
            raise PyswarmError(f"{self._file} is damaged: {error}") from error
        if state.format != _FORMAT:
            raise PyswarmError(f"{self._file} has format {state.format}; this version reads {_FORMAT}")
        for image_id in state.images:
            image = self._read_image(image_id)
            if image is not None and (whole := complete(image)) is not None:
                self._images[image_id] = whole
        self._names = {name: image_id for name, image_id in state.names.items() if image_id in self._images}

    def _read_image(self, image_id: str) -> Image | None:
        if not is_digest(image_id):
            return None
        try:
            raw = self._config_path(image_id).read_bytes()
        except FileNotFoundError:
            return None
        return decode_image(raw) if digest_of(raw) == image_id else None

    def _remove_strays(self, image_ids: list[str]) -> None:
        for path in self._configs.iterdir():
            if f"sha256:{path.name}" not in image_ids:
                path.unlink()


def _lookup_name(reference: Reference) -> str:
    """A digest decides alone: `nginx:1@sha256:…` is found as `nginx@sha256:…`."""
    return str(reference.with_digest(reference.digest) if reference.digest else reference)


def _named(image: Image, names: list[Reference]) -> Image:
    return msgspec.structs.replace(
        image,
        repo_tags=tuple(sorted(name.familiar for name in names if not name.digest)),
        repo_digests=tuple(sorted(name.familiar for name in names if name.digest)),
    )
