"""The files of one container's log: `container.log`, which conmon writes, and numbered archives of what it wrote before.

`container.log.7` is older than `container.log.8`; a number never changes its meaning, so readers and interrupted rotations need no
bookkeeping. The file that is written has the number after the newest archive's. While a rotation is under way the newest archive
and `container.log` are one file under two names (see `log_rotation`). A compressed archive is called `container.log.7.gz`; while
both forms are there the plain one counts. Blocking.
"""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

COMPRESSED = ".gz"
PARTIAL = ".gz.partial"
RESERVE = ".tmp"
"""The name under which conmon makes the next file before it gives it the log's name."""


class Archive(NamedTuple):
    """One number's files: `is_compressed` when there is (also) a compressed one, `is_plain` a plain one."""

    number: int
    is_plain: bool
    is_compressed: bool


class OpenLog:
    """One of the log's files, open for reading. Offsets count the plain text's bytes, also in a compressed file."""

    def __init__(self, file: BinaryIO, number: int, *, is_compressed: bool) -> None:
        self.file = file
        self.number = number
        self.is_compressed = is_compressed

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        status = os.fstat(self.file.fileno())
        return status.st_dev, status.st_ino

    @property
    def size_bytes(self) -> int:
        """How long the file is on disk."""
        return os.fstat(self.file.fileno()).st_size

    def __enter__(self) -> "OpenLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


class LogFiles:
    """The log whose newest file is `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def reserve(self) -> Path:
        """The file that conmon will write next, made beforehand so that a full disk cannot stop it there."""
        return self.path.with_name(self.path.name + RESERVE)

    def plain(self, number: int) -> Path:
        """Return an archive's name."""
        return self.path.with_name(f"{self.path.name}.{number}")

    def compressed(self, number: int) -> Path:
        """Return a compressed archive's name."""
        return self.path.with_name(f"{self.path.name}.{number}{COMPRESSED}")

    def partial(self, number: int) -> Path:
        """Return the name under which an archive is being compressed."""
        return self.path.with_name(f"{self.path.name}.{number}{PARTIAL}")

    def archives(self) -> list[Archive]:
        """Return the archives, oldest first. Raises OSError."""
        plain, compressed = set[int](), set[int]()
        for suffix in self._suffixes():
            number, dot, ending = suffix.partition(".")
            if number.isdigit() and dot + ending in ("", COMPRESSED):
                (compressed if ending else plain).add(int(number))
        return [Archive(number, number in plain, number in compressed) for number in sorted(plain | compressed)]

    def partials(self) -> list[Path]:
        """Return what an interrupted compression has left. Raises OSError."""
        return [self.path.with_name(f"{self.path.name}.{suffix}") for suffix in self._suffixes() if suffix.endswith(PARTIAL)]

    def _suffixes(self) -> Iterator[str]:
        prefix = self.path.name + "."
        with os.scandir(self.path.parent) as entries:
            yield from [entry.name[len(prefix) :] for entry in entries if entry.name.startswith(prefix)]

    def open_current(self) -> OpenLog | None:
        """Open the file that is written; None if there is none. Raises OSError."""
        while True:
            try:
                opened = OpenLog(self.path.open("rb"), 0, is_compressed=False)
            except FileNotFoundError:
                return None
            try:
                archives = self.archives()
                newest = archives[-1].number if archives else 0
                is_linked = identity_of(self.plain(newest)) == opened.identity
                # The number holds only if no rotation came between the opening and the look at the archives.
                if identity_of(self.path) == opened.identity:
                    opened.number = newest if is_linked else newest + 1
                    return opened
            except BaseException:
                opened.file.close()
                raise
            opened.file.close()

    def open_from(self, number: int) -> OpenLog | None:
        """Open the file with this number or, if it was dropped, the oldest one after it; None if there is none. Raises OSError."""
        while True:
            current = self.open_current()
            if current is not None and current.number <= number:
                return current
            later = [archive for archive in self.archives() if archive.number >= number]
            if not later or (current is not None and later[0].number >= current.number):
                return current
            if current is not None:
                current.file.close()
            opened = self._open_archive(later[0].number)
            if opened is not None:
                return opened

    def _open_archive(self, number: int) -> OpenLog | None:
        try:
            return OpenLog(self.plain(number).open("rb"), number, is_compressed=False)
        except FileNotFoundError:
            pass
        try:
            return OpenLog(cast(BinaryIO, gzip.open(self.compressed(number), "rb")), number, is_compressed=True)
        except FileNotFoundError:
            return None


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return a file's device and inode, None if there is no such file. Raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
