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

from pyswarm_agent.events import EventBus
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.image_use import content_in_use
from pyswarm_agent.images import ImageStore
from pyswarm_agent.images.collector import ImageCollector
from pyswarm_agent.local_containers.overlay import OverlayNetworks
from pyswarm_agent.runtime import ContainerRuntime
from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_agent.runtime.records import LogConfig
from pyswarm_agent.volumes import LOCAL_DRIVER, VolumeStore
from pyswarm_agent.volumes.use import volume_users
from pyswarm_common.clock import Clock
from pyswarm_common.errors import Conflict, PyswarmError
from pyswarm_common.waiting import wait_first
from pyswarm_netplugin.audit.watch import NetworkWatch
from pyswarm_netplugin.kernel.features import kernel_problems
from pyswarm_node.addresses import readdressed
from pyswarm_node.certificate_check import check_certificate
from pyswarm_node.config import DaemonConfig
from pyswarm_node.local_containers import new_local_containers
from pyswarm_node.member import ClusterMember, LocalParts
from pyswarm_node.membership import Membership, MembershipStore
from pyswarm_node.serving import bind_unix, serve

RETRY_PAUSE_S = 3.0

_log = structlog.get_logger()


class Daemon:
    """One node's daemon. `run` returns when `stop` is set; containers go on."""

    def __init__(self, config: DaemonConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.files = MembershipStore(config.data_dir, config.runtime_dir)
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
            runtime = ContainerRuntime(
                data_dir=self.config.data_dir,
                runtime_dir=self.config.runtime_dir,
                instance_tag=self.config.instance_tag,
                clock=self.clock,
                log_default=LogConfig(driver=self.config.log_driver, options=dict(self.config.log_options)),
            )
            access = ContainerAccess(runtime)
            self.local = self._local_parts(runtime, access)
            await self.local.runtime.start()
            await access.start()
            single = asyncio.ensure_future(self.local.single.run())
            await wait_first(single, self.local.single.wait_running())
            membership = self.read_membership()
            if membership is None:
                self.files.forget_unfinished()
            elif not membership.node_id:
                _log.error("membership.damaged", reason=self.error)
            elif self.files.is_locked:
                self.files.put_keys_away()
                _log.warning("swarm.locked", hint="unlock it: pyswarm swarm unlock")
            else:
                self._keep_member(membership)
            api = asyncio.ensure_future(serve(app_of(self), [bind_unix(self.config.api_socket)]))
            collecting = asyncio.ensure_future(self._image_collector().run())
            auditing = asyncio.ensure_future(self.local.network_watch.run())
            _log.info("daemon.started", socket=str(self.config.api_socket))
            try:
                await wait_first(api, stop.wait())
            finally:
                await self.end_member()
                self.files.put_keys_away()
                await _cancel(api)
                await _cancel(collecting)
                await _cancel(auditing)
                await _cancel(single)
                await self.local.health.close()
                await access.close()
                await self.local.runtime.close()
                await self.local.volumes.close()
                await self.local.images.close()
                self.config.api_socket.unlink(missing_ok=True)
                _log.info("daemon.stopped")

    def _local_parts(self, runtime: ContainerRuntime, access: ContainerAccess) -> LocalParts:
        config = self.config
        images = ImageStore(config.data_dir, insecure_registries=config.insecure_registries, mirrors=config.registry_mirrors)
        health = HealthMonitors(runtime, access, self.clock)
        volumes = VolumeStore(config.data_dir, self.clock, lambda: volume_users(runtime))
        events = EventBus(self.clock)
        volumes.on_event = lambda action, volume: events.publish("volume", action, volume.name, {"driver": LOCAL_DRIVER})
        watch = NetworkWatch(
            self.clock,
            lambda action, id_, attributes: events.publish("network", action, id_, attributes),
            look_at_kernel=kernel_problems,
        )
        overlays = OverlayNetworks(self.clock, lambda: self.read_membership() is not None)
        single = new_local_containers(
            config,
            images=images,
            runtime=runtime,
            volumes=volumes,
            health=health,
            events=events,
            clock=self.clock,
            hostname=lambda: self.hostname,
            overlays=overlays,
            watch=watch,
        )
        return LocalParts(
            images=images,
            runtime=runtime,
            access=access,
            health=health,
            volumes=volumes,
            single=single,
            overlays=overlays,
            events=events,
            network_watch=watch,
        )

    def _image_collector(self) -> ImageCollector:
        images, runtime = self.local.images, self.local.runtime
        return ImageCollector(images, lambda: content_in_use(images, runtime), self.clock, self.config.image_gc)

    def read_membership(self) -> Membership | None:
        """Return the membership; when it is damaged, one without a node id, and `error` says what to do about it."""
        try:
            return self.files.load()
        except PyswarmError as error:
            self.error = error.message
            return Membership(node_id="", cluster_id="", role="worker", advertise_address="", data_path_address="127.0.0.1")

    async def begin_member(self, member: ClusterMember) -> None:
        """Start as a member that is new; returns when it is ready. Raises what stopped it from starting, leaving nothing behind."""
        task = self.start_member(member)
        try:
            await wait_first(task, member.wait_ready())
        except Exception as error:
            await self.end_member()
            raise next(_leaves(error)) from error
        except BaseException:
            await self.end_member()
            raise

    def start_member(self, member: ClusterMember) -> asyncio.Task[None]:
        """Let this member run; returns its task."""
        self.member, self._member_task = member, asyncio.ensure_future(member.run())
        return self._member_task

    def keep_running(self) -> None:
        """From now on the member that was begun is started again whenever it fails."""
        task = self._member_task
        if self.member is not None and task is not None:
            self._member_task = asyncio.ensure_future(self._supervise(self.member.membership, task))

    def unlock(self, unlock_key: str) -> ClusterMember:
        """Open the locked keys and be at work in the cluster again. Raises InvalidArgument, Unauthenticated."""
        membership = self.files.load()
        assert membership is not None
        self.files.unlock(unlock_key)
        member = self.new_member(self._readdressed(membership))
        self.start_member(member)
        self.keep_running()
        return member

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
                    membership = self._readdressed(self.files.load() or membership)
                    check_certificate(self.files, membership)
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

    def _readdressed(self, membership: Membership) -> Membership:
        """Return the membership with the addresses that this machine has now, which are remembered."""
        found = readdressed(membership, self.config.advertise_address, self.config.instance_tag)
        if found != membership:
            _log.warning("node.address_changed", before=membership.advertise_address, now=found.advertise_address)
            self.files.save(found)
        return found

    @property
    def hostname(self) -> str:
        """The name under which this node appears."""
        return self.config.hostname or socket.gethostname()

    def clear_cluster_state(self) -> None:
        """Remove what a cluster's tasks left in the data directory; images stay."""
        for name in ("tasks", "network"):
            shutil.rmtree(self.config.data_dir / name, ignore_errors=True)

    def new_member(self, membership: Membership, **extra: Any) -> ClusterMember:
        """Return this node as a member. `extra`: what a new one begins with."""
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


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
