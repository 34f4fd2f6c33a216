"""Generic netlink: families with names, whose numbers the kernel chooses. Source: linux/genetlink.h."""

import struct

from pyswarm_netplugin.kernel.netlink import NetlinkSocket, attributes, message, text

NETLINK_GENERIC = 16
_CONTROLLER, _GET_FAMILY, _CONTROLLER_VERSION = 0x10, 3, 2
_FAMILY_ID, _FAMILY_NAME = 1, 2
_HEADER = struct.Struct("=BBxx")
HEADER_BYTES = _HEADER.size


def header(command: int, version: int) -> bytes:
    """Return the header of a family's message."""
    return _HEADER.pack(command, version)


def family_id(name: str) -> int | None:
    """Return the number of a family, None when the kernel does not have it. Raises OSError for other trouble."""
    request = message(_CONTROLLER, 0, header(_GET_FAMILY, _CONTROLLER_VERSION) + text(_FAMILY_NAME, name))
    with NetlinkSocket(NETLINK_GENERIC) as netlink:
        try:
            found = attributes(netlink.ask(request), HEADER_BYTES)
        except FileNotFoundError:
            return None
    return int(struct.unpack("=H", found[_FAMILY_ID])[0])
