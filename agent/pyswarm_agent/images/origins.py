"""Where else a layer lies: the repositories that have it, and as which blob. Pushing asks this before it packs a layer again.

A file in the layer's directory. It is a hint and no more: the registry is asked before anybody believes it, and it may be lost.
"""

import contextlib
from pathlib import Path

import msgspec

from pyswarm_common.files import write_atomically

ORIGINS = "origins.json"
_KEPT = 20


class Origin(msgspec.Struct, frozen=True):
    """A blob of a registry's repository: `domain` and `path` as in image names."""

    domain: str
    path: str
    digest: str
    size_bytes: int
    media_type: str = ""


_decoder = msgspec.json.Decoder(tuple[Origin, ...])


def encode_origins(*origins: Origin) -> str:
    """Return the file's content."""
    return msgspec.json.encode(origins).decode()


def read_origins(home: Path) -> tuple[Origin, ...]:
    """Return where the layer in the directory `home` lies, the newest first."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return _decoder.decode((home / ORIGINS).read_bytes())
    return ()


def remember_origin(home: Path, origin: Origin) -> None:
    """Take down another place; one that cannot be written down is forgotten."""
    known = read_origins(home)
    if origin not in known:
        with contextlib.suppress(OSError):
            if home.is_dir():
                write_atomically(home / ORIGINS, encode_origins(*(origin, *known)[:_KEPT]).encode())
