"""A layer's bytes as the unpacker reads them: bounded input, decompressed in bounded pieces, hashed on the way.

gzip (several members too, as stargz writes), zstd (several frames) and plain tar are told apart by their first bytes.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO, cast

from pyswarm_agent.images.recording import Recorder
from pyswarm_agent.images.tar_stream import TarError

INPUT_BYTES = 1 << 17
OUTPUT_BYTES = 1 << 20
"""No piece is larger, whatever a compressed bomb would expand to."""

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16)))
_ZSTD_WINDOW_BYTES_MAX = 1 << 27
_TRUNCATED = "unexpected end of the layer"


class LayerStream:
    """The uncompressed bytes of a layer; knows their count and sha256."""

    def __init__(
        self,
        descriptor: int,
        size_bytes: int | None = None,
        *,
        on_piece: Callable[[], None] = lambda: None,
        recorder: Recorder | None = None,
    ) -> None:
        """Read from `descriptor`, at most `size_bytes`. Imports whatever the compression needs now, before any chroot.

        `on_piece` is called before each piece. `recorder` takes down all but the content of files.
        """
        self.count_bytes = 0
        self._recorder = recorder
        self._hash = hashlib.sha256()
        self._pieces = decompress(_limited_reader(descriptor, size_bytes))
        self._on_piece = on_piece
        self._piece = memoryview(b"")
        self._position = 0
        self._fill()

    def read(self, count: int) -> bytes:
        """Return exactly `count` bytes. Raises TarError when fewer are left."""
        end = self._position + count
        if end <= len(self._piece):
            data = self._piece[self._position : end].tobytes()
            self._position = end
        else:
            data = b"".join(self._take(count))
        if self._recorder is not None:
            self._recorder.add_raw(data)
        return data

    def skip(self, count: int) -> None:
        """Pass over exactly `count` bytes."""
        for part in self._take(count):
            if self._recorder is not None:
                self._recorder.add_raw(part)

    def is_at_end(self) -> bool:
        """Whether no byte is left."""
        return self._position == len(self._piece) and not self._fill()

    def copy_to(self, descriptor: int, path: bytes, count: int) -> None:
        """Write exactly `count` bytes to an open file, which is at `path`."""
        if self._recorder is not None:
            self._recorder.add_file(path, count)
        for part in self._take(count):
            while part:
                part = part[os.write(descriptor, part) :]

    def finish(self) -> str:
        """Read what is left and return the digest of all uncompressed bytes."""
        self._record_rest()
        while self._fill():
            self._record_rest()
        if self._recorder is not None:
            self._recorder.finish()
        return "sha256:" + self._hash.hexdigest()

    def _record_rest(self) -> None:
        if self._recorder is not None:
            self._recorder.add_raw(self._piece[self._position :])

    def _take(self, count: int) -> Iterator[memoryview]:
        while count:
            if self._position == len(self._piece) and not self._fill():
                raise TarError(_TRUNCATED)
            part = self._piece[self._position : self._position + count]
            self._position += len(part)
            count -= len(part)
            yield part

    def _fill(self) -> bool:
        self._on_piece()
        piece = next(self._pieces, b"")
        self._hash.update(piece)
        self.count_bytes += len(piece)
        self._piece = memoryview(piece)
        self._position = 0
        return bool(piece)


def decompress(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Return the pieces of a gzip, zstd or plain stream, uncompressed; `read` gives the next input, empty at the end.

    Raises TarError (in the iterator) for a damaged stream.
    """
    first = read()
    if first.startswith(_GZIP_MAGIC):
        return _gunzip(first, read)
    if first[:4] in _ZSTD_MAGICS:
        return _unzstd(first, read)
    return _plain(first, read)


def _limited_reader(descriptor: int, size_bytes: int | None) -> Callable[[], bytes]:
    left = size_bytes

    def read() -> bytes:
        nonlocal left
        data = os.read(descriptor, INPUT_BYTES if left is None else min(INPUT_BYTES, left))
        if left is not None:
            left -= len(data)
        return data

    return read


def _plain(data: bytes, read: Callable[[], bytes]) -> Iterator[bytes]:
    while data:
        yield data
        data = read()


def _gunzip(data: bytes, read: Callable[[], bytes]) -> Iterator[bytes]:
    decoder = zlib.decompressobj(31)
    while True:
        try:
            out = decoder.decompress(data, OUTPUT_BYTES)
        except zlib.error as error:
            raise TarError(f"damaged gzip stream: {error}") from error
        if out:
            yield out
        if decoder.eof:
            data = (decoder.unused_data or read()).lstrip(b"\0")
            if not data:
                return
            decoder = zlib.decompressobj(31)
            continue
        data = decoder.unconsumed_tail or read()
        if not data and not out:
            raise TarError(_TRUNCATED)


def _unzstd(first: bytes, read: Callable[[], bytes]) -> Iterator[bytes]:
    import zstandard  # the only import of weight, and most layers are gzip

    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
    reader = decoder.stream_reader(cast("IO[bytes]", _Rejoined(first, read)), read_size=INPUT_BYTES, read_across_frames=True)

    def pieces() -> Iterator[bytes]:
        try:
            while piece := reader.read(OUTPUT_BYTES):
                yield piece
        except zstandard.ZstdError as error:
            raise TarError(f"damaged zstd stream: {error}") from error

    return pieces()


class _Rejoined:
    """The file that zstandard wants, made of the first piece and a function for the rest."""

    def __init__(self, first: bytes, read: Callable[[], bytes]) -> None:
        self._first = first
        self._read = read

    def read(self, _: int = -1) -> bytes:
        data, self._first = self._first, b""
        return data or self._read()
