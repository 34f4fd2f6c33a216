"""Builds a layer's tar archive again: `python -m pyswarm_agent.images.pack DIRECTORY DIFF_ID FORM OUTPUT`.

Standard input is the layer's recording (FORM `recorded`: see `recording.py`) or its archive as it came (`archive`). The archive
goes to standard output, as it is (OUTPUT `tar`) or compressed (`gzip`). A process of its own, because it chroots into DIRECTORY,
where the layer's files are: whatever links a layer holds, they stay inside.

Ends with code 0 when what was written is DIFF_ID, else with a message on standard error.
"""

import hashlib
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator

from pyswarm_agent.images.byte_stream import INPUT_BYTES, decompress
from pyswarm_agent.images.recording import read_recording
from pyswarm_agent.images.tar_stream import TarError

_PIECE_BYTES = 1 << 18
_GZIP_LEVEL = 6
_GZIP_WINDOW = 31


def packed(descriptor: int) -> Iterator[bytes]:
    """Yield the archive that a recording tells of, its files being below `/`. Raises TarError, ValueError, OSError."""
    for part in read_recording(descriptor):
        if isinstance(part, bytes):
            yield part
        else:
            yield from _content(*part)


def _content(path: bytes, size_bytes: int) -> Iterator[bytes]:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size_bytes:
            raise TarError(f"{path.decode(errors='replace')} is not the file that the layer brought")
        while piece := os.read(file, _PIECE_BYTES):
            yield piece
    finally:
        os.close(file)


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def _hashed(pieces: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for piece in pieces:
        update(piece)
        yield piece


def main(arguments: list[str]) -> int:
    """Write the archive; return the exit code."""
    directory, diff_id, form, output = arguments
    digest = hashlib.sha256()
    try:
        source = packed(0) if form == "recorded" else decompress(lambda: os.read(0, INPUT_BYTES))
        os.chroot(directory)
        os.chdir("/")
        pieces = _hashed(source, digest.update)
        for data in _gzipped(pieces) if output == "gzip" else pieces:
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
    except (TarError, OSError, ValueError) as error:
        sys.stderr.write(str(error))
        return 1
    if f"sha256:{digest.hexdigest()}" != diff_id:
        sys.stderr.write(f"its files make sha256:{digest.hexdigest()}: they are not what the layer brought")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
