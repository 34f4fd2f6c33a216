"""What is told to managers of the views in force, and how tasks leave this node's balancers."""

import asyncio

import pytest
from agent_bench import Bench, assigned, container_spec, message, raw, view
from session_bench import Certificates, manager, receive, welcome
from test_agent_sessions import connected
from websockets.asyncio.server import ServerConnection

from pyswarm_agent.applied_views import AppliedViews
from pyswarm_agent.worker import BALANCERS_PAUSE_S, UNHEALTHY_PAUSE_S
from pyswarm_common import wire
from pyswarm_common.errors import Unavailable
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.task_states import TaskState

SPEC = container_spec(Healthcheck={"Test": ["CMD-SHELL", "check"], "Interval": 10**9, "Timeout": 10**9, "Retries": 2})
SERVING = ("10.0.1.5", "10.0.1.6")


def views(**versions: int) -> dict[str, wire.NetworkView]:
    return {network_id: view(version, network_id=network_id) for network_id, version in versions.items()}


async def answered(applied: AppliedViews) -> dict[str, int] | None:
    """Return what is answered now; None when nothing is."""
    waiting = asyncio.ensure_future(applied.next_answer())
    for _ in range(5):
        await asyncio.sleep(0)
    if waiting.done():
        return waiting.result().versions
    waiting.cancel()
    return None


async def test_managers_are_answered_when_they_asked_and_it_is_so() -> None:
    applied = AppliedViews()
    applied.put(views(a=1, b=1), 1)
    assert await answered(applied) is None, "nobody asked"
    applied.ask(2)
    assert await answered(applied) is None, "the views that are in force are older"
    applied.put(views(a=2, b=1), 2)
    assert await answered(applied) == {"a": 2, "b": 1}
    assert await answered(applied) is None
    applied.put(views(a=5, b=1), 4)
    applied.ask(3)
    assert await answered(applied) == {"a": 5}, "what was said before is not said again"
    applied.ask(4)
    applied.session_began()
    assert await answered(applied) is None, "another manager, which has not asked"
    applied.ask(4)
    assert await answered(applied) == {"a": 5, "b": 1}


async def test_whoever_waits_is_told_of_the_views_that_come_meanwhile() -> None:
    applied = AppliedViews()
    waiting = asyncio.ensure_future(applied.next_answer())
    await asyncio.sleep(0)
    applied.ask(1)
    await asyncio.sleep(0)
    applied.put(views(a=1), 1)
    assert (await waiting).versions == {"a": 1}


@pytest.mark.parametrize("last", [view(2), view(2, backends=("10.0.1.50",)), None])
async def test_a_task_has_left_when_no_service_names_its_address(last: wire.NetworkView | None) -> None:
    applied = AppliedViews()
    applied.put({"net": view(backends=SERVING)}, 1)
    places = (NetworkAttachment(network_id="net", address="10.0.1.5/24"), NetworkAttachment(network_id="x", address="10.0.2.5/24"))
    leaving = asyncio.ensure_future(applied.wait_left(places))
    await asyncio.sleep(0)
    applied.put({"net": view(backends=SERVING[:1])}, 2)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not leaving.done()
    applied.put({"net": last} if last is not None else {}, 3)
    await leaving


async def test_a_session_tells_which_views_are_in_force_when_it_is_asked(bench: Bench, certificates: Certificates) -> None:
    told: asyncio.Queue[dict[str, int]] = asyncio.Queue()

    async def talk(socket: ServerConnection) -> None:
        await welcome(socket)
        await socket.send(wire.encode(message(complete=True, views=(raw(view(7)),), is_answer_awaited=True)))
        delta = wire.view_delta(view(7), view(8, backends=SERVING))
        await socket.send(wire.encode(message(view_deltas=(raw(delta),))))
        await socket.send(wire.encode(message(is_answer_awaited=True)))
        while True:
            answer = await receive(socket)
            if isinstance(answer, wire.ViewsApplied):
                told.put_nowait(answer.versions)

    async with manager(certificates, talk) as address:
        with connected(bench, certificates, address):
            await bench.until(lambda: bench.agent.hello().view_versions == {"net": 8}, advancing_s=0.1)
            first: list[dict[str, int]] = []
            last: dict[str, int] = {}
            while last != {"net": 8}:
                last = await asyncio.wait_for(told.get(), 10.0)
                first.append(last)
    assert first in ([{"net": 7}, {"net": 8}], [{"net": 8}])
    assert bench.driver.views()["net"].version == 8


async def test_views_that_cannot_be_applied_are_not_said_to_be_in_force(bench: Bench) -> None:
    apply_views, refusals = bench.driver.apply_views, [3]

    async def apply(changed: object) -> None:
        if refusals[0]:
            refusals[0] -= 1
            raise Unavailable("no")
        await apply_views(changed)  # type: ignore[arg-type]

    bench.driver.apply_views = apply  # type: ignore[method-assign,assignment]
    await bench.agent.handle(message(views=(raw(view(3)),), is_answer_awaited=True))
    answer = asyncio.ensure_future(bench.agent.next_views_applied())
    await asyncio.sleep(0)
    assert not answer.done()
    assert refusals != [0]
    await bench.until(answer.done, advancing_s=0.5)
    assert answer.result() == wire.ViewsApplied(versions={"net": 3})


async def unhealthy(bench: Bench) -> None:
    """Let a task that serves become unhealthy."""
    first = message(assigned("t1", network="net"), spec=SPEC, views=(raw(view(1)),))
    await bench.agent.handle(first)
    await bench.until_state("t1", TaskState.RUNNING, advancing_s=1)
    await bench.agent.handle(message(view_deltas=(raw(wire.view_delta(view(1), view(2, backends=SERVING))),)))
    bench.probes.fail()
    await bench.until(lambda: bool(bench.status("t1").error), advancing_s=0.05)


def is_running(bench: Bench) -> bool:
    container = bench.container("t1")
    return container is not None and container.state == "running"


async def test_an_unhealthy_task_is_stopped_soon_after_this_nodes_balancers_left_it_out(bench: Bench) -> None:
    await unhealthy(bench)
    await bench.clock.advance(0.1)
    await bench.agent.handle(message(view_deltas=(raw(wire.view_delta(view(2, backends=SERVING), view(3, backends=SERVING[1:]))),)))
    await bench.clock.advance(BALANCERS_PAUSE_S - 0.01)
    assert is_running(bench)
    await bench.clock.advance(0.02)
    await bench.until_state("t1", TaskState.FAILED)


async def test_an_unhealthy_task_whose_manager_is_silent_is_stopped_all_the_same(bench: Bench) -> None:
    await unhealthy(bench)
    await bench.clock.advance(UNHEALTHY_PAUSE_S - 0.06)
    assert is_running(bench)
    await bench.clock.advance(0.06)
    await bench.until_state("t1", TaskState.FAILED)
