"""Healthchecks: when a container is probed, what its answers mean, and who wants to know."""
