"""What the agent knows of its tasks, on disk: one file per task, so that a restarted agent takes up where it was.

A record is a memory aid, not a promise: a file that a power cut left unreadable is dropped, and the manager says again what
it wants.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pyswarm_common.errors import Conflict
from pyswarm_common.objects import Record, TaskStatus
from pyswarm_common.wire import TaskAssignment

_HALF_WRITTEN = ".tmp"

_log = logging.getLogger(__name__)


class StoredTask(Record, frozen=True, kw_only=True):
    """One task as kept on disk, with its template (JSON) so that it needs nothing else."""

    assignment: TaskAssignment
    status: TaskStatus
    template_json: bytes


class TaskStore:
    """The folder of task records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def held_alone(self) -> Iterator[None]:
        """Keep the folder for one agent: two on one machine would start and stop each other's tasks. Raises Conflict."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another agent already works with the tasks in {self._folder}") from None

    def load(self) -> list[StoredTask]:
        """Return all readable records."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tasks = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix == _HALF_WRITTEN:
                path.unlink()
                continue
            try:
                tasks.append(msgspec.msgpack.decode(path.read_bytes(), type=StoredTask))
            except msgspec.DecodeError:
                _log.warning("dropping the unreadable task record %s", path)
                path.unlink()
        return tasks

    def save(self, task: StoredTask) -> None:
        """Write or replace a task's record."""
        path = self._folder / task.assignment.task_id
        temporary = path.with_suffix(_HALF_WRITTEN)
        temporary.write_bytes(msgspec.msgpack.encode(task))
        temporary.replace(path)

    def delete(self, task_id: str) -> None:
        """Drop a task's record, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / task_id).unlink()
