"""The program that powers a host on: `python -m pyswarm_cli.lab.boot` with a `BootConfig` as JSON on standard input.

It starts from a fresh interpreter, so that nothing of its caller gets into the host: enters the host's cgroups, takes new
namespaces, and forks the process that becomes the host's PID 1. That one arranges the mounts and turns into tini with a
sleeping child; tini reaps what is left over, and the host is off when it ends. The program prints PID 1's pid and ends.

The mounts: everything of the machine stays visible, but private and new are /proc, /sys (of the own network), the cgroup
trees, /run, /tmp, /dev/shm, an overlay over /var/lib (so that mounting there leaves no mark on the machine), the host's disk
at /var/lib/pyswarm, and its files in /etc. `keep` names paths that must stay visible although they lie under one of these,
such as a virtual environment in /tmp. The switch is the outside: it keeps the machine's /run, /tmp, /dev/shm and /var/lib.
Only the standard library, `kernel` and `cgroups` are imported here: it must start fast.
"""

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from pyswarm_cli.lab import cgroups, kernel

LABEL_VARIABLE = "PYSWARM_LAB"
INIT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EMPTY_AT_BOOT = {"/run": "mode=755", "/tmp": "mode=1777", "/dev/shm": "mode=1777"}
_OWN = ("/var/lib", *EMPTY_AT_BOOT)
_SEEN_ANEW = ("/proc", "/sys")
_SAFE = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def main() -> None:
    """Boot a host, print the pid of its first process; on failure print why and exit with 1."""
    config = json.load(sys.stdin)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    for directory in config["cgroups"]:
        cgroups.enter_group(directory)
    kernel.unshare(kernel.CLONE_HOST)
    for directory in config["cgroups"]:
        cgroups.make_leaf(directory)
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _become_first_process(config, write_end)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        failure = pipe.read()
    if failure:
        sys.exit(failure)
    print(pid)


def _become_first_process(config: dict[str, Any], write_end: int) -> NoReturn:
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o022)
        socket.sethostname(config["hostname"])
        _arrange_mounts(config)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0\n")
        tini = shutil.which("tini", path=INIT_PATH)
        if tini is None:
            raise FileNotFoundError("tini is not installed (Debian package tini)")
        _close_descriptors(write_end)
        kernel.forget_signal_settings()
        label = config["label"]
        os.execve(tini, [f"pyswarm-lab {label}", "--", "sleep", "infinity"], {"PATH": INIT_PATH, LABEL_VARIABLE: label})
    except BaseException as error:  # noqa: BLE001 (the only way out of the new process is this pipe)
        os.write(write_end, f"{type(error).__name__}: {error}".encode())
        os._exit(1)


def _close_descriptors(write_end: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.dup2(write_end, 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))


def _arrange_mounts(config: dict[str, Any]) -> None:
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    binds: list[list[str]] = [*config["binds"], *([path, path] for path in config["keep"])]
    sources = [os.open(source, os.O_PATH) for source, _ in binds]
    links = {name: os.readlink(f"/sys/fs/cgroup/{name}") for name in _links_in("/sys/fs/cgroup")}
    _detach_strangers(config["is_outside"], [source for source, _ in binds])
    kernel.mount("proc", "/proc", "proc", _SAFE)
    kernel.mount("sysfs", "/sys", "sysfs", _SAFE)
    _mount_cgroups(config["cgroup_mounts"], links)
    if not config["is_outside"]:
        _overlay_var_lib()
        for target, options in EMPTY_AT_BOOT.items():
            kernel.mount("tmpfs", target, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        os.mkdir("/run/lock", 0o755)
    for descriptor, (_, target) in zip(sources, binds, strict=True):
        _bind(descriptor, target)


def _links_in(directory: str) -> list[str]:
    return [entry.name for entry in os.scandir(directory) if entry.is_symlink()]


def _detach_strangers(keeps_own_places: bool, sources: list[str]) -> None:
    """Let go of the machine's mounts in the places above: a host must neither see other programs' mounts nor keep them alive."""
    mount_points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount_point in reversed(mount_points):
        is_in_place = any(mount_point.startswith(place + "/") for place in (*_OWN, *_SEEN_ANEW))
        is_place = mount_point in _SEEN_ANEW or (mount_point in _OWN and not keeps_own_places)
        holds_source = any((source + "/").startswith(mount_point + "/") for source in sources)
        if (is_in_place or is_place) and not holds_source:
            kernel.detach_mount(mount_point.encode().decode("unicode_escape"))


def _mount_cgroups(mounts: list[dict[str, str]], links: dict[str, str]) -> None:
    if not any(mount["target"] == "/sys/fs/cgroup" for mount in mounts):
        kernel.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", _SAFE, "mode=755")
    for mount in mounts:
        os.makedirs(mount["target"], exist_ok=True)
        kernel.mount("cgroup", mount["target"], mount["kind"], _SAFE, mount["options"])
    for name, target in links.items():
        if not os.path.lexists(f"/sys/fs/cgroup/{name}"):
            os.symlink(target, f"/sys/fs/cgroup/{name}")


def _overlay_var_lib() -> None:
    scratch = "/tmp"  # a tmpfs of our own, let go of below; the overlay keeps it alive
    kernel.mount("tmpfs", scratch, "tmpfs", 0, "mode=700")
    os.mkdir(f"{scratch}/upper")
    os.mkdir(f"{scratch}/work")
    options = f"lowerdir=/var/lib,upperdir={scratch}/upper,workdir={scratch}/work"
    kernel.mount("pyswarm-lab", "/var/lib", "overlay", 0, options)
    kernel.detach_mount(scratch)


def _bind(descriptor: int, target: str) -> None:
    """Bind an opened file or folder to `target`, making the place for it where the mounts above made room."""
    real = os.path.realpath(target)
    if not os.path.exists(real):
        if not any(real.startswith(place + "/") for place in _OWN):
            return
        os.makedirs(os.path.dirname(real), exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            os.mkdir(real)
        else:
            Path(real).touch()
    kernel.mount(f"/proc/self/fd/{descriptor}", real, flags=kernel.MS_BIND | kernel.MS_REC)


if __name__ == "__main__":
    main()
