"""What WireGuard is told and what it answers, in the kernel's messages and in wireguard-go's text; keys; who can encrypt."""

import base64
import socket
import stat
import struct
from pathlib import Path

import pytest

from pyswarm_common.errors import FailedPrecondition
from pyswarm_netplugin.kernel.netlink import attribute, attribute_list, attributes, nested, u8
from pyswarm_netplugin.secure import userspace_protocol, wireguard_messages
from pyswarm_netplugin.secure.detection import detect
from pyswarm_netplugin.secure.generic_netlink import HEADER_BYTES, header
from pyswarm_netplugin.secure.memory import SecureFile, SecureMemory, choose_port, is_key, new_private_key, public_key_of
from pyswarm_netplugin.secure.records import NO_KEY, Encryption, Secret, SecureKeys, SecurePeer, preshared_mark

PEER_KEY, OTHER_KEY, SHARED = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
PEER = SecurePeer(public_key=PEER_KEY, port=51821, preshared_mark=preshared_mark(SHARED))
HEX = {key: base64.b64decode(key).hex() for key in (PEER_KEY, OTHER_KEY, SHARED)}


def test_wireguard_go_is_told_peers() -> None:
    assert userspace_protocol.set_peers({"192.0.2.2": PEER}, (OTHER_KEY,), SHARED) == (
        f"set=1\npublic_key={HEX[OTHER_KEY]}\nremove=true\n"
        f"public_key={HEX[PEER_KEY]}\npreshared_key={HEX[SHARED]}\nendpoint=192.0.2.2:51821\n"
        "replace_allowed_ips=true\nallowed_ip=192.0.2.2/32\n\n"
    )
    assert f"preshared_key={'0' * 64}\n" in userspace_protocol.set_peers({"192.0.2.2": PEER}, (), ""), "taken away again"


def test_wireguard_gos_answer_is_read() -> None:
    private = new_private_key()
    answer = (
        f"private_key={base64.b64decode(private).hex()}\nlisten_port=51820\n"
        f"public_key={HEX[PEER_KEY]}\npreshared_key={HEX[SHARED]}\nprotocol_version=1\nendpoint=192.0.2.2:51821\n"
        "tx_bytes=1\nallowed_ip=192.0.2.2/32\n"
        f"public_key={HEX[OTHER_KEY]}\npreshared_key={'0' * 64}\nallowed_ip=192.0.2.3/32\nallowed_ip=10.0.0.0/8\nerrno=0\n\n"
    )
    public_key, port, peers = userspace_protocol.read_device(answer)
    assert (public_key, port) == (public_key_of(private), 51820)
    assert peers == {"192.0.2.2": PEER, OTHER_KEY: SecurePeer(public_key=OTHER_KEY, port=0)}
    assert userspace_protocol.read_device("errno=0\n\n") == ("", 0, {})


@pytest.mark.parametrize(("answer", "number"), [("errno=0\n\n", 0), ("errno=-98\n\n", 98), ("listen_port=1\nerrno=22\n\n", 22)])
def test_an_answer_ends_with_an_error_number(answer: str, number: int) -> None:
    assert userspace_protocol.errno_of(answer) == number


def test_another_answer_is_no_success() -> None:
    with pytest.raises(ValueError, match="listen_port"):
        userspace_protocol.errno_of("listen_port=1\n\n")


def test_the_kernel_is_told_peers() -> None:
    removal, setting = wireguard_messages.peer_messages(7, "wg0", {"192.0.2.2": PEER}, (OTHER_KEY,), SHARED)
    assert [struct.unpack_from("=H", raw, 4)[0] for raw in (removal, setting)] == [7, 7]
    removed = _only_peer(removal)
    assert (removed[1], removed[3]) == (bytes([2]) * 32, struct.pack("=I", 1))
    peer = _only_peer(setting)
    assert (peer[1], peer[2], peer[3]) == (bytes([1]) * 32, bytes([3]) * 32, struct.pack("=I", 2))
    assert peer[4] == struct.pack("=H", socket.AF_INET) + struct.pack("!H", 51821) + socket.inet_aton("192.0.2.2") + bytes(8)
    ((_, allowed),) = attribute_list(peer[9])
    assert attributes(allowed)[2] == socket.inet_aton("192.0.2.2")
    assert attributes(allowed)[3][:1] == b"\x20"


