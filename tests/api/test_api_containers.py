"""The routes of single containers, on a runtime in memory, compared with what Docker answers."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from image_builder import BuiltImage, Entry, make_layer, write_docker_archive
from json_shapes import shape_differences

from pyswarm_node.api.fake_control import FakeNodeControl

HEALTHCHECK = {"Test": ["CMD-SHELL", "true"], "Interval": 2000000000}


@pytest.fixture
async def box(control: FakeNodeControl, client: httpx.AsyncClient, tmp_path: Path) -> httpx.AsyncClient:
    """A client of a node that has an image."""
    archive = tmp_path / "box.tar"
    write_docker_archive(archive, [(BuiltImage([make_layer([Entry("x")])], {"Cmd": ["sh"]}), ["box:1"])])
    await control.agent.images.load(archive)
    return client


async def created(client: httpx.AsyncClient, name: str = "", **body: Any) -> str:
    answer = await client.post("/containers/create", params={"name": name}, json={"Image": "box:1", **body})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["Id"])


async def test_inspect_has_dockers_shape(box: httpx.AsyncClient, golden: Callable[[str], Any]) -> None:
    body = {"Env": ["A=1"], "Cmd": ["sh", "-c", "x"], "Healthcheck": HEALTHCHECK, "Labels": {"k": "v"}}
    host = {"Memory": 64 << 20, "PortBindings": {}, "LogConfig": {"Type": "json-file", "Config": {}}}
    container_id = await created(box, "web", **body, HostConfig=host)
    await box.post(f"/containers/{container_id}/start")
    ours, theirs = (await box.get(f"/containers/{container_id}/json")).json(), golden("container_inspect")
    theirs["NetworkSettings"]["Networks"] = ours["NetworkSettings"]["Networks"]  # theirs are a service's
    theirs["Config"]["Labels"] = {"k": "v"}
    assert shape_differences(ours, theirs) == [
        "$.Config.StopSignal: only ours",
        "$.GraphDriver.Data: NoneType, theirs is dict",
        "$.State.Health.Log: 0 members, theirs has 5",
    ]


async def test_list_has_dockers_shape(box: httpx.AsyncClient, golden: Callable[[str], Any]) -> None:
    container_id = await created(box, "web", Labels={"k": "v"})
    await box.post(f"/containers/{container_id}/start")
    ours, theirs = (await box.get("/containers/json")).json(), golden("containers")[:1]
    theirs[0]["Labels"] = {"k": "v"}
    theirs[0]["NetworkSettings"]["Networks"] = {"bridge": theirs[0]["NetworkSettings"]["Networks"]["gnet"]}
    assert shape_differences(ours, theirs) == ["$[0].NetworkSettings.Networks.bridge.IPAMConfig: NoneType, theirs is dict"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/containers/nosuch/start", 404, "No such container: nosuch"),
        ("POST", "/containers/nosuch/wait", 404, "No such container: nosuch"),
        ("DELETE", "/containers/nosuch", 404, "No such container: nosuch"),
        ("POST", "/containers/web/stop", 304, ""),
        ("POST", "/containers/web/kill", 409, "is not running"),
        ("POST", "/containers/web/kill?signal=NOPE", 400, "Invalid signal: NOPE"),
        ("POST", "/containers/web/rename?name=", 400, "Neither old nor new names may be empty"),
        ("POST", "/containers/web/rename?name=other", 409, "Conflict. The container name"),
        ("POST", "/containers/web/stop?t=x", 400, "invalid time to wait"),
        ("POST", "/containers/web/wait?condition=never", 400, "invalid condition"),
        ("GET", '/containers/json?filters={"status":["odd"]}', 400, "Unrecognised filter value for status: odd"),
        ("GET", '/containers/json?filters={"odd":["x"]}', 400, "Invalid filter 'odd'"),
        ("GET", '/containers/json?filters={"before":["nosuch"]}', 404, "No such container: nosuch"),
    ],
)
async def test_errors(box: httpx.AsyncClient, method: str, path: str, status: int, words: str) -> None:
    await created(box, "web")
    await created(box, "other")
    answer = await box.request(method, path)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


async def test_create_refuses(box: httpx.AsyncClient) -> None:
    await created(box, "web")
    for body, name, status in (
        ({"Image": "nosuch:1"}, "x1", 404),
        ({"Image": "box:1"}, "web", 409),
        ({"Image": "box:1"}, "b a d", 400),
        (
            {"Image": "box:1", "HostConfig": {"NetworkMode": "host"}, "NetworkingConfig": {"EndpointsConfig": {"app": {}}}},
            "x1",
            400,
        ),
        ({"Image": "box:1", "Cmd": 5}, "x1", 400),
    ):
        answer = await box.post("/containers/create", params={"name": name}, json=body)
        assert answer.status_code == status, answer.text


async def test_several_networks(box: httpx.AsyncClient) -> None:
    for name in ("app", "other"):
        assert (await box.post("/networks/create", json={"Name": name})).status_code == 201
    await created(box, "web", NetworkingConfig={"EndpointsConfig": {"app": {"Aliases": ["db"]}, "other": {}}})
    assert (await box.post("/containers/web/start")).status_code == 204
    networks = (await box.get("/containers/web/json")).json()["NetworkSettings"]["Networks"]
    assert sorted(networks) == ["app", "other"]
    assert networks["app"]["Aliases"][0] == "db"


async def test_start_twice_and_remove(box: httpx.AsyncClient) -> None:
    container_id = await created(box, "web")
    assert [(await box.post("/containers/web/start")).status_code for _ in range(2)] == [204, 304]
    assert (await box.delete("/containers/web")).status_code == 409
    assert (await box.delete("/containers/web?force=1")).status_code == 204
    assert (await box.get(f"/containers/{container_id}/json")).status_code == 404


async def test_wait_answers_in_the_end(box: httpx.AsyncClient, control: FakeNodeControl) -> None:
    container_id = await created(box, "web")
    await box.post("/containers/web/start")
    waiting = asyncio.ensure_future(box.post("/containers/web/wait?condition=next-exit"))
    while not control.agent.events.listeners:  # noqa: ASYNC110  the request's arrival has no event
        await asyncio.sleep(0.001)
    control.agent.containers.end_container(container_id, 9)  # type: ignore[attr-defined]
    assert (await waiting).json() == {"StatusCode": 9, "Error": None}
    assert not control.agent.events.listeners


async def test_what_happened_is_told(box: httpx.AsyncClient, control: FakeNodeControl) -> None:
    await created(box, "web", Labels={"k": "v"})
    await box.post("/containers/web/start")
    await box.delete("/containers/web?force=1")
    await box.post("/volumes/create", json={"Name": "data"})
    await box.delete("/volumes/data")
    now_s = control.agent.clock.now_ns() / 1_000_000_000
    window = {"since": f"{now_s - 60:.3f}", "until": f"{now_s:.9f}"}

    async def told(**filters: list[str]) -> list[str]:
        answer = await box.get("/events", params={**window, "filters": json.dumps(filters)})
        return [f"{event['Type']} {event['Action']}" for event in map(json.loads, answer.text.splitlines())]

    assert await told(container=["web"]) == [f"container {action}" for action in ("create", "start", "kill", "die", "destroy")]
    assert await told(type=["volume"]) == ["volume create", "volume destroy"]
    assert await told(event=["die"], label=["k=v"]) == ["container die"]
    assert await told(label=["k=w"]) == []
    assert await told(scope=["swarm"]) == []


async def test_prune(box: httpx.AsyncClient) -> None:
    for name, labels in (("kept", {"keep": "1"}), ("gone", {}), ("going", {})):
        await created(box, name, Labels=labels)
    await box.post("/containers/going/start")
    answer = await box.post("/containers/prune", params={"filters": '{"label!":["keep"]}'})
    assert len(answer.json()["ContainersDeleted"]) == 1
    names = [container["Names"][0] for container in (await box.get("/containers/json?all=1")).json()]
    assert sorted(names) == ["/going", "/kept"]
