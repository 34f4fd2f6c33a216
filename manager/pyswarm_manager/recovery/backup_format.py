"""What a backup file looks like. Values in, bytes out, and back; no store, no network.

    header      one line of JSON: `BackupHeader`
    frames      each: length (4 bytes, big-endian), then msgpack of [kind, [object, …]]; sealed when the backup is encrypted
    end         a length of 0, then the SHA-256 of everything before it

An encrypted backup seals each frame with AES-256-GCM. The key comes from the cluster's unlock key (256 random bits, so no slow
derivation is needed) and the header's salt by HKDF; the salt is new for each backup, so the frame's number serves as nonce. The
associated data is the digest of the header line, which binds the frames to it.

What is not in it: the data keys (a restored cluster makes new ones), and everything that nodes keep to themselves.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pyswarm_common.errors import InvalidArgument, PermissionDenied
from pyswarm_common.objects import KIND_OF_TYPE, TYPE_OF_KIND, AnyObject, Cluster, Record

BACKUP_FORMAT = "pyswarm-backup"
BACKUP_VERSION = 1
MAX_FRAME_BYTES = 64 << 20
_LENGTH_BYTES = 4
_DIGEST_BYTES = 32
_SALT_BYTES = 16
_NONCE_BYTES = 12
_MAX_HEADER_BYTES = 64 << 10
_KEY_PURPOSE = b"pyswarm backup"

_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(tuple[str, list[msgspec.Raw]])


class BackupHeader(Record, frozen=True, kw_only=True):
    """The first line of a backup, readable by people."""

    format: str
    version: int
    cluster_id: str
    created_at: str
    """RFC 3339."""
    revision: int
    """The store's revision at the moment of the cut."""
    version_base: int
    counts: dict[str, int]
    """How many objects of each kind are in it."""
    encrypted: bool
    salt: str = ""
    """Base 64, for the key of an encrypted one."""


class Backup(Record, frozen=True, kw_only=True):
    """A backup that was read and found whole."""

    header: BackupHeader
    objects: tuple[AnyObject, ...]

    @property
    def cluster(self) -> Cluster:
        """The cluster object. Raises InvalidArgument when the backup holds none."""
        for item in self.objects:
            if isinstance(item, Cluster):
                return item
        raise _damaged("it holds no cluster")


class BackupWriter:
    """Makes the bytes of one backup, piece by piece. `unlock_key` encrypts it; "" leaves it readable."""

    def __init__(self, header: BackupHeader, unlock_key: str = "") -> None:
        salt = secrets.token_bytes(_SALT_BYTES)
        if unlock_key:
            header = msgspec.structs.replace(header, encrypted=True, salt=base64.b64encode(salt).decode())
        self.header = header
        self._line = msgspec.json.encode(header) + b"\n"
        self._seal = _Seal(unlock_key, salt, self._line) if unlock_key else None
        self._digest = hashlib.sha256()

    def begin(self) -> bytes:
        """Return the header line."""
        return self._note(self._line)

    def frame(self, kind: str, objects: Sequence[AnyObject]) -> bytes:
        """Return a frame with these objects, which are of one kind."""
        payload = _encoder.encode((kind, objects))
        if self._seal is not None:
            payload = self._seal.close(payload)
        return self._note(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)

    def end(self) -> bytes:
        """Return what closes the file."""
        return self._note(bytes(_LENGTH_BYTES)) + self._digest.digest()

    def _note(self, piece: bytes) -> bytes:
        self._digest.update(piece)
        return piece


def read_header(data: bytes) -> BackupHeader:
    """Return the header of a backup. Raises InvalidArgument when it is none, or of a version that is not known."""
    line = data[:_MAX_HEADER_BYTES].partition(b"\n")[0]
    try:
        marks = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        marks = {}
    if marks.get("format") != BACKUP_FORMAT:
        raise InvalidArgument("this is no backup of a swarm: such a file is made by `pyswarm swarm backup FILE`")
    if marks.get("version") != BACKUP_VERSION:
        raise InvalidArgument(f"this backup has version {marks.get('version')}; this pyswarm reads version {BACKUP_VERSION}")
    try:
        return msgspec.json.decode(line, type=BackupHeader)
    except msgspec.DecodeError as error:
        raise _damaged(f"its header cannot be read: {error}") from error


