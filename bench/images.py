#!/usr/bin/env python3
"""Seconds to pull an image of 102 MB in 6 layers of 1,000 files each from a registry on this machine.

Download, digest and diff-id checks, unpacking for overlayfs, and everything synced to the disk. Each round has a fresh store.
"""

import argparse
import asyncio
import hashlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/agent/images"))

from image_builder import BuiltImage, Entry, make_layer
from image_registries import running_registry

from pyswarm_agent.images import ImageStore

LAYERS = 6
FILES = 1000
FILE_BYTES = 17_000


def make_image() -> BuiltImage:
    """Return an image whose files compress to about half, as programs do."""
    layers = []
    for layer in range(LAYERS):
        noise = [hashlib.shake_128(f"{layer}/{n}".encode()).digest(FILE_BYTES // 2) for n in range(FILES)]
        layers.append(make_layer(Entry(f"usr/share/{layer}/{n}", data + bytes(FILE_BYTES // 2)) for n, data in enumerate(noise)))
    return BuiltImage(layers)


async def pull(name: str, folder: Path) -> float:
    """Return the seconds that a pull into a fresh store takes."""
    store = ImageStore(folder)
    started_s = time.monotonic()
    await store.pull(name)
    taken_s = time.monotonic() - started_s
    await store.close()
    return taken_s


def main() -> None:
    """Push the image, pull it several times, print the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        with running_registry(folder) as registry:
            image = make_image()
            registry.push(image, "bench", "1")
            times = [asyncio.run(pull(f"{registry.host}/bench:1", folder / f"data{n}")) for n in range(rounds)]
        size_mb = sum(len(layer) for layer in image.layers) / 1e6
        spread = " ".join(f"{taken_s:.2f}" for taken_s in times)
        print(f"pull of {size_mb:.0f} MB, {LAYERS} layers, {LAYERS * FILES} files: {statistics.median(times):.2f} s   ({spread})")


if __name__ == "__main__":
    main()
