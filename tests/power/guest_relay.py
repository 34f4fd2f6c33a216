"""Runs in the machine: carries TCP connections to pyswarmd's unix socket, so that who asks stands outside."""

import contextlib
import socket
import sys
import threading

_BLOCK_BYTES = 1 << 16


def pump(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes one way until either side ends, then end the other."""
    with contextlib.suppress(OSError):
        while data := source.recv(_BLOCK_BYTES):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def carry(client: socket.socket, path: str) -> None:
    """Join one connection to the unix socket; closes it when there is none yet."""
    with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        try:
            daemon.connect(path)
        except OSError:
            return
        back = threading.Thread(target=pump, args=(daemon, client), daemon=True)
        back.start()
        pump(client, daemon)
        back.join()


def main(path: str, port: int) -> None:
    """Listen on the port for good."""
    with socket.create_server(("0.0.0.0", port)) as listener:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=carry, args=(client, path), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
