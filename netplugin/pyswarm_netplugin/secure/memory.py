"""The node's own key pair on disk, with its port and the cluster's shared key; made once, readable for root alone."""

import base64
import binascii
import os
import socket
from pathlib import Path

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pyswarm_common.errors import FailedPrecondition
from pyswarm_common.objects import Record
from pyswarm_netplugin.secure.records import KEY_BYTES

FIRST_PORT = 51820
"""WireGuard's customary UDP port; when it is taken, the next that is free."""
_PORTS_TRIED = 1000

_log = structlog.get_logger()


class SecureMemory(Record, frozen=True, kw_only=True):
    """What is remembered. Keys in base64."""

    private_key: str
    port: int = 0
    preshared_key: str = ""

    @property
    def public_key(self) -> str:
        """What others may know."""
        return public_key_of(self.private_key)


class SecureFile:
    """The file, which nobody but root can read (0600)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> SecureMemory | None:
        """Return what is remembered, None when nothing is or it cannot be read."""
        try:
            found = msgspec.msgpack.decode(self._path.read_bytes(), type=SecureMemory)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            _log.warning("network.key_unreadable", path=str(self._path), error=str(error))
            return None
        return found if is_key(found.private_key) else None

    def write(self, memory: SecureMemory) -> None:
        """Remember it. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._path.with_name(f".{self._path.name}")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.msgpack.encode(memory))
        temporary.replace(self._path)


def new_private_key() -> str:
    """Return a new private key in base64."""
    return base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()


def public_key_of(private_key: str) -> str:
    """Return the public key of a private one, both in base64. Raises ValueError."""
    private = X25519PrivateKey.from_private_bytes(base64.b64decode(private_key, validate=True))
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def is_key(text: str) -> bool:
    """Whether this is a key in base64."""
    try:
        return len(base64.b64decode(text, validate=True)) == KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def choose_port(first: int = FIRST_PORT, count: int = _PORTS_TRIED) -> int:
    """Return the first free UDP port of so many, in the calling thread's namespace. Raises FailedPrecondition."""
    for port in range(first, first + count):
        if is_port_free(port):
            return port
    raise FailedPrecondition(f"no free UDP port for encrypted overlays: {first} to {first + count - 1} are in use")


def is_port_free(port: int) -> bool:
    """Whether nothing in the calling thread's namespace has the UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
