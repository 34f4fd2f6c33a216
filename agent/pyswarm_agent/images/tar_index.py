"""Where the members of a tarball on disk lie.

Read with the unpacker's reader: the standard library's follows a hostile tarball in circles.
"""

import os
import posixpath
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pyswarm_agent.images.tar_stream import HARD_LINK, REGULAR, SYMLINK, TarError, padding_bytes, read_members

MEMBERS_MAX = 200_000
"""So many files are in no tarball of images; each costs memory."""
_LINKS_MAX = 10


class Part(NamedTuple):
    """Where a file lies within the tarball."""

    offset: int
    size_bytes: int


class _Member(NamedTuple):
    type: bytes
    part: Part
    link: str


class TarIndex:
    """The members of an uncompressed tarball by their normalized names; of two with one name the later. Blocking."""

    def __init__(self, path: Path) -> None:
        """Raises TarError for what is no tarball, OSError."""
        self._members: dict[str, _Member] = {}
        with path.open("rb") as file:
            source = _FileSource(file)
            for number, member in enumerate(read_members(source)):
                if number >= MEMBERS_MAX:
                    raise TarError(f"it has more than {MEMBERS_MAX} members")
                part = Part(file.tell(), member.size_bytes)
                source.skip(member.size_bytes + padding_bytes(member.size_bytes))
                self._members[_normalized(member.name)] = _Member(member.type, part, os.fsdecode(member.link))

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def find(self, name: str) -> Part:
        """Return where a file lies, links followed. Raises KeyError when it is not there, ValueError when it is no file."""
        path = posixpath.normpath(name)
        for _ in range(_LINKS_MAX):
            member = self._members[path]
            if member.type == SYMLINK:  # docker save links layers that two images share
                path = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.link))
            elif member.type == HARD_LINK:
                path = posixpath.normpath(member.link)
            elif member.type == REGULAR:
                return member.part
            else:
                break
        raise ValueError(f"{name} is no file")


class _FileSource:
    """A file as `read_members` takes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size_bytes = os.fstat(file.fileno()).st_size

    def read(self, count: int) -> bytes:
        """Return exactly `count` bytes."""
        data = self._file.read(count)
        if len(data) < count:
            raise TarError("it ends too early")
        return data

    def skip(self, count: int) -> None:
        """Pass over exactly `count` bytes."""
        end = self._file.tell() + count
        if end > self._size_bytes:
            raise TarError("it ends too early")
        self._file.seek(end)

    def is_at_end(self) -> bool:
        """Whether no byte is left."""
        return self._file.tell() >= self._size_bytes


def _normalized(name: bytes) -> str:
    return posixpath.normpath(os.fsdecode(name))
