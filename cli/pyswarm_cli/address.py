"""Where the daemon listens: `unix:///PATH`."""

import click

HOST_VARIABLE = "PYSWARM_HOST"
DEFAULT_HOST = "unix:///run/pyswarm/pyswarm.sock"


def socket_path(host: str) -> str:
    """Return the path in `unix:///PATH` (or of a bare `/PATH`). Raises click.UsageError."""
    scheme, separator, path = host.partition("://")
    if not separator and host.startswith("/"):
        return host
    if scheme != "unix" or not path.startswith("/"):
        raise click.UsageError(f"the host {host!r} is not of the form unix:///PATH, such as {DEFAULT_HOST}")
    return path


def start_advice(host: str) -> str:
    """Return what to do when nobody listens there."""
    path = socket_path(host)
    start = "pyswarmd" if host == DEFAULT_HOST else f"pyswarmd --runtime-dir {path.rpartition('/')[0]}"
    return f"Start it as root with `{start}`. If it listens elsewhere, say `pyswarm -H unix:///PATH …` or set {HOST_VARIABLE}."
