"""The commands for locking managers, against the real API."""

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import Awaitable, Callable

import pytest
from click.testing import Result

from pyswarm_manager.store.store import Store
from pyswarm_node.api.fake_control import FakeNodeControl

Run = Callable[..., Awaitable[Result]]


async def test_update_turns_autolock_on_and_off(pyswarm: Run, store: Store) -> None:
    on = await pyswarm("swarm", "update", "--autolock")
    key = store.view.cluster.unlock_key
    assert on.exit_code == 0
    assert on.stdout.splitlines()[:5] == [
        "Swarm updated.",
        "To unlock a swarm manager after it restarts, run the `pyswarm swarm unlock`",
        "command and provide the following key:",
        "",
        f"    {key}",
    ]
    assert key.startswith("SWMKEY-1-")
    again = await pyswarm("swarm", "update", "--autolock=true", "--task-history-limit", "3")
    assert (again.stdout, store.view.cluster.unlock_key) == ("Swarm updated.\n", key)
    assert (await pyswarm("swarm", "update", "--task-history-limit", "2")).exit_code == 0
    assert store.view.cluster.unlock_key == key
    assert (await pyswarm("swarm", "update", "--autolock=false")).stdout == "Swarm updated.\n"
    assert store.view.cluster.unlock_key == ""
    assert (await pyswarm("swarm", "update", "--autolock=perhaps")).exit_code == 2


async def test_unlock_key_is_shown_and_rotated(pyswarm: Run, store: Store) -> None:
    none = await pyswarm("swarm", "unlock-key")
    assert (none.exit_code, none.stderr) == (
        1,
        "Error: no unlock key is set: turn autolock on with `pyswarm swarm update --autolock`\n",
    )
    refused = await pyswarm("swarm", "unlock-key", "--rotate")
    assert (refused.exit_code, refused.stderr) == (1, "Error: cannot rotate because autolock is not turned on\n")
    await pyswarm("swarm", "update", "--autolock")
    first = store.view.cluster.unlock_key
    assert (await pyswarm("swarm", "unlock-key", "-q")).stdout == f"{first}\n"
    rotated = await pyswarm("swarm", "unlock-key", "--rotate")
    second = store.view.cluster.unlock_key
    assert second != first
    assert rotated.stdout.startswith("Successfully rotated manager unlock key.\n\nTo unlock a swarm manager after it restarts")
    assert f"\n    {second}\n" in rotated.stdout
    third = (await pyswarm("swarm", "unlock-key", "--rotate", "--quiet")).stdout.strip()
    assert third == store.view.cluster.unlock_key != second


async def test_init_with_autolock_shows_the_key(pyswarm: Run, control: FakeNodeControl, store: Store) -> None:
    await pyswarm("swarm", "update", "--autolock")
    manager = control.manager
    await pyswarm("swarm", "leave", "--force")
    control.manager = manager
    result = await pyswarm("swarm", "init", "--autolock")
    assert result.exit_code == 0, result.output
    _, request = control.requests[-1]
    assert (request["AutoLockManagers"], request["Spec"]["EncryptionConfig"]) == (True, {"AutoLockManagers": True})
    assert f"\n    {store.view.cluster.unlock_key}\n" in result.stdout


@pytest.mark.parametrize("given", [b"SWMKEY-1-x\n", b"  SWMKEY-1-x", b"SWMKEY-1-x\nmore\n"])
async def test_unlock_reads_the_key_from_a_pipe(pyswarm: Run, control: FakeNodeControl, given: bytes) -> None:
    control.manager = None
    control.local = dataclasses.replace(control.local, swarm_state="locked")
    result = await pyswarm("swarm", "unlock", input=given)
    assert (result.exit_code, result.output) == (0, "")
    assert control.requests == [("unlock", "SWMKEY-1-x")]


async def test_unlock_asks_on_a_terminal_and_shows_nothing_of_the_key(api_socket: str, control: FakeNodeControl) -> None:
    control.manager = None
    control.local = dataclasses.replace(control.local, swarm_state="locked")
    ours, theirs = os.openpty()
    command = ["-c", "from pyswarm_cli.main import main; main()", "-H", f"unix://{api_socket}", "swarm", "unlock"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    seen = b""
    while b"Enter unlock key: " not in seen:
        seen += await asyncio.to_thread(os.read, ours, 1000)
    os.write(ours, b"SWMKEY-1-typed\n")
    assert await process.wait() == 0
    with contextlib.suppress(OSError):  # what Linux answers at the end of a terminal
        while more := await asyncio.to_thread(os.read, ours, 1000):
            seen += more
    os.close(ours)
    assert control.requests == [("unlock", "SWMKEY-1-typed")]
    assert b"typed" not in seen


async def test_unlock_asks_for_no_key_that_nobody_needs(pyswarm: Run, control: FakeNodeControl) -> None:
    result = await pyswarm("swarm", "unlock", input=b"key\n")
    assert (result.exit_code, result.stderr) == (1, "Error: swarm is not locked\n")
    control.local = dataclasses.replace(control.local, swarm_state="inactive")
    result = await pyswarm("swarm", "unlock", input=b"key\n")
    assert (result.exit_code, result.stderr) == (1, "Error: This node is not part of a swarm\n")
    assert control.requests == []


async def test_a_locked_manager_says_how_to_unlock_it(pyswarm: Run, control: FakeNodeControl) -> None:
    control.manager = None
    control.local = dataclasses.replace(control.local, swarm_state="locked")
    result = await pyswarm("service", "ls")
    assert result.exit_code == 1
    assert 'Please use "pyswarm swarm unlock" to unlock it.' in result.stderr
