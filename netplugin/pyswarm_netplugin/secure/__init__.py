"""Encrypted overlays: one WireGuard interface of the node in a namespace of its own, in which the VXLAN devices send."""