def _only_peer(raw: bytes) -> dict[int, bytes]:
    ((_, peer),) = attribute_list(attributes(raw, 16 + HEADER_BYTES)[8])
    return attributes(peer)


def test_the_kernels_answer_is_read_over_several_messages() -> None:
    endpoint = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 51821) + socket.inet_aton("192.0.2.9") + bytes(8)
    allowed = nested(0, attribute(1, struct.pack("=H", socket.AF_INET)), attribute(2, socket.inet_aton("192.0.2.2")), u8(3, 32))
    first = nested(0, attribute(1, bytes([1]) * 32), attribute(2, bytes([3]) * 32), attribute(4, endpoint), nested(9, allowed))
    second = nested(0, attribute(1, bytes([2]) * 32), attribute(2, bytes(32)))
    head = header(0, 1)
    bodies = [
        head + attribute(4, bytes([9]) * 32) + attribute(6, struct.pack("=H", 51820)) + nested(8, first),
        head + nested(8, second),
    ]
    public_key, port, peers = wireguard_messages.read_device(bodies)
    assert (public_key, port) == (base64.b64encode(bytes([9]) * 32).decode(), 51820)
    assert peers == {"192.0.2.2": PEER, OTHER_KEY: SecurePeer(public_key=OTHER_KEY, port=0)}


def test_a_secret_is_never_shown() -> None:
    keys = SecureKeys(private=Secret(PEER_KEY), preshared=Secret(SHARED))
    assert PEER_KEY not in f"{keys!r} {keys} {keys.private!s}"
    assert preshared_mark(SHARED) not in SHARED
    assert (preshared_mark(""), preshared_mark(NO_KEY)) == ("", "")
    assert preshared_mark(SHARED) != preshared_mark(PEER_KEY)


def test_keys_are_kept_for_root_alone(tmp_path: Path) -> None:
    file = SecureFile(tmp_path / "network/wireguard")
    assert file.read() is None
    memory = SecureMemory(private_key=new_private_key(), port=51820, preshared_key=SHARED)
    file.write(memory)
    file.write(memory)
    assert file.read() == memory
    assert stat.S_IMODE((tmp_path / "network/wireguard").stat().st_mode) == 0o600
    for torn in (b"", b"\x81", (tmp_path / "network/wireguard").read_bytes()[:20]):
        (tmp_path / "network/wireguard").write_bytes(torn)
        assert file.read() is None
    file.write(SecureMemory(private_key="bm8ga2V5"))
    assert file.read() is None
    assert is_key(memory.private_key)


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        assert choose_port(port) > port
        with pytest.raises(FailedPrecondition, match="no free UDP port"):
            choose_port(port, 1)


@pytest.mark.parametrize(
    ("families", "module_problem", "program", "tun_problem", "expected"),
    [
        ([True], "", None, "", Encryption(kind="kernel")),
        ([False, True], "", None, "", Encryption(kind="kernel")),
        ([False, False], "no module", "/usr/bin/wireguard-go", "", Encryption(kind="userspace")),
        (
            [False, False],
            "no module",
            "/usr/bin/wireguard-go",
            "/dev/net/tun: no such file",
            Encryption(
                problem="the kernel has no WireGuard (no module) and wireguard-go cannot be used: /dev/net/tun: no such file"
            ),
        ),
        ([False, False], "", None, "", Encryption(problem="the kernel has no WireGuard and wireguard-go is not installed")),
    ],
)
def test_what_a_machine_can_do(
    families: list[bool], module_problem: str, program: str | None, tun_problem: str, expected: Encryption
) -> None:
    answers = iter(families)
    found = detect(
        has_family=lambda: next(answers),
        load_module=lambda: module_problem,
        find_program=lambda _: program,
        tun_problem=lambda: tun_problem,
    )
    assert found == expected
