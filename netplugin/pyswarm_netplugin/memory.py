"""What the driver remembers on disk between its lives: network views, sandboxes, and the subnet of the way out.

Files are renamed into place but not synced: they describe a running kernel, and a power cut ends that too. A torn file counts
as none.
"""

import shutil
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from pyswarm_common.objects import Record
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.desired import SandboxRecord

_log = structlog.get_logger()
_T = TypeVar("_T", bound=Record)


class EgressMemory(Record, frozen=True, kw_only=True):
    """The subnets that this node chose for its sandboxes' way out."""

    subnet: str = ""
    ipv6_subnet: str = ""


class Memory:
    """The files below one folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._views = directory / "views"
        self._sandboxes = directory / "sandboxes"
        self._egress = directory / "egress"
        self._encoder = msgspec.msgpack.Encoder()

    def views(self) -> dict[str, NetworkView]:
        """Return the views by network id."""
        return {view.network_id: view for view in _read_all(self._views, NetworkView)}

    def sandboxes(self) -> dict[str, SandboxRecord]:
        """Return the sandboxes by id."""
        return {record.id: record for record in _read_all(self._sandboxes, SandboxRecord)}

    def egress(self) -> EgressMemory:
        """Return the way out, empty when it was never chosen."""
        return _read(self._egress, EgressMemory) or EgressMemory()

    def put_view(self, view: NetworkView) -> None:
        """Remember a view."""
        self._write(self._views / view.network_id, view)

    def drop_view(self, network_id: str) -> None:
        """Forget a view."""
        (self._views / network_id).unlink(missing_ok=True)

    def put_sandbox(self, record: SandboxRecord) -> None:
        """Remember a sandbox."""
        self._write(self._sandboxes / record.id, record)

    def drop_sandbox(self, sandbox_id: str) -> None:
        """Forget a sandbox."""
        (self._sandboxes / sandbox_id).unlink(missing_ok=True)

    def put_egress(self, egress: EgressMemory) -> None:
        """Remember the way out."""
        self._write(self._egress, egress)

    def clear(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _write(self, path: Path, record: Record) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f".{path.name}")
        temporary.write_bytes(self._encoder.encode(record))
        temporary.replace(path)


def _read_all(directory: Path, type_: type[_T]) -> list[_T]:
    if not directory.is_dir():
        return []
    found = [_read(path, type_) for path in sorted(directory.iterdir()) if not path.name.startswith(".")]
    return [record for record in found if record is not None]


def _read(path: Path, type_: type[_T]) -> _T | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=type_)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        _log.warning("network.memory_unreadable", path=str(path), error=str(error))
        return None
