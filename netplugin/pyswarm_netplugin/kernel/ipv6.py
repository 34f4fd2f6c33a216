"""Switches for IPv6, of the calling thread's network namespace: off everywhere but where a network or the way out has it.

Our interfaces take no address, route or redirect from what they hear, and do not test theirs for duplicates: addresses are given
once. Turning on forwarding turns a host into a router, which by default stops to listen to routers: interfaces that did so are told
to go on (accept_ra 2) before.
"""

import contextlib
from pathlib import Path

from pyswarm_common.errors import FailedPrecondition

_CONF = Path("/proc/sys/net/ipv6/conf")
_QUIET = {"accept_ra": "0", "accept_redirects": "0", "autoconf": "0", "accept_dad": "0", "dad_transmits": "0"}
_NO_LINK_LOCAL = {"addr_gen_mode": "1"}


def enable(interface: str, *, has_link_local: bool = True) -> None:
    """Let an interface have IPv6 addresses. Raises FailedPrecondition when the kernel was started without IPv6."""
    if not (_CONF / interface).is_dir():
        raise FailedPrecondition(f"the kernel has no IPv6 on interface {interface}: start it without ipv6.disable=1")
    for name, value in (_QUIET | ({} if has_link_local else _NO_LINK_LOCAL)).items():
        _write(_CONF / interface / name, value)
    _write(_CONF / interface / "disable_ipv6", "0")


def is_disabled() -> bool:
    """Whether somebody has turned IPv6 off on all interfaces of the namespace by one switch, which is never done here."""
    with contextlib.suppress(FileNotFoundError):
        return (_CONF / "all/disable_ipv6").read_text().strip() == "1"
    return False


def disable_by_default() -> None:
    """Let interfaces that are made from now on have no IPv6."""
    _write(_CONF / "default/disable_ipv6", "1")


def is_enabled() -> bool:
    """Whether the namespace has IPv6 and nobody turned it off."""
    with contextlib.suppress(FileNotFoundError):
        return (_CONF / "all/disable_ipv6").read_text().strip() == "0"
    return False


def is_forwarding() -> bool:
    """Whether the namespace forwards IPv6."""
    with contextlib.suppress(FileNotFoundError):
        return (_CONF / "all/forwarding").read_text().strip() != "0"
    return False


def forward() -> None:
    """Forward IPv6, and go on listening to routers where that was so."""
    if is_forwarding():
        return
    for setting in _CONF.glob("*/accept_ra"):
        with contextlib.suppress(FileNotFoundError):
            if setting.read_text().strip() == "1":
                setting.write_text("2")
    _write(_CONF / "all/forwarding", "1")


def forward_no_more() -> None:
    """Forward IPv6 no more."""
    _write(_CONF / "all/forwarding", "0")


def _write(path: Path, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.read_text().strip() != value:
            path.write_text(value)
