"""Timers run in the order of their time; one failing callback takes nothing from the others."""

import os
import socket
from collections.abc import Iterator

import pytest

from pyswarm_netplugin.dns.event_loop import EventLoop
from pyswarm_netplugin.dns.framing import DNS_LENGTH, FramedConnection


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


def test_timers_run_in_order_and_cancelled_ones_never(loop: EventLoop) -> None:
    ran: list[str] = []
    loop.call_later(0.03, loop.stop)
    loop.call_later(0.02, lambda: ran.append("second"))
    loop.call_later(0.01, lambda: loop.call_later(0, lambda: ran.append("first")) and None)
    loop.call_later(0.015, lambda: ran.append("never")).cancel()
    loop.run()
    assert ran == ["first", "second"]


def test_a_failing_callback_is_logged_and_the_loop_goes_on(loop: EventLoop, capsys: pytest.CaptureFixture[str]) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"x")

    def fail() -> None:
        os.read(read_end, 1)
        loop.call_later(0, loop.stop)
        raise RuntimeError("a bad day")

    loop.watch(read_end, fail)
    loop.run()
    assert "a bad day" in capsys.readouterr().err
    os.close(read_end)
    os.close(write_end)


def test_frames_are_joined_and_split_however_the_bytes_arrive(loop: EventLoop) -> None:
    ours, theirs = socket.socketpair()
    received: list[bytes] = []
    connection = FramedConnection(
        loop, ours, DNS_LENGTH, max_message_bytes=100, on_message=lambda _, m: received.append(m), on_closed=lambda _: loop.stop()
    )
    stream = b"".join(DNS_LENGTH.pack(n) + b"m" * n for n in (3, 0, 100))
    pieces = [stream[i : i + 7] for i in range(0, len(stream), 7)]

    def feed() -> None:
        if pieces:
            theirs.send(pieces.pop(0))
            loop.call_later(0, feed)
        else:
            theirs.close()

    loop.call_later(0, feed)
    loop.run()
    assert [len(m) for m in received] == [3, 0, 100]
    assert not connection.is_open


def test_a_message_that_is_too_long_ends_the_connection(loop: EventLoop) -> None:
    ours, theirs = socket.socketpair()
    FramedConnection(loop, ours, DNS_LENGTH, max_message_bytes=100, on_message=lambda _, m: None, on_closed=lambda _: loop.stop())
    theirs.send(DNS_LENGTH.pack(101))
    loop.run()
    theirs.close()
    assert ours.fileno() == -1


def test_a_peer_that_reads_nothing_is_cut_off(loop: EventLoop) -> None:
    ours, theirs = socket.socketpair()
    connection = FramedConnection(
        loop, ours, DNS_LENGTH, max_message_bytes=65535, on_message=lambda _, m: None, on_closed=lambda _: None
    )
    for _ in range(100):
        connection.send(b"m" * 65535)
    assert not connection.is_open
    theirs.close()
