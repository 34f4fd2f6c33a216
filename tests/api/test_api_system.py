"""Ping, versions, info, events, unknown routes, and how times and filters are read."""

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID
from json_shapes import shape_differences

from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import parse_time_ns, rfc3339, rfc3339_fixed
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import ManagerStatus
from pyswarm_manager.store.store import Store
from pyswarm_node.api.fake_control import FakeNodeControl

Golden = Callable[[str], Any]
COMMON_HEADERS = ("api-version", "ostype", "server")


async def test_ping_has_dockers_headers(client: httpx.AsyncClient) -> None:
    lines = (Path(__file__).parent / "golden" / "ping_head.txt").read_text().splitlines()[1:]
    theirs = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
    for path in ("/_ping", "/v1.24/_ping", "/v1.41/_ping"):
        ours = await client.head(path)
        assert theirs.keys() - {"date"} <= set(ours.headers)
        for name in ("api-version", "cache-control", "content-length", "content-type", "ostype", "pragma"):
            assert ours.headers[name] == theirs[name]
        assert ours.headers["server"].startswith("Docker/20.10.24 (linux)")
    body = await client.get("/_ping")
    assert (body.status_code, body.text) == (200, "OK")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "active/manager"),
        ({"is_manager": False}, "active/worker"),
        ({"swarm_state": "inactive"}, "inactive"),
        ({"swarm_state": "locked"}, "locked"),
        ({"swarm_state": "pending"}, "pending"),
    ],
)
async def test_ping_tells_the_swarm_state(
    client: httpx.AsyncClient, control: FakeNodeControl, changes: dict[str, Any], word: str
) -> None:
    control.local = dataclasses.replace(control.local, **changes)
    assert (await client.head("/_ping")).headers["swarm"] == word


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.99", "client version 1.99 is too new. Maximum supported API version is 1.41"),
        ("2.0", "client version 2.0 is too new. Maximum supported API version is 1.41"),
        (
            "1.23",
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
    ],
)
async def test_versions_that_we_do_not_speak(client: httpx.AsyncClient, version: str, message: str) -> None:
    answer = await client.get(f"/v{version}/services")
    assert (answer.status_code, answer.json()) == (400, {"message": message})
    assert set(COMMON_HEADERS) <= set(answer.headers)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nosuch"), ("PUT", "/services"), ("GET", "/v1.41/nosuch"), ("GET", "/vx/info"), ("GET", "/v1.41")]
)
async def test_unknown_routes_and_methods(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()) == (404, {"message": "page not found"})
    assert set(COMMON_HEADERS) <= set(answer.headers)


