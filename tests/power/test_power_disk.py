"""The disk whose power can be cut: what is flushed stays, what is not meets the fate that was asked for."""

import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from power_disk import SECTOR_BYTES, Disk, DiskServer, Fate

SECTORS = 16


def sectors(*letters: str) -> bytes:
    """Return one sector filled with each letter."""
    return b"".join(letter.encode() * SECTOR_BYTES for letter in letters)


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(sectors(*"-" * SECTORS))
    return path


@pytest.fixture
def disk(medium: Path) -> Iterator[Disk]:
    disk = Disk(medium)
    yield disk
    disk.close()


def letters(medium: Path) -> str:
    """Return what the medium holds, a letter per sector. Fails when a sector is torn."""
    data = medium.read_bytes()
    found = [set(data[place : place + SECTOR_BYTES]) for place in range(0, len(data), SECTOR_BYTES)]
    assert all(len(values) == 1 for values in found)
    return "".join(chr(values.pop()) for values in found)


def test_a_running_machine_reads_what_it_wrote(disk: Disk, medium: Path) -> None:
    disk.write(SECTOR_BYTES, sectors("a", "b"))
    disk.write(SECTOR_BYTES, sectors("c"))
    assert disk.read(0, 4 * SECTOR_BYTES) == sectors("-", "c", "b", "-")
    assert letters(medium) == "-" * SECTORS


@pytest.mark.parametrize("fate", Fate)
def test_what_was_flushed_survives_every_fate(disk: Disk, medium: Path, fate: Fate) -> None:
    disk.write(0, sectors("a", "b"))
    disk.flush()
    disk.lose_power(fate, random.Random(1))
    assert letters(medium).startswith("ab-")


def test_a_write_with_fua_reaches_the_medium_alone(disk: Disk, medium: Path) -> None:
    disk.write(0, sectors("a"))
    disk.write(2 * SECTOR_BYTES, sectors("b"))
    disk.flush_range(2 * SECTOR_BYTES, SECTOR_BYTES)
    report = disk.lose_power(Fate.LOST, random.Random(1))
    assert letters(medium).startswith("--b-")
    assert (report.unflushed, report.kept) == (1, 0)


@pytest.mark.parametrize(("fate", "expected"), [(Fate.KEPT, {"cb"}), (Fate.LOST, {"--"}), (Fate.CUT_OFF, {"--", "a-", "ab", "cb"})])
def test_fates_of_the_cache(tmp_path: Path, fate: Fate, expected: set[str]) -> None:
    assert outcomes(tmp_path, fate) == expected


def test_a_scattered_cache_leaves_every_mixture(tmp_path: Path) -> None:
    assert outcomes(tmp_path, Fate.SCATTERED) == {first + second for first in "-ac" for second in "-b"}


def outcomes(folder: Path, fate: Fate) -> set[str]:
    """Write a b, then c over a, and cut the power: what two sectors hold after it, with many seeds."""
    found = set()
    for seed in range(100):
        medium = folder / "disk.img"
        medium.write_bytes(sectors("-", "-"))
        disk = Disk(medium)
        disk.write(0, sectors("a", "b"))
        disk.write(0, sectors("c"))
        disk.lose_power(fate, random.Random(seed))
        disk.close()
        found.add(letters(medium))
    return found


def test_a_disk_that_ignores_flushes_loses_what_was_flushed(medium: Path) -> None:
    disk = Disk(medium, ignores_flushes=True)
    disk.write(0, sectors("a"))
    disk.flush()
    disk.flush_range(0, SECTOR_BYTES)
    assert disk.read(0, SECTOR_BYTES) == sectors("a")
    disk.lose_power(Fate.LOST, random.Random(1))
    disk.close()
    assert letters(medium) == "-" * SECTORS


class Client:
    """What QEMU does, as far as needed."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(10.0)
        self._socket.connect(str(path))
        assert self._receive(18)[:16] == b"NBDMAGICIHAVEOPT"
        self._socket.sendall(struct.pack(">I", 3))
        self._send_option(8)  # structured replies, which are declined
        self._receive(20)
        self._send_option(7, struct.pack(">IH", 0, 0))
        _, _, _, length = struct.unpack(">QIII", self._receive(20))
        _, self.size_bytes, self.flags = struct.unpack(">HQH", self._receive(length))
        self._receive(20)

    def ask(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> bytes:
        """Send a request and return the data of the answer; `b"gone"` when there is none."""
        self._socket.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, 7, offset, length or len(data)) + data)
        header = self._socket.recv(16, socket.MSG_WAITALL)
        if not header:
            return b"gone"
        assert struct.unpack(">IIQ", header) == (0x67446698, 0, 7)
        return self._receive(length) if kind == 0 else b""

    def close(self) -> None:
        self._socket.close()

    def _send_option(self, option: int, data: bytes = b"") -> None:
        self._socket.sendall(b"IHAVEOPT" + struct.pack(">II", option, len(data)) + data)

    def _receive(self, length: int) -> bytes:
        return self._socket.recv(length, socket.MSG_WAITALL)


def test_over_the_wire(disk: Disk, medium: Path, tmp_path: Path) -> None:
    with DiskServer(disk, tmp_path / "s") as server:
        client = Client(server.socket_path)
        assert client.size_bytes == SECTORS * SECTOR_BYTES
        assert client.flags & 0b1100 == 0b1100, "flush and FUA are offered"
        client.ask(1, data=sectors("a", "b"))
        assert client.ask(0, length=3 * SECTOR_BYTES) == sectors("a", "b", "-")
        assert letters(medium) == "-" * SECTORS
        client.ask(1, offset=2 * SECTOR_BYTES, data=sectors("c"), flags=1)
        assert letters(medium).startswith("--c-")
        client.ask(3)
        assert letters(medium).startswith("abc-")
        assert server.changes == 3
        client.close()


def test_the_cut_comes_at_the_change_that_was_said(disk: Disk, medium: Path, tmp_path: Path) -> None:
    with DiskServer(disk, tmp_path / "s") as server:
        client = Client(server.socket_path)
        server.cut_after(2)
        client.ask(1, data=sectors("a"))
        assert client.ask(0, length=SECTOR_BYTES) == sectors("a"), "reads do not count"
        assert not server.was_cut.is_set()
        client._socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 3, 7, 0, 0))  # a flush, which never gets an answer
        assert server.was_cut.wait(10.0)
        client.close()
    assert letters(medium) == "-" * SECTORS


def test_leaving_the_server_without_a_client_ends_it(disk: Disk, tmp_path: Path) -> None:
    with DiskServer(disk, tmp_path / "s") as server:
        pass
    assert not server.socket_path.exists()
