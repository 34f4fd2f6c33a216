"""What a probe of an address tells."""

import socket

from pyswarm_manager.dispatcher.probe import accepts_connections


async def test_a_listener_that_nobody_serves_takes_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert await accepts_connections(f"127.0.0.1:{listener.getsockname()[1]}", 0.5)


async def test_a_closed_port_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert not await accepts_connections(f"127.0.0.1:{port}", 0.5)


async def test_a_listener_whose_queue_is_full_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            assert not await accepts_connections(f"127.0.0.1:{address[1]}", 0.2)


async def test_an_address_that_is_none_does_not() -> None:
    assert not await accepts_connections("", 0.5)
    assert not await accepts_connections("no such host:x", 0.5)
