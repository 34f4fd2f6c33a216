"""What `ps` says about a container's processes, as Docker's `top` shows it. Source: Moby `daemon/top_unix.go`."""

import subprocess
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pyswarm_common.errors import InvalidArgument, PyswarmError

DEFAULT_ARGUMENTS = "-ef"
_PS_LIMIT_S = 20.0


class ProcessListing(NamedTuple):
    """The columns' titles, and a row for each process."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def list_processes(pids: Collection[int], arguments: str) -> ProcessListing:
    """Return what `ps` on the host says about these processes. Blocking. Raises InvalidArgument, PyswarmError."""
    asked = arguments.split() or [DEFAULT_ARGUMENTS]
    check_arguments(asked)
    # Only about these: on a host of thousands of processes that is much quicker. Not every set of arguments allows it.
    narrowed = _ps([*asked, "-q", ",".join(map(str, sorted(pids)))]) if pids else None
    answer = narrowed if narrowed is not None and narrowed.returncode == 0 else _ps(asked)
    if answer.returncode != 0:
        raise InvalidArgument(
            f"error running ps: {answer.stderr.strip().splitlines()[0] if answer.stderr.strip() else answer.returncode}"
        )
    return parse_listing(answer.stdout, pids)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments that would print another number under the title PID; pure. Raises InvalidArgument."""
    for column in (column for argument in arguments for column in argument.split(",")):
        name, equals, title = column.partition("=")
        if equals and title.strip().upper().startswith("PID") and name.lower() != "pid":
            raise InvalidArgument(f'specifying "{column}" is not allowed')


def parse_listing(text: str, pids: Collection[int]) -> ProcessListing:
    """Return the rows of these processes; the last column keeps its blanks; pure. Raises InvalidArgument."""
    lines = text.splitlines()
    titles = tuple(lines[0].split()) if lines else ()
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            rows.append(tuple(fields))
    return ProcessListing(titles, tuple(rows))


def _ps(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["ps", *arguments], capture_output=True, text=True, errors="replace", timeout=_PS_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PyswarmError(f"cannot run ps: {error}") from error
