"""The unpacked layers of a node: one directory each, ready to be an overlayfs lower directory.

    layers/<first 32 hex digits of the diff-id>/diff/         the files
                                               /layer.json    the whole diff-id, the size

The name is cut to 128 bits so that as many layers as Docker allows fit the one page of mount options (give overlayfs paths relative
to `layers/`). A layer appears whole or not at all: unpacked under `temporary/`, checked, synced, then renamed.
"""

import asyncio
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pyswarm_agent.images.disk import DiskSync, Trash, in_thread
from pyswarm_agent.images.failures import corrupt_layer
from pyswarm_common.errors import PyswarmError
from pyswarm_common.files import sync_directory

_NAME_DIGITS = 32
_STDERR_TAIL = 500


class _LayerFile(msgspec.Struct):
    diff_id: str
    size_bytes: int


class _UnpackAnswer(msgspec.Struct):
    diff_id: str = ""
    size_bytes: int = 0
    error: str = ""


class LayerStore:
    """Adds, finds and removes layers. One owner at a time per directory."""

    def __init__(self, directory: Path, temporary: Path, trash: Trash) -> None:
        self._directory = directory
        self._temporary = temporary
        self._trash = trash
        directory.mkdir(parents=True, exist_ok=True)
        self._sync = DiskSync(directory)
        self._unpackers = asyncio.Semaphore(max(2, min(os.cpu_count() or 2, 4)))
        self._commits = asyncio.Lock()
        self._held: Counter[str] = Counter()
        self._sizes = dict(self._read_all())

    def __contains__(self, layer_id: str) -> bool:
        return layer_id in self._sizes

    def size_bytes(self, layer_id: str) -> int:
        """Return the sum of the layer's file sizes."""
        return self._sizes[layer_id]

    def path(self, layer_id: str) -> Path:
        """Return where the layer's files are (or will be)."""
        return self._home(layer_id) / "diff"

    def ids_at(self, paths: Iterable[str | Path]) -> set[str]:
        """Return the ids of the layers that are at these paths."""
        wanted = {str(path) for path in paths}
        return {layer_id for layer_id in self._sizes if str(self.path(layer_id)) in wanted}

    @contextmanager
    def holding(self, layer_ids: Iterable[str]) -> Iterator[None]:
        """Protect layers, present or to come, from removal while an image that needs them is being made."""
        ids = tuple(layer_ids)
        self._held.update(ids)
        try:
            yield
        finally:
            self._held.subtract(ids)
            self._held += Counter()  # drops the zeros

    async def add(self, layer_id: str, archive: Path, *, offset: int = 0, size_bytes: int | None = None, digest: str = "") -> None:
        """Unpack the layer in (a part of) the file `archive`, compressed or not, and keep it if it is `layer_id`.

        `digest` is what to call it in errors. Raises PyswarmError when the bytes are damaged, hostile or another layer's; then
        nothing stays.
        """
        digest = digest or layer_id
        async with self._unpackers:
            if layer_id in self:
                return
            holder = Path(tempfile.mkdtemp(prefix="layer-", dir=self._temporary))
            try:
                answer = await _run_unpacker(holder, archive, offset, size_bytes)
                if answer.error:
                    raise PyswarmError(f"failed to register layer {digest}: {answer.error}")
                if answer.diff_id != layer_id:
                    raise corrupt_layer(digest, f"unpacked it is {answer.diff_id}, where the image says {layer_id}")
                (holder / "layer.json").write_bytes(msgspec.json.encode(_LayerFile(layer_id, answer.size_bytes)))
                await self._sync.sync()
                await self._commit(holder, layer_id, answer.size_bytes)
            finally:
                self._trash.discard(holder)

    def discard_except(self, wanted: Collection[str]) -> list[str]:
        """Remove all layers but those wanted or held; return the ids of the removed."""
        removed = [layer_id for layer_id in self._sizes if layer_id not in wanted and layer_id not in self._held]
        for layer_id in removed:
            del self._sizes[layer_id]
            self._trash.discard(self._home(layer_id))
        return removed

    def _home(self, layer_id: str) -> Path:
        return self._directory / layer_id.removeprefix("sha256:")[:_NAME_DIGITS]

    async def _commit(self, holder: Path, layer_id: str, size_bytes: int) -> None:
        async with self._commits:
            if layer_id in self:
                return  # by somebody else meanwhile; containers may be using it
            await in_thread(self._move_into_place, holder, layer_id)
            self._sizes[layer_id] = size_bytes

    def _move_into_place(self, holder: Path, layer_id: str) -> None:
        home = self._home(layer_id)
        self._trash.discard(home)  # what nobody knows of: an add that was cancelled after its rename
        holder.rename(home)
        sync_directory(self._directory)

    def _read_all(self) -> Iterator[tuple[str, int]]:
        """Yield the whole layers, and discard what is none."""
        for home in self._directory.iterdir():
            layer = _read_layer_file(home)
            if layer is not None and self._home(layer.diff_id) == home and (home / "diff").is_dir():
                yield layer.diff_id, layer.size_bytes
            else:
                self._trash.discard(home)


def _read_layer_file(home: Path) -> _LayerFile | None:
    try:
        return msgspec.json.decode((home / "layer.json").read_bytes(), type=_LayerFile)
    except (OSError, msgspec.DecodeError):
        return None


async def _run_unpacker(holder: Path, archive: Path, offset: int, size_bytes: int | None) -> _UnpackAnswer:
    target = holder / "diff"
    target.mkdir(mode=0o755)
    # mkdir's mode is subject to the umask, and a layer that says nothing of its root must still be readable by everybody.
    target.chmod(0o755)
    limit = () if size_bytes is None else (str(size_bytes),)
    descriptor = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "pyswarm_agent.images.unpack", str(target), *limit),
            stdin=descriptor,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    finally:
        os.close(descriptor)
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    try:
        return msgspec.json.decode(output, type=_UnpackAnswer)
    except msgspec.DecodeError:
        tail = errors.decode(errors="replace").strip()[-_STDERR_TAIL:]
        return _UnpackAnswer(error=f"the unpacker ended with code {process.returncode}: {tail or 'no message'}")
