"""Reads the files that describe CDI devices: /etc/cdi and /var/run/cdi, JSON and YAML. Blocking."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from pyswarm_agent.runtime.cdi import CdiSpec
from pyswarm_agent.runtime.device_nodes import DeviceNode, device_node
from pyswarm_common.errors import InvalidArgument

CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""In rising order of precedence."""
_log = structlog.get_logger()


def read_folders(folders: Sequence[Path] = CDI_FOLDERS) -> list[list[CdiSpec]]:
    """Return the files of each folder; one that cannot be understood is logged and left out."""
    return [[spec for path in _files(folder) if (spec := _read(path)) is not None] for folder in folders]


def find_host_device(source: str, target: str, access: str) -> DeviceNode:
    """Return a device of the host. Raises InvalidArgument when there is none at `source`."""
    try:
        found = device_node(source, target, access)
    except OSError as error:
        raise InvalidArgument(
            f"CDI device injection failed: failed to stat CDI host device {source!r}: {(error.strerror or '').lower()}; "
            "load its driver, or have its vendor's tool describe the devices anew"
        ) from error
    if found is None:
        raise InvalidArgument(f"CDI device injection failed: {source} is no device")
    return found


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in (".json", ".yaml", ".yml"))
    except OSError:
        return []


def _read(path: Path) -> CdiSpec | None:
    try:
        data = path.read_bytes()
        return msgspec.convert(_decode_yaml(data) if path.suffix != ".json" else msgspec.json.decode(data), CdiSpec, strict=False)
    except (OSError, ValueError) as error:
        _log.warning("runtime.cdi_file_ignored", path=str(path), error=str(error))
        return None


def _decode_yaml(data: bytes) -> Any:
    import yaml  # only where a vendor's file needs it

    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
