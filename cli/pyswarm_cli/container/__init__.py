"""The `container` commands, and what reaches into containers of tasks on any node."""
