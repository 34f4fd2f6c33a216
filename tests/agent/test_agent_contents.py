"""Secrets and configs at the agent: there when their tasks start, gone when the manager says so, never on its disk."""

import asyncio
import contextlib

import msgspec
from agent_bench import Bench, assigned, container_spec, message, raw, view

from pyswarm_agent.held_contents import HeldContents
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_agent.task_container import container_id_of
from pyswarm_common import wire
from pyswarm_common.task_states import TaskState

KEY = {"k1": wire.FileContent(data=b"open sesame")}


def spec_with_key(name: str = "key", content_id: str = "k1") -> bytes:
    reference = {"SecretID": content_id, "SecretName": name, "File": {"Name": name, "UID": "0", "GID": "0", "Mode": 256}}
    return container_spec(Secrets=[reference])


def given_to(bench: Bench, task_id: str) -> tuple[PrivateFile, ...]:
    return bench.runtime.files[container_id_of(task_id)]


async def test_a_task_gets_its_files_when_it_starts(bench: Bench) -> None:
    await bench.agent.handle(message(assigned("t1"), complete=True, spec=spec_with_key(), contents=KEY))
    await bench.until_state("t1", TaskState.RUNNING)
    assert given_to(bench, "t1") == (PrivateFile("/run/secrets/key", b"open sesame", mode=0o400),)


async def test_templates_are_filled_in_for_each_task(bench: Bench) -> None:
    contents = {"k1": wire.FileContent(data=b"{{.Node.Hostname}} {{.Task.ID}}", is_template=True)}
    for task_id in ("t1", "t2"):
        await bench.agent.handle(message(assigned(task_id), spec=spec_with_key(), contents=contents))
        await bench.until_state(task_id, TaskState.RUNNING)
        assert given_to(bench, task_id)[0].data == f"h1 {task_id}".encode()


async def test_nothing_of_them_is_on_the_agents_disk(bench: Bench) -> None:
    await bench.agent.handle(message(assigned("t1"), complete=True, spec=spec_with_key(), contents=KEY))
    await bench.until_state("t1", TaskState.RUNNING)
    files = [path for path in bench.directory.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(b"SecretID" in path.read_bytes() for path in files)
    assert not any(b"sesame" in path.read_bytes() for path in files)
    container = bench.container("t1")
    assert container is not None
    assert b"sesame" not in msgspec.json.encode(container)
    assert "sesame" not in repr(bench.agent._contents)


async def test_a_task_that_was_not_started_yet_gets_them_after_a_restart(bench: Bench) -> None:
    await bench.agent.handle(message(assigned("t1", TaskState.READY), complete=True, spec=spec_with_key(), contents=KEY))
    await bench.until_state("t1", TaskState.READY)
    await bench.restart()
    bench.agent.session_began()
    await bench.agent.handle(message(assigned("t1"), complete=True, spec=spec_with_key(), contents=KEY))
    await bench.until_state("t1", TaskState.RUNNING)
    assert given_to(bench, "t1")[0].data == b"open sesame"


async def test_a_task_that_a_restart_met_half_way_waits_for_the_manager(bench: Bench) -> None:
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def hold(operation: str, _: str) -> None:
        if operation == "create":
            reached.set()
            await goes_on.wait()

    bench.runtime.before_each = hold
    await bench.agent.handle(message(assigned("t1"), complete=True, spec=spec_with_key(), contents=KEY))
    await reached.wait()
    await bench.restart()
    goes_on.set()
    bench.agent.session_began()
    for _ in range(20):
        await bench.clock.advance(1)
    assert TaskState.RUNNING not in bench.states("t1")
    assert not any(state.is_terminal for state in bench.states("t1"))
    await bench.agent.handle(message(contents=KEY))
    await bench.agent.handle(message(assigned("t1"), complete=True, spec=spec_with_key()))
    await bench.until_state("t1", TaskState.RUNNING)
    assert given_to(bench, "t1")[0].data == b"open sesame"


async def test_a_running_task_needs_them_no_more_after_a_restart(bench: Bench) -> None:
    await bench.agent.handle(message(assigned("t1"), complete=True, spec=spec_with_key(), contents=KEY))
    await bench.until_state("t1", TaskState.RUNNING)
    await bench.restart()
    await bench.until_state("t1", TaskState.RUNNING)


async def test_a_task_whose_secret_is_gone_is_rejected(bench: Bench) -> None:
    bench.agent.session_began()
    await bench.agent.handle(message(assigned("t1"), complete=True, spec=spec_with_key()))
    await bench.until_state("t1", TaskState.REJECTED)
    assert bench.status("t1").error == "secret key not found: it was removed from the cluster"
    assert bench.container("t1") is None


async def test_a_stop_ends_the_waiting(bench: Bench) -> None:
    await bench.agent.handle(message(assigned("t1"), spec=spec_with_key()))
    await bench.until_state("t1", TaskState.PREPARING)
    await bench.agent.handle(message(assigned("t1", TaskState.SHUTDOWN)))
    await bench.until_state("t1", TaskState.SHUTDOWN)


async def test_a_task_that_is_wanted_no_more_misses_nothing(bench: Bench) -> None:
    await bench.agent.handle(message(assigned("t1", TaskState.READY, network="net"), spec=spec_with_key(), views=(raw(view()),)))
    await bench.until_state("t1", TaskState.PREPARING)
    await bench.restart()
    bench.agent.session_began()
    shut_down = assigned("t1", TaskState.SHUTDOWN, network="net")
    await bench.agent.handle(message(shut_down, complete=True, spec=spec_with_key(), views=(raw(view(2)),)))
    await bench.until_state("t1", TaskState.SHUTDOWN)


def complete(**contents: bytes) -> wire.Assignments:
    return wire.Assignments(is_complete=True, contents={k: wire.FileContent(data=v) for k, v in contents.items()})


def increment(*removed: str, **contents: bytes) -> wire.Assignments:
    held = {key: wire.FileContent(data=value) for key, value in contents.items()}
    return wire.Assignments(is_complete=False, contents=held, removed_contents=removed)


async def held(contents: HeldContents, *wanted: str) -> dict[str, bytes]:
    return {key: content.data for key, content in (await contents.wait_for(wanted)).items()}


def tell(contents: HeldContents, message: wire.Assignments) -> None:
    contents.take(message)
    contents.drop(message)


async def test_what_is_held_follows_the_sessions() -> None:
    contents = HeldContents()
    contents.session_began()
    tell(contents, increment(a=b"1"))
    tell(contents, complete(b=b"2"))
    assert await held(contents, "a", "b", "c") == {"a": b"1", "b": b"2"}
    tell(contents, increment("a", c=b"3"))
    assert await held(contents, "a", "b", "c") == {"b": b"2", "c": b"3"}
    contents.session_began()
    tell(contents, increment(b=b"2"))
    assert await held(contents, "b", "c") == {"b": b"2", "c": b"3"}  # that of the session before stays until the set is complete
    tell(contents, complete())
    assert await held(contents, "b", "c") == {"b": b"2"}


async def test_who_waits_gets_what_comes_or_hears_that_nothing_will() -> None:
    contents = HeldContents()
    contents.session_began()
    waiting = asyncio.ensure_future(held(contents, "a", "b"))
    tell(contents, increment(a=b"1"))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    assert not waiting.done()
    tell(contents, complete())
    assert await waiting == {"a": b"1"}
