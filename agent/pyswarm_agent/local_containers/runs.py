"""The runs of local containers: their place on the network, their end, and their being started again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import structlog

from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.local_containers.held import Held
from pyswarm_agent.local_containers.network import LocalNetwork
from pyswarm_agent.local_containers.records import CONTAINER_PREFIX, HOST
from pyswarm_agent.local_containers.restart_policy import STEADY_RUN_S, after_run, wants_restart, wants_start_with_daemon
from pyswarm_agent.persistence import error_text, failed_of, log_failure, until_done
from pyswarm_agent.runtime.interface import Runtime
from pyswarm_agent.runtime.records import ContainerRecord, ExitStatus
from pyswarm_common.clock import NANOSECONDS_PER_SECOND, Clock
from pyswarm_common.errors import NotFound, PyswarmError, Unavailable
from pyswarm_common.waiting import wait_first

_log = structlog.get_logger()


class Runs:
    """Begins, follows and ends runs. `save` changes a container's record; `remove` takes away one that has ended for good."""

    def __init__(
        self,
        runtime: Runtime,
        network: LocalNetwork,
        health: HealthMonitors,
        clock: Clock,
        save: Callable[..., Awaitable[None]],
        remove: Callable[[Held], Awaitable[None]],
    ) -> None:
        self._runtime = runtime
        self._network = network
        self._health = health
        self._clock = clock
        self._save = save
        self._remove = remove
        self._group: asyncio.TaskGroup | None = None
        self.is_running = asyncio.Event()

    async def run(self, adopt: Callable[[], Awaitable[None]]) -> None:
        """Own what runs in the background until cancelled; the containers go on. `adopt` comes first."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await failed_of(("take up local containers", adopt))
                self.is_running.set()
                await asyncio.Event().wait()
        finally:
            await self._network.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background."""
        if self._group is None:
            work.close()
            raise Unavailable("local containers are not taken up yet")
        return self._group.create_task(_logged(work))

    async def take_up(self, found: list[Held]) -> None:
        """Follow the containers that run, and start those whose policy says so."""
        states = {held: self._runtime.get(held.container.id) for held in found}
        live = {held: record for held, record in states.items() if record is not None and record.is_live}
        await failed_of(("take up the local network", lambda: self._network.start([held.container.id for held in live])))
        for held, record in states.items():
            container = held.container
            if held in live:
                held.place = self._network.place(container, live[held].config)
                self._health.watch(container.id, live[held].config.healthcheck)
                self.follow(held)
            elif container.auto_remove and container.was_started:
                self.spawn(_awaited(self._remove(held)))
            elif container.was_started and wants_start_with_daemon(
                container.restart_policy,
                count=container.restarts.count,
                exit_code=_exit_code(held, record),
                is_stopped_by_hand=container.is_stopped_by_hand,
            ):
                held.is_restarting = True
                self.follow(held)

    async def begin(self, held: Held) -> None:
        """Give the container its place and start it. Raises what kept it from starting, leaving no place."""
        container = held.container
        record = self._runtime.get(container.id)
        if record is None:
            raise NotFound(f"No such container: {container.id}")
        held.settled.clear()
        try:
            place = await self._network.attach(container, record.config)
            if (place.attachment, place.attachments) != (container.attachment, container.attachments):
                await self._save(held, attachment=place.attachment, attachments=place.attachments)
            await self._runtime.configure(
                msgspec.structs.replace(
                    record.config,
                    netns_path=place.netns_path,
                    resolv_conf=place.resolv_conf,
                    hosts=place.hosts,
                    hostname=place.hostname,
                )
            )
            await self._runtime.start_container(container.id)
        except BaseException:
            held.settled.set()
            await failed_of(self._detaching(held))
            raise
        held.place = place
        self._health.watch(container.id, record.config.healthcheck)

    def follow(self, held: Held) -> None:
        """Follow a run that was begun, or a restart that is to come, until nothing more follows."""
        held.settled.clear()
        held.wake.clear()
        held.job = self.spawn(self._follow(held))

    async def release(self, held: Held) -> None:
        """Free the place of a container that is about to be removed. Raises PyswarmError, OSError."""
        await self._network.detach(held.container.id)
        held.place = None

    async def _follow(self, held: Held) -> None:
        try:
            while await self._ends_and_restarts(held):
                pass
        except (NotFound, Unavailable):
            return  # it was removed, or this daemon ends
        finally:
            held.is_restarting = False
            held.settled.set()
        if held.container.auto_remove and not held.is_being_replaced and not held.is_removed:
            await self._remove(held)

    async def _ends_and_restarts(self, held: Held) -> bool:
        """Wait until the container has ended; whether it runs again then."""
        ran_s = STEADY_RUN_S
        if held.is_restarting:
            exit_code = _exit_code(held, self._runtime.get(held.container.id))
        else:
            status = await self._runtime.wait(held.container.id)
            exit_code, ran_s = status.exit_code, self._ran_s(held, status)
            self._health.end(held.container.id)
            held.place = None
            await until_done(self._clock, self._detaching(held))
        while True:
            async with held.lock:
                if not self._wants_restart(held, exit_code):
                    break
                await self._save(held, restarts=after_run(held.container.restarts, ran_s), is_stopped_by_hand=False)
                held.is_restarting = True
            held.settled.set()
            await wait_first(self._clock.sleep(held.container.restarts.pause_s), held.wake.wait())
            async with held.lock:
                if held.wake.is_set():
                    break
                try:
                    await self.begin(held)
                except (PyswarmError, OSError) as error:
                    _log.warning("local_container.not_restarted", container=held.container.id, error=error_text(error))
                    exit_code, ran_s = getattr(error, "exit_code", 128), 0.0
                    await self._save(held, start_error=str(error), start_exit_code=exit_code)
                    continue
                held.is_restarting = False
                return True
        held.wake.clear()
        return False

    def _wants_restart(self, held: Held, exit_code: int) -> bool:
        container = held.container
        if held.is_removed or held.is_being_replaced:
            return False
        is_asked = wants_start_with_daemon if held.is_restarting else wants_restart
        return is_asked(
            container.restart_policy,
            count=container.restarts.count,
            exit_code=exit_code,
            is_stopped_by_hand=container.is_stopped_by_hand,
        )

    def _ran_s(self, held: Held, status: ExitStatus) -> float:
        record = self._runtime.get(held.container.id)
        return max(0, status.finished_at_ns - record.started_at_ns) / NANOSECONDS_PER_SECOND if record is not None else 0.0

    def _detaching(self, held: Held) -> tuple[str, Callable[[], Awaitable[object]]]:
        container = held.container
        if container.network_mode == HOST or container.network_mode.startswith(CONTAINER_PREFIX):
            return "nothing to detach", _nothing
        return f"detach container {container.id} from its network", lambda: self._network.detach(container.id)


def _exit_code(held: Held, record: ContainerRecord | None) -> int:
    if held.container.start_error:
        return held.container.start_exit_code
    return record.exit.exit_code if record is not None and record.exit is not None else 0


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001  a fault with one container must not end the others'
        log_failure(error, "follow a local container")


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _nothing() -> None:
    """Do nothing."""
