"""The few system calls that Python 3.11 lacks (unshare, setns, mount, prctl), through libc; errors are `OSError`s.

And what must happen before a process turns into another program.
"""

import ctypes
import errno
import os
import signal

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_HOST = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Give the calling process new namespaces of the kinds in `flags`."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int) -> None:
    """Move the calling process into the namespace that `descriptor` is open on."""
    _check(_libc.setns(descriptor, 0), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount as mount(2) does: `kind` is the filesystem's type, `options` its data."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None)
    _check(result, f"mount {kind or source} on {target}")


def detach_mount(target: str) -> None:
    """Take the mount at `target` out of the tree now, if one is there; it is freed when its last user ends."""
    try:
        _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")
    except OSError as error:
        # Removing the folder or file that it is mounted on, anywhere, takes a mount away in every namespace.
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel to send `signal_number` to the calling process when its parent dies."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl")


def forget_signal_settings() -> None:
    """Block and ignore no signal: what Python (SIGPIPE, SIGXFSZ) or the caller set would be inherited by the next program."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
