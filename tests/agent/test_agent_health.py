"""Healthchecks through the agent: what the manager is told, what is stopped when, and what a restart finds."""

import msgspec
from agent_bench import Bench, assigned, container_spec, message, raw, view

from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.runtime.fake import FakeProgram
from pyswarm_agent.task_container import container_id_of
from pyswarm_agent.worker import UNHEALTHY_PAUSE_S
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState

CHECK = {"Test": ["CMD-SHELL", "check"], "Interval": 5 * SECOND_NS, "Retries": 2}
SPEC = container_spec(Healthcheck=CHECK)


async def start(bench: Bench, *, network: str = "") -> None:
    """Assign a task with a healthcheck and let its container start."""
    views = (raw(view()),) if network else ()
    await bench.agent.handle(message(assigned("t1", network=network), spec=SPEC, views=views))
    await bench.until(lambda: is_running(bench))


def is_running(bench: Bench) -> bool:
    container = bench.container("t1")
    return container is not None and container.state == "running" and bench.health.status(container.config.id) is not None


def health_of(bench: Bench) -> str:
    health = bench.health.status(container_id_of("t1"))
    return health.status if health is not None else ""


async def test_a_task_runs_once_it_is_healthy(bench: Bench) -> None:
    await start(bench)
    await bench.clock.advance(4)
    assert bench.states("t1")[-1] is TaskState.STARTING
    await bench.clock.advance(1)
    await bench.until_state("t1", TaskState.RUNNING)
    assert bench.status("t1").pid == bench.container("t1").pid  # type: ignore[union-attr]
    assert bench.probes.commands == [("/bin/sh", "-c", "check")]
    assert health_of(bench) == "healthy"


async def test_a_task_that_never_is_healthy_has_failed(bench: Bench) -> None:
    bench.probes.fail(1, b"no answer")
    await start(bench)
    await bench.until_state("t1", TaskState.FAILED, advancing_s=1)
    assert TaskState.RUNNING not in bench.states("t1")
    assert bench.status("t1").error == (
        "task: non-zero exit (143): unhealthy container (its healthcheck failed 2 times; the last time: exit code 1: no answer)"
    )
    assert bench.container("t1").state == "exited"  # type: ignore[union-attr]


async def test_an_unhealthy_task_leaves_the_balancers_before_it_is_stopped(bench: Bench) -> None:
    await start(bench, network="net")
    await bench.until_state("t1", TaskState.RUNNING, advancing_s=1)
    bench.probes.fail()
    await bench.until(lambda: bool(bench.status("t1").error), advancing_s=0.1)
    assert bench.status("t1").state is TaskState.RUNNING
    assert is_running(bench)
    await bench.clock.advance(UNHEALTHY_PAUSE_S)
    await bench.until_state("t1", TaskState.FAILED)
    await bench.until(lambda: "t1" not in bench.kernel.sandboxes)


async def test_a_stop_interrupts_the_wait_for_health(bench: Bench) -> None:
    await start(bench)
    await bench.agent.handle(message(assigned("t1", TaskState.SHUTDOWN), spec=SPEC))
    await bench.until_state("t1", TaskState.SHUTDOWN)
    await bench.clock.advance(100)
    assert bench.probes.times_s == []
    await bench.agent.handle(message(removed_tasks=("t1",)))
    await bench.until(lambda: bench.has_left_nothing("t1"))
    assert health_of(bench) == ""


async def test_a_container_that_ends_before_it_is_healthy_has_failed_as_it_ended(bench: Bench) -> None:
    await start(bench)
    bench.runtime.end_container(container_id_of("t1"), 3)
    await bench.until_state("t1", TaskState.FAILED)
    assert bench.status("t1").error == "task: non-zero exit (3)"


async def test_a_restarted_agent_goes_on_waiting_for_health(bench: Bench) -> None:
    await start(bench)
    await bench.restart()
    await bench.clock.advance(4)
    assert bench.states("t1") == [TaskState.STARTING]
    await bench.until_state("t1", TaskState.RUNNING, advancing_s=1)


async def test_after_a_restart_a_running_task_runs_on_and_is_found_unhealthy(bench: Bench) -> None:
    await start(bench)
    await bench.until_state("t1", TaskState.RUNNING, advancing_s=1)
    bench.probes.fail()
    await bench.restart()
    assert health_of(bench) == "starting"
    await bench.clock.advance(9)
    assert set(bench.states("t1")) == {TaskState.RUNNING}
    await bench.until_state("t1", TaskState.FAILED, advancing_s=1)


async def test_a_restart_in_the_middle_of_a_stop_does_not_forget_why(bench: Bench) -> None:
    bench.programs["t1"] = FakeProgram(ignores_stop=True)
    bench.probes.fail()
    await start(bench)
    await bench.until(lambda: bool(bench.status("t1").error), advancing_s=1)
    await bench.stop()
    bench.runtime.end_container(container_id_of("t1"), 0)  # and ends well meanwhile
    bench.reports.clear()
    await bench.start()
    await bench.until_state("t1", TaskState.FAILED, advancing_s=1)
    assert bench.status("t1").error.startswith("task: unhealthy container")


async def test_without_a_healthcheck_a_task_runs_at_once(bench: Bench) -> None:
    spec = msgspec.json.encode({"ContainerSpec": {"Image": "app:1", "Healthcheck": {"Test": ["NONE"]}}})
    await bench.agent.handle(message(assigned("t1"), spec=spec))
    await bench.until_state("t1", TaskState.RUNNING)
    assert isinstance(bench.health, HealthMonitors)
    assert health_of(bench) == ""
