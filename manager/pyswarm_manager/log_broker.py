"""Brings the logs of tasks from the agents to those who ask for them.

A reader subscribes to a service or a task. For each task with a log the broker sends `OpenStream` to the task's node; the agent
dials `/streams/{id}` at the node port, and the dispatcher feeds what arrives into the publisher that `accept` returns. Without
`follow` the lines of all tasks are merged by their time; with it they come as they arrive, tasks that start later
join in, and a stream that broke is opened again where it broke, until this manager leads no more. What cannot be had is skipped,
and `reasons` says why: nobody waits long for a node that is silent or down.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import msgspec

from pyswarm_common.clock import Clock, SystemClock
from pyswarm_common.objects import Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import LogLine, LogPart, LogRequest, OpenStream
from pyswarm_manager.log_streams import QUEUE_BYTES, LogPublisher, LogStream, PartQueue
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import View

DIAL_TIMEOUT_S = 10.0
"""How long no agent may have dialled a stream before those that were not are given up."""
FOLLOW_PERIOD_S = 1.0
"""How often a reader looks for streams that broke and nodes that are down."""
LONGEST_PART_BYTES = 256 * 1024
ALL_PARTS_BYTES = 16 * 1024 * 1024
"""What the parts of all streams of one reader may have together, about."""
BATCH_MESSAGES = 2048
BATCH_BYTES = 1024 * 1024
REASONS_SHOWN = 50
REASONS_KEPT = 1000

LEADER_CHANGED = "another manager leads the swarm now: run the command again, and it goes on there"
"""Agents send logs to the leader alone, so a reader's former leader gets no new ones."""

SendToNode: TypeAlias = Callable[[str, OpenStream], bool]
"""Gives a message to a node's session; False when the node has none."""


def incomplete_log(reasons: Iterable[str]) -> str:
    """Return Docker's line at the end of a log that is not complete."""
    told = list(reasons)
    shown = told[:REASONS_SHOWN] + ([f"and {len(told) - REASONS_SHOWN} more"] if len(told) > REASONS_SHOWN else [])
    return (
        "Error grabbing logs: rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be "
        f"retrieved for the following reasons: {', '.join(shown)}\n"
    )


class LogMessage(NamedTuple):
    """One line and where it comes from."""

    task: Task
    line: LogLine


@dataclass(frozen=True)
class LogSelector:
    """Whose logs: those of all tasks of a service, or of one task."""

    service_id: str = ""
    task_id: str = ""

    def tasks(self, view: View) -> list[Task]:
        """Return the tasks in the view that are meant."""
        if self.task_id:
            task = view.tasks.get(self.task_id)
            return [] if task is None else [task]
        return list(view.tasks.of_service(self.service_id))

    def exists(self, view: View) -> bool:
        """Whether the service or task is still there."""
        return self.task_id in view.tasks if self.task_id else self.service_id in view.services


class LogBroker:
    """Knows the streams that are expected or open."""

    def __init__(self, store: Store, send_to_node: SendToNode, clock: Clock | None = None) -> None:
        self._store = store
        self._send_to_node = send_to_node
        self._clock = clock or SystemClock()
        self._streams: dict[str, LogStream] = {}
        self.last_dialled_s = 0.0
        """When an agent last dialled, by the clock."""

    def accept(self, stream_id: str, node_id: str | None = None) -> LogPublisher | None:
        """Return where the stream's lines go; None when nobody waits for it, or not from this node."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_dialled.is_set() or node_id not in (None, stream.task.node_id):
            return None
        stream.is_dialled.set()
        self.last_dialled_s = self._clock.monotonic_s()
        return LogPublisher(stream)

    def subscribe(self, selector: LogSelector, request: LogRequest) -> "LogSubscription":
        """Return a subscription (`async with`, then `async for`); `request.task_id` is filled in for each task."""
        return LogSubscription(self, self._store, self._clock, selector, request)

    def open(self, task: Task, parts: PartQueue, request: LogRequest) -> LogStream | None:
        """Ask a task's node for its log; None when the node has no session. For subscriptions."""
        stream = LogStream(task, parts, self._clock.monotonic_s())
        self._streams[stream.id] = stream
        log = msgspec.structs.replace(request, task_id=task.id)
        if self._send_to_node(task.node_id, OpenStream(stream_id=stream.id, log=log)):
            return stream
        self.forget(stream)
        return None

    def forget(self, stream: LogStream) -> None:
        """Expect a stream no more. For subscriptions."""
        self._streams.pop(stream.id, None)


@dataclass
class _Reading:
    """What a follower knows of one task's log. `tail`: with how many lines it begins."""

    tail: int
    stream: LogStream | None = None
    position: str = ""
    last_at_ns: int = 0
    is_finished: bool = False


@dataclass
class _Source:
    """One stream of a reader that does not follow, and what came of it and was not given out yet."""

    stream: LogStream
    lines: deque[LogLine] = field(default_factory=deque)
    is_over: bool = False


