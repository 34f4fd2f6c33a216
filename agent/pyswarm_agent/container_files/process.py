"""Copies files of one container: `python -m pyswarm_agent.container_files.process REQUEST`, a process of its own that chroots.

REQUEST is JSON: `root` (see `enter_root`), `path`, and `action`: `stat`; `read` (`name`, `stays_on_filesystem`), which writes the
archive to standard output; `write` (`keeps_kinds`, `owner`: a user of the container that everything shall belong to, "" for the
archive's own), which unpacks standard input. Standard error gets one line of JSON first:
`{"stat": …}` (of `stat` and `read`) or `{"error": …, "number": errno or 0}`; a second line if it fails later. It ends with code 0
when everything was done.
"""

# All codecs and decompressors that are needed: nothing can be imported later.
import bz2  # noqa: F401
import json
import lzma  # noqa: F401
import os
import sys
import zlib  # noqa: F401
from collections.abc import Callable
from typing import Any

from pyswarm_agent.container_files.reading import NotCopied, Reader, describe, refuse_kernel_files
from pyswarm_agent.container_files.root import enter_root
from pyswarm_agent.container_files.writing import Writer

OwnerResolver = Callable[[str, Reader], tuple[int, int]]


def main(arguments: list[str]) -> int:
    """Do what is asked; return the exit code."""
    request: dict[str, Any] = json.loads(arguments[0])
    procfs = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve_owner = _owner_resolver() if request.get("owner") else None
        enter_root(request["root"])
        _carry_out(request, procfs, resolve_owner)
    except NotCopied as error:
        _tell({"error": str(error), "number": 0})
        return 1
    except OSError as error:
        _tell({"error": error.strerror or str(error), "number": error.errno or 0})
        return 1
    return 0


def _carry_out(request: dict[str, Any], procfs: int, resolve_owner: OwnerResolver | None) -> None:
    path, action = request["path"], request["action"]
    if action == "write":
        owner = resolve_owner(request["owner"], Reader(procfs)) if resolve_owner is not None else None
        writer = Writer(path, keeps_kinds=request["keeps_kinds"], owner=owner)
        _tell({})
        with open(0, "rb", buffering=1 << 18, closefd=False) as source:
            writer.unpack(source)
        return
    described = {"stat": describe(path)}
    if action == "read":
        refuse_kernel_files(path)
    _tell(described)
    if action == "read":
        reader = Reader(procfs, stays_on_filesystem=request["stays_on_filesystem"])
        for data in reader.archive(path, request["name"]):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]


def _owner_resolver() -> OwnerResolver:
    # Only for who needs it: that takes as long as everything else together.
    from pyswarm_agent.runtime.process_user import resolve_user
    from pyswarm_common.errors import InvalidArgument

    def resolve(user: str, reader: Reader) -> tuple[int, int]:
        try:
            found = resolve_user(user, (), reader.text("/etc/passwd"), reader.text("/etc/group"))
        except InvalidArgument as error:
            raise NotCopied(error.message) from error
        return found.uid, found.gid

    return resolve


def _tell(message: dict[str, Any]) -> None:
    os.write(2, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
