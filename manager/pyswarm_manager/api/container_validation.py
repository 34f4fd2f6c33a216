"""What a service's container spec must hold before the store takes it.

Much of it Docker only finds out on the node, task after task. Here it is said at once, in the words that the node would use.
Source: Moby `daemon/container.go`, `daemon/cluster/convert/container.go`, `volume/mounts/linux_parser.go`; docker/cli `opts`.
"""

import base64
import binascii
import ipaddress
import re
from typing import NoReturn

import msgspec

from pyswarm_common.container_settings import check_capability, check_sysctl, check_ulimit, container_path
from pyswarm_common.container_spec import ContainerSpec, DNSConfig, Mount, Privileges
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.host_access import host_access
from pyswarm_common.specs import ResourceRequirements

OOM_SCORES = range(-1000, 1001)
SWAPPINESS = range(0, 101)
PROPAGATIONS = ("", "private", "rprivate", "shared", "rshared", "slave", "rslave")
SECCOMP_MODES = ("", "default", "unconfined", "custom")
APPARMOR_MODES = ("", "default", "disabled")
_TMPFS_OPTIONS = ("exec", "noexec")
_HOSTNAME = re.compile(r"[\w.-]{1,63}|.*\{\{.*", re.ASCII)


def validate_container_settings(container: ContainerSpec) -> None:
    """Check what a container is to have and be, but for its image. Raises InvalidArgument."""
    host_access(container.labels)
    for name in (*(container.capability_add or ()), *(container.capability_drop or ())):
        check_capability(name)
    for name in container.sysctls or ():
        check_sysctl(name)
    for ulimit in container.ulimits or ():
        check_ulimit(ulimit.name, ulimit.soft, ulimit.hard)
    if container.oom_score_adj not in OOM_SCORES:
        _refuse(f"Invalid value {container.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    for line in container.hosts or ():
        _validate_host(line)
    if container.hostname and not _HOSTNAME.fullmatch(container.hostname):
        _refuse(f"invalid hostname format: {container.hostname}")
    _validate_dns(container.dns_config or DNSConfig())
    _validate_privileges(container.privileges or Privileges())
    for mount in container.mounts or ():
        _validate_mount(mount)


def validate_memory(resources: ResourceRequirements) -> None:
    """Check what is said of swap. Raises InvalidArgument."""
    limit = resources.limits.memory_bytes if resources.limits else 0
    if resources.swap_bytes is not None and resources.swap_bytes < -1:
        _refuse(f"invalid swap bytes {resources.swap_bytes}: must be -1 (unlimited) or a size")
    if resources.swap_bytes not in (None, 0) and not limit:
        _refuse("You should always set the Memory limit when using Memoryswap limit")
    if resources.memory_swappiness is not None and resources.memory_swappiness not in (-1, *SWAPPINESS):
        _refuse(f"Invalid value: {resources.memory_swappiness}, valid memory swappiness range is 0-100")


def _validate_host(line: str) -> None:
    address, *names = line.split() or [""]
    if not names or not _is_address(address) or len(line.splitlines()) > 1:
        _refuse(f"invalid extra host {line!r}: expected an IP address and a name, as in /etc/hosts")


def _validate_dns(dns: DNSConfig) -> None:
    for address in dns.nameservers or ():
        if not _is_address(address):
            _refuse(f"bad nameserver address: {address}")
    for word in (*(dns.search or ()), *(dns.options or ())):
        if not word or word.split() != [word]:
            _refuse(f"invalid DNS search domain or option: {word!r}")


def _validate_privileges(privileges: Privileges) -> None:
    seccomp, apparmor = privileges.seccomp, privileges.app_armor
    if apparmor is not None and apparmor.mode not in APPARMOR_MODES:
        _refuse(f"unrecognized AppArmor mode: {apparmor.mode!r}, known are default and disabled")
    if seccomp is None:
        return
    if seccomp.mode not in SECCOMP_MODES:
        _refuse(f"unrecognized seccomp mode: {seccomp.mode!r}, known are default, unconfined and custom")
    if seccomp.mode == "custom":
        _validate_profile(seccomp.profile)
    elif seccomp.profile:
        _refuse(f"a seccomp profile goes with the mode custom, not {seccomp.mode or 'default'}")


def _validate_profile(profile: str) -> None:
    try:
        decoded = msgspec.json.decode(base64.b64decode(profile, validate=True))
    except (binascii.Error, msgspec.DecodeError) as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}", grpc_code="InvalidArgument") from error
    if not isinstance(decoded, dict) or "defaultAction" not in decoded:
        _refuse("Decoding seccomp profile failed: it has no defaultAction")


def _validate_mount(mount: Mount) -> None:
    if not mount.target.startswith("/"):
        _refuse(f"invalid mount target, must be an absolute path: {mount.target}")
    if container_path(mount.target) == "/":
        _refuse(f"invalid mount config for type \"{mount.type}\": invalid specification: destination can't be '/'")
    _check_options_fit(mount)
    match mount.type:
        case "bind":
            _validate_bind(mount)
        case "volume":
            if mount.source.startswith("/"):
                _refuse(f"invalid volume mount source, must not be an absolute path: {mount.source}")
        case "tmpfs":
            _validate_tmpfs(mount)
        case _:
            _refuse(f"invalid mount type: {mount.type}")


def _validate_bind(mount: Mount) -> None:
    if not mount.source.startswith(("/", "{{")):
        _refuse(f"invalid bind mount source, must be an absolute path: {mount.source}")
    options = mount.bind_options
    if options is None:
        return
    if options.propagation not in PROPAGATIONS:
        _refuse(f"invalid propagation: {options.propagation!r}, known are {', '.join(PROPAGATIONS[1:])}")
    if options.read_only_force_recursive:
        if not mount.read_only:
            _refuse("mount is not read-only but ReadOnlyForceRecursive is set")
        if options.read_only_non_recursive or options.non_recursive:
            _refuse("mount can not be both ReadOnlyForceRecursive and non-recursive")
        if options.propagation not in ("", "rprivate"):
            _refuse("ReadOnlyForceRecursive requires BindOptions.Propagation to be rprivate")


def _validate_tmpfs(mount: Mount) -> None:
    if mount.source:
        _refuse("invalid tmpfs source, source must be empty")
    options = mount.tmpfs_options
    if options is None:
        return
    if options.size_bytes < 0:
        _refuse(f"invalid tmpfs size: {options.size_bytes}")
    for option in options.options or ():
        if len(option) != 1 or option[0] not in _TMPFS_OPTIONS:
            _refuse(f"invalid option: {'='.join(option)!r}, known are {' and '.join(_TMPFS_OPTIONS)}")


def _check_options_fit(mount: Mount) -> None:
    given = {"bind": mount.bind_options, "volume": mount.volume_options, "tmpfs": mount.tmpfs_options}
    for kind, options in given.items():
        if options is not None and kind != mount.type and options != type(options)():
            _refuse(f"{kind.capitalize()}Options must not be specified for a mount of type {mount.type}: {mount.target}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument(message, grpc_code="InvalidArgument")
