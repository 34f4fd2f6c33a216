"""Autolock through the API: settings and unlock key of the cluster, a locked node, and the docker CLI for all of it."""

import asyncio
import dataclasses
from typing import Any

import httpx
import pytest

from pyswarm_common.unlock_key import parse_unlock_key
from pyswarm_manager.store.store import Store
from pyswarm_node.api.control import LocalState
from pyswarm_node.api.fake_control import FakeNodeControl
from pyswarm_node.key_file import SWARM_IS_LOCKED


async def update(client: httpx.AsyncClient, encryption: dict[str, Any] | None, **flags: str) -> httpx.Response:
    """Post the swarm's spec with another EncryptionConfig; None: without any."""
    swarm = (await client.get("/swarm")).json()
    spec = {name: value for name, value in swarm["Spec"].items() if name != "EncryptionConfig"}
    if encryption is not None:
        spec["EncryptionConfig"] = encryption
    return await client.post("/swarm/update", params={"version": swarm["Version"]["Index"], **flags}, json=spec)


async def unlock_key(client: httpx.AsyncClient) -> str:
    answer = (await client.get("/swarm/unlockkey")).json()
    assert list(answer) == ["UnlockKey"]
    return str(answer["UnlockKey"])


async def is_shown(client: httpx.AsyncClient) -> bool:
    swarm, info = (await client.get("/swarm")).json(), (await client.get("/info")).json()
    assert swarm["Spec"]["EncryptionConfig"] == info["Swarm"]["Cluster"]["Spec"]["EncryptionConfig"]
    return bool(swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"])


async def test_autolock_is_off_at_first(client: httpx.AsyncClient) -> None:
    assert (await is_shown(client), await unlock_key(client)) == (False, "")


async def test_autolock_is_turned_on_rotated_and_turned_off(client: httpx.AsyncClient, store: Store) -> None:
    assert (await update(client, {"AutoLockManagers": True})).status_code == 200
    first = await unlock_key(client)
    parse_unlock_key(first)
    assert await is_shown(client)
    assert store.view.cluster.unlock_key == first

    assert (await update(client, {"AutoLockManagers": True}, rotateManagerUnlockKey="false")).status_code == 200
    assert await unlock_key(client) == first
    assert (await update(client, {"AutoLockManagers": True}, rotateManagerUnlockKey="true")).status_code == 200
    second = await unlock_key(client)
    assert second not in ("", first)
    parse_unlock_key(second)

    assert (await update(client, {"AutoLockManagers": False}, rotateManagerUnlockKey="true")).status_code == 200
    assert (await is_shown(client), await unlock_key(client)) == (False, "")


async def test_a_spec_that_does_not_speak_of_autolock_turns_it_off_as_with_docker(client: httpx.AsyncClient) -> None:
    await update(client, {"AutoLockManagers": True})
    await update(client, None)
    assert (await is_shown(client), await unlock_key(client)) == (False, "")


async def test_an_update_that_comes_too_late_changes_no_key(client: httpx.AsyncClient) -> None:
    await update(client, {"AutoLockManagers": True})
    before = await unlock_key(client)
    stale = await client.post(
        "/swarm/update",
        params={"version": "1", "rotateManagerUnlockKey": "true"},
        json={"EncryptionConfig": {"AutoLockManagers": True}},
    )
    assert stale.json()["message"] == "rpc error: code = Unknown desc = update out of sequence"
    assert await unlock_key(client) == before


async def test_the_unlock_key_is_shown_nowhere_else(client: httpx.AsyncClient) -> None:
    await update(client, {"AutoLockManagers": True})
    key = await unlock_key(client)
    for path in ("/swarm", "/info", "/nodes"):
        assert key not in (await client.get(path)).text


@pytest.fixture
def locked(control: FakeNodeControl) -> LocalState:
    """The state of a manager whose keys are locked; its daemon serves no manager."""
    control.manager = None
    control.local = dataclasses.replace(control.local, swarm_state="locked", error=SWARM_IS_LOCKED)
    return control.local


@pytest.mark.usefixtures("locked")
async def test_a_locked_node_says_so_everywhere(client: httpx.AsyncClient) -> None:
    for method in ("GET", "HEAD"):
        assert (await client.request(method, "/_ping")).headers["Swarm"] == "locked"
    swarm = (await client.get("/info")).json()["Swarm"]
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"]) == ("locked", False)
    for method, path in (
        ("GET", "/swarm"),
        ("GET", "/swarm/unlockkey"),
        ("GET", "/nodes"),
        ("GET", "/services"),
        ("GET", "/tasks"),
        ("GET", "/secrets"),
        ("POST", "/services/create"),
        ("POST", "/swarm/update?version=1"),
    ):
        answer = await client.request(method, path, json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()) == (503, {"message": SWARM_IS_LOCKED})
    assert SWARM_IS_LOCKED == (
        'Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.'
    )


@pytest.mark.usefixtures("locked")
async def test_what_is_the_nodes_own_goes_on_while_locked(client: httpx.AsyncClient) -> None:
    for path in ("/containers/json", "/images/json", "/version", "/system/df"):
        assert (await client.get(path)).status_code == 200
    for path in ("/swarm/init", "/swarm/join"):
        answer = await client.post(path, json={})
        assert answer.status_code == 503
        assert answer.json()["message"].startswith("This node is already part of a swarm.")


@pytest.mark.usefixtures("locked")
async def test_a_locked_node_is_unlocked_with_the_key(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    assert (await client.post("/swarm/unlock", json={"UnlockKey": "SWMKEY-1-x"})).status_code == 200
    assert control.requests == [("unlock", "SWMKEY-1-x")]
    assert (await client.head("/_ping")).headers["Swarm"] == "active/manager"


@pytest.mark.usefixtures("locked")
async def test_a_locked_node_leaves_only_by_force(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    answer = await client.post("/swarm/leave")
    assert (answer.status_code, answer.json()["message"]) == (
        503,
        "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.",
    )
    assert (await client.post("/swarm/leave?force=1")).status_code == 200
    assert control.requests == [("leave", True)]


async def test_what_is_not_locked_cannot_be_unlocked(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    body = {"UnlockKey": "SWMKEY-1-x"}
    answer = await client.post("/swarm/unlock", json=body)
    assert (answer.status_code, answer.json()) == (409, {"message": "swarm is not locked"})
    control.manager = None
    for state, is_manager, words in (
        ("inactive", False, 'This node is not a swarm manager. Use "docker swarm init"'),
        ("active", False, "This node is not a swarm manager. Worker nodes can't be used"),
    ):
        control.local = dataclasses.replace(control.local, swarm_state=state, is_manager=is_manager)
        answer = await client.post("/swarm/unlock", json=body)
        assert answer.status_code == 503
        assert answer.json()["message"].startswith(words)
    assert control.requests == []


class DockerCLI:
    """The unmodified docker CLI against a socket."""

    def __init__(self, socket_path: str) -> None:
        self._environment = {"DOCKER_HOST": f"unix://{socket_path}", "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}

    async def __call__(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Return exit code, standard output and standard error of `docker swarm ARGUMENTS`."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            "docker", "swarm", *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment
        )
        output, errors = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()


@pytest.fixture
def docker_swarm(api_socket: str) -> DockerCLI:
    return DockerCLI(api_socket)


async def test_docker_cli_turns_autolock_on_rotates_and_turns_it_off(docker_swarm: DockerCLI, store: Store) -> None:
    assert (await docker_swarm("unlock-key"))[::2] == (1, "no unlock key is set\n")
    code, output, _ = await docker_swarm("update", "--autolock=true")
    first = store.view.cluster.unlock_key
    assert code == 0
    assert first
    for line in ("Swarm updated.", f"    {first}", "command and provide the following key:"):
        assert line in output.splitlines()
    assert (await docker_swarm("unlock-key", "-q"))[:2] == (0, f"{first}\n")
    code, output, _ = await docker_swarm("unlock-key", "--rotate")
    second = store.view.cluster.unlock_key
    assert code == 0
    assert second != first
    assert "Successfully rotated manager unlock key." in output
    assert f"    {second}" in output
    assert (await docker_swarm("update", "--autolock=false"))[0] == 0
    assert store.view.cluster.unlock_key == ""
    assert (await docker_swarm("unlock-key", "--rotate"))[::2] == (1, "cannot rotate because autolock is not turned on\n")


async def test_docker_cli_unlocks(docker_swarm: DockerCLI, control: FakeNodeControl) -> None:
    code, _, errors = await docker_swarm("unlock", stdin="key\n")
    assert code == 1
    assert "swarm is not locked" in errors
    control.manager = None
    control.local = dataclasses.replace(control.local, swarm_state="locked")
    code, _, errors = await docker_swarm("unlock", stdin="SWMKEY-1-x\n")
    assert (code, errors) == (0, "")
    assert control.requests == [("unlock", "SWMKEY-1-x")]
