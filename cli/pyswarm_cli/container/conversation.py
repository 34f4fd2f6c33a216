"""Carries a terminal, or pipes, to a process in a container and back."""

import contextlib
import os
import shutil
import signal
import struct
import sys
import termios
import threading
import tty as terminal_modes
from collections.abc import Callable, Iterator
from types import FrameType
from typing import BinaryIO

import click

from pyswarm_cli.engine import RawStream, worded_for_cli

_FRAME_HEADER = struct.Struct(">BxxxL")
_STDERR, _SYSTEM_ERROR = 2, 3
_PIECE_BYTES = 65536

Resize = Callable[[int, int], object]
"""Tells the container's terminal its size: rows, columns."""


def terminal_size() -> tuple[int, int]:
    """Return (rows, columns) of our terminal."""
    size = shutil.get_terminal_size()
    return size.lines, size.columns


def require_terminal(*, has_input: bool) -> None:
    """Raises click.ClickException, in Docker's words, when our input is to be a terminal's and is none."""
    if has_input and not sys.stdin.isatty():
        raise click.ClickException("the input device is not a TTY")


def converse(stream: RawStream, *, has_terminal: bool, sends_input: bool, resize: Resize | None = None) -> None:
    """Carry input and output until the other side ends the stream; `has_terminal`: output is raw, else in Docker's frames."""
    with _raw_terminal(active=has_terminal and sends_input), _follow_size(resize if has_terminal else None):
        if sends_input:
            threading.Thread(target=_send_input, args=(stream,), daemon=True).start()
        if has_terminal:
            while data := stream.read():
                _write(sys.stdout.buffer, data)
        else:
            _write_frames(stream)


def _send_input(stream: RawStream) -> None:
    descriptor = sys.stdin.fileno()
    while data := os.read(descriptor, _PIECE_BYTES):
        if not stream.write(data):
            return
    stream.end_input()


def _write_frames(stream: RawStream) -> None:
    while len(header := stream.incoming.read(_FRAME_HEADER.size)) == _FRAME_HEADER.size:
        number, size = _FRAME_HEADER.unpack(header)
        payload = stream.incoming.read(size)
        if number == _SYSTEM_ERROR:
            raise click.ClickException(worded_for_cli(payload.decode(errors="replace")))
        _write(sys.stderr.buffer if number == _STDERR else sys.stdout.buffer, payload)


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()


@contextlib.contextmanager
def _raw_terminal(*, active: bool) -> Iterator[None]:
    """Let each key go to the container as it is pressed."""
    if not active:
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        terminal_modes.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _follow_size(resize: Resize | None) -> Iterator[None]:
    """Tell the container's terminal our size, now and when it changes."""
    if resize is None or not sys.stdout.isatty():
        yield
        return

    def tell(_number: int = 0, _frame: FrameType | None = None) -> None:
        with contextlib.suppress(click.ClickException):  # the process may have ended
            resize(*terminal_size())

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        tell()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
