"""What a sandbox gets for its questions."""

import socket
import struct

import pytest

from pyswarm_netplugin.dns.answers import answer, reverse_address
from pyswarm_netplugin.dns.message import NOERROR, NXDOMAIN, REFUSED, encode_query, parse_query
from pyswarm_netplugin.dns.table import Table, pack_address

A, NS, SOA, PTR, MX, AAAA, ANY = 1, 2, 6, 12, 15, 28, 255


@pytest.fixture
def table() -> Table:
    table = Table()
    table.set_network("n1", {"web": ("10.0.1.2",), "tasks.web": ("10.0.1.3/24", "10.0.1.4"), "web.1.abc": ("10.0.1.3",)})
    table.set_network("n2", {"Web": ("10.0.2.2",), "db": ("10.0.2.9", "fd00::9")}, "My.Net")
    table.set_sandbox("both", ["n1", "n2"], ["Example.com.", "."])
    table.set_sandbox("second", ["n2"], [])
    return table


def ask(table: Table, sandbox_id: str, name: str, type_: int = A) -> tuple[int, list[str]] | None:
    """Return (rcode, addresses or names) or None when the question goes upstream."""
    packet = answer(table, sandbox_id, parse_query(encode_query(1, name, type_)), 512, lambda addresses: addresses.reverse())
    if packet is None:
        return None
    count = struct.unpack_from(">H", packet, 6)[0]
    offset = 12 + len(encode_query(1, name, type_)) - 12
    found = []
    for _ in range(count):
        record_type, _, _, length = struct.unpack_from(">HHIH", packet, offset + 2)
        data = packet[offset + 12 : offset + 12 + length]
        families = {A: socket.AF_INET, AAAA: socket.AF_INET6}
        found.append(socket.inet_ntop(families[record_type], data) if record_type in families else data.decode())
        offset += 12 + length
    return packet[3] & 15, found


@pytest.mark.parametrize(
    ("sandbox_id", "name", "type_", "expected"),
    [
        ("both", "web", A, (NOERROR, ["10.0.1.2"])),
        ("both", "WEB.", A, (NOERROR, ["10.0.1.2"])),
        ("both", "web.example.com", A, (NOERROR, ["10.0.1.2"])),
        ("both", "tasks.web", A, (NOERROR, ["10.0.1.4", "10.0.1.3"])),
        ("both", "tasks.web.EXAMPLE.com", A, (NOERROR, ["10.0.1.4", "10.0.1.3"])),
        ("second", "web", A, (NOERROR, ["10.0.2.2"])),
        ("second", "web.example.com", A, None),
        ("second", "tasks.web", A, None),
        ("both", "db", A, (NOERROR, ["10.0.2.9"])),
        ("both", "db", AAAA, (NOERROR, ["fd00::9"])),
        ("both", "db", ANY, (NOERROR, ["fd00::9", "10.0.2.9"])),
        ("both", "web", AAAA, (NOERROR, [])),
        ("both", "web", MX, (NOERROR, [])),
        ("both", "nosuch", A, (NXDOMAIN, [])),
        ("both", "nosuch", AAAA, (NXDOMAIN, [])),
        ("both", "com", NS, None),
        ("both", "", SOA, None),
        ("both", "nosuch.org", A, None),
        ("stranger", "web", A, (NXDOMAIN, [])),
        ("both", "2.1.0.10.in-addr.arpa", PTR, (NOERROR, ["\3web\0"])),
        ("both", "3.1.0.10.in-addr.arpa", PTR, (NOERROR, ["\3web\0011\3abc\0"])),
        ("both", "4.1.0.10.in-addr.arpa", PTR, (NOERROR, ["\5tasks\3web\0"])),
        ("second", "2.1.0.10.in-addr.arpa", PTR, None),
        ("both", "300.1.0.10.in-addr.arpa", PTR, None),
        ("both", "web.my.net", A, (NOERROR, ["10.0.2.2"])),
        ("both", "db.MY.net", AAAA, (NOERROR, ["fd00::9"])),
        ("both", "db.my.net.example.com", A, (NOERROR, ["10.0.2.9"])),
        ("both", "nosuch.my.net", A, None),
        ("stranger", "db.my.net", A, None),
        ("second", "2.2.0.10.in-addr.arpa", PTR, (NOERROR, ["\3web\2my\3net\0"])),
        ("both", f"9.{'0.' * 27}0.0.d.f.ip6.arpa", PTR, (NOERROR, ["\2db\2my\3net\0"])),
    ],
)
def test_answers(table: Table, sandbox_id: str, name: str, type_: int, expected: tuple[int, list[str]] | None) -> None:
    assert ask(table, sandbox_id, name, type_) == expected


def test_other_classes_are_refused(table: Table) -> None:
    packet = encode_query(1, "version.bind", 16)[:-2] + b"\0\3"
    reply = answer(table, "both", parse_query(packet), 512, lambda _: None)
    assert reply is not None
    assert reply[3] & 15 == REFUSED


def test_replaced_and_removed_networks_answer_no_more(table: Table) -> None:
    table.set_network("n1", {"api": ("10.0.1.9",)})
    assert ask(table, "both", "api") == (NOERROR, ["10.0.1.9"])
    assert ask(table, "both", "web") == (NOERROR, ["10.0.2.2"])
    table.remove_network("n2")
    assert ask(table, "both", "web") == (NXDOMAIN, [])
    table.remove_sandbox("both")
    assert ask(table, "both", "api") == (NXDOMAIN, [])


def test_a_name_without_addresses_is_known_but_empty(table: Table) -> None:
    table.set_network("n1", {"tasks.web": ()})
    assert ask(table, "both", "tasks.web") == (NOERROR, [])


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.256", "web", ":::", "1.2.3.4.5"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        pack_address(text)


def test_reverse_names() -> None:
    assert reverse_address(b"2.1.0.10.in-addr.arpa") == b"\x0a\0\1\2"
    nibbles = b".".join(b"%x" % (n % 16) for n in range(32))
    assert reverse_address(nibbles + b".ip6.arpa") == bytes.fromhex("fedcba9876543210" * 2)
    for name in (b"1.in-addr.arpa", b"in-addr.arpa", b"x.1.0.10.in-addr.arpa", b"zz.ip6.arpa", b"web"):
        assert reverse_address(name) is None
