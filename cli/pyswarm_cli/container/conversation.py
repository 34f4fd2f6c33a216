"""Carries a terminal, or pipes, to a process in a container and back."""

import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty as terminal_modes
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

import click

from pyswarm_cli.engine import RawStream
from pyswarm_cli.frames import print_frames, read_frames, write_now
from pyswarm_common.detach_keys import DetachFilter, parse_detach_keys
from pyswarm_common.errors import InvalidArgument

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


def detach_filter(keys: str | None) -> DetachFilter:
    """Return what finds these keys ("" and None: docker's) in what is typed. Raises click.ClickException."""
    try:
        return DetachFilter(parse_detach_keys(keys or ""))
    except InvalidArgument as error:
        raise click.ClickException(error.message) from None


def converse(
    stream: RawStream, *, has_terminal: bool, sends_input: bool, resize: Resize | None = None, keys: DetachFilter | None = None
) -> None:
    """Carry input and output until the other side ends the stream; `has_terminal`: output is raw, else in Docker's frames.

    `keys` takes note when somebody types the keys that let go; the daemon sees them, too, and ends the stream.
    """
    with _raw_terminal(active=has_terminal and sends_input), _follow_size(resize if has_terminal else None):
        if sends_input:
            threading.Thread(target=_send_input, args=(stream, keys), daemon=True).start()
        if has_terminal:
            while data := stream.read():
                write_now(sys.stdout.buffer, data)
        else:
            for frames in read_frames(stream.read):
                print_frames(frames)
    if keys is not None and keys.is_detached:
        click.echo("\nread escape sequence", err=True)


def _send_input(stream: RawStream, keys: DetachFilter | None) -> None:
    descriptor = sys.stdin.fileno()
    while data := os.read(descriptor, _PIECE_BYTES):
        if keys is not None and not keys.is_detached:
            keys.pass_on(data)
        if not stream.write(data):
            return
    stream.end_input()


@contextlib.contextmanager
def _raw_terminal(*, active: bool) -> Iterator[None]:
    """Let each key go to the container as it is pressed. The terminal is as before at the end, by SIGTERM and SIGHUP too."""
    if not active:
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    unhandled = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    handlers = {each: signal.signal(each, _end) for each in unhandled}
    try:
        terminal_modes.setraw(descriptor, termios.TCSADRAIN)  # what was typed already counts
        yield
    finally:
        with contextlib.suppress(termios.error):  # a terminal that has hung up
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


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
