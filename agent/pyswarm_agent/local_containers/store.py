"""The records of local containers on disk, one file each, written whole and synced. Blocking."""

from pathlib import Path

import msgspec
import structlog

from pyswarm_agent.local_containers.records import LocalContainer
from pyswarm_common.files import remove_for_good, write_atomically

_log = structlog.get_logger()


class LocalContainerStore:
    """The folder of records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> list[LocalContainer]:
        """Return all records; of one that is damaged there is only the id, for its container shall not be lost with it."""
        if not self._folder.is_dir():
            return []
        found = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix != ".json":
                path.unlink()
                continue
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=LocalContainer))
            except msgspec.DecodeError as error:
                _log.error("local_container.record_damaged", path=str(path), error=str(error))
                found.append(LocalContainer(id=path.stem, name=""))
        return found

    def save(self, container: LocalContainer) -> None:
        """Write or replace a record. Raises OSError."""
        write_atomically(self._path(container.id), msgspec.json.encode(container))

    def delete(self, container_id: str) -> None:
        """Remove a record, if there is one. Raises OSError."""
        remove_for_good(self._path(container_id))

    def _path(self, container_id: str) -> Path:
        return self._folder / f"{container_id}.json"
