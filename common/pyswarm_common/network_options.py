"""Options of overlay networks, and of a service's or container's place on one: their names and what their values may be; pure."""

import re
from collections.abc import Mapping

from pyswarm_common.errors import InvalidArgument

MTU = "com.docker.network.driver.mtu"
"""Of a network: the MTU of its containers' interfaces, in bytes; without it the smallest underlay of all nodes decides."""
VNI_LIST = "com.docker.network.driver.overlay.vxlanid_list"
"""Of a network: the VXLAN ids to choose from, separated by commas."""
ENCRYPTED = "encrypted"
"""Of a network: its traffic between nodes is encrypted."""
ADDRESSES = "pyswarm.addresses"
"""Of a service's place: addresses of its slots, the n-th for slot n: `10.0.5.10-10.0.5.12+10.0.5.20`."""
MAC_ADDRESS = "com.docker.network.endpoint.macaddress"
"""Of a place: the hardware address of the only task, or of the container."""

_YES, _NO = ("", "1", "t", "true", "yes"), ("0", "f", "false", "no")
LEAST_MTU_BYTES = 576
LEAST_IPV6_MTU_BYTES = 1280
LARGEST_MTU_BYTES = 65535
_MAC = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}")


def is_encrypted(options: Mapping[str, str] | None) -> bool:
    """Whether a network with these options is encrypted: they have the option, with any value that does not mean no."""
    value = (options or {}).get(ENCRYPTED)
    return value is not None and value.strip().lower() not in _NO


def check_encrypted(options: Mapping[str, str] | None) -> None:
    """Raises InvalidArgument for a value of which nobody can say whether it means yes or no."""
    value = (options or {}).get(ENCRYPTED, "")
    if value.strip().lower() not in (*_YES, *_NO):
        raise InvalidArgument(f'invalid value "{value}" of the option {ENCRYPTED}: it is true or false, and true without a value')


def parse_mtu(text: str, *, has_ipv6: bool) -> int:
    """Return the MTU that an option's value means, in bytes. Raises InvalidArgument."""
    least = LEAST_IPV6_MTU_BYTES if has_ipv6 else LEAST_MTU_BYTES
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= LARGEST_MTU_BYTES:
        reason = f"a network {'with IPv6 ' if has_ipv6 else ''}needs {least} to {LARGEST_MTU_BYTES} bytes"
        raise InvalidArgument(f'invalid MTU "{text}" (option {MTU}): {reason}')
    return int(text)


def parse_mac(text: str) -> str:
    """Return the address of a single host in its usual form, `02:42:0a:00:00:05`. Raises InvalidArgument."""
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise InvalidArgument(f"invalid MAC address {text}: it needs six pairs of hexadecimal digits, such as 02:42:ac:11:65:43")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidArgument(f"invalid MAC address {text}: it is not the address of a single host")
    return mac
