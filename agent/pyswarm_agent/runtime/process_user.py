"""Whom a container's process runs as: `user[:group]` looked up in the image's own /etc/passwd and /etc/group; pure.

Source of the rules: moby/sys `user.GetExecUser`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pyswarm_common.errors import InvalidArgument

_MAXIMUM_ID = 2**31 - 1


class ProcessUser(NamedTuple):
    """Numbers for the OCI bundle."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


class _PasswdEntry(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _GroupEntry(NamedTuple):
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(user: str, groups: Sequence[str], passwd: str, group: str) -> ProcessUser:
    """Return the numbers of a `user[:group]` and of additional groups; "" is root. Raises InvalidArgument for unknown names."""
    user_name, _, group_name = user.partition(":")
    group_entries = list(_group_entries(group))
    entry = _find_user(user_name or "0", passwd)
    gid = _group_id(group_name, group_entries) if group_name else entry.gid
    # Naming a group replaces all of the user's groups.
    own = () if group_name else tuple(g.gid for g in group_entries if entry.name and entry.name in g.members)
    extra = tuple(_group_id(name, group_entries) for name in groups)
    additional = tuple(dict.fromkeys(own + extra))
    return ProcessUser(entry.uid, gid, additional, entry.home or "/")


def _find_user(wanted: str, passwd: str) -> _PasswdEntry:
    number = _number(wanted)
    for entry in _passwd_entries(passwd):
        if entry.name == wanted or (number is not None and entry.uid == number):
            return entry
    if number is None:
        raise InvalidArgument(f"unable to find user {wanted}: no matching entries in passwd file")
    return _PasswdEntry("", number, 0, "/")


def _group_id(wanted: str, entries: Sequence[_GroupEntry]) -> int:
    number = _number(wanted)
    for entry in entries:
        if entry.name == wanted:
            return entry.gid
    if number is None:
        raise InvalidArgument(f"unable to find group {wanted}: no matching entries in group file")
    return number


def _passwd_entries(text: str) -> Iterator[_PasswdEntry]:
    for fields in _lines(text, 6):
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            yield _PasswdEntry(fields[0], uid, gid, fields[5])


def _group_entries(text: str) -> Iterator[_GroupEntry]:
    for fields in _lines(text, 4):
        gid = _number(fields[2])
        if gid is not None:
            yield _GroupEntry(fields[0], gid, tuple(filter(None, fields[3].split(","))))


def _lines(text: str, least_fields: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= least_fields and not line.startswith("#"):
            yield fields


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    if number > _MAXIMUM_ID:
        raise InvalidArgument(f"uids and gids must be in range 0-{_MAXIMUM_ID}")
    return number
