"""A client that loads images, and whether each that was acknowledged is there after a power cut, with every byte of its layer."""

import hashlib
import http.client
import json
import random
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from image_builder import BuiltImage, Entry, digest_of, make_layer, write_docker_archive
from power_workload import Engine

_FILES = 8
_MOST_BYTES = 60_000
_MOST_IMAGES = 3
"""On each run of the machine: unpacking is slow there."""
_LAYER_NAME_DIGITS = 32


class ImagePromises:
    """The images that were acknowledged, by name: the digest of the layer, and of each file in it."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self._images: dict[str, tuple[str, dict[str, str]]] = {}
        self._named = 0

    def forget(self) -> None:
        """Begin anew, with a new disk."""
        self._images.clear()

    def new_name(self) -> str:
        """Return a name that was never used."""
        self._named += 1
        return f"power-{self._named}:latest"

    def acknowledge(self, name: str, layer_id: str, files: dict[str, str]) -> None:
        """The image was loaded."""
        self._images[name] = (layer_id, files)
        self.acknowledged += 1

    def broken_in(self, listed: list[dict[str, Any]]) -> list[str]:
        """Return what `GET /images/json` should show and does not."""
        shown = {name for image in listed for name in image["RepoTags"] or ()}
        return [f"the image {name} was loaded and is not there" for name in self._images if name not in shown]

    def broken_on(self, file_system: Path) -> list[str]:
        """Return which files of layers are missing or differ on this ext4 image, which is not mounted."""
        if not self._images:
            return []
        program = shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin") or "debugfs"
        with tempfile.TemporaryDirectory(prefix="pyswarm-power-") as temporary:
            subprocess.run([program, "-R", f"rdump /images/layers {temporary}", file_system], capture_output=True, check=True)
            layers = Path(temporary) / "layers"
            return [
                f"{name}: the file {file} of its layer is missing or not as it was"
                for name, (layer_id, files) in self._images.items()
                for file, digest in files.items()
                if _digest(layers / layer_id.removeprefix("sha256:")[:_LAYER_NAME_DIGITS] / "diff" / file) != digest
            ]


class ImageLoader(threading.Thread):
    """Loads a few images into a machine, until it stops answering."""

    def __init__(self, port: int, promises: ImagePromises, rng: random.Random) -> None:
        super().__init__(name="image-loader")
        self._engine = Engine(port)
        self._promises = promises
        self._rng = rng

    def run(self) -> None:
        """Load images of random content."""
        try:
            for _ in range(_MOST_IMAGES):
                self._load_one(self._promises.new_name())
        except (OSError, http.client.HTTPException):
            pass  # the power is gone
        finally:
            self._engine.close()

    def _load_one(self, name: str) -> None:
        contents = {f"file-{number}": self._rng.randbytes(self._rng.randrange(_MOST_BYTES)) for number in range(_FILES)}
        layer = make_layer([Entry(file, data) for file, data in contents.items()])
        with tempfile.TemporaryDirectory(prefix="pyswarm-power-") as temporary:
            archive = Path(temporary) / "image.tar"
            write_docker_archive(archive, [(BuiltImage([layer]), [name])])
            answer = self._engine.ask("POST", "/images/load", archive.read_bytes())
        if f"Loaded image: {name}" in json.dumps(answer):
            files = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
            self._promises.acknowledge(name, digest_of(layer), files)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
