"""The text in which wireguard-go is told and asked things over its socket; pure. Keys are hexadecimal there.

Source: wireguard.com/xplatform. A request ends with an empty line, an answer with `errno=` and an empty line.
"""

import base64
from collections.abc import Iterable, Mapping

from pyswarm_netplugin.secure.memory import public_key_of
from pyswarm_netplugin.secure.records import NO_KEY, SecurePeer, preshared_mark

GET = "get=1\n\n"
END = b"\n\n"


def set_device(private_key: str, port: int) -> str:
    """Give the interface its key and port."""
    return f"set=1\nprivate_key={_hex(private_key)}\nlisten_port={port}\n\n"


def set_peers(add: Mapping[str, SecurePeer], remove: Iterable[str], preshared_key: str) -> str:
    """Forget these public keys, then set these peers by address. What exists keeps its sessions."""
    lines = ["set=1"]
    for key in remove:
        lines += [f"public_key={_hex(key)}", "remove=true"]
    for address, peer in add.items():
        lines += [
            f"public_key={_hex(peer.public_key)}",
            f"preshared_key={_hex(preshared_key or NO_KEY)}",
            f"endpoint={address}:{peer.port}",
            "replace_allowed_ips=true",
            f"allowed_ip={address}/32",
        ]
    return "\n".join(lines) + "\n\n"


def errno_of(answer: str) -> int:
    """Return the errno that an answer ends with, 0 for success. Raises ValueError for an answer without one."""
    name, _, value = answer.rstrip("\n").rpartition("\n")[2].partition("=")
    if name != "errno":
        raise ValueError(f"an answer of wireguard-go ends with {name!r}")
    return abs(int(value))


def read_device(answer: str) -> tuple[str, int, dict[str, SecurePeer]]:
    """Return public key ("" for none), port and peers by address; a peer without one address is under its key."""
    own: dict[str, str] = {}
    found: list[dict[str, str]] = []
    for line in answer.splitlines():
        name, _, value = line.partition("=")
        if name == "public_key":
            found.append({})
        part = found[-1] if found else own
        part[name] = f"{part[name]} {value}" if name == "allowed_ip" and name in part else value
    private_key = own.get("private_key", "")
    public_key = public_key_of(_base64(private_key)) if private_key.strip("0") else ""
    return public_key, int(own.get("listen_port", "0")), dict(map(_read_peer, found))


def _read_peer(part: dict[str, str]) -> tuple[str, SecurePeer]:
    peer = SecurePeer(
        public_key=_base64(part["public_key"]),
        port=int(part.get("endpoint", ":0").rpartition(":")[2]),
        preshared_mark=preshared_mark(_base64(part.get("preshared_key", ""))),
    )
    address, _, mask = part.get("allowed_ip", "").partition("/")
    return (address if mask == "32" else peer.public_key), peer


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()


def _base64(key: str) -> str:
    return base64.b64encode(bytes.fromhex(key)).decode()
