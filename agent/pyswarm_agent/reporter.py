"""Statuses on their way to the manager: the newest of each task, sent again until acknowledged.

A lost connection loses nothing: what was not acknowledged is sent in the next session.
"""

import asyncio

from pyswarm_common.objects import TaskStatus
from pyswarm_common.wire import StatusReport, TaskStatusUpdate

MAXIMUM_UPDATES_PER_REPORT = 500


class StatusReporter:
    """The queue of statuses; one report is under way at a time."""

    def __init__(self) -> None:
        self._pending: dict[str, TaskStatus] = {}
        self._under_way: dict[str, TaskStatus] = {}
        self._number = 0
        self._wake = asyncio.Event()

    def put(self, task_id: str, status: TaskStatus) -> None:
        """Queue a task's newest status; an older one that was not sent yet is dropped."""
        self._pending[task_id] = status
        self._wake.set()

    def forget(self, task_id: str) -> None:
        """Nothing more is to be said of this task."""
        self._pending.pop(task_id, None)
        self._under_way.pop(task_id, None)

    def restart(self) -> None:
        """A new session begins: what was under way is to be sent again, unless something newer waits."""
        self._pending = {**self._under_way, **self._pending}
        self._under_way = {}
        self._wake.set()

    async def next_report(self) -> StatusReport:
        """Wait until there is something to say and nothing under way; returns it, and counts it as under way."""
        while self._under_way or not self._pending:
            self._wake.clear()
            await self._wake.wait()
        ids = list(self._pending)[:MAXIMUM_UPDATES_PER_REPORT]
        self._under_way = {task_id: self._pending.pop(task_id) for task_id in ids}
        self._number += 1
        updates = tuple(TaskStatusUpdate(task_id=i, status=s) for i, s in self._under_way.items())
        return StatusReport(number=self._number, updates=updates)

    def acknowledge(self, number: int) -> None:
        """The manager has stored the report with this number."""
        if number == self._number:
            self._under_way = {}
            self._wake.set()
