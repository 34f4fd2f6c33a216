"""Everything secret that a node keeps on disk, in one file: its private key, and on managers the keys of the store's envelopes.

    {"form": "plain", "secrets": {…}}                                   workers, and managers without autolock
    {"form": "locked", "salt": …, "nonce": …, "sealed": …}              managers under autolock

Locked: AES-256-GCM of the secrets' JSON; key: HKDF-SHA256 of the unlock key's 32 bytes with a salt of its own for each writing, so
that no nonce ever repeats under one key. The unlock key itself is only ever in memory.

Because there is one file, which is only ever replaced as a whole, every change (of a secret, from plain to locked, to another
unlock key, and back) has happened or has not, wherever the node is killed. What a killed writer leaves beside the file is removed
at the next start, before anything else is read.
"""

import os
from pathlib import Path
from typing import TypeAlias

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pyswarm_common.errors import PyswarmError, Unauthenticated, Unavailable
from pyswarm_common.files import sync_directory, temporary_path, write_atomically
from pyswarm_common.unlock_key import parse_unlock_key

SWARM_IS_LOCKED = (
    'Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.'
)
_PURPOSE = b"pyswarm node key file 1"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_CIPHER_KEY_BYTES = 32


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """What a key file holds. `data_keys` is empty on workers."""

    private_keys: tuple[str, ...] = ()
    """The node's private key (PEM); two while a new one with its certificate takes the place of another."""
    data_keys: bytes = b""


class _Plain(msgspec.Struct, tag_field="form", tag="plain"):
    secrets: Secrets


class _Locked(msgspec.Struct, tag_field="form", tag="locked"):
    salt: bytes
    nonce: bytes
    sealed: bytes


_Content: TypeAlias = _Plain | _Locked


class KeyFile:
    """One node's key file. Of several on one path only one may write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: _Content | None = None
        self._secrets: Secrets | None = None
        self._unlock_key = ""

    @property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return self._path.exists()

    @property
    def is_locked(self) -> bool:
        """Whether the secrets are there, but only an unlock key opens them."""
        try:
            return self._secrets is None and isinstance(self._read(), _Locked)
        except PyswarmError:
            return False

    @property
    def unlock_key(self) -> str:
        """The key under which the file lies, "" when it is plain. Raises as `secrets` does."""
        _ = self.secrets
        return self._unlock_key

    @property
    def secrets(self) -> Secrets:
        """What the file holds; nothing when there is none. Raises Unavailable while locked, PyswarmError when it is damaged."""
        if self._secrets is None:
            content = self._read()
            if isinstance(content, _Locked):
                raise Unavailable(SWARM_IS_LOCKED)
            self._secrets = content.secrets if content is not None else Secrets()
        return self._secrets

    def unlock(self, unlock_key: str) -> None:
        """Open a locked file. Raises InvalidArgument for what is no unlock key, Unauthenticated for a wrong one."""
        key = parse_unlock_key(unlock_key)
        content = self._read()
        if isinstance(content, _Locked) and self._secrets is None:
            self._secrets, self._unlock_key = _opened(content, key), unlock_key.strip()

    def write(self, secrets: Secrets, unlock_key: str) -> None:
        """Replace the file: these secrets, locked under this key, or plain for "".

        Raises Unavailable while locked; OSError, as when the disk is full: then all is as before.
        """
        _ = self.secrets
        content: _Content = _Plain(secrets) if not unlock_key else _sealed(secrets, parse_unlock_key(unlock_key))
        write_atomically(self._path, msgspec.json.encode(content))
        self._content, self._secrets, self._unlock_key = content, secrets, unlock_key

    def change_lock(self, unlock_key: str) -> None:
        """From now on the file lies under this key, plain for ""; without a file: from the first writing on. Raises as `write`."""
        if self.secrets != Secrets():
            self.write(self.secrets, unlock_key)
        self._unlock_key = unlock_key

    def remove(self) -> None:
        """Remove the file and forget what was in it."""
        for path in (self._path, temporary_path(self._path)):
            path.unlink(missing_ok=True)
        self._content, self._secrets, self._unlock_key = None, None, ""

    def _read(self) -> _Content | None:
        if self._content is None:
            self._remove_unfinished()
            try:
                self._content = msgspec.json.decode(self._path.read_bytes(), type=_Content)
            except FileNotFoundError:
                return None
            except msgspec.DecodeError as error:
                raise PyswarmError(
                    f"{self._path} cannot be read ({error}): this node has lost its keys; restore the file, "
                    "or leave the swarm with --force and join again"
                ) from error
        return self._content

    def _remove_unfinished(self) -> None:
        """Remove what a writer that was killed left: it may be plain beside a file that is locked."""
        try:
            os.unlink(temporary_path(self._path))
        except FileNotFoundError:
            return
        sync_directory(self._path.parent)


def _sealed(secrets: Secrets, key: bytes) -> _Locked:
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    sealed = AESGCM(_cipher_key(key, salt)).encrypt(nonce, msgspec.json.encode(secrets), _PURPOSE)
    return _Locked(salt=salt, nonce=nonce, sealed=sealed)


def _opened(content: _Locked, key: bytes) -> Secrets:
    try:
        plain = AESGCM(_cipher_key(key, content.salt)).decrypt(content.nonce, content.sealed, _PURPOSE)
    except (InvalidTag, ValueError):
        raise Unauthenticated(
            "swarm could not be unlocked: invalid key provided; "
            "a manager that was down while the key was rotated opens with the former key"
        ) from None
    return msgspec.json.decode(plain, type=Secrets)


def _cipher_key(unlock_key: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=_CIPHER_KEY_BYTES, salt=salt, info=_PURPOSE).derive(unlock_key)
