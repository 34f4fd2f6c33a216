"""What of a layer's tar archive its unpacked files do not hold: enough to build the very same archive again (see `pack.py`).

    R <length: 4 bytes> <bytes>                             bytes of the archive: headers, padding, whatever came after the end
    F <size: 8 bytes> <length: 2 bytes> <path>              here comes a file's content

One zlib stream, big endian. A layer that puts something in the place of what it brought before cannot be built again from its
files: its recording is spoilt. The standard library alone is imported, so that chrooted processes can use it.
"""

import os
import struct
import zlib
from collections.abc import Iterator

RAW_BYTES_MAX = 1 << 28
"""Of headers and the like; half a million files have so much."""

_LEVEL = 3
_PENDING_BYTES = 1 << 16
_RAW, _FILE = b"R", b"F"
_RAW_HEAD, _FILE_HEAD = struct.Struct(">I"), struct.Struct(">QH")
_READ_BYTES = 1 << 16


class Recorder:
    """Writes a recording to a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.is_spoilt = False
        self._descriptor = descriptor
        self._compressor = zlib.compressobj(_LEVEL)
        self._pending = bytearray()
        self._raw_bytes = 0

    def add_raw(self, data: bytes | memoryview) -> None:
        """Take down bytes of the archive."""
        self._raw_bytes += len(data)
        if self._raw_bytes > RAW_BYTES_MAX:
            self.spoil()
        if not self.is_spoilt:
            self._pending += data
            if len(self._pending) >= _PENDING_BYTES:
                self._write_pending()

    def add_file(self, path: bytes, size_bytes: int) -> None:
        """Take down that a file's content comes here."""
        if not self.is_spoilt:
            self._write_pending()
            self._write(self._compressor.compress(_FILE + _FILE_HEAD.pack(size_bytes, len(path)) + path))

    def spoil(self) -> None:
        """Give up: the archive cannot be built again."""
        self.is_spoilt = True
        self._pending.clear()

    def finish(self) -> None:
        """Write what is left."""
        if not self.is_spoilt:
            self._write_pending()
            self._write(self._compressor.flush())

    def _write_pending(self) -> None:
        if self._pending:
            self._write(self._compressor.compress(_RAW + _RAW_HEAD.pack(len(self._pending)) + bytes(self._pending)))
            self._pending.clear()

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]


def read_recording(descriptor: int) -> Iterator[bytes | tuple[bytes, int]]:
    """Yield the archive's parts in order: bytes, or (path, size) of a file. Raises ValueError for a damaged recording."""
    source = _Inflated(descriptor)
    while kind := source.take(1):
        if kind == _RAW:
            (length,) = _RAW_HEAD.unpack(source.must_take(_RAW_HEAD.size))
            yield source.must_take(length)
        elif kind == _FILE:
            size_bytes, length = _FILE_HEAD.unpack(source.must_take(_FILE_HEAD.size))
            yield source.must_take(length), size_bytes
        else:
            raise ValueError("damaged recording of a layer")


class _Inflated:
    """A zlib stream, read piece by piece."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = zlib.decompressobj()
        self._data = bytearray()

    def take(self, count: int) -> bytes:
        """Return `count` bytes, or fewer at the end."""
        while len(self._data) < count and not self._decoder.eof:
            data = os.read(self._descriptor, _READ_BYTES)
            if not data:
                break
            try:
                self._data += self._decoder.decompress(data)
            except zlib.error as error:
                raise ValueError(f"damaged recording of a layer: {error}") from error
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    def must_take(self, count: int) -> bytes:
        """Return exactly `count` bytes. Raises ValueError."""
        taken = self.take(count)
        if len(taken) < count:
            raise ValueError("damaged recording of a layer: it ends too early")
        return taken
