"""What a container asks of its machine beyond Docker's service API (privileges, devices, CDI devices), and what is allowed. Pure.

Services ask by labels of their containers (`ContainerSpec.Labels`; labels of images do not count), so that compose files and the
docker CLI can; the operator of a node allows it by options of pyswarmd. Without permission there is none: the scheduler passes
the node over, and the node itself refuses.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from pyswarm_common.container_settings import container_path
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import NodePermissions

PRIVILEGED = "pyswarm.privileged"
"""`true`: all capabilities and devices, nothing masked, no seccomp."""
DEVICES = "pyswarm.devices"
"""Devices of the machine, separated by commas, each `/dev/a[:/dev/b[:rwm]]`."""
CDI_DEVICES = "pyswarm.cdi"
"""Devices of the Container Device Interface, separated by commas, each `vendor.com/class=name`."""
LABELS = (PRIVILEGED, DEVICES, CDI_DEVICES)

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False, "": False}
_ACCESS = re.compile(r"r?w?m?")
_CDI_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z][\w.-]*=[A-Za-z0-9][\w.:-]*", re.ASCII)


class DeviceRequest(NamedTuple):
    """A device of the machine, where the container finds it, and what it may do: a choice of `rwm`."""

    source: str
    target: str
    access: str = "rwm"


class HostAccess(NamedTuple):
    """All that a container asks of its machine."""

    is_privileged: bool = False
    devices: tuple[DeviceRequest, ...] = ()
    cdi_devices: tuple[str, ...] = ()


class Refusal(NamedTuple):
    """What a node does not allow (`device /dev/kvm`), and the option of pyswarmd that would."""

    what: str
    option: str


NO_ACCESS = HostAccess()


def host_access(labels: Mapping[str, str] | None) -> HostAccess:
    """Return what these container labels ask for. Raises InvalidArgument for one that cannot be understood."""
    if not labels or not any(label in labels for label in LABELS):
        return NO_ACCESS
    privileged = _BOOLEANS.get(labels.get(PRIVILEGED, "").strip().lower())
    if privileged is None:
        raise InvalidArgument(f"label {PRIVILEGED}: {labels[PRIVILEGED]!r} is neither true nor false")
    return HostAccess(
        is_privileged=privileged,
        devices=tuple(map(parse_device, _parts(labels.get(DEVICES, "")))),
        cdi_devices=tuple(map(check_cdi_name, _parts(labels.get(CDI_DEVICES, "")))),
    )


def parse_device(text: str) -> DeviceRequest:
    """Return the device in `/dev/a`, `/dev/a:rw`, `/dev/a:/dev/b` or `/dev/a:/dev/b:rwm`. Raises InvalidArgument."""
    source, *rest = text.split(":")
    target, access = source, "rwm"
    match rest:
        case [mode] if not mode.startswith("/"):
            access = mode
        case [path]:
            target = path
        case [path, mode]:
            target, access = path or source, mode
        case [_, _, *_]:
            raise InvalidArgument(f"invalid device specification: {text}")
    if not access or not _ACCESS.fullmatch("".join(sorted(access, key="rwm".find))):
        raise InvalidArgument(f"bad mode specified: {access}")
    for path in (source, target):
        # A path that leads elsewhere than it looks could pass the operator's patterns.
        if not path.startswith("/") or container_path(path) != path:
            raise InvalidArgument(f"{path} is not an absolute path")
    return DeviceRequest(source, target, access)


def check_cdi_name(name: str) -> str:
    """Return a CDI device's name as it is. Raises InvalidArgument when it is none."""
    if not _CDI_NAME.fullmatch(name):
        raise InvalidArgument(f"invalid CDI device name {name!r}: expected VENDOR/CLASS=NAME, such as nvidia.com/gpu=all")
    return name


def refusals(access: HostAccess, permissions: NodePermissions) -> tuple[Refusal, ...]:
    """Return what a node with these permissions refuses; () when it allows everything."""
    refused = []
    if access.is_privileged and not permissions.allows_privileged:
        refused.append(Refusal("privileged containers", "--allow-privileged"))
    for device in access.devices:
        if not _matches(device.source, permissions.devices):
            refused.append(Refusal(f"device {device.source}", f"--allow-device {device.source}"))
    for name in access.cdi_devices:
        if not _matches(name, permissions.cdi_devices):
            refused.append(Refusal(f"CDI device {name}", f"--allow-cdi {name}"))
    return tuple(refused)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _parts(text: str) -> Iterable[str]:
    return dict.fromkeys(filter(None, (part.strip() for part in text.split(","))))
