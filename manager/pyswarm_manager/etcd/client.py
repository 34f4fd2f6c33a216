"""A thin asyncio client for one etcd member on its unix socket: aetcd's stubs on grpcio, and our errors.

Why not aetcd's own client: it knows neither learners nor progress requests, and hides which errors leave a write's outcome open.

    reads     any failure                              Unavailable
    writes    refused before it could reach the log    Unavailable (try again)
              anything else                            OutcomeUnknown

"Refused" is a short list of answers; all others count as unknown. Even "database space exceeded" does: the write that
fills the space is carried out and answered with that error (etcd's quotaApplierV3).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, NoReturn

import grpc
from aetcd import rpc

from pyswarm_common.errors import InvalidArgument, OutcomeUnknown, Unavailable
from pyswarm_manager.store.backend import (
    CommitResult,
    Compacted,
    Compare,
    Entry,
    Event,
    MemberStatus,
    Operation,
    Page,
    Put,
    Reading,
)

PAGE_ENTRIES = 1000
READ_TIMEOUT_S = 2.0
WRITE_TIMEOUT_S = 2.0
MEMBERSHIP_TIMEOUT_S = 10.0
DEFRAGMENT_TIMEOUT_S = 120.0
STATUS_TIMEOUT_S = 1.0
WATCH_PROGRESS_PERIOD_S = 1.0
WATCH_SILENCE_S = 3.0

_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_CERTAINLY_NOT_WRITTEN = (
    "failed to connect to all addresses",
    "raft proposal dropped",
    "etcdserver: no leader",
    "too many requests",
    "unhealthy cluster",
)
_CERTAIN_REFUSALS = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS)
_WRONG_REQUEST = ("request is too large", "too many operations", "duplicate key", "received message larger than max")
_ALL_KEYS_END = b"\0"


class EtcdClient:
    """Talks to the member that listens on `socket_path`. Use as an async context manager, or `close` it."""

    def __init__(self, socket_path: str) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket_path}", options=_CHANNEL_OPTIONS)
        self._kv = rpc.KVStub(self._channel)
        self._watch = rpc.WatchStub(self._channel)
        self._cluster = rpc.ClusterStub(self._channel)
        self._maintenance = rpc.MaintenanceStub(self._channel)

    async def close(self) -> None:
        """End all calls and the connection."""
        await self._channel.close()

    async def __aenter__(self) -> "EtcdClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def read_page(self, start_key: str, revision: int = 0, limit: int = PAGE_ENTRIES) -> Page:
        """Return up to `limit` entries from `start_key` on, by this member alone (not linearizable).

        Raises Compacted, Unavailable.
        """
        answer = await self._read(
            self._kv.Range,
            rpc.RangeRequest(
                key=start_key.encode() or b"\0", range_end=_ALL_KEYS_END, limit=limit, revision=revision, serializable=True
            ),
        )
        entries = [Entry(kv.key.decode(), kv.value, kv.mod_revision) for kv in answer.kvs]
        return Page(entries, revision or answer.header.revision, answer.more)

    async def read(self, key: str) -> Reading:
        """Return a key's entry, linearizable. Raises Unavailable."""
        answer = await self._read(self._kv.Range, rpc.RangeRequest(key=key.encode()))
        entries = [Entry(kv.key.decode(), kv.value, kv.mod_revision) for kv in answer.kvs]
        return Reading(entries[0] if entries else None, answer.header.revision)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> CommitResult:
        """Carry out a transaction. Raises Unavailable, OutcomeUnknown, InvalidArgument."""
        request = rpc.TxnRequest(
            compare=[
                rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=c.key.encode(), mod_revision=c.mod_revision)
                for c in compares
            ],
            success=[_request_op(operation) for operation in operations],
        )
        answer = await self._write(self._kv.Txn, request, WRITE_TIMEOUT_S)
        return CommitResult(answer.succeeded, answer.header.revision)

    async def watch(self, start_revision: int) -> AsyncGenerator[Sequence[Event], None]:
        """Report changes of all keys from `start_revision` on. Raises Compacted; Unavailable also after 3 s without a sign of life.

        A frozen member would hang a watch for ever; so after each second of silence the member is asked for its progress.
        """
        call = self._watch.Watch()
        reading: asyncio.Future[Any] | None = None
        loop = asyncio.get_running_loop()
        try:
            create = rpc.WatchCreateRequest(key=b"\0", range_end=_ALL_KEYS_END, start_revision=start_revision)
            await _send(call, rpc.WatchRequest(create_request=create))
            heard_s = loop.time()
            while True:
                reading = reading or asyncio.ensure_future(call.read())
                await asyncio.wait([reading], timeout=WATCH_PROGRESS_PERIOD_S)
                if reading.done():
                    answer, reading, heard_s = reading.result(), None, loop.time()
                    events = _watch_events(answer, start_revision)
                    if events:
                        yield events
                elif loop.time() - heard_s >= WATCH_SILENCE_S:
                    raise Unavailable(f"etcd's watch has been silent for {WATCH_SILENCE_S:g} s")
                else:
                    await _send(call, rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        except grpc.aio.AioRpcError as error:
            raise _unavailable(error) from None
        except asyncio.InvalidStateError as error:
            raise Unavailable(f"etcd's watch was closed: {error}") from None
        finally:
            call.cancel()
            if reading is not None:
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await reading

    async def compact(self, revision: int) -> None:
        """Forget the history before `revision`; already forgotten is fine. Raises Unavailable."""
        try:
            await self._kv.Compact(rpc.CompactionRequest(revision=revision), timeout=WRITE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if "has been compacted" not in str(error.details()):
                raise _unavailable(error) from None

    async def defragment(self) -> None:
        """Give the member's unused file space back; it answers nothing meanwhile. Raises Unavailable."""
        await self._read(self._maintenance.Defragment, rpc.DefragmentRequest(), DEFRAGMENT_TIMEOUT_S)

    async def status(self, timeout_s: float = STATUS_TIMEOUT_S) -> MemberStatus:
        """Return what the member says of itself, without asking the others. Raises Unavailable."""
        answer = await self._read(self._maintenance.Status, rpc.StatusRequest(), timeout_s)
        return MemberStatus(
            member_id=answer.header.member_id,
            leader_id=answer.leader,
            raft_term=answer.raftTerm,
            is_learner=answer.isLearner,
            file_bytes=answer.dbSize,
            in_use_bytes=answer.dbSizeInUse,
            has_alarm=any("NOSPACE" in error for error in answer.errors),
        )

    async def version(self) -> str:
        """Return the member's version. Raises Unavailable."""
        answer = await self._read(self._maintenance.Status, rpc.StatusRequest(), STATUS_TIMEOUT_S)
        return str(answer.version)

    async def alarmed_member_ids(self) -> list[int]:
        """Return the members whose space is used up. Raises Unavailable."""
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET, alarm=rpc.NOSPACE)
        answer = await self._read(self._maintenance.Alarm, request)
        return [alarm.memberID for alarm in answer.alarms]

    async def disarm_alarm(self, member_id: int) -> None:
        """Allow writes again after a member's space was used up. Raises Unavailable."""
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, memberID=member_id, alarm=rpc.NOSPACE)
        await self._read(self._maintenance.Alarm, request)

    async def move_leader(self, member_id: int) -> None:
        """Let another member become raft leader; ask the present one. Raises Unavailable."""
        await self._read(self._maintenance.MoveLeader, rpc.MoveLeaderRequest(targetID=member_id), MEMBERSHIP_TIMEOUT_S)

    async def members(self) -> list[Any]:
        """Return the members: protobuf messages with `ID`, `name`, `peerURLs`, `isLearner`. Raises Unavailable."""
        answer = await self._read(self._cluster.MemberList, rpc.MemberListRequest())
        return list(answer.members)

    async def add_member(self, peer_url: str, *, is_learner: bool = True) -> int:
        """Announce a new member; returns its id. Raises Unavailable (wait and try again), OutcomeUnknown."""
        request = rpc.MemberAddRequest(peerURLs=[peer_url], isLearner=is_learner)
        answer = await self._write(self._cluster.MemberAdd, request, MEMBERSHIP_TIMEOUT_S)
        return int(answer.member.ID)

    async def promote_member(self, member_id: int) -> None:
        """Make a learner a voter. Raises Unavailable, also while it has not caught up yet (wait and try again), OutcomeUnknown."""
        await self._write(self._cluster.MemberPromote, rpc.MemberPromoteRequest(ID=member_id), MEMBERSHIP_TIMEOUT_S)

    async def update_member(self, member_id: int, peer_url: str) -> None:
        """Change where a member is reached by the others. Raises Unavailable, OutcomeUnknown."""
        request = rpc.MemberUpdateRequest(ID=member_id, peerURLs=[peer_url])
        await self._write(self._cluster.MemberUpdate, request, MEMBERSHIP_TIMEOUT_S)

    async def remove_member(self, member_id: int) -> None:
        """Remove a member; its process then exits by itself with code 0. Raises Unavailable, OutcomeUnknown."""
        await self._write(self._cluster.MemberRemove, rpc.MemberRemoveRequest(ID=member_id), MEMBERSHIP_TIMEOUT_S)

    async def _read(self, method: Callable[..., Awaitable[Any]], request: Any, timeout_s: float = READ_TIMEOUT_S) -> Any:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE and "has been compacted" in str(error.details()):
                raise Compacted(str(error.details())) from None
            raise _unavailable(error) from None

    async def _write(self, method: Callable[..., Awaitable[Any]], request: Any, timeout_s: float) -> Any:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            _raise_for_write(error)


