"""`pyswarm info` and `pyswarm version`."""
