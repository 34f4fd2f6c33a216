"""A layer's tar archive from what the node keeps of it: the files and the recording, or the archive itself. Runs `pack.py`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from pyswarm_common.errors import PyswarmError

RECORDING = "recording"
ARCHIVE = "archive"
_PIECE_BYTES = 1 << 18
_STDERR_TAIL = 500


async def write_gzip(home: Path, layer_id: str, target: Path) -> None:
    """Write a layer's archive, compressed, to a new file; the same archive always gives the same bytes.

    `home`: the layer's directory. Raises PyswarmError when the archive cannot be built again.
    """
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        process = await _start(home, layer_id, "gzip", descriptor)
    finally:
        os.close(descriptor)
    try:
        _, errors = await process.communicate()
    except BaseException:
        await _end(process)
        raise
    _check(process, layer_id, errors)


async def read_tar(home: Path, layer_id: str) -> AsyncIterator[bytes]:
    """Yield a layer's archive, uncompressed. Raises as `write_gzip` does, at the end: what was yielded is then not to be used."""
    process = await _start(home, layer_id, "tar", asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        while piece := await process.stdout.read(_PIECE_BYTES):
            yield piece
        errors = await process.stderr.read()
        await process.wait()
    finally:
        await _end(process)
    _check(process, layer_id, errors)


def can_pack(home: Path) -> bool:
    """Whether a layer's archive can be built again."""
    return (home / RECORDING).exists() or (home / ARCHIVE).exists()


async def _start(home: Path, layer_id: str, output: str, stdout: int) -> asyncio.subprocess.Process:
    form = "recorded" if (home / RECORDING).exists() else "archive"
    try:
        descriptor = os.open(home / (RECORDING if form == "recorded" else ARCHIVE), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise PyswarmError(
            f"layer {layer_id}: its archive cannot be built again, because an older version of pyswarm unpacked it; "
            "remove the image and pull or load it once more"
        ) from None
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "pyswarm_agent.images.pack", str(home / "diff"), layer_id, form, output),
            stdin=descriptor,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
        )
    finally:
        os.close(descriptor)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await asyncio.shield(process.communicate())  # takes what is left in the pipes, or their transports would stay


def _check(process: asyncio.subprocess.Process, layer_id: str, errors: bytes) -> None:
    if process.returncode == 0:
        return
    tail = errors.decode(errors="replace").strip()[-_STDERR_TAIL:]
    raise PyswarmError(f"layer {layer_id} cannot be packed: {tail or f'the packer ended with code {process.returncode}'}")