def read_backup(data: bytes, unlock_key: str = "") -> Backup:
    """Return a backup after checking all of it.

    Raises InvalidArgument when the file is cut off, damaged or no backup, PermissionDenied when it is encrypted and the unlock
    key is missing or another one.
    """
    header = read_header(data)
    line_end = data.index(b"\n") + 1 if b"\n" in data[:_MAX_HEADER_BYTES] else len(data)
    frames = list(_checked_frames(data, line_end))
    if header.encrypted:
        frames = list(_opened(frames, header, data[:line_end], unlock_key))
    objects = tuple(_decoded(frames))
    counts = count_by_kind(objects)
    if counts != {kind: count for kind, count in header.counts.items() if count}:
        raise _damaged(f"it should hold {header.counts}, but holds {counts}")
    backup = Backup(header=header, objects=objects)
    if backup.cluster.id != header.cluster_id:
        raise _damaged("its header names another cluster than it holds")
    return backup


def count_by_kind(objects: Iterable[AnyObject]) -> dict[str, int]:
    """Return how many objects there are of each kind."""
    counts: dict[str, int] = {}
    for item in objects:
        kind = KIND_OF_TYPE[type(item)]
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _checked_frames(data: bytes, start: int) -> Iterator[bytes]:
    view = memoryview(data)
    position = start
    while True:
        length = int.from_bytes(view[position : position + _LENGTH_BYTES], "big")
        if position + _LENGTH_BYTES + (length or _DIGEST_BYTES) > len(data):
            raise _damaged("it is cut off")
        position += _LENGTH_BYTES
        if length > MAX_FRAME_BYTES:
            raise _damaged("a part of it has an impossible length")
        if not length:
            break
        yield bytes(view[position : position + length])
        position += length
    if hashlib.sha256(view[:position]).digest() != view[position : position + _DIGEST_BYTES]:
        raise _damaged("its checksum is wrong")
    if len(data) > position + _DIGEST_BYTES:
        raise _damaged("something follows its end")


def _opened(frames: list[bytes], header: BackupHeader, line: bytes, unlock_key: str) -> Iterator[bytes]:
    if not unlock_key.strip():
        raise PermissionDenied("this backup is encrypted: give the unlock key that the swarm had when it was taken (--unlock-key)")
    try:
        salt = base64.b64decode(header.salt, validate=True)
    except binascii.Error:
        raise _damaged("its salt cannot be read") from None
    seal = _Seal(unlock_key, salt, line)
    for frame in frames:
        try:
            yield seal.open(frame)
        except InvalidTag:
            raise PermissionDenied(
                "invalid key: this backup was encrypted under another unlock key, the one that the swarm had when it was taken"
            ) from None


def _decoded(frames: list[bytes]) -> Iterator[AnyObject]:
    decoders: dict[str, msgspec.msgpack.Decoder[AnyObject]] = {k: msgspec.msgpack.Decoder(t) for k, t in TYPE_OF_KIND.items()}
    for frame in frames:
        try:
            kind, objects = _frame_decoder.decode(frame)
            decoder = decoders[kind]
            yield from (decoder.decode(raw) for raw in objects)
        except msgspec.DecodeError as error:
            raise _damaged(f"an object in it cannot be read: {error}") from error
        except KeyError as error:
            raise InvalidArgument(
                f"this backup holds {error.args[0]}, which this pyswarm does not know: use a newer one"
            ) from error


class _Seal:
    """Seals and opens frames in their order."""

    def __init__(self, unlock_key: str, salt: bytes, header_line: bytes) -> None:
        derivation = HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=_KEY_PURPOSE)
        self._cipher = AESGCM(derivation.derive(unlock_key.strip().encode()))
        self._associated = hashlib.sha256(header_line).digest()
        self._number = 0

    def close(self, payload: bytes) -> bytes:
        """Return the next frame, sealed."""
        return self._cipher.encrypt(self._next_nonce(), payload, self._associated)

    def open(self, sealed: bytes) -> bytes:
        """Return what the next frame holds. Raises InvalidTag."""
        return self._cipher.decrypt(self._next_nonce(), sealed, self._associated)

    def _next_nonce(self) -> bytes:
        self._number += 1
        return self._number.to_bytes(_NONCE_BYTES, "big")


def _damaged(what: str) -> InvalidArgument:
    return InvalidArgument(f"this backup is damaged: {what}. Nothing was changed; use another backup")
