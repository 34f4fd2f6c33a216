"""pyswarmd itself: the Engine API on the unix socket, and membership in a cluster when there is one."""

import asyncio
import contextlib
import fcntl
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from pyswarm_agent.images import ImageStore
from pyswarm_agent.runtime import ContainerRuntime
from pyswarm_common.clock import Clock
from pyswarm_common.errors import Conflict, PyswarmError
from pyswarm_common.waiting import wait_first
from pyswarm_node.config import DaemonConfig
from pyswarm_node.member import ClusterMember, LocalParts
from pyswarm_node.membership import Membership, MembershipStore
from pyswarm_node.serving import bind_tcp, bind_unix, serve

RETRY_PAUSE_S = 3.0

_log = structlog.get_logger()


class Daemon:
    """One node's daemon. `run` returns when `stop` is set; containers go on."""

    def __init__(self, config: DaemonConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.files = MembershipStore(config.data_dir)
        self.member: ClusterMember | None = None
        self.error = ""
        """Why the node, though it belongs to a cluster, is not at work in it."""
        self.local: LocalParts
        self._member_task: asyncio.Task[None] | None = None

    async def run(self, app_of: Callable[["Daemon"], Any], stop: asyncio.Event) -> None:
        """Serve `app_of(self)` on the API socket until `stop` is set."""
        self.config.data_dir.mkdir(parents=True, exist_ok=True)
        self.config.runtime_dir.mkdir(parents=True, exist_ok=True)
        with exclusive(self.config.data_dir / "lock"):
            self.local = LocalParts(
                images=ImageStore(self.config.data_dir, insecure_registries=self.config.insecure_registries),
                runtime=ContainerRuntime(
                    data_dir=self.config.data_dir,
                    runtime_dir=self.config.runtime_dir,
                    instance_tag=self.config.instance_tag,
                    clock=self.clock,
                ),
            )
            await self.local.runtime.start()
            membership = self.files.load()
            if membership is None:
                shutil.rmtree(self.files.folder, ignore_errors=True)
            else:
                self._keep_member(membership)
            api = asyncio.ensure_future(serve(app_of(self), [bind_unix(self.config.api_socket)]))
            _log.info("daemon.started", socket=str(self.config.api_socket))
            try:
                await wait_first(api, stop.wait())
            finally:
                await self.end_member()
                await _cancel(api)
                await self.local.runtime.close()
                await self.local.images.close()
                self.config.api_socket.unlink(missing_ok=True)
                _log.info("daemon.stopped")

    async def begin_member(self, member: ClusterMember) -> None:
        """Start as a member that is new; returns when it is ready. Raises what stopped it from starting, leaving nothing behind."""
        task = asyncio.ensure_future(member.run())
        self.member, self._member_task = member, task
        try:
            await wait_first(task, member.wait_ready())
        except BaseException:
            await self.end_member()
            raise

    def keep_running(self) -> None:
        """From now on the member that was begun is started again whenever it fails."""
        task = self._member_task
        if self.member is not None and task is not None:
            self._member_task = asyncio.ensure_future(self._supervise(self.member.membership, task))

    async def end_member(self) -> None:
        """Stop being at work in the cluster; what it says on disk stays."""
        task, self._member_task, self.member = self._member_task, None, None
        if task is not None:
            await _cancel(task)

    def _keep_member(self, membership: Membership) -> None:
        self._member_task = asyncio.ensure_future(self._supervise(membership, None))

    async def _supervise(self, membership: Membership, running: asyncio.Task[None] | None) -> None:
        while True:
            try:
                if running is None:
                    membership = self.files.load() or membership
                    self.member = self.new_member(membership)
                    running = asyncio.ensure_future(self.member.run())
                self.error = ""
                await running
            except* Exception as errors:  # noqa: BLE001  whatever it was, the node shall come back
                self.error = "; ".join(str(e) or type(e).__name__ for e in _leaves(errors))
                _log.error("member.failed", reason=self.error, exc_info=None if _is_expected(errors) else errors)
            finally:
                if running is not None and not running.done():
                    await _cancel(running)
            running = None
            await asyncio.sleep(RETRY_PAUSE_S)

    @property
    def hostname(self) -> str:
        """The name under which this node appears."""
        return self.config.hostname or socket.gethostname()

    def clear_cluster_state(self) -> None:
        """Remove what a cluster's tasks left in the data directory; images stay."""
        for name in ("tasks", "network"):
            shutil.rmtree(self.config.data_dir / name, ignore_errors=True)

    def new_member(self, membership: Membership, **extra: Any) -> ClusterMember:
        """Return this node as a member; a manager's node port is bound here. Raises Conflict when the port is taken."""
        if membership.is_manager and "listener" not in extra:
            extra["listener"] = bind_tcp(membership.listen_address)
        return ClusterMember(
            config=self.config, files=self.files, membership=membership, local=self.local, clock=self.clock, **extra
        )


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the data directory for this daemon alone. Raises Conflict when another daemon has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another pyswarmd already works in {path.parent}; stop it, or give this one another --data-dir"
            ) from None
        yield


async def _cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, PyswarmError, OSError, ExceptionGroup):
        await task


def _is_expected(group: BaseExceptionGroup[BaseException]) -> bool:
    return all(isinstance(error, PyswarmError | OSError) for error in _leaves(group))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
