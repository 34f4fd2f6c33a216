"""DNS packets (RFC 1035, EDNS of RFC 6891): reads one question, writes answers. Pure; speed matters, as every query passes.

`parse_query` is lenient where resolvers differ and strict where a packet makes no sense; it raises `MessageError` and nothing
else, whatever the bytes. Answers carry a TTL of 0: the table changes the moment a task does, and the process that answers is
on the same host, so that a cache could only be wrong (Docker answers 600 s, hence its stale addresses in caching clients).
"""

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

ANSWER_TTL_S = 0
HEADER_BYTES = 12
MIN_UDP_BYTES = 512
MAX_UDP_BYTES = 4096
MAX_TCP_BYTES = 65535
MAX_NAME_BYTES = 255

TYPE_A, TYPE_NS, TYPE_SOA, TYPE_PTR, TYPE_AAAA, TYPE_OPT, TYPE_DS, TYPE_DNSKEY, TYPE_ANY = 1, 2, 6, 12, 28, 41, 43, 48, 255
CLASS_IN, CLASS_ANY = 1, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

_FLAG_RESPONSE = 0x8000
_FLAG_AUTHORITATIVE = 0x0400
_FLAG_TRUNCATED = 0x0200
_FLAG_RECURSION_DESIRED = 0x0100
_FLAG_RECURSION_AVAILABLE = 0x0080
_OPCODE_MASK = 0x7800

_header = Struct(">HHHHHH")
_two = Struct(">HH")
_record = Struct(">HHHIH")
_opt_start = Struct(">BHH")
_POINTER_TO_QUESTION = 0xC00C
_OPT_RECORD = b"\0" + Struct(">HHIH").pack(TYPE_OPT, MAX_UDP_BYTES, 0, 0)
_RECORD_OF_LENGTH = {
    4: _record.pack(_POINTER_TO_QUESTION, TYPE_A, CLASS_IN, ANSWER_TTL_S, 4),
    16: _record.pack(_POINTER_TO_QUESTION, TYPE_AAAA, CLASS_IN, ANSWER_TTL_S, 16),
}


class MessageError(Exception):
    """A packet that is no question; `rcode` is what to answer, None: nothing at all."""

    def __init__(self, rcode: int | None) -> None:
        super().__init__(f"no valid DNS question (rcode {rcode})")
        self.rcode = rcode


class Query(NamedTuple):
    """One question: `name` in lower case, dots between labels, none at the end; `question` as it came, to be echoed."""

    id: int
    flags: int
    name: bytes
    label_count: int
    type: int
    class_: int
    question: bytes
    max_udp_bytes: int
    has_edns: bool


def parse_query(data: bytes) -> Query:
    """Return the question in a packet. Raises MessageError, never anything else."""
    if len(data) < HEADER_BYTES:
        raise MessageError(None)
    id_, flags, questions, answers, authorities, additionals = _header.unpack_from(data)
    if flags & _FLAG_RESPONSE:
        raise MessageError(None)
    if flags & _OPCODE_MASK:
        raise MessageError(NOTIMP)
    if questions != 1:
        raise MessageError(FORMERR)
    labels, offset = _read_labels(data, HEADER_BYTES)
    if offset + 4 > len(data):
        raise MessageError(FORMERR)
    type_, class_ = _two.unpack_from(data, offset)
    offset += 4
    udp_bytes = _edns_udp_bytes(data, offset) if additionals and not answers and not authorities else None
    return Query(
        id_,
        flags,
        b".".join(labels).lower(),
        len(labels),
        type_,
        class_,
        data[HEADER_BYTES:offset],
        MIN_UDP_BYTES if udp_bytes is None else min(max(udp_bytes, MIN_UDP_BYTES), MAX_UDP_BYTES),
        udp_bytes is not None,
    )


def _read_labels(data: bytes, offset: int) -> tuple[list[bytes], int]:
    labels: list[bytes] = []
    start, end = offset, len(data)
    while offset < end:
        length = data[offset]
        offset += 1
        if length == 0:
            return labels, offset
        if length > 63 or offset + length - start >= MAX_NAME_BYTES:
            raise MessageError(FORMERR)  # a question is the first name of a packet: there is nothing to point to
        labels.append(data[offset : offset + length])
        offset += length
    raise MessageError(FORMERR)


def _edns_udp_bytes(data: bytes, offset: int) -> int | None:
    if offset + _opt_start.size > len(data):
        return None
    root, type_, udp_bytes = _opt_start.unpack_from(data, offset)
    return udp_bytes if root == 0 and type_ == TYPE_OPT else None


