"""The unpacked layers of a node: one directory each, ready to be an overlayfs lower directory.

    layers/<first 32 hex digits of the diff-id>/diff/         the files
                                               /recording     what else it takes to build the layer's archive again
                                               /archive       instead of that: the archive as it came, where it must be kept
                                               /layer.json    the whole diff-id, the sizes
                                               /origins.json  registries that have it, and as which blob (see origins.py)

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
from pyswarm_agent.images.failures import corrupt_layer, disk_failure
from pyswarm_agent.images.origins import ORIGINS
from pyswarm_agent.images.packing import ARCHIVE, RECORDING
from pyswarm_common.errors import PyswarmError
from pyswarm_common.files import sync_directory

DISK_RESERVE_BYTES = 256 << 20
"""A node whose disk is full does nothing well any more, so layers leave some of it."""
_NAME_DIGITS = 32
_COPY_BYTES = 1 << 20
_STDERR_TAIL = 500


class _LayerFile(msgspec.Struct):
    diff_id: str
    size_bytes: int
    tar_bytes: int = 0


class _UnpackAnswer(msgspec.Struct):
    diff_id: str = ""
    size_bytes: int = 0
    tar_bytes: int = 0
    is_recorded: bool = False
    error: str = ""


class LayerStore:
    """Adds, finds and removes layers. One owner at a time per directory."""

    def __init__(self, directory: Path, temporary: Path, trash: Trash, reserve_bytes: int = DISK_RESERVE_BYTES) -> None:
        """`reserve_bytes`: how much of the disk unpacking leaves free."""
        self.reserve_bytes = reserve_bytes
        self._directory = directory
        self._temporary = temporary
        self._trash = trash
        directory.mkdir(parents=True, exist_ok=True)
        self._sync = DiskSync(directory)
        self._unpackers = asyncio.Semaphore(max(2, min(os.cpu_count() or 2, 4)))
        self._commits = asyncio.Lock()
        self._held: Counter[str] = Counter()
        self._held_entirely = 0
        self._layers = {layer.diff_id: layer for layer in self._read_all()}

    def __contains__(self, layer_id: str) -> bool:
        return layer_id in self._layers

    def ids(self) -> set[str]:
        """Return the ids of all layers."""
        return set(self._layers)

    def size_bytes(self, layer_id: str) -> int:
        """Return the sum of the layer's file sizes."""
        return self._layers[layer_id].size_bytes

    def tar_bytes(self, layer_id: str) -> int:
        """Return the size of the layer's archive, uncompressed; 0 when it cannot be built again."""
        return self._layers[layer_id].tar_bytes

    def path(self, layer_id: str) -> Path:
        """Return where the layer's files are (or will be)."""
        return self.home(layer_id) / "diff"

    def home(self, layer_id: str) -> Path:
        """Return where all of the layer is (or will be)."""
        return self._directory / layer_id.removeprefix("sha256:")[:_NAME_DIGITS]

    def ids_at(self, paths: Iterable[str | Path]) -> set[str]:
        """Return the ids of the layers that are at these paths."""
        wanted = {str(path) for path in paths}
        return {layer_id for layer_id in self._layers if str(self.path(layer_id)) in wanted}

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

    @contextmanager
    def holding_all(self) -> Iterator[None]:
        """Protect all layers from removal, while one is added whose id is not known yet."""
        self._held_entirely += 1
        try:
            yield
        finally:
            self._held_entirely -= 1

    async def add(
        self, layer_id: str, archive: Path, *, offset: int = 0, size_bytes: int | None = None, digest: str = "", origin: str = ""
    ) -> str:
        """Unpack the layer in (a part of) the file `archive`, compressed or not, and keep it if it is `layer_id`; return its id.

        Any layer will do for the id "". `digest` is what to call it in errors. `origin`: the first content of its `origins.json`.
        Raises PyswarmError for bytes that are damaged, hostile, another layer's, or more than there is room for: nothing stays.
        """
        digest = digest or layer_id or "of the archive"
        async with self._unpackers:
            if layer_id in self:
                return layer_id
            holder = Path(tempfile.mkdtemp(prefix="layer-", dir=self._temporary))
            try:
                answer = await _run_unpacker(holder, archive, offset, size_bytes, self.reserve_bytes)
                if answer.error:
                    raise PyswarmError(f"failed to register layer {digest}: {answer.error}")
                if layer_id and answer.diff_id != layer_id:
                    raise corrupt_layer(digest, f"unpacked it is {answer.diff_id}, where the image says {layer_id}")
                layer = _LayerFile(answer.diff_id, answer.size_bytes, answer.tar_bytes)
                if not answer.is_recorded:
                    (holder / RECORDING).unlink()
                    await in_thread(_copy_part, archive, holder / ARCHIVE, offset, size_bytes)
                (holder / "layer.json").write_bytes(msgspec.json.encode(layer))
                if origin:
                    (holder / ORIGINS).write_text(origin)
                await self._sync.sync()
                await self._commit(holder, layer)
            except OSError as error:
                raise disk_failure(error, f"failed to register layer {digest}", self._directory) from error
            finally:
                self._trash.discard(holder)
        return layer.diff_id

    def discard_except(self, wanted: Collection[str]) -> dict[str, int]:
        """Remove all layers but those wanted or held; return the ids and sizes (bytes) of the removed."""
        if self._held_entirely:
            return {}
        removed = [layer_id for layer_id in self._layers if layer_id not in wanted and layer_id not in self._held]
        for layer_id in removed:
            self._trash.discard(self.home(layer_id))
        return {layer_id: self._layers.pop(layer_id).size_bytes for layer_id in removed}

    async def _commit(self, holder: Path, layer: _LayerFile) -> None:
        async with self._commits:
            if layer.diff_id in self:
                return  # by somebody else meanwhile; containers may be using it
            await in_thread(self._move_into_place, holder, layer.diff_id)
            self._layers[layer.diff_id] = layer

    def _move_into_place(self, holder: Path, layer_id: str) -> None:
        home = self.home(layer_id)
        self._trash.discard(home)  # what nobody knows of: an add that was cancelled after its rename
        holder.rename(home)
        sync_directory(self._directory)

    def _read_all(self) -> Iterator[_LayerFile]:
        """Yield the whole layers, and discard what is none."""
        for home in self._directory.iterdir():
            layer = _read_layer_file(home)
            if layer is not None and self.home(layer.diff_id) == home and (home / "diff").is_dir():
                yield layer
            else:
                self._trash.discard(home)


def _read_layer_file(home: Path) -> _LayerFile | None:
    try:
        return msgspec.json.decode((home / "layer.json").read_bytes(), type=_LayerFile)
    except (OSError, msgspec.DecodeError):
        return None


def _copy_part(source: Path, target: Path, offset: int, size_bytes: int | None) -> None:
    with source.open("rb") as reading, target.open("xb") as writing:
        reading.seek(offset)
        left = size_bytes
        while piece := reading.read(_COPY_BYTES if left is None else min(_COPY_BYTES, left)):
            writing.write(piece)
            left = left if left is None else left - len(piece)


async def _run_unpacker(holder: Path, archive: Path, offset: int, size_bytes: int | None, reserve_bytes: int) -> _UnpackAnswer:
    target = holder / "diff"
    target.mkdir(mode=0o755)
    # mkdir's mode is subject to the umask, and a layer that says nothing of its root must still be readable by everybody.
    target.chmod(0o755)
    limit = () if size_bytes is None else (str(size_bytes),)
    arguments = (str(target), str(holder / RECORDING), str(reserve_bytes), *limit)
    descriptor = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "pyswarm_agent.images.unpack", *arguments),
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
