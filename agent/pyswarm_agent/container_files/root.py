"""Makes a container's root this process's own, for good: `enter_root`. For a process that does nothing else.

A container may be hostile, and may change its files while they are copied. Inside a chroot every link and every `..` ends up
inside, so paths need not be checked and cannot be raced. What must never happen there is that code of the container's runs in this
process: no module, codec or NSS library may be loaded any more (that was CVE-2019-14271 of `docker cp`), so names of users are
never looked up, and imports are turned off.
"""

import ctypes
import os
import struct
import sys
from typing import Any

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 1 << 5, 1 << 12, 1 << 14, 1 << 19
_SYS_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long


def enter_root(root: dict[str, Any]) -> None:
    """Enter `{"descriptor": N}`, the root of a running container, or `{"home": …, "layers": n, "mounts": […]}`, one that does not
    run: its layers are put together in a mount namespace that goes away with this process. Raises OSError.
    """
    if "descriptor" in root:
        os.fchdir(root["descriptor"])
    else:
        _mount_layers(root["home"], root["layers"], root["mounts"], root["is_read_only"])
        os.chdir(os.path.join(root["home"], "view"))
    os.chroot(".")
    os.chdir("/")
    for name in ("ascii", "latin-1", "utf-8"):
        "".encode(name)
    sys.path.clear()
    sys.meta_path.clear()


def _mount_layers(home: str, layers: int, mounts: list[dict[str, Any]], is_read_only: bool) -> None:
    _checked(_libc.unshare(_CLONE_NEWNS))
    _mount("none", "/", flags=_MS_REC | _MS_SLAVE)
    os.makedirs(os.path.join(home, "view"), exist_ok=True)
    os.chdir(home)
    lower = ":".join(f"layers/{number}" for number in range(layers))
    _mount("overlay", "view", "overlay", _MS_RDONLY if is_read_only else 0, f"lowerdir={lower},upperdir=upper,workdir=work")
    for mount in mounts:
        _bind_inside(mount["source"], mount["target"], mount["is_read_only"])


def _bind_inside(source: str, target: str, is_read_only: bool) -> None:
    """Bind a folder or file of the host where the container has it; the target's links are resolved inside the container."""
    view = os.open("view", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    found = _libc.syscall(_SYS_OPENAT2, view, os.fsencode(target), how, ctypes.c_size_t(len(how)))
    if found < 0:
        return  # its place is made when the container starts
    place = f"/proc/self/fd/{found}"
    _mount(source, place, flags=_MS_BIND | _MS_REC)
    if is_read_only:
        _mount("none", os.readlink(place), flags=_MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def _mount(source: str, target: str, filesystem: str = "", flags: int = 0, options: str = "") -> None:
    arguments = os.fsencode(source), os.fsencode(target), filesystem.encode() or None, flags, options.encode() or None
    _checked(_libc.mount(*arguments))


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
