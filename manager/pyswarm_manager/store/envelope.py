"""Encryption at rest: every value in etcd is an envelope around the object's bytes.

    byte 0      format: 1
    bytes 1-4   id of the data key, big-endian
    bytes 5-16  nonce
    the rest    AES-256-GCM ciphertext and tag; associated data: the etcd key

The associated data binds a value to its key, so that nobody who can write to the disk can swap two objects. Several keys
can open, one of them (the active one) seals; so a new data key can be introduced while old values still lie around.

Nonces: GCM fails when a nonce repeats under one key. Random nonces would be good for 2^32 values only, which a busy cluster writes
in months; so each `DataKeys` counts up from a random 96-bit start, and two starts whose runs overlap are as unlikely as 2^-32
even after 65,000 restarts of 2^32 values each.
"""

import itertools
import secrets
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pyswarm_common.errors import PyswarmError

ENVELOPE_FORMAT = 1
DATA_KEY_BYTES = 32
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = 1 + _KEY_ID_BYTES
_NONCE_SPACE = 1 << (8 * _NONCE_BYTES)
OVERHEAD_BYTES = _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES


class EnvelopeError(PyswarmError):
    """A stored value that cannot be opened: unknown format or data key, or changed by someone without the key."""


class _EncodedKeys(msgspec.Struct):
    active_id: int
    keys: dict[int, bytes]


class DataKeys:
    """The cluster's data keys by id; `active_id` seals, all open. Not for use from several threads."""

    def __init__(self, keys: Mapping[int, bytes], active_id: int) -> None:
        if active_id not in keys:
            raise ValueError(f"the active data key {active_id} is not among the keys")
        self.keys: dict[int, bytes] = dict(keys)
        """The raw keys, 32 bytes each: what a node key file holds."""
        self.active_id = active_id
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._header = bytes([ENVELOPE_FORMAT]) + active_id.to_bytes(_KEY_ID_BYTES, "big")
        self._nonces = itertools.count(secrets.randbelow(_NONCE_SPACE))

    @classmethod
    def generate(cls) -> "DataKeys":
        """Return a set with one new random key, for a new cluster."""
        return cls({1: secrets.token_bytes(DATA_KEY_BYTES)}, active_id=1)

    @classmethod
    def decode(cls, encoded: bytes) -> "DataKeys":
        """Return the keys that `encode` gave. Raises PyswarmError when they are damaged."""
        try:
            file = msgspec.json.decode(encoded, type=_EncodedKeys)
        except msgspec.DecodeError as error:
            raise PyswarmError(f"the manager's data keys cannot be read: {error}") from error
        return cls(file.keys, file.active_id)

    def encode(self) -> bytes:
        """Return the keys as a node keeps them on disk and passes them to a manager that joins."""
        return msgspec.json.encode(_EncodedKeys(active_id=self.active_id, keys=self.keys))

    def with_new_active_key(self) -> "DataKeys":
        """Return these keys and one new random key, which seals from now on."""
        key_id = max(self.keys) + 1
        return DataKeys({**self.keys, key_id: secrets.token_bytes(DATA_KEY_BYTES)}, active_id=key_id)

    def seal(self, key: str, plaintext: bytes) -> bytes:
        """Return the envelope of `plaintext` to store under the etcd key `key`."""
        nonce = (next(self._nonces) % _NONCE_SPACE).to_bytes(_NONCE_BYTES, "big")
        return self._header + nonce + self._ciphers[self.active_id].encrypt(nonce, plaintext, key.encode())

    def open(self, key: str, envelope: bytes) -> bytes:
        """Return what was sealed for the etcd key `key`. Raises EnvelopeError."""
        if len(envelope) < OVERHEAD_BYTES or envelope[0] != ENVELOPE_FORMAT:
            raise EnvelopeError(f"the stored value of {key} has an unknown format")
        key_id = int.from_bytes(envelope[1:_HEADER_BYTES], "big")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise EnvelopeError(f"the stored value of {key} needs data key {key_id}, which this manager does not have")
        nonce = envelope[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
        try:
            return cipher.decrypt(nonce, envelope[_HEADER_BYTES + _NONCE_BYTES :], key.encode())
        except InvalidTag:
            raise EnvelopeError(f"the stored value of {key} was not sealed by this cluster for this key") from None
