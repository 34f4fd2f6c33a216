"""Which WireGuard this machine has: the kernel's, else the program wireguard-go, else none and why.

Nothing is made to find out: the kernel's module registers its generic netlink family and its link type together, and asking
for the family makes the kernel load the module. Where it may not load modules by itself, `modprobe` is tried once.
"""

import os
import shutil
import subprocess
from collections.abc import Callable

from pyswarm_netplugin.secure.generic_netlink import family_id
from pyswarm_netplugin.secure.records import Encryption

PROGRAM, FAMILY = "wireguard-go", "wireguard"
"""The program, and the kernel's generic netlink family."""
TUN_DEVICE = "/dev/net/tun"
_MODPROBE_LIMIT_S = 10.0


def detect(
    *,
    has_family: Callable[[], bool] | None = None,
    load_module: Callable[[], str] | None = None,
    find_program: Callable[[str], str | None] = shutil.which,
    tun_problem: Callable[[], str] | None = None,
) -> Encryption:
    """Return what this machine can do. The arguments stand for the machine."""
    knows = has_family or _has_family
    if knows():
        return Encryption(kind="kernel")
    module_problem = (load_module or _load_module)()
    if knows():
        return Encryption(kind="kernel")
    problems = [f"the kernel has no WireGuard ({module_problem})" if module_problem else "the kernel has no WireGuard"]
    if find_program(PROGRAM) is None:
        problems.append(f"{PROGRAM} is not installed")
    elif problem := (tun_problem or _tun_problem)():
        problems.append(f"{PROGRAM} cannot be used: {problem}")
    else:
        return Encryption(kind="userspace")
    return Encryption(problem=" and ".join(problems))


def _has_family() -> bool:
    return family_id(FAMILY) is not None


def _load_module() -> str:
    """Try to load the module; return what went wrong, "" when nothing did."""
    program = shutil.which("modprobe", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        return "and there is no modprobe to load it"
    try:
        done = subprocess.run([program, "wireguard"], capture_output=True, text=True, timeout=_MODPROBE_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"modprobe: {error}"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"modprobe ended with {done.returncode}"])[0]


def _tun_problem() -> str:
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{TUN_DEVICE}: {error.strerror}"
    return ""
