"""Blobs of which a part has come: kept under their digest, so that the next try, or the next daemon, goes on where one broke off.

partial/<64 hex digits>     the first bytes of a blob; its size and digest are checked once it is whole
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pyswarm_common.errors import Unavailable

KEPT_BYTES_MIN = 1 << 20
"""Less is fetched again sooner than it is looked after."""
KEPT_S = 24 * 3600.0


class PartialBlobs:
    """The files of blobs under way. One owner at a time per directory."""

    def __init__(self, directory: Path, temporary: Path) -> None:
        self._directory = directory
        self._temporary = temporary
        self._busy: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def file(self, digest: str) -> Iterator[Path]:
        """Give a file to fetch a blob into, with what came of it before; it is gone afterwards.

        It stays when the fetching was interrupted (Unavailable, cancellation), and what has come is worth it.
        """
        if digest in self._busy:  # two images say the same of different layers: one of them lies
            with tempfile.NamedTemporaryFile(prefix="blob-", dir=self._temporary) as file:
                yield Path(file.name)
            return
        path = self._directory / digest.removeprefix("sha256:")
        self._busy.add(digest)
        stays = True
        try:
            yield path
            stays = False
        except Exception as error:
            stays = isinstance(error, Unavailable)
            raise
        finally:
            self._busy.discard(digest)
            if not stays or _size_bytes(path) < KEPT_BYTES_MIN:
                path.unlink(missing_ok=True)

    def discard_old(self, older_than_s: float) -> int:
        """Remove those that nothing was added to for so long; return how many bytes that freed."""
        freed_bytes = 0
        for path in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                # Wall time: the files are of earlier boots, too.
                if f"sha256:{path.name}" not in self._busy and time.time() - status.st_mtime > older_than_s:
                    path.unlink()
                    freed_bytes += status.st_size
        return freed_bytes


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
