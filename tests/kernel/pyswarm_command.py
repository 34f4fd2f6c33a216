"""The `pyswarm` command line as a process of its own: with pipes, and on a terminal."""

import asyncio
import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import NamedTuple

PROGRAM = str(Path(sys.executable).with_name("pyswarm"))
TIMEOUT_S = 15.0
_PIPE = asyncio.subprocess.PIPE


class Result(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    output: str
    errors: str


class PyswarmCLI:
    """Runs the command line against a socket."""

    def __init__(self, socket_path: str) -> None:
        path = os.environ["PATH"]
        self.environment = {"PYSWARM_HOST": f"unix://{socket_path}", "PATH": path, "HOME": "/nonexistent", "TERM": "dumb"}

    async def __call__(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Return what the command prints; it must succeed."""
        result = await self.run(*arguments, stdin=stdin)
        assert result.code == 0, result
        return result.output

    async def run(self, *arguments: str, stdin: bytes | None = None) -> Result:
        """Return how the command ends."""
        process = await self.begin(*arguments, has_input=stdin is not None)
        async with asyncio.timeout(TIMEOUT_S):
            output, errors = await process.communicate(stdin)
        assert process.returncode is not None
        return Result(process.returncode, output.decode(), errors.decode())

    async def begin(self, *arguments: str, has_input: bool = False) -> asyncio.subprocess.Process:
        """Start a command, with pipes."""
        stdin = _PIPE if has_input else asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(
            PROGRAM, *arguments, stdin=stdin, stdout=_PIPE, stderr=_PIPE, env=self.environment
        )

    def on_terminal(self, *arguments: str, rows: int = 24, columns: int = 80) -> "Terminal":
        """Start a command on a terminal. What it gives blocks: use it in a thread."""
        return Terminal([PROGRAM, *arguments], self.environment, rows, columns)


class Terminal:
    """A terminal and the command on it, as somebody in front of it has them."""

    def __init__(self, command: list[str], environment: dict[str, str], rows: int, columns: int) -> None:
        self._master, slave = os.openpty()
        self.resize(rows, columns)
        self._before = termios.tcgetattr(self._master)
        self.shown = b""
        self.process = subprocess.Popen(["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def resize(self, rows: int, columns: int) -> None:
        """Make the window another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def see(self, text: bytes) -> None:
        """Wait until the text is shown, after what was seen before."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while text not in self.shown:
            assert self._read(deadline_s - time.monotonic()), self.shown
        self.shown = self.shown.partition(text)[2]

    def end(self) -> int:
        """Wait for the end of the command and return its exit code; the terminal must be as it was."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while self._read(deadline_s - time.monotonic()):
            pass
        code = self.process.wait(TIMEOUT_S)
        assert termios.tcgetattr(self._master) == self._before, "the terminal was left in another mode"
        return code

    def _read(self, timeout_s: float) -> bool:
        readable, _, _ = select.select([self._master], [], [], max(0.0, timeout_s))
        if not readable:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # nobody has the other side open any more
            return False
        self.shown += data
        return bool(data)
