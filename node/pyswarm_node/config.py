"""What pyswarmd is told at start, and the paths and names that follow from it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyswarm_agent.images.settings import CollectorSettings, RegistrySettings
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.ids import base36
from pyswarm_common.log_drivers import DEFAULT_DRIVER, check_log_driver
from pyswarm_common.objects import NodePermissions
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
    registry_mirrors: tuple[str, ...] = ()
    """URLs that are asked for Docker Hub's images before it."""
    image_gc: CollectorSettings = field(default_factory=CollectorSettings)
    """When images that nothing uses go by themselves."""
    hostname: str = ""
    advertise_address: str = ""
    """The address that a node of a cluster shall have from now on; "" leaves it."""
    generic_resources: tuple[GenericResource, ...] = ()
    """What the operator declares that this machine has."""
    permissions: NodePermissions = field(default_factory=NodePermissions)
    """What tasks may have of this machine."""
    log_driver: str = DEFAULT_DRIVER
    """What becomes of the output of containers that do not say it, and with which options."""
    log_options: Mapping[str, str] = field(default_factory=dict)

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
        """Raises InvalidArgument when a path cannot work, or another setting makes no sense."""
        self.image_gc.check()
        check_log_driver(self.log_driver, self.log_options)
        RegistrySettings(mirrors=self.registry_mirrors).check()
        for path in (self.data_dir, self.runtime_dir):
            if not path.is_absolute():
                raise InvalidArgument(f"{path} must be an absolute path")
        length = len(str(self.runtime_dir / "etcd" / "client.sock:0").encode())
        if length > MAXIMUM_SOCKET_PATH_BYTES:
            raise InvalidArgument(
                f"the runtime directory {self.runtime_dir} is too deep: socket paths in it would have {length} bytes, "
                f"Linux allows {MAXIMUM_SOCKET_PATH_BYTES}; choose a shorter one with --runtime-dir"
            )
