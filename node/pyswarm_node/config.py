"""What pyswarmd is told at start, and the paths and names that follow from it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.ids import base36
from pyswarm_common.specs import GenericResource

DEFAULT_DATA_DIR = Path("/var/lib/pyswarm")
DEFAULT_RUNTIME_DIR = Path("/run/pyswarm")
ENGINE_VERSION = "0.1.0"
MAXIMUM_SOCKET_PATH_BYTES = 107
"""What fits into a unix socket address (Linux `sun_path`, with its final zero byte)."""


@dataclass(frozen=True)
class DaemonConfig:
    """The daemon's settings. Everything that must last lies in `data_dir`, everything of this boot in `runtime_dir`."""

    data_dir: Path = DEFAULT_DATA_DIR
    runtime_dir: Path = DEFAULT_RUNTIME_DIR
    insecure_registries: tuple[str, ...] = ()
    hostname: str = ""
    advertise_address: str = ""
    """The address that a node of a cluster shall have from now on; "" leaves it."""
    generic_resources: tuple[GenericResource, ...] = ()
    """What the operator declares that this machine has."""

    @property
    def api_socket(self) -> Path:
        """The unix socket that serves the Engine API."""
        return self.runtime_dir / "pyswarm.sock"

    @property
    def instance_tag(self) -> str:
        """Four characters that tell this daemon's links, tables and cgroups from those of another on the same machine."""
        digest = hashlib.sha256(str(self.data_dir.resolve()).encode()).digest()
        return base36(int.from_bytes(digest, "big"), 4)[-4:]

    def check(self) -> None:
        """Raises InvalidArgument when a path cannot work."""
        for path in (self.data_dir, self.runtime_dir):
            if not path.is_absolute():
                raise InvalidArgument(f"{path} must be an absolute path")
        length = len(str(self.runtime_dir / "etcd" / "client.sock:0").encode())
        if length > MAXIMUM_SOCKET_PATH_BYTES:
            raise InvalidArgument(
                f"the runtime directory {self.runtime_dir} is too deep: socket paths in it would have {length} bytes, "
                f"Linux allows {MAXIMUM_SOCKET_PATH_BYTES}; choose a shorter one with --runtime-dir"
            )
