"""The `pyswarm` command; it talks only to the API."""
