"""From any manager to the Engine API of any node: a tunnel that the node's agent dials, and HTTP through it."""
