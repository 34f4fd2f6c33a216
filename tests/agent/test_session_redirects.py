"""The dialer and managers that do not lead, or that a forced new cluster left behind."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from session_bench import WELCOME, Certificates, manager, welcome
from test_session_dialer import BackOffClock, Handler, dialing, refuse, until
from websockets.asyncio.server import ServerConnection

from pyswarm_agent.session import FIRST_DELAY_S, STEADY_S
from pyswarm_common import wire

Talk = Callable[[ServerConnection], Awaitable[None]]


def redirecting(to: Callable[[], str], dialled: list[str], name: str) -> Talk:
    """Say what a follower says that knows the leader."""

    async def talk(socket: ServerConnection) -> None:
        dialled.append(name)
        await socket.recv()
        await socket.send(wire.encode(wire.Goodbye(reason="this manager does not lead", leader_address=to())))

    return talk


def leading(dialled: list[str], name: str, done: asyncio.Event) -> Talk:
    """Hold the session until `done`."""

    async def talk(socket: ServerConnection) -> None:
        dialled.append(name)
        await welcome(socket)
        await done.wait()

    return talk


async def test_the_leader_is_dialled_next_and_at_once(certificates: Certificates) -> None:
    dialled, done = list[str](), asyncio.Event()
    clock = BackOffClock()
    async with (
        manager(certificates, leading(dialled, "leader", done)) as leader,
        manager(certificates, redirecting(lambda: leader, dialled, "follower")) as follower,
        manager(certificates, refuse) as third,
        dialing(Handler(), certificates, follower, third, clock=clock) as dialer,
    ):
        await until(lambda: dialer.connected_to == leader)
        assert dialled == ["follower", "leader"]
        assert clock.pauses_s == []
        done.set()


async def test_a_session_that_ends_with_a_redirect_goes_on_there_without_a_pause(certificates: Certificates) -> None:
    dialled, done = list[str](), asyncio.Event()
    clock = BackOffClock()
    clock.session_s = STEADY_S

    async def depose(socket: ServerConnection) -> None:
        dialled.append("deposed")
        await welcome(socket)
        await socket.send(wire.encode(wire.Goodbye(reason="not any more", leader_address=leader)))

    async with (
        manager(certificates, leading(dialled, "leader", done)) as leader,
        manager(certificates, depose) as deposed,
        dialing(Handler(), certificates, deposed, clock=clock) as dialer,
    ):
        await until(lambda: dialer.connected_to == leader)
        assert (dialled, clock.pauses_s) == (["deposed", "leader"], [])
        done.set()


async def test_managers_that_redirect_to_each_other_are_not_trampled(certificates: Certificates) -> None:
    dialled: list[str] = []
    addresses = {"a": "", "b": ""}
    clock = BackOffClock()
    async with (
        manager(certificates, redirecting(lambda: addresses["b"], dialled, "a")) as addresses["a"],
        manager(certificates, redirecting(lambda: addresses["a"], dialled, "b")) as addresses["b"],
        dialing(Handler(), certificates, *addresses.values(), clock=clock),
    ):
        await until(lambda: len(clock.pauses_s) >= 3)
    assert clock.pauses_s[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert len(dialled) <= 2 * (len(clock.pauses_s) + 1)


async def test_a_manager_that_names_itself_backs_off(certificates: Certificates) -> None:
    dialled: list[str] = []
    addresses = {"a": ""}
    clock = BackOffClock()
    async with (
        manager(certificates, redirecting(lambda: addresses["a"], dialled, "a")) as addresses["a"],
        dialing(Handler(), certificates, addresses["a"], clock=clock),
    ):
        await until(lambda: len(clock.pauses_s) >= 2)
    assert clock.pauses_s[:2] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S]


async def test_a_leader_that_does_not_answer_is_left_for_the_others(certificates: Certificates) -> None:
    dialled, done = list[str](), asyncio.Event()
    clock = BackOffClock()
    async with (
        manager(certificates, redirecting(lambda: "127.0.0.1:1", dialled, "follower")) as follower,
        manager(certificates, leading(dialled, "leader", done)) as leader,
        dialing(Handler(), certificates, follower, leader, clock=clock) as dialer,
    ):
        await until(lambda: dialer.connected_to == leader)
        assert dialled == ["follower", "leader"]
        assert len(clock.pauses_s) == 1
        done.set()


async def test_managers_of_an_older_incarnation_are_refused(certificates: Certificates) -> None:
    seen = [3]
    greeted: list[int] = []

    def of_incarnation(number: int) -> Talk:
        async def talk(socket: ServerConnection) -> None:
            await socket.recv()
            greeted.append(number)
            await socket.send(wire.encode(msgspec.structs.replace(WELCOME, incarnation=number)))
            await socket.wait_closed()

        return talk

    handler, clock = Handler(), BackOffClock()
    incarnations = {"incarnation": lambda: seen[-1], "on_incarnation": seen.append}
    async with (
        manager(certificates, of_incarnation(2)) as older,
        manager(certificates, of_incarnation(4)) as newer,
    ):
        async with dialing(handler, certificates, older, newer, clock=clock, **incarnations) as dialer:
            await until(lambda: dialer.connected_to == newer)
            assert (greeted, seen, handler.began) == ([2, 4], [3, 4], 1)
        async with dialing(handler, certificates, newer, clock=clock, **incarnations) as dialer:
            await until(lambda: dialer.connected_to == newer)
        assert seen == [3, 4], "the same one is no news"
