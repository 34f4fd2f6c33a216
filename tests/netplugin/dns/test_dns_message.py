"""The parser raises nothing but its own error, and answers say what was asked."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_netplugin.dns import message
from pyswarm_netplugin.dns.message import MessageError, encode_query, parse_query

LABEL = st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True)
NAME = st.lists(LABEL, min_size=0, max_size=8).map(".".join)


def parse_or_none(data: bytes) -> message.Query | None:
    try:
        return parse_query(data)
    except MessageError as error:
        if error.rcode is not None:
            message.encode_error(data, error.rcode)
        return None


@given(st.binary(max_size=600))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    parse_or_none(data)


@given(NAME, st.integers(0, 65535), st.data())
def test_a_damaged_question_is_parsed_or_refused_and_its_answers_can_be_encoded(name: str, type_: int, data: st.DataObject) -> None:
    packet = bytearray(encode_query(7, name, type_, udp_bytes=1232))
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    query = parse_or_none(bytes(packet[: data.draw(st.integers(0, len(packet)))]))
    if query is not None:
        answer = message.encode_addresses(query, [b"\x0a\0\0\1"] * 5000, query.max_udp_bytes)
        assert len(answer) <= query.max_udp_bytes


@given(NAME, st.sampled_from([1, 12, 28, 255]), st.sampled_from([0, 100, 512, 1232, 4096, 65535]))
def test_a_question_is_read_as_it_was_written(name: str, type_: int, udp_bytes: int) -> None:
    query = parse_query(encode_query(513, name, type_, udp_bytes=udp_bytes))
    assert (query.id, query.name, query.type, query.class_) == (513, name.lower().encode(), type_, 1)
    assert query.label_count == (len(name.split(".")) if name else 0)
    assert query.has_edns == bool(udp_bytes)
    assert query.max_udp_bytes == min(max(udp_bytes, 512), 4096)


@pytest.mark.parametrize(
    ("packet", "rcode"),
    [
        (b"", None),
        (b"\0" * 11, None),
        (struct.pack(">HHHHHH", 1, 0x8000, 1, 0, 0, 0) + b"\0\0\1\0\1", None),
        (struct.pack(">HHHHHH", 1, 0x2800, 1, 0, 0, 0) + b"\0\0\1\0\1", message.NOTIMP),
        (struct.pack(">HHHHHH", 1, 0, 0, 0, 0, 0), message.FORMERR),
        (struct.pack(">HHHHHH", 1, 0, 2, 0, 0, 0) + b"\0\0\1\0\1" * 2, message.FORMERR),
        (struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", message.FORMERR),
        (struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\x03web\0\0", message.FORMERR),
        (struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", message.FORMERR),
    ],
    ids=["empty", "short", "a-response", "opcode", "no-question", "two-questions", "pointer", "cut-off", "name-of-257"],
)
def test_what_is_no_question(packet: bytes, rcode: int | None) -> None:
    with pytest.raises(MessageError) as raised:
        parse_query(packet)
    assert raised.value.rcode == rcode


def test_answer_carries_addresses_in_order_and_is_never_to_be_cached() -> None:
    query = parse_query(encode_query(9, "Web.", 1))
    packet = message.encode_addresses(query, [socket.inet_aton("10.0.1.2"), socket.inet_aton("10.0.1.3")], 512)
    id_, flags, questions, answers, *_ = struct.unpack_from(">HHHHHH", packet)
    assert (id_, flags, questions, answers) == (9, 0x8580, 1, 2)
    rows = packet[12 + len(query.question) :]
    assert rows == b"".join(b"\xc0\x0c\0\1\0\1" + b"\0\0\0\0" + b"\0\4\x0a\0\1" + bytes((n,)) for n in (2, 3))


def test_too_many_addresses_are_cut_and_marked() -> None:
    query = parse_query(encode_query(9, "tasks.web", 1, udp_bytes=600))
    packet = message.encode_addresses(query, [n.to_bytes(4, "big") for n in range(100)], query.max_udp_bytes)
    _, flags, _, answers, _, additionals = struct.unpack_from(">HHHHHH", packet)
    assert flags & 0x0200
    assert 600 - 16 < len(packet) <= 600
    assert answers == (len(packet) - 12 - len(query.question) - 11) // 16
    assert additionals == 1


def test_a_reply_must_have_the_id_and_the_question() -> None:
    query = parse_query(encode_query(9, "example.com", 1))
    reply = bytearray(message.encode_empty(query, message.NOERROR))
    assert message.is_reply_to(query, 9, bytes(reply))
    assert not message.is_reply_to(query, 10, bytes(reply))
    assert not message.is_reply_to(query, 9, encode_query(9, "example.com", 1))
    reply[13:14] = b"E"
    assert message.is_reply_to(query, 9, bytes(reply))
    reply[13:14] = b"f"
    assert not message.is_reply_to(query, 9, bytes(reply))


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".".join(["abcdefgh"] * 29)])
def test_names_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a DNS name"):
        message.encode_name(name.encode())
