"""What was promised of images is compared with what lies on a file system."""

import hashlib
from pathlib import Path

import pytest
from machine_image import make_file_system
from power_images import ImagePromises

LAYER = "sha256:" + "7" * 64


@pytest.fixture
def promises() -> ImagePromises:
    promises = ImagePromises()
    promises.acknowledge("power-1:latest", LAYER, {"file-0": hashlib.sha256(b"content").hexdigest()})
    return promises


@pytest.mark.parametrize(
    ("content", "broken"),
    [(b"content", 0), (b"contenT", 1), (b"", 1), (None, 1)],
    ids=["whole", "changed", "empty", "missing"],
)
def test_layers_on_the_medium(promises: ImagePromises, tmp_path: Path, content: bytes | None, broken: int) -> None:
    diff = tmp_path / "tree/images/layers" / ("7" * 32) / "diff"
    diff.mkdir(parents=True)
    if content is not None:
        (diff / "file-0").write_bytes(content)
    make_file_system(tmp_path / "disk.img", 16 << 20, tmp_path / "tree")
    assert len(promises.broken_on(tmp_path / "disk.img")) == broken


def test_images_that_are_shown(promises: ImagePromises) -> None:
    assert promises.broken_in([{"RepoTags": ["power-1:latest"]}, {"RepoTags": None}]) == []
    assert promises.broken_in([]) == ["the image power-1:latest was loaded and is not there"]


def test_a_new_disk_was_promised_nothing(promises: ImagePromises, tmp_path: Path) -> None:
    promises.forget()
    assert promises.broken_in([]) == []
    assert promises.broken_on(tmp_path / "no-disk.img") == []
