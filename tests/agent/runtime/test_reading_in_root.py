"""Reading an image's files from outside: links stay in its root, and only regular files are opened."""

import contextlib
import os
from pathlib import Path

import pytest

from pyswarm_agent.runtime import kernel_calls

IN_OPEN = 0x20


def test_links_are_resolved_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "real").write_text("inside")
    (tmp_path / "etc/passwd").symlink_to("/real")
    (tmp_path / "etc/out").symlink_to("../../../../etc/passwd-")
    assert kernel_calls.read_in_root(str(tmp_path), "etc/passwd", 3) == b"ins"
    assert kernel_calls.read_in_root(str(tmp_path), "etc/out", 100) is None
    assert kernel_calls.read_in_root(str(tmp_path), "etc", 100) is None


@pytest.mark.parametrize("is_regular", [True, False])
def test_nothing_but_a_regular_file_is_opened(tmp_path: Path, is_regular: bool) -> None:
    path = tmp_path / "passwd"
    path.touch() if is_regular else os.mkfifo(path)
    watching = kernel_calls.inotify_open()
    with contextlib.closing(os.fdopen(watching, "rb", buffering=0)):
        kernel_calls.inotify_add(watching, path, IN_OPEN)
        assert kernel_calls.read_in_root(str(tmp_path), "passwd", 10) == (b"" if is_regular else None)
        assert len(list(kernel_calls.inotify_read(watching))) == is_regular
