"""Which extended attributes go with a copied file, and how an archive holds them.

Kept are capabilities of programs and what users have set. Others (`trusted`, `security.selinux`, `system`) belong to one host.
"""

import contextlib
import errno
import os
from collections.abc import Mapping

_MEMBER = "SCHILY.xattr."
_CAPABILITIES = "security.capability"
_REFUSALS = (errno.EOPNOTSUPP, errno.EPERM, errno.ENODATA, errno.ENOSPC, errno.E2BIG)
"""The file system there has no such attributes, none of this kind, or no room for more of them."""


def attributes_of(file: str | int) -> dict[str, str]:
    """Return the members of an archive's entry that hold a file's attributes; of a link itself, not of where it leads."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(file, follow_symlinks=isinstance(file, int)):
            if _is_kept(name):
                value = os.getxattr(file, name, follow_symlinks=isinstance(file, int))
                found[f"{_MEMBER}{name}"] = value.decode("utf-8", "surrogateescape")
    return found


def set_attributes(file: str | int, members: Mapping[str, str]) -> None:
    """Give a file the attributes that an archive's entry holds, as far as its file system can have them. Raises OSError."""
    for member, text in members.items():
        name = member.removeprefix(_MEMBER)
        if name == member or not _is_kept(name):
            continue
        try:
            os.setxattr(file, name, text.encode("utf-8", "surrogateescape"), follow_symlinks=isinstance(file, int))
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise


def _is_kept(name: str) -> bool:
    return name == _CAPABILITIES or name.startswith("user.")