async def test_unforeseen_errors_are_answered(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    def fail() -> Any:
        raise ZeroDivisionError("oops")

    control.agent.images.list = fail  # type: ignore[method-assign]
    answer = await client.get("/images/json")
    assert (answer.status_code, answer.json()) == (500, {"message": "ZeroDivisionError: oops"})
    assert set(COMMON_HEADERS) <= set(answer.headers)


async def test_version(client: httpx.AsyncClient, golden: Golden) -> None:
    ours, theirs = (await client.get("/version")).json(), golden("version")
    del theirs["Experimental"]
    for version in (ours, theirs):
        version["Components"] = version["Components"][:1]
    assert shape_differences(ours, theirs) == []


async def test_info_on_a_manager(client: httpx.AsyncClient, golden: Golden) -> None:
    ours, theirs = (await client.get("/info")).json(), golden("info")
    deprecated = {"KernelMemory", "KernelMemoryTCP"}
    assert ours.keys() == theirs.keys() - deprecated
    assert shape_differences(ours["Swarm"], theirs["Swarm"]) == []
    assert list(ours["Swarm"]) == list(theirs["Swarm"])
    assert (ours["Swarm"]["NodeID"], ours["Swarm"]["Nodes"], ours["Swarm"]["Managers"]) == (MANAGER_ID, 2, 1)
    assert (ours["NCPU"], ours["MemTotal"]) == (2, 25276510208)


async def test_info_outside_a_swarm(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    control.manager = None
    control.local = dataclasses.replace(
        control.local, swarm_state="inactive", is_manager=False, node_id="", node_addr="", managers=()
    )
    assert (await client.get("/info")).json()["Swarm"] == {
        "NodeID": "",
        "NodeAddr": "",
        "LocalNodeState": "inactive",
        "ControlAvailable": False,
        "Error": "",
        "RemoteManagers": None,
    }


async def test_info_while_the_manager_starts(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    control.manager = None
    control.local = dataclasses.replace(control.local, swarm_state="pending")
    swarm = (await client.get("/info")).json()["Swarm"]
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"], swarm["NodeID"]) == ("pending", False, MANAGER_ID)
    assert "Cluster" not in swarm


async def test_info_of_a_node_that_failed(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    control.manager = None
    control.local = dataclasses.replace(control.local, swarm_state="error", error="etcd cannot be started: oops")
    swarm = (await client.get("/info")).json()["Swarm"]
    assert (swarm["LocalNodeState"], swarm["Error"]) == ("error", "etcd cannot be started: oops")
    assert (await client.head("/_ping")).headers["swarm"] == "error"


async def test_info_without_a_leader_says_dockers_words_and_still_shows_the_cluster(
    client: httpx.AsyncClient, control: FakeNodeControl
) -> None:
    assert control.manager is not None
    control.manager = dataclasses.replace(control.manager, leader_node_id=lambda: None)
    swarm = (await client.get("/info")).json()["Swarm"]
    assert swarm["Error"].startswith(
        "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. "
        "Make sure more than half of the managers are online."
    )
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"], swarm["Nodes"]) == ("active", True, 2)
    assert swarm["Cluster"]["ID"]
    nodes = (await client.get("/nodes")).json()
    assert [n["ManagerStatus"].get("Leader") for n in nodes if "ManagerStatus" in n] == [None]


async def test_info_warns_of_two_managers(client: httpx.AsyncClient, store: Store) -> None:
    worker = store.view.nodes.must_get(WORKER_ID)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(worker, manager=ManagerStatus(address="192.0.2.2:2377"))))
    info = (await client.get("/info")).json()
    assert info["Swarm"]["Managers"] == 2
    assert info["Warnings"] == info["Swarm"]["Warnings"]
    assert info["Warnings"][0].startswith("WARNING: Running Swarm in a two-manager configuration.")


@pytest.mark.kernel
async def test_a_full_disk_is_told_while_it_is_full(client: httpx.AsyncClient, control: FakeNodeControl, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", disk], check=True)
    try:
        control.local = dataclasses.replace(control.local, data_dir=disk)
        assert (await client.get("/info")).json()["Warnings"] is None
        (disk / "ballast").write_bytes(b"x" * (3 << 19))
        assert control.manager is not None
        control.manager = dataclasses.replace(control.manager, leader_node_id=lambda: None)
        info = (await client.get("/info")).json()
        assert info["Warnings"] == [f"WARNING: no space left on the disk of {disk}: free some, and it goes on by itself"]
        assert info["Swarm"]["Error"].startswith(f"no space left on the disk of {disk}")
        (disk / "ballast").unlink()
        assert (await client.get("/info")).json()["Warnings"] is None
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("reachability", ["reachable", "unreachable", "unknown"])
async def test_managers_are_shown_as_this_one_finds_them(
    client: httpx.AsyncClient, control: FakeNodeControl, store: Store, reachability: str
) -> None:
    assert control.manager is not None
    control.manager = dataclasses.replace(control.manager, reachability=lambda _: reachability)
    worker = store.view.nodes.must_get(WORKER_ID)
    await store.update(lambda tx: tx.update(msgspec.structs.replace(worker, manager=ManagerStatus(address="192.0.2.2:2377"))))
    statuses = {n["ID"]: n["ManagerStatus"] for n in (await client.get("/nodes")).json()}
    assert statuses[MANAGER_ID] == {"Leader": True, "Reachability": "reachable", "Addr": "127.0.0.1:2377"}
    assert statuses[WORKER_ID] == {"Reachability": reachability, "Addr": "192.0.2.2:2377"}


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "/volumes", {"Volumes": [], "Warnings": None}),
        ("GET", "/plugins", []),
        ("GET", "/containers/json", []),
        ("GET", "/images/json", []),
        ("POST", "/containers/prune", {"ContainersDeleted": None, "SpaceReclaimed": 0}),
        ("POST", "/volumes/prune", {"VolumesDeleted": None, "SpaceReclaimed": 0}),
        ("POST", "/build/prune", {"CachesDeleted": None, "SpaceReclaimed": 0}),
        ("POST", "/images/prune", {"ImagesDeleted": None, "SpaceReclaimed": 0}),
    ],
)
async def test_what_there_is_none_of(client: httpx.AsyncClient, method: str, path: str, answer: Any) -> None:
    assert (await client.request(method, path)).json() == answer


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/containers/x/json", "No such container: x"),
        ("/images/x/json", "No such image: x"),
        ("/images/a.b:5000/c/d:1/json", "No such image: a.b:5000/c/d:1"),
        ("/networks/x", "network x not found"),
        ("/volumes/x", "get x: no such volume"),
        ("/services/x", "service x not found"),
        ("/tasks/x", "task x not found"),
        ("/nodes/nosuch", "node nosuch not found"),
        ("/secrets/x", "secret x not found"),
        ("/configs/x", "config x not found"),
        ("/plugins/x/json", 'plugin "x" not found'),
    ],
)
async def test_inspecting_what_is_not_there_is_404(client: httpx.AsyncClient, path: str, message: str) -> None:
    """`docker inspect X` asks each noun in turn and goes on after a 404 only."""
    answer = await client.get(path)
    assert (answer.status_code, answer.json()) == (404, {"message": message})


async def test_events_end_at_until(client: httpx.AsyncClient) -> None:
    answer = await client.get("/events", params={"until": "1"})
    assert (answer.status_code, answer.content) == (200, b"")


def test_times_are_written_as_go_writes_them() -> None:
    assert rfc3339(1_795_226_108_119_500_000) == "2026-11-21T01:55:08.1195Z"
    assert rfc3339(1_795_226_108_000_000_000) == "2026-11-21T01:55:08Z"
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
    assert rfc3339_fixed(1_795_226_108_119_500_000) == "2026-11-21T01:55:08.119500000Z"


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("0", 0),
        ("1795226108", 1_795_226_108_000_000_000),
        ("1795226108.5", 1_795_226_108_500_000_000),
        ("1795226108.119500001", 1_795_226_108_119_500_001),
        ("2026-11-21T01:55:08Z", 1_795_226_108_000_000_000),
        ("2026-11-21T01:55:08.5Z", 1_795_226_108_500_000_000),
    ],
)
def test_times_are_read_in_both_forms(text: str, time_ns: int) -> None:
    assert parse_time_ns(text) == time_ns


def test_bad_times_and_filters_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        parse_time_ns("yesterday")
    with pytest.raises(InvalidArgument, match="Invalid filter 'b'"):
        Filters.parse('{"b":["x"]}', ("a",))
    with pytest.raises(InvalidArgument):
        Filters.parse('{"a":', ("a",))
