"""The AppArmor profile of containers, on hosts that have AppArmor: as Docker's default one, under our name.

It says again what capabilities, masked paths and seccomp say already, for the case that one of them fails: no writing to the
kernel's settings, no mounting, tracing and signals only among the containers.
"""

import shutil
import subprocess
from pathlib import Path

PROFILE_NAME = "pyswarm-default"
_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_SEARCH = "/usr/sbin:/sbin:/usr/bin:/bin"
_LOAD_TIMEOUT_S = 30.0
_UNWRITABLE = (
    "@{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w",
    "@{PROC}/sys/[^k]** w",
    "@{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w",
    "@{PROC}/sysrq-trigger rwklx",
    "@{PROC}/kcore rwklx",
    "/sys/[^f]*/** wklx",
    "/sys/f[^s]*/** wklx",
    "/sys/fs/[^c]*/** wklx",
    "/sys/fs/c[^g]*/** wklx",
    "/sys/fs/cg[^r]*/** wklx",
    "/sys/firmware/** rwklx",
    "/sys/devices/virtual/powercap/** rwklx",
    "/sys/kernel/security/** rwklx",
)


def is_enabled() -> bool:
    """Whether this host's kernel enforces AppArmor profiles."""
    try:
        return _ENABLED.read_text().strip() == "Y"
    except OSError:
        return False


def profile_text(name: str = PROFILE_NAME) -> str:
    """Return the profile as apparmor_parser reads it. Pure."""
    rules = [
        "network",
        "capability",
        "file",
        "umount",
        "signal (receive) peer=unconfined",
        f"signal (send,receive) peer={name}",
        f"ptrace (trace,read,tracedby,readby) peer={name}",
        "deny mount",
        *(f"deny {rule}" for rule in _UNWRITABLE),
    ]
    body = "".join(f"  {rule},\n" for rule in rules)
    return f"#include <tunables/global>\n\nprofile {name} flags=(attach_disconnected,mediate_deleted) {{\n{body}}}\n"


def load_profile() -> str:
    """Load the profile into the kernel, in place of an older one; return "" or why that cannot be. Blocking."""
    parser = shutil.which("apparmor_parser", path=_SEARCH)
    if parser is None:
        return "apparmor_parser is missing (Debian: apt-get install apparmor)"
    try:
        loaded = subprocess.run(
            [parser, "--replace"],
            input=profile_text(),
            capture_output=True,
            text=True,
            timeout=_LOAD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return loaded.stderr.strip() if loaded.returncode else ""
