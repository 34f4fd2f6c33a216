"""Monitors: who is probed when, and what pauses, ends, hanging probes and errors do to it."""

from collections.abc import AsyncIterator

import pytest
from fake_probes import FakeProbes

from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.health.rules import Health
from pyswarm_agent.runtime.access.interface import Finished
from pyswarm_agent.runtime.fake import FakeContainerRuntime
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.records import ContainerConfig, HealthcheckConfig
from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import Conflict

ID = "a" * 64
CHECK = HealthcheckConfig(test=("CMD", "/check"), interval_s=10, timeout_s=3, retries=2)


class Bench:
    """One container that runs, and its monitor."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.runtime = FakeContainerRuntime(self.clock)
        self.probes = FakeProbes(self.clock)
        self.monitors = HealthMonitors(self.runtime, self.probes, self.clock)
        self.told: list[str] = []
        self.events: list[str] = []
        self.runtime.on_event = lambda action, record, attributes: self.events.append(action)

    async def run(self) -> None:
        """Start the container."""
        await self.runtime.create(ContainerConfig(id=ID, args=("/x",)))
        await self.runtime.start_container(ID)

    def watch(self, check: HealthcheckConfig = CHECK) -> None:
        """Begin to probe it."""
        self.monitors.watch(ID, check, lambda health: self.told.append(health.status))

    @property
    def health(self) -> Health:
        """What is known."""
        health = self.monitors.status(ID)
        assert health is not None
        return health


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.run()
    yield made
    await made.monitors.close()
    await made.runtime.close()


async def test_the_first_probe_comes_after_the_interval_and_the_next_after_the_last_one_ended(bench: Bench) -> None:
    bench.probes.takes_s = 1
    bench.watch()
    assert bench.health.status == "starting"
    await bench.clock.advance(9.9)
    assert bench.probes.times_s == []
    await bench.clock.advance(25)
    assert bench.probes.times_s == [10, 21, 32]
    assert bench.health.status == "healthy"
    assert bench.told == ["healthy"]
    assert "health_status: healthy" in bench.events


async def test_the_start_period_has_its_own_pace_and_forgives(bench: Bench) -> None:
    bench.probes.fail()
    bench.watch(HealthcheckConfig(test=("CMD", "x"), interval_s=10, start_period_s=6, start_interval_s=2, retries=2))
    await bench.clock.advance(6)
    assert bench.probes.times_s == [2, 4, 6]
    assert (bench.health.status, bench.health.failing_streak) == ("starting", 1)
    await bench.clock.advance(10)
    assert bench.told == ["unhealthy"]


async def test_a_container_that_started_long_ago_has_no_start_period_left(bench: Bench) -> None:
    await bench.clock.advance(100)
    bench.watch(HealthcheckConfig(test=("CMD", "x"), interval_s=10, start_period_s=60, start_interval_s=2))
    await bench.clock.advance(5)
    assert bench.probes.times_s == []


async def test_a_wall_clock_that_jumps_changes_nothing(bench: Bench) -> None:
    bench.probes.fail()
    bench.watch(HealthcheckConfig(test=("CMD", "x"), interval_s=10, start_period_s=25, start_interval_s=10, retries=1))
    bench.clock.jump(-3600)
    await bench.clock.advance(30)
    assert bench.told == ["unhealthy"]


async def test_a_probe_that_takes_too_long_has_failed(bench: Bench) -> None:
    bench.probes.takes_s = 100
    bench.watch()
    await bench.clock.advance(13)
    assert (bench.health.log[0].exit_code, bench.health.log[0].output) == (-1, "Health check exceeded timeout (3s)")
    assert bench.probes.under_way == 0
    await bench.clock.advance(13)
    assert bench.told == ["unhealthy"]


async def test_a_probe_that_cannot_be_run_has_failed_and_says_why(bench: Bench) -> None:
    bench.probes.answer = lambda _: ContainerStartFailed("exec: /check: no such file", 127)
    bench.watch()
    await bench.clock.advance(10)
    assert (bench.health.log[0].exit_code, bench.health.log[0].output) == (-1, "exec: /check: no such file")


async def test_output_is_kept_to_its_limit_and_need_not_be_text(bench: Bench) -> None:
    bench.probes.answer = lambda _: Finished(0, b"\xff" + b"x" * 4096)
    bench.watch()
    await bench.clock.advance(10)
    assert bench.health.log[0].output == "�" + "x" * 4095 + "..."


async def test_a_fault_of_ours_does_not_end_the_probes(bench: Bench) -> None:
    bench.probes.answer = lambda _: ZeroDivisionError()
    bench.watch()
    await bench.clock.advance(10)
    assert bench.health == Health()
    bench.probes.answer = lambda _: 0
    await bench.clock.advance(10)
    assert bench.told == ["healthy"]


async def test_a_paused_container_is_not_probed(bench: Bench) -> None:
    bench.watch()
    bench.runtime.mark_paused(ID, True)
    await bench.clock.advance(100)
    assert bench.probes.times_s == []
    bench.runtime.mark_paused(ID, False)
    await bench.clock.advance(10)
    assert bench.told == ["healthy"]


async def test_a_probe_that_a_pause_froze_says_nothing(bench: Bench) -> None:
    bench.probes.takes_s = 100
    bench.watch()
    await bench.clock.advance(11)
    bench.runtime.mark_paused(ID, True)
    await bench.clock.advance(50)
    assert bench.health == Health()


@pytest.mark.parametrize("is_ended", [True, False])
async def test_a_container_that_ended_is_probed_no_more(bench: Bench, is_ended: bool) -> None:
    bench.watch()
    await bench.clock.advance(10)
    if is_ended:
        bench.runtime.end_container(ID, 0)
    else:
        await bench.runtime.remove(ID)
    bench.probes.answer = lambda _: Conflict("not running")
    await bench.clock.advance(100)
    assert len(bench.probes.times_s) == 1
    assert bench.health.status == "unhealthy"  # as Docker says of what is probed no more
    assert bench.told == ["healthy"]


async def test_letting_go_ends_a_probe_that_is_under_way(bench: Bench) -> None:
    bench.probes.takes_s = 2
    bench.watch()
    await bench.clock.advance(11)
    assert bench.probes.under_way == 1
    bench.monitors.end(ID)
    await bench.clock.advance(100)
    assert bench.probes.under_way == 0
    assert (bench.told, len(bench.probes.times_s)) == ([], 1)
    bench.monitors.forget(ID)
    assert bench.monitors.status(ID) is None


async def test_watching_again_begins_anew_and_keeps_the_results(bench: Bench) -> None:
    bench.watch()
    await bench.clock.advance(10)
    bench.monitors.end(ID)
    bench.watch()
    assert (bench.health.status, len(bench.health.log)) == ("starting", 1)
    await bench.clock.advance(10)
    assert (bench.health.status, len(bench.health.log)) == ("healthy", 2)


@pytest.mark.parametrize("test", [(), ("NONE",)])
async def test_what_has_no_healthcheck_is_not_watched(bench: Bench, test: tuple[str, ...]) -> None:
    bench.watch(HealthcheckConfig(test=test))
    assert bench.monitors.status(ID) is None
