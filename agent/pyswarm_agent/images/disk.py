"""What the store needs of the file system beyond writing files: everything durable at once, and removal that never blocks."""

import asyncio
import ctypes
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pyswarm_agent.images.failures import FREE_SOME, disk_failure
from pyswarm_common.errors import PyswarmError

T = TypeVar("T")
_WATCHED_BYTES = 16 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class DiskSync:
    """Makes a whole file system's data durable, one `syncfs` for all who ask at the same time.

    A layer has thousands of files; an fsync each would take seconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._asked = 0
        self._done = 0

    async def sync(self) -> None:
        """Return when everything written before this call is on the disk."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._done >= mine:
                return
            covers = self._asked
            await asyncio.to_thread(_syncfs, self._path)
            self._done = covers


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Return what `work` returns, run in a thread. When cancelled, wait for its end first: it may be using what is closed next."""
    future = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def free_bytes(directory: Path) -> int:
    """Return how much the disk of a directory still takes."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def check_room(directory: Path, wanted_bytes: int, doing: str) -> None:
    """Raises PyswarmError when the disk of a directory has less room than is wanted."""
    free = free_bytes(directory)
    if free < wanted_bytes:
        wanting = f"{wanted_bytes} bytes are wanted, {free} are free"
        raise PyswarmError(f"{doing}: no space left on device ({wanting}; {FREE_SOME.format(directory)})")


class RoomWatch:
    """Looks now and then whether a disk still has what is to be kept free of it, while something is written there."""

    def __init__(self, directory: Path, reserve_bytes: int, doing: str) -> None:
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._doing = doing
        self._unwatched_bytes = _WATCHED_BYTES

    def will_write(self, count_bytes: int) -> None:
        """Say how much is written next. Raises PyswarmError when there is no room any more."""
        self._unwatched_bytes += count_bytes
        if self._unwatched_bytes >= _WATCHED_BYTES:
            self._unwatched_bytes = 0
            check_room(self._directory, self._reserve_bytes, self._doing)


async def spool(source: AsyncIterator[bytes], path: Path, reserve_bytes: int, doing: str) -> None:
    """Write a stream to a new file. Raises PyswarmError when there is no room on the disk, and what the source raises."""
    watch = RoomWatch(path.parent, reserve_bytes, doing)
    with path.open("xb") as file:
        async for chunk in source:
            watch.will_write(len(chunk))
            try:
                await in_thread(file.write, chunk)
            except OSError as error:
                raise disk_failure(error, doing, path.parent) from error


class Trash:
    """Removes trees: renamed out of the way at once, deleted by a thread. What a crash left there goes at the next start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._janitor = ThreadPoolExecutor(1, thread_name_prefix="image-janitor")
        leftovers = list(directory.iterdir())
        if leftovers:
            self._janitor.submit(_remove_trees, leftovers)

    def discard(self, path: Path) -> None:
        """Take a file or tree out of its place now and delete it soon; one that is not there is fine."""
        holder = Path(tempfile.mkdtemp(dir=self._directory))
        try:
            path.rename(holder / path.name)
        except FileNotFoundError:
            holder.rmdir()
            return
        self._janitor.submit(_remove_trees, [holder])

    def close(self) -> None:
        """Return when everything discarded is deleted."""
        self._janitor.shutdown(wait=True)


def _syncfs(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"syncfs: {os.strerror(number)}", str(path))
    finally:
        os.close(descriptor)


def _remove_trees(paths: list[Path]) -> None:
    # rm walks by descriptors: trees deeper than a path can be long, or than Python can recurse, are no trouble to it.
    subprocess.run(["rm", "-rf", "--one-file-system", "--", *paths], check=False, stdin=subprocess.DEVNULL)
