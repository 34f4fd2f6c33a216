"""A volume as its node keeps it, what its name and options may be, and Docker's words when they may not; pure.

Source: Moby `volume/local/local_unix.go` (options), `volume/service/errors.go` (words), `volume/names.go`.
"""

import re
import secrets
from collections.abc import Iterable, Mapping

from pyswarm_common.errors import Conflict, InvalidArgument, NotFound
from pyswarm_common.objects import Record

LOCAL_DRIVER = "local"
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_MINIMUM_NAME_LENGTH = 2
_MAXIMUM_NAME_LENGTH = 255
"""What a file system allows for the name of a folder."""
_NEEDED_WITH = {"type": ("device",), "device": ("type",), "o": ("device", "type")}
_OPTIONS = (*_NEEDED_WITH, "size")


class Volume(Record, frozen=True, kw_only=True):
    """A volume of the local driver. `options` (`type`, `device`, `o`) name what is mounted in place of its own folder."""

    name: str
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    created_at_ns: int = 0
    container_id: str = ""
    """The container that it was made for and goes with; "" for none."""

    @property
    def is_anonymous(self) -> bool:
        """Whether it was made without a name."""
        return ANONYMOUS_LABEL in self.labels


def new_anonymous_name() -> str:
    """Return a name for a volume without a name: 64 hexadecimal digits."""
    return secrets.token_hex(32)


def check_name(name: str) -> None:
    """Check the name of a new volume. Raises InvalidArgument."""
    if len(name) < _MINIMUM_NAME_LENGTH:
        raise InvalidArgument(f"create {name}: volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
            "allowed. If you intended to pass a host directory, use absolute path"
        )
    if len(name) > _MAXIMUM_NAME_LENGTH:
        raise InvalidArgument(f"create {name[:32]}…: a volume name has {_MAXIMUM_NAME_LENGTH} characters at most")


def check_driver(name: str, driver: str) -> None:
    """Check that there is such a driver; "" means `local`. Raises NotFound."""
    if driver not in ("", LOCAL_DRIVER):
        raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')


def check_options(name: str, options: Mapping[str, str]) -> None:
    """Check options of the local driver. Raises InvalidArgument."""
    for option in options:
        if option not in _OPTIONS:
            raise InvalidArgument(f'create {name}: invalid option: "{option}"; the local driver knows type, device and o')
    if "size" in options:
        raise InvalidArgument(
            f"create {name}: quota size requested but no quota support; for a volume in memory, limit it by the options "
            "type=tmpfs, device=tmpfs, o=size=100m"
        )
    for option in options:
        for needed in _NEEDED_WITH[option]:
            if not options.get(needed):
                raise InvalidArgument(f'create {name}: missing required option: "{needed}"')


def check_same(volume: Volume, options: Mapping[str, str]) -> None:
    """Check that what is asked for can be the volume that exists. Asking without options takes any. Raises Conflict."""
    if options and dict(options) != volume.options:
        raise Conflict(
            f"create {volume.name}: a volume of this name exists with other options: volume name must be unique; "
            "choose another name, or remove that volume first"
        )


def no_such_volume(name: str) -> NotFound:
    """Return the error for an unknown name."""
    return NotFound(f"get {name}: no such volume")


def volume_in_use(name: str, users: Iterable[str]) -> Conflict:
    """Return the error for removing what containers use."""
    return Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
