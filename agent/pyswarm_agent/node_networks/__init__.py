"""Networks of this node alone, which its users make: bridges for single containers."""
