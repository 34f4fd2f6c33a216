"""A disk that loses power as real ones do: what was written since the last flush is gone, in part or altogether.

QEMU's drive is an NBD connection to this process. Writes go to a cache in memory; a flush, or a write that demands it (FUA), takes
them to the file, which is the medium. At a power cut the cache meets one of the fates below. Sectors are atomic, as on real disks;
requests are not, and neither is their order.
"""

import contextlib
import random
import socket
import struct
import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType

SECTOR_BYTES = 512

_OPTION_MAGIC = b"IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
_SIMPLE_REPLY_MAGIC = 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPTION_EXPORT_NAME, _OPTION_ABORT, _OPTION_INFO, _OPTION_GO = 1, 2, 6, 7
_REPLY_ACK, _REPLY_INFO, _REPLY_UNSUPPORTED = 1, 3, (1 << 31) + 1
_HAS_FLAGS, _SENDS_FLUSH, _SENDS_FUA = 1, 4, 8
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_FUA_FLAG = 1
_EINVAL = 22


class Fate(Enum):
    """What becomes of the writes in the cache at a power cut."""

    KEPT = "all reach the medium, as when only the machine dies"
    LOST = "none reaches the medium"
    CUT_OFF = "those up to some moment reach the medium, the later ones do not"
    SCATTERED = "some sectors reach the medium, in any order, perhaps in an older version"


@dataclass(frozen=True)
class CutReport:
    """How much was in the cache at a power cut, and how much of that reached the medium. In sectors."""

    fate: Fate
    unflushed: int
    kept: int


