"""How much smaller than the underlay's packets those of overlays are; pure."""

VXLAN_OVERHEAD_BYTES = 50
"""Inner Ethernet, VXLAN, UDP and IPv4 headers."""
ENCRYPTION_OVERHEAD_BYTES = 80
"""WireGuard's header and tag, UDP, and an IP header of either version; over IPv4 the last 20 are room for padding to 16 bytes."""


def overlay_mtu_bytes(underlay_mtu_bytes: int, *, is_encrypted: bool = False) -> int:
    """Return the MTU of containers' interfaces on an overlay that these underlay packets carry."""
    overhead_bytes = VXLAN_OVERHEAD_BYTES + (ENCRYPTION_OVERHEAD_BYTES if is_encrypted else 0)
    return underlay_mtu_bytes - overhead_bytes
