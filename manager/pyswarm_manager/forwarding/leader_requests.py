"""Carries requests out where the leader is: here, or at another manager's node port; and again when the leader moves meanwhile.

    what happened                                                    what follows
    it certainly changed nothing: not sent, or "I do not lead"       again, at the leader of then, within `BUDGET_S`
    no leader for 1 s, as far as this manager or others know         Docker's 503, at once
    sent, and the answer was lost                                    503 that says so; never a second time

Each request is sent at most to one manager at a time, and a manager that gets a forwarded one never passes it on.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from pyswarm_common import wire
from pyswarm_common.clock import Clock
from pyswarm_common.errors import NotDone, OutcomeUnknown
from pyswarm_common.waiting import wait_first
from pyswarm_manager.forwarding.channel import Headers, ManagerChannel, ManagerRequest
from pyswarm_manager.forwarding.exchange import ClientGone, Exchange
from pyswarm_manager.forwarding.leader_view import LeaderView
from pyswarm_manager.forwarding.not_done import NOT_DONE_HEADER
from pyswarm_manager.forwarding.passing_on import pass_on_answer, passed_on
from pyswarm_manager.store.leadership import ANSWER_LOST, no_leader
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.write_count import counting_writes

BUDGET_S = 6.0
"""How long a request is tried again while raft has a leader. One that hands over on a slow machine takes up to 5 s; one whose
daemon hangs is silent for 3 s before another takes over."""
ANSWER_TIMEOUT_S = 10.0
RETRY_PAUSE_S = 0.1
FAREWELL_S = 3.0
"""How long a stream from a manager that leads no more may go on: a leader that lives ends it, and says so, by then."""
_SHORTEST_PAUSE_S = 0.02
PARTLY_DONE = "the leader changed in the middle of this: a part of it was done; look before you repeat it"
_SAFE_METHODS = ("GET", "HEAD")

Attempt: TypeAlias = Callable[[float], Awaitable[None]]
"""Tries once; is given until when (monotonic, s) an answer may come from a manager that leads no more."""

_log = structlog.get_logger(__name__)


class LeaderRequests:
    """What this manager asks of the leader, itself or another."""

    def __init__(self, store: Store, channel: ManagerChannel, clock: Clock, leader: LeaderView | None = None) -> None:
        """`leader`: who leads; as the store knows, when it is not given."""
        self._store = store
        self._leader = leader or LeaderView(store, clock)
        self._channel = channel
        self._clock = clock

    async def carry_out(self, local: ASGIApp, exchange: Exchange, scope: Scope) -> None:
        """Answer a request of the Engine API: by `local`, whose errors must come through, or by the leader's answer to it.

        Raises Unavailable (NotDone, OutcomeUnknown), and what `local` raises.
        """

        async def attempt(deadline_s: float) -> None:
            if self._store.is_leader:
                await run_counted(local, exchange, scope)
                return
            body = await exchange.body()
            path = wire.ENGINE_PATH + scope["path"]
            async with self._request(scope["method"], path, scope["query_string"], scope["headers"], body) as request:
                await self._send(request, deadline_s)
                asked = self._leader.node_id
                await pass_on_answer(request, exchange, lambda: self._stream_over(asked))

        try:
            await self._until_done(attempt, lambda: not exchange.has_started)
        except ClientGone:
            return

    async def must_read_there(self) -> bool:
        """Whether the leader must be asked for a read, as this manager's own etcd knows no leader though the others do.

        Otherwise what is read here after this call is as new as the call, if there is a leader. Raises Unavailable.
        """
        if self._store.is_leader or not self._leader.is_told:
            return False  # a leader notices by itself, and saves the second look
        await self._store.read_index()
        return self._leader.is_cut_off

    async def read(self, local: ASGIApp, exchange: Exchange, scope: Scope) -> None:
        """Answer a read while this manager is cut off: by the leader, or if that fails by `local`, from what was known last."""
        try:
            await self.carry_out(local, exchange, scope)
        except NotDone:
            if exchange.has_started:
                raise
            await local(scope, exchange.replay(), exchange.send)

    async def forward(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Return the leader's answer to a request of the node port, with these headers added. Raises Unavailable."""
        body = await request.body()
        added = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        answers: list[Response] = []

        async def attempt(deadline_s: float) -> None:
            scope = request.scope
            kept = [*passed_on(scope["headers"]), *added]
            async with self._request(scope["method"], scope["path"], scope["query_string"], kept, body, added=True) as asked:
                await self._send(asked, deadline_s)
                answer, content = asked.answer, await asked.body()
                assert answer is not None
                response = Response(content, answer.status_code)
                response.raw_headers = [*passed_on(answer.headers.raw), (b"content-length", str(len(content)).encode())]
                answers.append(response)

        await self._until_done(attempt, lambda: True)
        return answers[0]

    async def _until_done(self, attempt: Attempt, may_repeat: Callable[[], bool]) -> None:
        deadline_s = self._clock.monotonic_s() + BUDGET_S
        while True:
            asked = self._leader.node_id
            try:
                await attempt(deadline_s)
                return
            except NotDone as error:
                if not may_repeat() or self._clock.monotonic_s() >= deadline_s:
                    raise
                if self._leader.is_leaderless:
                    raise no_leader(self._store.trouble()) from error
                _log.debug("leader.asked_again", reason=error.message, leader=self._leader.node_id)
            await self._clock.sleep(_SHORTEST_PAUSE_S)
            if self._leader.node_id == asked and not self._store.is_leader:
                await wait_first(self._leader.wait_other_than(asked), self._store.wait_leader(), self._clock.sleep(RETRY_PAUSE_S))

    def _request(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes, *, added: bool = False
    ) -> ManagerRequest:
        address = self._leader.address
        if not address:
            raise no_leader(self._store.trouble())
        return self._channel.request(address, method, path, query, headers if added else passed_on(headers), body)

    async def _send(self, request: ManagerRequest, deadline_s: float) -> None:
        """Send it to the leader and wait for the head of its answer. Raises NotDone, OutcomeUnknown."""
        try:
            await wait_first(request.send(), self._given_up(request, deadline_s))
            if not request.is_sent:
                raise NotDone("the leader moved before it was asked")
            if request.answer is None or not request.is_answered:
                raise OutcomeUnknown("the leader moved before it answered")
            if NOT_DONE_HEADER in request.answer.headers:
                raise NotDone(_message_of(await request.body()))
        except OutcomeUnknown as error:
            if request.method in _SAFE_METHODS:
                raise NotDone(error.message) from error
            _log.warning("leader.answer_lost", reason=error.message, path=request.path)
            raise OutcomeUnknown(ANSWER_LOST) from error

    async def _stream_over(self, asked: str | None) -> None:
        """Return when another manager leads than was asked, and that one has had its time to end the stream by itself."""
        await self._leader.wait_other_than(asked)
        await self._clock.sleep(FAREWELL_S)

    async def _given_up(self, request: ManagerRequest, deadline_s: float) -> None:
        await wait_first(self._leader_moved(request, deadline_s), self._clock.sleep(ANSWER_TIMEOUT_S))

    async def _leader_moved(self, request: ManagerRequest, deadline_s: float) -> None:
        """Return when the leader is another one and the former has had its time to answer, if it was asked."""
        await self._leader.wait_other_than(self._leader.node_id)
        while request.is_sent and (remaining_s := deadline_s - self._clock.monotonic_s()) > 0:
            await self._clock.sleep(remaining_s)


async def run_counted(app: ASGIApp, exchange: Exchange, scope: Scope) -> None:
    """Run a route here. Raises what it raises; OutcomeUnknown in place of NotDone when a part of its changes was made."""
    with counting_writes() as count:
        try:
            await app(scope, exchange.replay(), exchange.send)
        except NotDone as error:
            if count.writes:
                raise OutcomeUnknown(PARTLY_DONE) from error
            raise


def _message_of(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "the manager does not lead"