def _request_op(operation: Operation) -> Any:
    if isinstance(operation, Put):
        return rpc.RequestOp(request_put=rpc.PutRequest(key=operation.key.encode(), value=operation.value))
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=operation.key.encode()))


async def _send(call: Any, request: Any) -> None:
    try:
        async with asyncio.timeout(WATCH_SILENCE_S):
            await call.write(request)
    except TimeoutError:
        raise Unavailable("etcd's watch takes no requests") from None


def _watch_events(answer: Any, start_revision: int) -> list[Event]:
    if answer is grpc.aio.EOF:
        raise Unavailable("etcd ended the watch")
    if answer.compact_revision:
        raise Compacted(f"the history before {answer.compact_revision} is gone")
    if answer.canceled:
        raise Unavailable(f"etcd cancelled the watch: {answer.cancel_reason}")
    if answer.created and answer.header.revision < start_revision - 1:
        raise Compacted(f"the member is at revision {answer.header.revision}, behind {start_revision - 1}")
    return [
        Event(event.kv.key.decode(), event.kv.value if event.type == event.PUT else None, event.kv.mod_revision)
        for event in answer.events
    ]


def _unavailable(error: grpc.aio.AioRpcError) -> Unavailable:
    return Unavailable(f"etcd: {error.details() or error.code()}")


def _raise_for_write(error: grpc.aio.AioRpcError) -> NoReturn:
    details = str(error.details())
    if any(text in details for text in _WRONG_REQUEST):
        raise InvalidArgument(f"etcd: {details}") from None
    if error.code() in _CERTAIN_REFUSALS or any(text in details for text in _CERTAINLY_NOT_WRITTEN):
        raise _unavailable(error) from None
    raise OutcomeUnknown(f"etcd: {details or error.code()}") from None
