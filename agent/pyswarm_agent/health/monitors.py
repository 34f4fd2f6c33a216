"""Who is probed at the moment, and what came of it: one job for each container that is watched.

Whoever starts a container watches it (`watch`) and lets go when it ends (`end`); a job whose container is gone or has been started
anew by somebody else ends by itself at its next probe. A paused container is not probed, and a probe that was under way when it was
paused says nothing. Nothing is kept on disk: after a restart of the daemon a container is `starting` again for those who look at
it.
"""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from pyswarm_agent.health.probing import ProcessRunner, probe
from pyswarm_agent.health.rules import Health, is_checked, pause_s, with_result
from pyswarm_agent.persistence import error_text
from pyswarm_agent.runtime.interface import Runtime
from pyswarm_agent.runtime.records import ContainerRecord, HealthcheckConfig
from pyswarm_common.clock import NANOSECONDS_PER_SECOND, Clock

_log = structlog.get_logger()


class _Monitor:
    def __init__(self, check: HealthcheckConfig, tell: Callable[[Health], None], health: Health) -> None:
        self.check = check
        self.tell = tell
        self.health = health
        self.job: asyncio.Task[None] | None = None


class HealthMonitors:
    """The health of this node's containers."""

    def __init__(self, runtime: Runtime, runner: ProcessRunner, clock: Clock) -> None:
        self._runtime = runtime
        self._runner = runner
        self._clock = clock
        self._monitors: dict[str, _Monitor] = {}

    def watch(self, container_id: str, check: HealthcheckConfig, tell: Callable[[Health], None] = lambda _: None) -> None:
        """Probe a container that runs from now on, and `tell` whenever its status changes; nothing if it is not to be checked.

        If it was watched already, this begins anew; its earlier results are still shown.
        """
        if not is_checked(check):
            return
        self.end(container_id)
        before = self._monitors.get(container_id)
        health = Health(log=before.health.log) if before is not None else Health()
        monitor = self._monitors[container_id] = _Monitor(check, tell, health)
        monitor.job = asyncio.get_running_loop().create_task(
            self._observe(container_id, monitor), name=f"health {container_id[:12]}"
        )

    def end(self, container_id: str) -> None:
        """Probe it no more. What is known of it stays; it counts as unhealthy, as in Docker."""
        monitor = self._monitors.get(container_id)
        if monitor is not None and monitor.job is not None:
            monitor.job.cancel()
            self._close(monitor)

    def forget(self, container_id: str) -> None:
        """The container is gone."""
        self.end(container_id)
        self._monitors.pop(container_id, None)

    def status(self, container_id: str) -> Health | None:
        """Return what is known of a container's health; None when it is not checked."""
        monitor = self._monitors.get(container_id)
        return monitor.health if monitor is not None else None

    async def close(self) -> None:
        """End all jobs, and the probes that are under way."""
        jobs = [monitor.job for monitor in self._monitors.values() if monitor.job is not None]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def _observe(self, container_id: str, monitor: _Monitor) -> None:
        record = self._runtime.get(container_id)
        if record is None:
            return
        started_at_ns, began_s = record.started_at_ns, self._clock.monotonic_s()
        elapsed_s = max(0, self._clock.now_ns() - started_at_ns) / NANOSECONDS_PER_SECOND
        while True:
            age_s = elapsed_s + self._clock.monotonic_s() - began_s
            await self._clock.sleep(pause_s(monitor.health, monitor.check, age_s))
            record = self._runtime.get(container_id)
            if record is None or not record.is_live or record.started_at_ns != started_at_ns:
                self._close(monitor)
                return
            if record.state == "running":
                await self._probe(record, monitor, elapsed_s + self._clock.monotonic_s() - began_s)

    async def _probe(self, record: ContainerRecord, monitor: _Monitor, age_s: float) -> None:
        container_id = record.config.id
        try:
            result = await probe(self._runner, self._clock, container_id, monitor.check)
            now = self._runtime.get(container_id)
            if result is not None and now is not None and now.state == "running":
                self._change(monitor, with_result(monitor.health, monitor.check, result, age_s), now)
        except Exception as error:  # noqa: BLE001  a fault in one probe must not end those that follow
            _log.error("health.probe_failed", container=container_id, error=error_text(error), exc_info=error)

    def _change(self, monitor: _Monitor, health: Health, record: ContainerRecord) -> None:
        before, monitor.health = monitor.health, health
        if before.status != health.status:
            self._runtime.on_event(f"health_status: {health.status}", record, {})
            monitor.tell(health)

    def _close(self, monitor: _Monitor) -> None:
        monitor.job = None
        monitor.health = msgspec.structs.replace(monitor.health, status="unhealthy")
