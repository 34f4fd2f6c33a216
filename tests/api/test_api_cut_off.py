"""A manager whose own etcd knows no leader while the other managers have one, and logs whose leader changes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from api_server import served
from starlette.responses import Response, StreamingResponse
from two_managers import Managers, running_task, service, two_managers

from pyswarm_common import wire
from pyswarm_common.engine_api.streams import MULTIPLEXED_STREAM
from pyswarm_manager.forwarding import leader_requests as leader_requests_module

INCOMPLETE = b"warning: incomplete log stream. some logs could not be retrieved for the following reasons: another manager leads"


@pytest.fixture
async def managers(tmp_path: Path) -> AsyncIterator[Managers]:
    async with two_managers(tmp_path) as managers:
        yield managers


async def cut_off(managers: Managers) -> None:
    """Let the second manager's member lose sight of the raft leader."""
    managers.cluster.blind_members = {2}
    managers.cluster.notify()
    async with asyncio.timeout(5):
        await managers.second.store.wait_leader_other_than("manager1")
    assert managers.second.store.is_leaderless


async def test_without_anybodys_word_it_refuses_at_once_and_reads_what_it_knew(managers: Managers) -> None:
    await cut_off(managers)
    async with asyncio.timeout(1):
        refused = await managers.second.client.post("/services/create", json=service("web"))
        assert refused.status_code == 503
        assert "The swarm does not have a leader" in refused.json()["message"]
        assert (await managers.second.client.get("/services")).json() == []
    assert managers.first.seen == []


async def test_changes_and_reads_go_to_the_leader_that_others_name(managers: Managers) -> None:
    await cut_off(managers)
    managers.second.told.append("manager1")
    assert (await managers.second.client.post("/services/create", json=service("web"))).status_code == 201
    listed = (await managers.second.client.get("/services")).json()
    assert [item["Spec"]["Name"] for item in listed] == ["web"]
    assert [request.method for request in managers.first.seen] == ["POST", "GET"], "its own mirror may be old"
    nodes = {node["ID"]: node for node in (await managers.second.client.get("/nodes")).json()}
    assert nodes["manager1"]["ManagerStatus"]["Leader"] is True


async def test_a_wrong_word_changes_nothing(managers: Managers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may still name a manager that leads no more: it says so, and is asked until the budget is used up."""
    monkeypatch.setattr(leader_requests_module, "BUDGET_S", 0.4)
    await cut_off(managers)
    managers.second.told.append("manager1")
    managers.cluster.elect(0)
    async with asyncio.timeout(5):
        await (await managers.first.store.wait_leader()).wait_lost()
    refused = await managers.second.client.post("/services/create", json=service("web"))
    assert refused.status_code == 503
    assert len(managers.first.seen) > 1
    listed = await managers.second.client.get("/services")
    assert (listed.status_code, listed.json()) == (200, [])


async def test_while_others_still_name_itself_it_waits_for_their_election(managers: Managers) -> None:
    await cut_off(managers)
    managers.second.told.append("manager2")
    creating = asyncio.ensure_future(managers.second.client.post("/services/create", json=service("web")))
    await asyncio.sleep(0.3)
    assert not creating.done()
    managers.second.told.append("manager1")
    assert (await creating).status_code == 201


async def test_an_answer_lost_on_the_way_to_a_leader_by_hearsay_is_said_to_be_lost(managers: Managers) -> None:
    await cut_off(managers)
    managers.second.told.append("manager1")

    async def die() -> Response:
        async def nothing() -> AsyncIterator[bytes]:
            raise ConnectionError
            yield b""

        return StreamingResponse(nothing(), headers={"content-length": "5"})

    managers.first.before = [die]
    lost = await managers.second.client.post("/services/create", json=service("web"))
    assert lost.status_code == 503
    assert "may or may not have happened" in lost.json()["message"]
    assert managers.first.seen == []


@asynccontextmanager
async def following(managers: Managers, number: int) -> AsyncIterator[httpx.Response]:
    """Follow the log of the service `web` through a manager, over a real socket."""
    manager = (managers.first, managers.second)[number - 1]
    app = manager.client._transport.app  # type: ignore[attr-defined]
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with (
        served(app, listener),
        httpx.AsyncClient(base_url=url, timeout=10) as client,
        client.stream("GET", "/services/web/logs?follow=1&stdout=1") as answer,
    ):
        yield answer


@pytest.mark.parametrize("number", [1, 2])
async def test_a_log_ends_with_its_reason_when_another_manager_leads(managers: Managers, number: int) -> None:
    await running_task(managers)
    async with following(managers, number) as answer:
        opened = await managers.first.streams.get()
        publisher = managers.first.broker.accept(opened.stream_id)
        assert publisher is not None
        chunks = answer.aiter_raw()
        assert await publisher.publish(wire.LogPart(lines=(wire.LogLine(at_ns=1, stream=1, line=b"one\n"),)))
        assert await anext(chunks) == b"\x01\0\0\0\0\0\0\x04one\n"
        await managers.elect(2)
        async with asyncio.timeout(5):
            rest = b"".join([chunk async for chunk in chunks])
    assert rest[0] == 3, "an error of the system, as Docker sends it"
    assert INCOMPLETE in rest
    assert rest.count(b"incomplete") == 1


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_log_whose_leader_died_without_a_word_ends_too(
    managers: Managers, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    monkeypatch.setattr(leader_requests_module, "FAREWELL_S", 0.2)
    await running_task(managers)
    line = b"\x01\0\0\0\0\0\0\x04one\n"

    async def hang() -> Response:
        async def lines() -> AsyncIterator[bytes]:
            yield line if is_whole else line[:-1]
            await asyncio.Event().wait()

        return StreamingResponse(lines(), media_type=MULTIPLEXED_STREAM)

    managers.first.before = [hang]
    async with following(managers, 2) as answer:
        chunks = answer.aiter_raw()
        assert await anext(chunks)
        await managers.elect(2)
        if is_whole:
            assert INCOMPLETE in b"".join([chunk async for chunk in chunks])
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(chunks)
