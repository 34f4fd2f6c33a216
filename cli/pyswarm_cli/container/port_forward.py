"""`pyswarm port-forward`: ports of this machine that lead into a container, wherever it runs."""

import contextlib
import socket
import threading

import click

from pyswarm_cli.container.target import Target, find_target
from pyswarm_cli.engine import EngineClient, RawStream

pass_engine = click.make_pass_decorator(EngineClient)
_HIGHEST_PORT = 65535
_PIECE_BYTES = 65536


@click.command(name="port-forward")
@click.option("--address", default="127.0.0.1", show_default=True, metavar="IP", help="Where to listen.")
@click.argument("reference", metavar="CONTAINER|TASK")
@click.argument("ports", nargs=-1, required=True, metavar="[LOCAL:]REMOTE...")
@pass_engine
def port_forward(engine: EngineClient, address: str, reference: str, ports: tuple[str, ...]) -> None:
    """Let TCP ports of this machine lead to ports in a container: of this node, or of a task on any node.

    Nothing has to be published for that: the container's node connects to the port on the container's own loopback. LOCAL 0 is
    a free port. Ends with ctrl-c.

    \b
    Examples:
      pyswarm port-forward db.1 5432
      pyswarm port-forward web.2 8080:80
    """
    pairs = [_parse_ports(each) for each in ports]
    target = find_target(engine, reference)
    listeners = []
    with contextlib.ExitStack() as stack:
        for local, remote in pairs:
            try:
                listener = stack.enter_context(socket.create_server((address, local)))
            except OSError as error:
                raise click.ClickException(f"cannot listen on {address}:{local}: {error.strerror or error}") from None
            click.echo(f"Forwarding {address}:{listener.getsockname()[1]} -> {target.name}:{remote}")
            listeners.append((listener, remote))
        for listener, remote in listeners:
            threading.Thread(target=_accept, args=(engine.host, listener, target, remote), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def _parse_ports(text: str) -> tuple[int, int]:
    """Return (local, remote) of `[LOCAL:]REMOTE`. Raises click.UsageError."""
    local, _, remote = text.rpartition(":")
    try:
        numbers = int(local or remote), int(remote)
    except ValueError:
        numbers = (-1, -1)
    if not 0 <= numbers[0] <= _HIGHEST_PORT or not 0 < numbers[1] <= _HIGHEST_PORT:
        raise click.UsageError(f"{text!r} is not [LOCAL:]REMOTE, such as 8080:80")
    return numbers


def _accept(host: str, listener: socket.socket, target: Target, port: int) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_carry, args=(host, connection, target, port), daemon=True).start()


def _carry(host: str, connection: socket.socket, target: Target, port: int) -> None:
    engine = EngineClient(host)
    path = target.node_path("pyswarm", "containers", target.container_id, "dial")
    with connection:
        try:
            with engine.take_over(*path, port=port) as stream:
                sending = threading.Thread(target=_send, args=(connection, stream), daemon=True)
                sending.start()
                while data := stream.read():
                    connection.sendall(data)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                sending.join()
        except click.ClickException as error:
            click.echo(f"port {port}: {error.message}", err=True)
        except OSError as error:
            click.echo(f"port {port}: {error.strerror or error}", err=True)


def _send(connection: socket.socket, stream: RawStream) -> None:
    with contextlib.suppress(OSError):
        while data := connection.recv(_PIECE_BYTES):
            if not stream.write(data):
                return
    stream.end_input()
