"""Brings the logs of tasks from the agents to those who ask for them.

A reader subscribes to a service or a task. For each task with a log the broker sends `OpenStream` to the task's node; the agent
dials `/streams/{id}` at the node port, and the dispatcher feeds what arrives into the publisher that `accept` returns. Without
`follow` the lines of all tasks are merged by their time; with it they come as they arrive, tasks that start later
join in, and a stream that broke is opened again, until this manager leads no more. Tasks whose log cannot be had are skipped, and
`reasons` says why.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import msgspec

from pyswarm_common.clock import Clock, SystemClock
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Service, Task
from pyswarm_common.task_states import TaskState
from pyswarm_common.waiting import wait_first
from pyswarm_common.wire import LogLine, LogRequest, OpenStream
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import View

DIAL_TIMEOUT_S = 10.0
"""How long an agent may take to dial a stream."""
FOLLOW_PERIOD_S = 1.0
"""How often a follower looks for streams that broke."""
QUEUE_LINES = 512
"""How many lines wait for a slow reader before publishers wait too."""

LEADER_CHANGED = "another manager leads the swarm now: run the command again, and it goes on there"
"""Agents send logs to the leader alone, so a reader's former leader gets no new ones."""

SendToNode: TypeAlias = Callable[[str, OpenStream], bool]
"""Gives a message to a node's session; False when the node has none."""


