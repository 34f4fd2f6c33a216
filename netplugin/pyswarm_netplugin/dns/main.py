"""The entry point `pyswarm-dns`: one process per node, started by pyswarmd, outliving it.

`pyswarm-dns --socket PATH` returns when the process is ready, which then goes on in a session of its own; with `--foreground` it
stays. A lock beside the socket keeps a second process from starting.
"""

import contextlib
import fcntl
import os
import random
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

from pyswarm_netplugin.dns.control import ControlServer
from pyswarm_netplugin.dns.event_loop import EventLoop
from pyswarm_netplugin.dns.forwarder import DNS_PORT, Forwarder, Nameservers
from pyswarm_netplugin.dns.server import DNSServer
from pyswarm_netplugin.dns.table import Table

_MAX_SOCKET_PATH_BYTES = 107
_READY = b"ready"


class Options(NamedTuple):
    """What the command line says."""

    socket_path: Path
    instance_tag: str
    log_path: Path | None
    resolv_conf: Path
    upstream_port: int
    foreground: bool


def main() -> None:
    """Run the command."""
    options = _parse(sys.argv[1:])
    try:
        if options.foreground:
            _serve(options, ready_descriptor=None)
        else:
            sys.exit(_detach(options))
    except (OSError, ValueError) as error:
        print(f"Error: pyswarm-dns: {error}", file=sys.stderr)
        sys.exit(1)


def _parse(arguments: list[str]) -> Options:
    import argparse

    parser = argparse.ArgumentParser(
        prog="pyswarm-dns", description="Answers the containers' DNS on this node. pyswarmd starts it and feeds it."
    )
    parser.add_argument("--socket", type=Path, required=True, help="control socket to listen on")
    parser.add_argument("--instance-tag", default="", help="the tag of the pyswarmd that it belongs to")
    parser.add_argument("--log", type=Path, help="file to append the log to")
    parser.add_argument("--resolv-conf", type=Path, default=Path("/etc/resolv.conf"), help="where the host's nameservers stand")
    parser.add_argument("--upstream-port", type=int, default=DNS_PORT, help="port of the host's nameservers")
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground, log to standard error")
    found = parser.parse_args(arguments)
    return Options(found.socket.absolute(), found.instance_tag, found.log, found.resolv_conf, found.upstream_port, found.foreground)


def _detach(options: Options) -> int:
    """Start the process and return 0 when it is ready, 1 when it failed (it has then said why)."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.close(read_end)
        _become_daemon(options, write_end)
    os.close(write_end)
    report = b""
    while chunk := os.read(read_end, 4096):
        report += chunk
    if report == _READY:
        return 0
    print(f"Error: pyswarm-dns: {report.decode(errors='replace') or 'ended before it was ready'}", file=sys.stderr)
    return 1


def _become_daemon(options: Options, ready_descriptor: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        os.chdir("/")
        _redirect_standard_streams(options.log_path)
        _close_inherited(keep=ready_descriptor)
        _serve(options, ready_descriptor)
        status = 0
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        os.write(ready_descriptor, str(error).encode())
    except SystemExit:
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def _redirect_standard_streams(log_path: Path | None) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if log_path else null
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    for source in {null, log}:
        os.close(source)


def _close_inherited(keep: int) -> None:
    """Close what the starter let through, so that nobody waits for the end of a pipe that this process holds open."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor != keep:
            with contextlib.suppress(OSError):  # the listing's own descriptor, closed already
                os.close(descriptor)


def _serve(options: Options, ready_descriptor: int | None) -> None:
    """Listen, say so on `ready_descriptor` and close it, and answer until told to stop. Raises OSError, ValueError."""
    lock = _lock(options.socket_path)
    _name_process()
    _raise_descriptor_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    loop = EventLoop()
    table = Table()
    nameservers = Nameservers(options.resolv_conf, options.upstream_port)
    forwarder = Forwarder(loop, nameservers.addresses, options.upstream_port)
    server = DNSServer(loop, table, forwarder, random.Random().shuffle)
    with _listen(options.socket_path) as listening:
        try:
            ControlServer(loop, listening, options.instance_tag, table, server, forwarder)
            print(f"pid {os.getpid()} listens on {options.socket_path}", file=sys.stderr, flush=True)
            if ready_descriptor is not None:
                os.write(ready_descriptor, _READY)
                os.close(ready_descriptor)
            loop.run()
        finally:
            options.socket_path.unlink(missing_ok=True)
            os.close(lock)


def _lock(socket_path: Path) -> int:
    """Return the descriptor that holds the lock as long as it is open. Raises OSError when another process does."""
    descriptor = os.open(f"{socket_path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BlockingIOError(f"another process serves {socket_path} already") from None
    return descriptor


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise ValueError(
            f"the socket path {path} is longer than {_MAX_SOCKET_PATH_BYTES} bytes: choose a shorter runtime directory"
        )
    path.unlink(missing_ok=True)  # left by a process that was killed: the lock says that none serves it
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    listening.listen(16)
    return listening


def _name_process() -> None:
    Path("/proc/self/comm").write_text("pyswarm-dns")


def _raise_descriptor_limit() -> None:
    """Two sockets a sandbox, one a question that is upstream: take what the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
