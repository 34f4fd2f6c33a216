"""When a disk is full."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyswarm_common.disk_space import is_disk_full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=10", "small", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.kernel
def test_a_disk_without_bytes_is_full_until_some_are_freed(small_disk: Path) -> None:
    assert not is_disk_full(small_disk)
    (small_disk / "ballast").write_bytes(b"x" * (7 << 19))
    assert is_disk_full(small_disk)
    (small_disk / "ballast").unlink()
    assert not is_disk_full(small_disk)


@pytest.mark.kernel
def test_a_disk_without_files_is_full(small_disk: Path) -> None:
    for index in range(9):
        (small_disk / str(index)).touch()
    assert is_disk_full(small_disk)


def test_a_path_that_is_gone_is_on_no_disk(tmp_path: Path) -> None:
    assert not is_disk_full(tmp_path / "gone")