def incomplete_log(reasons: Iterable[str]) -> str:
    """Return Docker's line at the end of a log that is not complete."""
    return (
        "Error grabbing logs: rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be "
        f"retrieved for the following reasons: {', '.join(reasons)}\n"
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


class _Stream:
    """One log on its way from one agent."""

    def __init__(self, task: Task, lines: "_LineQueue", opened_at_s: float) -> None:
        self.id = new_id()
        self.task = task
        self.lines = lines
        self.opened_at_s = opened_at_s
        self.is_dialled = asyncio.Event()

    async def wait_dialled(self) -> None:
        """Return once the agent has dialled."""
        await self.is_dialled.wait()


class _LineQueue:
    """Lines (None: a stream's end) from one or more streams to one reader; publishers wait when it is long."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[tuple[_Stream | None, LogLine | None]] = asyncio.Queue()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.is_abandoned = asyncio.Event()

    def put(self, stream: _Stream | None, line: LogLine | None) -> None:
        """Add without waiting; nothing is kept for a reader that has gone."""
        if not self.is_abandoned.is_set():
            self._items.put_nowait((stream, line))
            if self._items.qsize() >= QUEUE_LINES:
                self._has_room.clear()

    async def wait_room(self) -> None:
        """Return when the reader has caught up, or has gone."""
        await self._has_room.wait()

    async def get(self) -> tuple[_Stream | None, LogLine | None]:
        """Return the next line, waiting for it."""
        item = await self._items.get()
        if self._items.qsize() <= QUEUE_LINES // 2:
            self._has_room.set()
        return item

    @property
    def is_empty(self) -> bool:
        """Whether the reader has all that came."""
        return self._items.empty()

    def abandon(self) -> None:
        """The reader has gone."""
        self.is_abandoned.set()
        self._has_room.set()


class LogPublisher:
    """Where the dispatcher puts the lines of one stream."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def __call__(self, line: LogLine | None) -> None:
        """Add a line, or None at the stream's end, however long the queue is."""
        self._stream.lines.put(self._stream, line)

    async def publish(self, line: LogLine) -> bool:
        """Add a line once there is room for it; False when nobody reads any more."""
        await self._stream.lines.wait_room()
        self(line)
        return not self._stream.lines.is_abandoned.is_set()

    async def wait_reader_gone(self) -> None:
        """Return when nobody reads any more: then the agent's connection is of no use."""
        await self._stream.lines.is_abandoned.wait()


class LogBroker:
    """Knows the streams that are expected or open."""

    def __init__(self, store: Store, send_to_node: SendToNode, clock: Clock | None = None) -> None:
        self._store = store
        self._send_to_node = send_to_node
        self._clock = clock or SystemClock()
        self._streams: dict[str, _Stream] = {}

    def accept(self, stream_id: str, node_id: str | None = None) -> LogPublisher | None:
        """Return where the stream's lines go; None when nobody waits for it, or not from this node."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_dialled.is_set() or node_id not in (None, stream.task.node_id):
            return None
        stream.is_dialled.set()
        return LogPublisher(stream)

    def subscribe(self, selector: LogSelector, request: LogRequest) -> "LogSubscription":
        """Return a subscription (`async with`, then `async for`); `request.task_id` is filled in for each task."""
        return LogSubscription(self, self._store, self._clock, selector, request)

    def open(self, task: Task, lines: _LineQueue, request: LogRequest) -> _Stream | None:
        """Ask a task's node for its log; None when the node has no session. For subscriptions."""
        stream = _Stream(task, lines, self._clock.monotonic_s())
        self._streams[stream.id] = stream
        log = msgspec.structs.replace(request, task_id=task.id)
        if self._send_to_node(task.node_id, OpenStream(stream_id=stream.id, log=log)):
            return stream
        self.forget(stream)
        return None

    def forget(self, stream: _Stream) -> None:
        """Expect a stream no more. For subscriptions."""
        self._streams.pop(stream.id, None)


@dataclass
class _Reading:
    """What a follower knows of one task's log."""

    stream: _Stream | None = None
    last_at_ns: int = 0
    is_finished: bool = False


class LogSubscription:
    """One reader's log: `async with` it, then `async for` message in it. Leaving the block ends its streams."""

    def __init__(self, broker: LogBroker, store: Store, clock: Clock, selector: LogSelector, request: LogRequest) -> None:
        self.reasons: list[str] = []
        """Why lines are missing; complete when the iteration has ended."""
        self._broker = broker
        self._store = store
        self._clock = clock
        self._selector = selector
        self._request = request
        self._queues: list[_LineQueue] = []
        self._streams: list[_Stream] = []
        self._readings: dict[str, _Reading] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._is_woken = False

    async def __aenter__(self) -> "LogSubscription":
        return self

    async def __aexit__(self, *_: object) -> None:
        for stream in self._streams:
            self._broker.forget(stream)
        for queue in self._queues:
            queue.abandon()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    def __aiter__(self) -> AsyncIterator[LogMessage]:
        return self._follow() if self._request.follow else self._read()

    async def _read(self) -> AsyncIterator[LogMessage]:
        """All that is there now, merged by time."""
        streams = [stream for task in self._selector.tasks(self._store.view) if (stream := self._open_now(task))]
        heap: list[tuple[int, int, LogLine]] = []
        for number, stream in enumerate(streams):
            await wait_first(stream.wait_dialled(), self._clock.sleep(DIAL_TIMEOUT_S))
            if stream.is_dialled.is_set():
                await _push_next(heap, number, stream)
            else:
                self._note(f"node {stream.task.node_id} did not send the log of task {stream.task.id}")
        while heap:
            _, number, line = heapq.heappop(heap)
            yield LogMessage(streams[number].task, line)
            await _push_next(heap, number, streams[number])

    def _open_now(self, task: Task) -> _Stream | None:
        """Open a task's log for a reader that does not follow; notes why when there is none to be had."""
        if _has_log(task):
            return self._open(task, self._new_queue(), self._request)
        if not task.is_terminal:
            self._note(f"task {task.id} has not been {'started' if task.node_id else 'scheduled'}")
        return None

    async def _follow(self) -> AsyncIterator[LogMessage]:
        """All that is there and that will come, as it arrives."""
        queue = self._new_queue()
        self._watcher = asyncio.ensure_future(self._wake(queue))
        self._open_followed(queue, self._request)
        later = msgspec.structs.replace(self._request, tail=-1)
        while not self._is_over():
            if not self._store.is_leader and queue.is_empty:
                self._note(LEADER_CHANGED)
                return
            stream, line = await queue.get()
            if stream is None:
                self._is_woken = False
                if self._store.is_leader:
                    self._open_followed(queue, later)
            elif line is None:
                self._end(stream)
            else:
                self._readings[stream.task.id].last_at_ns = line.at_ns
                yield LogMessage(stream.task, line)

    def _open_followed(self, queue: _LineQueue, request: LogRequest) -> None:
        """Open what is neither open nor finished; what broke goes on after its last line."""
        for task in self._selector.tasks(self._store.view):
            reading = self._readings.setdefault(task.id, _Reading())
            self._drop_silent(reading)
            if reading.stream is not None or reading.is_finished:
                continue
            if _has_log(task):
                since_ns = max(request.since_ns, reading.last_at_ns + 1 if reading.last_at_ns else 0)
                reading.stream = self._open(task, queue, msgspec.structs.replace(request, since_ns=since_ns))
            reading.is_finished = task.is_terminal and reading.stream is None

    def _drop_silent(self, reading: _Reading) -> None:
        """Give up a stream that the agent never dialled, so that it is asked for again."""
        stream = reading.stream
        if stream is None or stream.is_dialled.is_set():
            return
        if self._clock.monotonic_s() - stream.opened_at_s > DIAL_TIMEOUT_S:
            self._broker.forget(stream)
            reading.stream = None

    def _end(self, stream: _Stream) -> None:
        """A stream ended: for good when its task has, else it is opened again with the next look."""
        self._broker.forget(stream)
        task = self._store.view.tasks.get(stream.task.id)
        reading = self._readings[stream.task.id]
        reading.stream = None
        reading.is_finished = task is None or task.is_terminal

    def _is_over(self) -> bool:
        """Whether nothing can come any more: what was selected is gone or, a single task, has ended, and nothing is open."""
        if any(reading.stream is not None for reading in self._readings.values()):
            return False
        if not self._selector.exists(self._store.view):
            return True
        return bool(self._selector.task_id) and all(reading.is_finished for reading in self._readings.values())

    async def _wake(self, queue: _LineQueue) -> None:
        """Let the follower look again when tasks changed, and from time to time."""
        with self._store.watch(Task, Service) as changes:
            while True:
                await wait_first(changes.wait(), self._clock.sleep(FOLLOW_PERIOD_S))
                if not self._is_woken:
                    self._is_woken = True
                    queue.put(None, None)

    def _open(self, task: Task, queue: _LineQueue, request: LogRequest) -> _Stream | None:
        stream = self._broker.open(task, queue, request)
        if stream is None:
            self._note(f"node {task.node_id} is not available")
        else:
            self._streams.append(stream)
        return stream

    def _note(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)

    def _new_queue(self) -> _LineQueue:
        queue = _LineQueue()
        self._queues.append(queue)
        return queue


async def _push_next(heap: list[tuple[int, int, LogLine]], number: int, stream: _Stream) -> None:
    """Add the stream's next line to the heap, unless it has ended. Equal times keep the order of the streams."""
    _, line = await stream.lines.get()
    if line is not None:
        heapq.heappush(heap, (line.at_ns, number, line))


def _has_log(task: Task) -> bool:
    """Whether the task's node has, or had, a container for it that was started."""
    return bool(task.node_id) and (bool(task.status.container_id) or task.status.state is TaskState.RUNNING)
