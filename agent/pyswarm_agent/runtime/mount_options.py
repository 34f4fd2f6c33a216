"""The options of mount(8) as the kernel takes them: flags, propagation and what is left for the file system. Pure.

Source: moby/sys `mount/flags_linux.go`.
"""

from typing import NamedTuple

from pyswarm_agent.runtime.kernel_calls import MS_BIND, MS_REC, MS_SLAVE

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC = (1 << bit for bit in range(8))
MS_NOATIME, MS_NODIRATIME = 1 << 10, 1 << 11
MS_UNBINDABLE, MS_PRIVATE, MS_SHARED = 1 << 17, 1 << 18, 1 << 20
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25

_SET = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": MS_SYNCHRONOUS,
    "dirsync": MS_DIRSYNC,
    "remount": MS_REMOUNT,
    "mand": MS_MANDLOCK,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
    "lazytime": MS_LAZYTIME,
}
_CLEARED = {
    "rw": MS_RDONLY,
    "suid": MS_NOSUID,
    "dev": MS_NODEV,
    "exec": MS_NOEXEC,
    "async": MS_SYNCHRONOUS,
    "nomand": MS_MANDLOCK,
    "atime": MS_NOATIME,
    "diratime": MS_NODIRATIME,
    "norelatime": MS_RELATIME,
    "nostrictatime": MS_STRICTATIME,
    "nolazytime": MS_LAZYTIME,
    "defaults": 0,
}
_OF_MOUNTS = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime")
_PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}


class MountArguments(NamedTuple):
    """What mount(2) is given: `propagation`, when not 0, by a second call."""

    flags: int
    propagation: int
    data: str


def parse_mount_options(text: str) -> MountArguments:
    """Return the arguments for `ro,noatime,size=10m`; options that are no flags are the file system's."""
    flags = propagation = 0
    data = []
    for option in filter(None, text.split(",")):
        if option in _SET:
            flags |= _SET[option]
        elif option in _CLEARED:
            flags &= ~_CLEARED[option]
        elif option in _PROPAGATION:
            propagation |= _PROPAGATION[option]
        else:
            data.append(option)
    return MountArguments(flags, propagation, ",".join(data))


def kept_options(text: str) -> tuple[str, ...]:
    """Return those of the options that belong to a mount, not to its file system: a bind of it has to be given them again."""
    flags = parse_mount_options(text).flags
    return tuple(name for name in _OF_MOUNTS if flags & _SET[name])


def server_of(filesystem: str, device: str, options: str) -> str:
    """Return the server of a network file system, a name or an address: what `addr=` says, else the device's; "" for none."""
    given = next((option.removeprefix("addr=") for option in options.split(",") if option.startswith("addr=")), "")
    if filesystem in ("nfs", "nfs4"):
        return given or device.partition(":/")[0].strip("[]")
    if filesystem in ("cifs", "smb3"):
        return given or device.replace("\\", "/").lstrip("/").partition("/")[0]
    return ""


def with_address(options: str, address: str) -> str:
    """Return the options with `addr=` set."""
    others = [option for option in options.split(",") if option and not option.startswith("addr=")]
    return ",".join([*others, f"addr={address}"])