class LogSubscription:
    """One reader's log: `async with` it, then `async for` message in it. Leaving the block ends its streams."""

    def __init__(self, broker: LogBroker, store: Store, clock: Clock, selector: LogSelector, request: LogRequest) -> None:
        self._reasons: dict[str, None] = {}
        self._broker = broker
        self._store = store
        self._clock = clock
        self._selector = selector
        self._request = request
        self._queues: list[PartQueue] = []
        self._streams: dict[str, LogStream] = {}
        self._readings: dict[str, _Reading] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._is_woken = False

    @property
    def reasons(self) -> list[str]:
        """Why lines are missing; complete when the iteration has ended."""
        return list(self._reasons)

    async def __aenter__(self) -> "LogSubscription":
        return self

    async def __aexit__(self, *_: object) -> None:
        for stream in self._streams.values():
            self._broker.forget(stream)
        for queue in self._queues:
            queue.abandon()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[LogMessage]:
        async for batch in self.batches():
            for message in batch:
                yield message

    def batches(self) -> AsyncIterator[list[LogMessage]]:
        """Return the messages in lists of those that are there at once."""
        return self._follow() if self._request.follow else self._read()

    async def _read(self) -> AsyncIterator[list[LogMessage]]:
        """All that is there now, merged by time."""
        tasks = self._selector.tasks(self._store.view)
        request = msgspec.structs.replace(self._request, part_bytes=_part_bytes(len(tasks)))
        streams = [stream for task in tasks if (stream := self._open_now(task, request))]
        await self._wait_dialled(streams)
        sources = [_Source(stream) for stream in streams if stream.is_dialled.is_set()]
        heap: list[tuple[int, int]] = []
        for number, source in enumerate(sources):
            if await self._refill(source):
                heapq.heappush(heap, (source.lines[0].at_ns, number))
        batch: list[LogMessage] = []
        batch_bytes = 0
        while heap:
            number = heap[0][1]
            source = sources[number]
            line = source.lines.popleft()
            batch.append(LogMessage(source.stream.task, line))
            batch_bytes += len(line.line)
            if not source.lines:
                if source.stream.parts.is_empty or len(batch) >= BATCH_MESSAGES or batch_bytes >= BATCH_BYTES:
                    yield batch
                    batch, batch_bytes = [], 0
                if not await self._refill(source):
                    heapq.heappop(heap)
                    continue
            # Equal times keep the order of the streams.
            heapq.heapreplace(heap, (source.lines[0].at_ns, number))
        if batch:
            yield batch

    async def _wait_dialled(self, streams: list[LogStream]) -> None:
        """Wait until all streams are dialled, for as long as agents do dial; note those that are not."""
        missing = [stream for stream in streams if not stream.is_dialled.is_set()]
        while missing:
            patience_s = max([self._broker.last_dialled_s, *(s.opened_at_s for s in missing)]) + DIAL_TIMEOUT_S
            left_s = patience_s - self._clock.monotonic_s()
            if left_s <= 0:
                break
            await wait_first(missing[0].is_dialled.wait(), self._clock.sleep(min(left_s, FOLLOW_PERIOD_S)))
            missing = [stream for stream in missing if not (stream.is_dialled.is_set() or self._is_down(stream))]
        for stream in streams:
            if not stream.is_dialled.is_set():
                self._note(f"node {stream.task.node_id} did not send the log of task {stream.task.id}")

    async def _refill(self, source: _Source) -> bool:
        """Get the next lines of a stream; False when there are no more."""
        queue, stream = source.stream.parts, source.stream
        while not source.lines and not source.is_over:
            while queue.is_empty and not self._is_down(stream):
                await wait_first(queue.wait_items(), self._clock.sleep(FOLLOW_PERIOD_S))
            part = None if queue.is_empty else queue.take()[1]
            source.lines.extend(part.lines if part is not None else ())
            source.is_over = part is None or part.is_last
            self._note_end(stream, part)
        return bool(source.lines)

    def _note_end(self, stream: LogStream, part: LogPart | None) -> None:
        task = stream.task
        if part is None and not stream.is_whole:
            self._note(f"node {task.node_id} broke off the log of task {task.id}, of which the last lines may be missing")
        elif part is not None and part.error:
            self._note(f"the log of task {task.id} cannot be read: {part.error}")

    def _is_down(self, stream: LogStream) -> bool:
        """Whether nothing can come from the stream's node, whatever its connection says."""
        node = self._store.view.nodes.get(stream.task.node_id)
        return node is None or node.status.state == "down"

    def _open_now(self, task: Task, request: LogRequest) -> LogStream | None:
        """Open a task's log for a reader that does not follow; notes why when there is none to be had."""
        if _has_log(task):
            return self._open(task, self._new_queue(request.part_bytes), request)
        if not task.is_terminal:
            self._note(f"task {task.id} has not been {'started' if task.node_id else 'scheduled'}")
        return None

    async def _follow(self) -> AsyncIterator[list[LogMessage]]:
        """All that is there and that will come, as it arrives."""
        queue = self._new_queue()
        self._watcher = asyncio.ensure_future(self._wake(queue))
        self._open_followed(queue, self._request.tail)
        while not self._is_over():
            if not self._store.is_leader and queue.is_empty:
                self._note(LEADER_CHANGED)
                return
            await queue.wait_items()
            stream, part = queue.take()
            if stream is None:
                self._is_woken = False
                if self._store.is_leader:
                    self._open_followed(queue, -1)
            elif part is None:
                self._end(stream)
            else:
                self._take(stream, part)
                if part.lines:
                    yield [LogMessage(stream.task, line) for line in part.lines]

    def _take(self, stream: LogStream, part: LogPart) -> None:
        """Remember how far a task's log was read."""
        reading = self._readings[stream.task.id]
        reading.position = part.position or reading.position
        if part.lines:
            reading.last_at_ns = part.lines[-1].at_ns
        if part.error:
            self._note_end(stream, part)
            reading.is_finished = True

    def _open_followed(self, queue: PartQueue, tail: int) -> None:
        """Open what is neither open nor finished; what broke goes on where it broke. `tail`: of logs not seen before."""
        tasks = self._selector.tasks(self._store.view)
        present = {task.id for task in tasks}
        self._readings = {id_: each for id_, each in self._readings.items() if id_ in present or each.stream is not None}
        for task in tasks:
            reading = self._readings.setdefault(task.id, _Reading(tail if _has_log(task) else -1))
            self._drop_silent(reading)
            if reading.stream is not None or reading.is_finished:
                continue
            if _has_log(task):
                reading.stream = self._open(task, queue, self._remaining(reading, _part_bytes(len(tasks))))
            reading.is_finished = task.is_terminal and reading.stream is None

    def _remaining(self, reading: _Reading, part_bytes: int) -> LogRequest:
        request = msgspec.structs.replace(self._request, part_bytes=part_bytes, tail=reading.tail)
        if reading.position:
            return msgspec.structs.replace(request, after=reading.position, tail=-1)
        if reading.last_at_ns:
            return msgspec.structs.replace(request, since_ns=max(request.since_ns, reading.last_at_ns + 1), tail=-1)
        return request

    def _drop_silent(self, reading: _Reading) -> None:
        """Give up a stream that the agent never dialled, so that it is asked for again."""
        stream = reading.stream
        if stream is None or stream.is_dialled.is_set():
            return
        if self._clock.monotonic_s() - stream.opened_at_s > DIAL_TIMEOUT_S:
            self._forget(stream)
            reading.stream = None

    def _end(self, stream: LogStream) -> None:
        """A stream ended: for good when its task has, else it is opened again with the next look."""
        self._forget(stream)
        task = self._store.view.tasks.get(stream.task.id)
        reading = self._readings[stream.task.id]
        reading.stream = None
        if reading.is_finished:
            return
        # The rest of a terminal task's log can still be had, if its stream broke: unless its node is down.
        reading.is_finished = task is None or (task.is_terminal and (stream.is_whole or self._is_down(stream)))
        if reading.is_finished:
            self._note_end(stream, None)

    def _is_over(self) -> bool:
        """Whether nothing can come any more: what was selected is gone or, a single task, has ended, and nothing is open."""
        if any(reading.stream is not None for reading in self._readings.values()):
            return False
        if not self._selector.exists(self._store.view):
            return True
        return bool(self._selector.task_id) and all(reading.is_finished for reading in self._readings.values())

    async def _wake(self, queue: PartQueue) -> None:
        """Let the follower look again when tasks changed, and from time to time."""
        with self._store.watch(Task, Service) as changes:
            while True:
                await wait_first(changes.wait(), self._clock.sleep(FOLLOW_PERIOD_S))
                if not self._is_woken:
                    self._is_woken = True
                    queue.put(None, None)

    def _open(self, task: Task, queue: PartQueue, request: LogRequest) -> LogStream | None:
        stream = self._broker.open(task, queue, request)
        if stream is None:
            self._note(f"node {task.node_id} is not available")
        else:
            self._streams[stream.id] = stream
        return stream

    def _forget(self, stream: LogStream) -> None:
        self._broker.forget(stream)
        self._streams.pop(stream.id, None)

    def _note(self, reason: str) -> None:
        if len(self._reasons) < REASONS_KEPT:
            self._reasons[reason] = None

    def _new_queue(self, limit_bytes: int = QUEUE_BYTES) -> PartQueue:
        queue = PartQueue(limit_bytes)
        self._queues.append(queue)
        return queue


def _part_bytes(streams: int) -> int:
    return max(4096, min(LONGEST_PART_BYTES, ALL_PARTS_BYTES // max(1, streams)))


def _has_log(task: Task) -> bool:
    """Whether the task's node has, or had, a container for it that was started."""
    return bool(task.node_id) and (bool(task.status.container_id) or task.status.state is TaskState.RUNNING)