def encode_query(id_: int, name: str, type_: int, *, udp_bytes: int = 0) -> bytes:
    """Return a question for `name`, with EDNS when `udp_bytes` is given. Raises ValueError for a name that does not fit."""
    header = _header.pack(id_, _FLAG_RECURSION_DESIRED, 1, 0, 0, 1 if udp_bytes else 0)
    opt = b"\0" + Struct(">HHIH").pack(TYPE_OPT, udp_bytes, 0, 0) if udp_bytes else b""
    return header + encode_name(name.encode()) + _two.pack(type_, CLASS_IN) + opt


def encode_name(name: bytes) -> bytes:
    """Return a dotted name as labels. Raises ValueError for an empty or too long label or name."""
    labels = name.rstrip(b".").split(b".") if name.strip(b".") else []
    if any(not 0 < len(label) < 64 for label in labels):
        raise ValueError(f"not a DNS name: {name!r}")
    encoded = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(encoded) > MAX_NAME_BYTES:
        raise ValueError(f"not a DNS name: {name!r}")
    return encoded


def encode_addresses(query: Query, addresses: Sequence[bytes], max_bytes: int) -> bytes:
    """Return the answer with these packed addresses (4 or 16 bytes each), in this order.

    When they do not fit into `max_bytes`, as many as do, with the truncation bit: a client that knows TCP asks again there,
    and one that does not still has addresses to use.
    """
    rows = [_RECORD_OF_LENGTH[len(address)] + address for address in addresses]
    room = max_bytes - HEADER_BYTES - len(query.question) - (len(_OPT_RECORD) if query.has_edns else 0)
    truncated = 0
    if sum(map(len, rows)) > room:
        truncated = _FLAG_TRUNCATED
        while sum(map(len, rows)) > room:
            rows = rows[: min(len(rows) - 1, room // len(rows[0]))]
    return _encode_reply(query, NOERROR | _FLAG_AUTHORITATIVE | truncated, rows)


def encode_pointer(query: Query, name: bytes) -> bytes:
    """Return the PTR answer that says `name`. Raises ValueError when it is no DNS name."""
    target = encode_name(name)
    row = _record.pack(_POINTER_TO_QUESTION, TYPE_PTR, CLASS_IN, ANSWER_TTL_S, len(target)) + target
    return _encode_reply(query, NOERROR | _FLAG_AUTHORITATIVE, [row])


def encode_empty(query: Query, rcode: int) -> bytes:
    """Return an answer without records: NOERROR (the name is known, this type is not), NXDOMAIN, SERVFAIL or REFUSED."""
    return _encode_reply(query, rcode, [])


def _encode_reply(query: Query, flags: int, rows: list[bytes]) -> bytes:
    flags |= _FLAG_RESPONSE | _FLAG_RECURSION_AVAILABLE | (query.flags & _FLAG_RECURSION_DESIRED)
    opt = _OPT_RECORD if query.has_edns else b""
    return b"".join((_header.pack(query.id, flags, 1, len(rows), 0, 1 if opt else 0), query.question, *rows, opt))


def encode_error(data: bytes, rcode: int) -> bytes:
    """Return the bare header that refuses an unreadable packet of at least 12 bytes."""
    id_, flags = _two.unpack_from(data)
    kept = flags & (_FLAG_RECURSION_DESIRED | _OPCODE_MASK)
    return _header.pack(id_, _FLAG_RESPONSE | _FLAG_RECURSION_AVAILABLE | kept | rcode, 0, 0, 0, 0)


def is_reply_to(query: Query, id_: int, reply: bytes) -> bool:
    """Whether an upstream's packet answers this question under the id that it was sent with."""
    if len(reply) < HEADER_BYTES:
        return False
    reply_id, flags, questions, _, _, _ = _header.unpack_from(reply)
    if reply_id != id_ or not flags & _FLAG_RESPONSE:
        return False
    if questions == 0:
        return rcode_of(reply) != NOERROR
    return reply[HEADER_BYTES : HEADER_BYTES + len(query.question)].lower() == query.question.lower()


def rcode_of(reply: bytes) -> int:
    """Return the response code of a packet of at least 12 bytes."""
    return reply[3] & 0x0F


def with_id(packet: bytes, id_: int) -> bytes:
    """Return the packet under another id."""
    return id_.to_bytes(2, "big") + packet[2:]
