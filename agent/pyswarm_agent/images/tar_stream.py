"""Reading a tar stream forward only: ustar, GNU long names, pax headers with extended attributes.

Written for the unpacker: several times faster than `tarfile` a member, names stay bytes, and what a hostile archive can make it
hold in memory is bounded. The standard library alone is imported, so that a chrooted process can use it.
"""

import struct
from collections.abc import Iterator
from typing import Protocol

BLOCK_BYTES = 512
HEADER_DATA_BYTES_MAX = 1 << 20
"""Long names and pax records of one member; Linux allows 64 KiB of extended attributes a file."""

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_AS_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = frozenset((HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO))
_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_ZEROS = bytes(BLOCK_BYTES)
_XATTR_PREFIX = b"SCHILY.xattr."
_TIME_MAX_S = 1 << 34
_NS = 1_000_000_000


class TarError(Exception):
    """The stream is no tar archive, or is damaged, or uses what no image needs."""


class Source(Protocol):
    """Where the bytes come from."""

    def read(self, count: int) -> bytes:
        """Return exactly `count` bytes."""
        ...

    def skip(self, count: int) -> None:
        """Pass over exactly `count` bytes."""
        ...

    def is_at_end(self) -> bool:
        """Whether no byte is left."""
        ...


class Member:
    """One entry of the archive; `size_bytes` of data and padding follow it."""

    __slots__ = ("device", "gid", "link", "mode", "mtime_ns", "name", "size_bytes", "type", "uid", "xattrs")

    def __init__(self) -> None:
        self.name = b""
        self.type = REGULAR
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size_bytes = 0
        self.mtime_ns = 0
        self.link = b""
        self.device = (0, 0)
        self.xattrs: dict[bytes, bytes] = {}


def read_members(source: Source) -> Iterator[Member]:
    """Yield the archive's members; before asking for the next, the caller must have read or skipped the data and its padding.

    Raises TarError.
    """
    records: dict[bytes, bytes] = {}
    # Some writers leave the closing blocks of zeros out; a cut archive does not pass for one, its digest gives it away.
    while not source.is_at_end() and (block := source.read(BLOCK_BYTES)) != _ZEROS:
        member = _parse_header(block)
        if member.type in (_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX, _PAX_GLOBAL):
            data = _read_header_data(source, member.size_bytes)
            if member.type == _PAX:
                records.update(_parse_pax(data))
            elif member.type != _PAX_GLOBAL:
                records[b"path" if member.type == _GNU_LONG_NAME else b"linkpath"] = data.split(b"\0", 1)[0]
            continue
        if records:
            _apply_records(member, records)
            records = {}
        _settle_type(member)
        yield member


def padding_bytes(size_bytes: int) -> int:
    """Return how many bytes fill the last block of a member's data."""
    return -size_bytes % BLOCK_BYTES


def _read_header_data(source: Source, size_bytes: int) -> bytes:
    if size_bytes > HEADER_DATA_BYTES_MAX:
        raise TarError(f"an extended header of {size_bytes} bytes (at most {HEADER_DATA_BYTES_MAX} are read)")
    data = source.read(size_bytes)
    source.skip(padding_bytes(size_bytes))
    return data


def _parse_header(block: bytes) -> Member:
    fields = _HEADER.unpack(block)
    if sum(block) - sum(fields[6]) + 8 * 32 != _number(fields[6]):
        raise TarError("invalid tar header (wrong checksum)")
    member = Member()
    member.name = fields[0].split(b"\0", 1)[0]
    member.mode = _number(fields[1])
    member.uid = _number(fields[2])
    member.gid = _number(fields[3])
    member.size_bytes = _number(fields[4])
    member.mtime_ns = _number(fields[5]) * _NS
    member.type = fields[7]
    member.link = fields[8].split(b"\0", 1)[0]
    if member.type in (CHARACTER, BLOCK):
        member.device = (_number(fields[13]), _number(fields[14]))
    if fields[9] == b"ustar\0" and fields[15][0]:
        member.name = fields[15].split(b"\0", 1)[0] + b"/" + member.name
    if member.size_bytes < 0:
        raise TarError("invalid tar header (negative size)")
    return member


def _number(field: bytes) -> int:
    """Return an octal field, or a base-256 one (GNU's, for large and negative numbers)."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big")
        bits = 8 * len(field) - 1
        number &= (1 << bits) - 1
        return number - (1 << bits) if field[0] & 0x40 else number
    digits = field.split(b"\0", 1)[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError as error:
        raise TarError("invalid tar header (not a number)") from error


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        try:
            end = position + int(data[position:space])
        except ValueError:
            end = -1
        key, equals, value = data[space + 1 : max(end - 1, 0)].partition(b"=")
        if not space < end <= len(data) or not equals or data[end - 1 : end] != b"\n":
            raise TarError("invalid pax header")
        records[key] = value
        position = end
    return records


def _apply_records(member: Member, records: dict[bytes, bytes]) -> None:
    try:
        for key, value in records.items():
            if key == b"path":
                member.name = value
            elif key == b"linkpath":
                member.link = value
            elif key == b"size":
                member.size_bytes = int(value)
            elif key == b"uid":
                member.uid = int(value)
            elif key == b"gid":
                member.gid = int(value)
            elif key == b"mtime":
                member.mtime_ns = _decimal_ns(value)
            elif key.startswith(_XATTR_PREFIX):
                member.xattrs[key[len(_XATTR_PREFIX) :]] = value
            elif key.startswith(b"GNU.sparse."):
                raise TarError("sparse files in layers are not supported")
    except ValueError as error:
        raise TarError("invalid pax header (not a number)") from error
    if member.size_bytes < 0:
        raise TarError("invalid pax header (negative size)")


def _decimal_ns(value: bytes) -> int:
    whole, _, fraction = value.partition(b".")
    nanoseconds = int((fraction + b"000000000")[:9]) if fraction else 0
    return int(whole) * _NS + (-nanoseconds if whole.startswith(b"-") else nanoseconds)


def _settle_type(member: Member) -> None:
    """Make the member's type, size and time such that the extractor need not ask."""
    if member.type == b"\0" and member.name.endswith(b"/"):
        member.type = DIRECTORY  # as archives older than ustar have them; should it hold data, that is still to be skipped
    elif member.type in _AS_REGULAR:
        member.type = REGULAR
    elif member.type == b"S":
        raise TarError("sparse files in layers are not supported")
    elif member.type in _WITHOUT_DATA:
        member.size_bytes = 0  # some writers put a link's target's size here
    else:
        raise TarError(f"unhandled tar member type {member.type!r}")
    if not 0 <= member.mtime_ns < _TIME_MAX_S * _NS:
        member.mtime_ns = 0
