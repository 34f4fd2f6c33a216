"""Ports of this host that lead to sandboxes: choosing them, keeping other programs off them, and the rules."""