class Disk:
    """The medium and its cache. `ignores_flushes`: a disk that lies, to show that lies are found out."""

    def __init__(self, path: Path, *, ignores_flushes: bool = False) -> None:
        self._file = path.open("r+b", buffering=0)
        self.size_bytes = path.stat().st_size
        self._ignores_flushes = ignores_flushes
        self._cache: dict[int, list[tuple[int, bytes]]] = {}
        """By sector: what was written since the last flush, oldest first, each with its number in the order of all writes."""
        self._written = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return what a running machine sees there. Offsets and lengths are in bytes, whole sectors."""
        self._file.seek(offset)
        data = bytearray(self._file.read(length))
        for place in range(0, length, SECTOR_BYTES):
            versions = self._cache.get((offset + place) // SECTOR_BYTES)
            if versions:
                data[place : place + SECTOR_BYTES] = versions[-1][1]
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Take a write into the cache."""
        for place in range(0, len(data), SECTOR_BYTES):
            self._written += 1
            versions = self._cache.setdefault((offset + place) // SECTOR_BYTES, [])
            versions.append((self._written, data[place : place + SECTOR_BYTES]))

    def flush(self) -> None:
        """Take the cache to the medium."""
        if not self._ignores_flushes:
            for sector, versions in self._cache.items():
                self._store(sector, versions[-1][1])
            self._cache.clear()

    def flush_range(self, offset: int, length: int) -> None:
        """Take these bytes to the medium, as a write with FUA demands."""
        if not self._ignores_flushes:
            for sector in range(offset // SECTOR_BYTES, (offset + length) // SECTOR_BYTES):
                versions = self._cache.pop(sector, None)
                if versions:
                    self._store(sector, versions[-1][1])

    def lose_power(self, fate: Fate, rng: random.Random) -> CutReport:
        """Let the cache meet its fate; the medium is then what the next boot finds."""
        numbers = [number for versions in self._cache.values() for number, _ in versions]
        moment = rng.choice([0, *numbers])
        share_kept = rng.random()
        kept = 0
        for sector, versions in sorted(self._cache.items()):
            survivor = _survivor(versions, fate, moment, share_kept, rng)
            if survivor is not None:
                self._store(sector, survivor)
                kept += 1
        report = CutReport(fate, unflushed=len(self._cache), kept=kept)
        self._cache.clear()
        return report

    def close(self) -> None:
        """Close the file; what is in the cache is gone."""
        self._file.close()

    def _store(self, sector: int, data: bytes) -> None:
        self._file.seek(sector * SECTOR_BYTES)
        self._file.write(data)


def _survivor(versions: list[tuple[int, bytes]], fate: Fate, moment: int, share_kept: float, rng: random.Random) -> bytes | None:
    """Return which of a sector's versions the medium gets, None for none."""
    if fate is Fate.KEPT:
        return versions[-1][1]
    if fate is Fate.CUT_OFF:
        earlier = [data for number, data in versions if number <= moment]
        return earlier[-1] if earlier else None
    if fate is Fate.SCATTERED and rng.random() < share_kept:
        return rng.choice(versions)[1]
    return None


class DiskServer:
    """Serves a `Disk` to QEMU over NBD on a unix socket, until the power is cut. Use it as a context manager."""

    def __init__(self, disk: Disk, socket_path: Path) -> None:
        self._disk = disk
        self.socket_path = socket_path
        self.changes = 0
        """How many writes and flushes were asked for."""
        self.was_cut = threading.Event()
        """Set once the disk answers no more."""
        self._cut_at: int | None = None
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="power-disk")

    def cut_after(self, changes: int) -> None:
        """Cut the power when that many more writes and flushes were asked for; the last one may be half done."""
        with self._lock:
            self._cut_at = self.changes + changes

    def cut_now(self) -> None:
        """Cut the power. Nothing is answered any more."""
        with self._lock:
            self.was_cut.set()

    def __enter__(self) -> "DiskServer":
        self._listener.bind(str(self.socket_path))
        self._listener.listen(1)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cut_now()
        for end in (self._listener, self._connection):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._thread.join()
        self.socket_path.unlink()

    def _serve(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # QEMU is killed, or we are closed
            self._connection, _ = self._listener.accept()
            if self._negotiate(self._connection):
                while self._answer_one(self._connection):
                    pass

    def _negotiate(self, connection: socket.socket) -> bool:
        """Offer the disk as every export name; whether it was taken."""
        connection.sendall(b"NBDMAGIC" + _OPTION_MAGIC + struct.pack(">H", _FIXED_NEWSTYLE | _NO_ZEROES))
        _receive(connection, 4)
        export = struct.pack(">QH", self._disk.size_bytes, _HAS_FLAGS | _SENDS_FLUSH | _SENDS_FUA)
        while True:
            _, option, length = struct.unpack(">8sII", _receive(connection, 16))
            _receive(connection, length)
            if option == _OPTION_EXPORT_NAME:
                connection.sendall(export)
                return True
            if option in (_OPTION_GO, _OPTION_INFO):
                _reply_to_option(connection, option, _REPLY_INFO, struct.pack(">H", 0) + export)
                _reply_to_option(connection, option, _REPLY_ACK)
                if option == _OPTION_GO:
                    return True
            elif option == _OPTION_ABORT:
                _reply_to_option(connection, option, _REPLY_ACK)
                return False
            else:
                _reply_to_option(connection, option, _REPLY_UNSUPPORTED)

    def _answer_one(self, connection: socket.socket) -> bool:
        """Carry out one request; whether there may be more."""
        _, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", _receive(connection, 28))
        if kind == _DISCONNECT:
            return False
        data = _receive(connection, length) if kind == _WRITE else b""
        answer, error = b"", 0
        with self._lock:
            if self.was_cut.is_set():
                return False
            self.changes += kind in (_WRITE, _FLUSH)
            is_last = self._cut_at is not None and self.changes >= self._cut_at
            if kind == _READ:
                answer = self._disk.read(offset, length)
            elif kind == _WRITE:
                self._disk.write(offset, data)
                if flags & _FUA_FLAG and not is_last:
                    self._disk.flush_range(offset, length)
            elif kind == _FLUSH and not is_last:
                self._disk.flush()
            elif kind != _FLUSH:
                error = _EINVAL
            if is_last:
                self.was_cut.set()
                return False
        connection.sendall(struct.pack(">IIQ", _SIMPLE_REPLY_MAGIC, error, handle) + answer)
        return True


def _reply_to_option(connection: socket.socket, option: int, kind: int, data: bytes = b"") -> None:
    connection.sendall(struct.pack(">QIII", _REPLY_MAGIC, option, kind, len(data)) + data)


def _receive(connection: socket.socket, length: int) -> bytes:
    """Return exactly `length` bytes. Raises EOFError when the other side ends before."""
    parts = []
    while length:
        part = connection.recv(min(length, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
