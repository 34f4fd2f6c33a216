"""The API on managers that do not lead: two managers on one log, whose node ports stand on real sockets under TLS."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from two_managers import Certificates, Managers, manager_node, running_task, service, two_managers

from pyswarm_common import wire
from pyswarm_common.errors import NotDone, PermissionDenied
from pyswarm_manager.forwarding import leader_requests as leader_requests_module
from pyswarm_manager.forwarding.channel import ManagerChannel, RenewedTLS
from pyswarm_manager.forwarding.engine_port import EnginePort
from pyswarm_manager.forwarding.not_done import NOT_DONE_HEADER
from pyswarm_manager.store.memory import LostAnswer
from pyswarm_node.api.app import needs_leader

DOCKERS_WORDS = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. "
    "Make sure more than half of the managers are online."
)


@pytest.fixture
async def managers(tmp_path: Path) -> AsyncIterator[Managers]:
    async with two_managers(tmp_path) as managers:
        yield managers


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/services/create", True),
        ("DELETE", "/services/web", True),
        ("POST", "/swarm/update", True),
        ("GET", "/services", False),
        ("GET", "/services/web/logs", True),
        ("GET", "/tasks/t1/logs", True),
        ("GET", "/services/logs", False),
        ("HEAD", "/services/web", False),
        ("POST", "/pyswarm/services/dry-run", False),
        ("GET", "/pyswarm/tasks/t1/story", False),
    ],
)
def test_what_needs_the_leader(method: str, path: str, expected: bool) -> None:
    assert needs_leader(method, path) is expected


async def test_changes_through_a_follower_are_the_leaders_and_are_read_back_at_once(managers: Managers) -> None:
    follower = managers.second.client
    created = await follower.post("/v1.41/services/create", json=service("web"), headers={"X-Registry-Auth": "eyJ9"})
    assert created.status_code == 201
    service_id = created.json()["ID"]
    assert created.headers["Api-Version"] == "1.41"
    inspected = (await follower.get(f"/services/{service_id}")).json()
    assert inspected["Spec"]["Name"] == "web"
    assert managers.first.seen[0].headers["x-registry-auth"] == "eyJ9"
    version = inspected["Version"]["Index"]
    changed = service("web")
    changed["Mode"]["Replicated"]["Replicas"] = 3
    updated = await follower.post(f"/services/web/update?version={version}&registryAuthFrom=spec", json=changed)
    assert updated.status_code == 200
    again = await follower.post(f"/services/web/update?version={version}", json=changed)
    assert (again.status_code, again.json()["message"]) == (500, "rpc error: code = Unknown desc = update out of sequence")
    assert (await follower.delete("/services/web")).status_code == 200
    assert (await follower.get("/services")).json() == []
    assert [request.url.path for request in managers.first.seen] == [
        "/services/create",
        "/services/web/update",
        "/services/web/update",
        "/services/web",
    ]
    assert managers.second.seen == []


async def test_reads_do_not_leave_the_follower(managers: Managers) -> None:
    for path in ("/services", "/tasks", "/nodes", "/networks", "/swarm", "/info"):
        assert (await managers.second.client.get(path)).status_code == 200
    assert managers.first.seen == []


@pytest.mark.parametrize(
    ("request_of", "status", "message"),
    [
        (("POST", "/services/create", b"{"), 400, "invalid JSON"),
        (("POST", "/networks/create", b'{"Name": "a", "Driver": "overlay", "ConfigOnly": true}'), 501, ""),
        (("DELETE", "/services/none", b""), 404, "service none not found"),
        (("POST", "/no/such/route", b""), 404, "page not found"),
        (("PUT", "/services/create", b""), 404, "page not found"),
        (("DELETE", "/nodes/manager1", b""), 400, ""),
    ],
)
async def test_the_leaders_errors_are_the_followers(
    managers: Managers, request_of: tuple[str, str, bytes], status: int, message: str
) -> None:
    method, path, body = request_of
    through = await managers.second.client.request(method, path, content=body)
    direct = await managers.first.client.request(method, path, content=body)
    assert (through.status_code, through.json()) == (direct.status_code, direct.json())
    assert through.status_code == status
    assert message in through.json()["message"]
    assert NOT_DONE_HEADER not in through.headers


async def test_paths_queries_and_headers_arrive_as_they_were_sent(managers: Managers) -> None:
    await managers.second.client.request(
        "DELETE",
        "/services/a%20b%C3%A4%3F?x=1%262&y=%20",
        headers=[("X-One", "1"), ("X-One", "2"), ("Pyswarm-Forwarded-Node", "manager1"), ("Connection", "x-hop")],
    )
    (seen,) = managers.first.seen
    assert seen.scope["path"] == "/services/a bä?"
    assert seen.scope["query_string"] == b"x=1%262&y=%20"
    assert seen.headers.getlist("x-one") == ["1", "2"]
    assert not [name for name in seen.headers if name.startswith("pyswarm-")], "no client may speak for a node"


async def test_a_large_body_arrives(managers: Managers) -> None:
    text = "x" * 450_000
    body = {"Name": "big", "Data": "eHh4", "Labels": {"a": text}}
    through = await managers.second.client.post("/configs/create", json=body)
    direct = await managers.first.client.post("/configs/create", json={**body, "Name": "big2"})
    assert (through.status_code, set(through.json())) == (direct.status_code, set(direct.json()))


async def test_a_manager_that_gets_a_forwarded_request_never_passes_it_on(managers: Managers, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    channel = ManagerChannel(certificates.client)
    async with channel.request(managers.second.address, "POST", "/engine/services/create", b"", (), b"{}") as request:
        await request.send()
        assert request.answer is not None
        assert request.answer.status_code == 503
        assert NOT_DONE_HEADER in request.answer.headers
        assert b"does not have a leader" in await request.body()
    await channel.close()
    assert managers.first.seen == []


async def test_a_request_without_permission_is_refused() -> None:
    def refuse(_: object) -> None:
        raise PermissionDenied("node w1 is not a manager of this cluster")

    engine = EnginePort(lambda: pytest.fail("must not be asked"), refuse)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(engine), base_url="http://n") as client:
        answer = await client.get("/services")
    assert (answer.status_code, answer.json()) == (403, {"message": "node w1 is not a manager of this cluster"})


async def test_a_change_made_while_the_leader_moves_is_made_once(managers: Managers) -> None:
    """The one that is asked does not lead any more; the follower itself is elected meanwhile, then the first one again."""

    async def lose() -> None:
        managers.cluster.elect(2)

    managers.first.before = [lose]
    answer = await managers.second.client.post("/services/create", json=service("web"))
    assert answer.status_code == 201
    assert [request.url.path for request in managers.first.seen] == ["/services/create"]
    assert [s.name for s in managers.second.store.view.services] == ["web"]


async def test_a_leader_that_is_gone_is_waited_for(managers: Managers) -> None:
    """Nobody listens where the leader was: certainly nothing was done, so the next leader is asked."""
    await managers.elect(2)
    moved = manager_node("manager2", "127.0.0.1:1")
    await managers.second.store.update(lambda tx: tx.update(moved))
    await managers.first.store.read_index()
    creating = asyncio.ensure_future(managers.first.client.post("/services/create", json=service("web")))
    await asyncio.sleep(0.3)
    assert not creating.done()
    await managers.elect(1)
    assert (await creating).status_code == 201


async def test_a_leader_that_stays_unreachable_is_named_within_the_budget(
    managers: Managers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_requests_module, "BUDGET_S", 0.5)
    moved = manager_node("manager1", "127.0.0.1:1")
    await managers.first.store.update(lambda tx: tx.update(moved))
    answer = await managers.second.client.post("/services/create", json=service("web"))
    assert answer.status_code == 503
    assert "127.0.0.1:1 cannot be reached" in answer.json()["message"]
    assert "nothing was changed" in answer.json()["message"]


async def test_an_answer_that_is_lost_is_never_repeated(managers: Managers) -> None:
    """The connection ends after the request was sent, with the change made."""

    async def carry_out_and_die() -> Response:
        made = await managers.first.client.post("/services/create", json=service("web"))
        assert made.status_code == 201
        return _Broken()

    managers.first.before = [carry_out_and_die]
    answer = await managers.second.client.post("/services/create", json=service("web"))
    assert answer.status_code == 503
    assert "may or may not have happened" in answer.json()["message"]
    assert [s.name for s in managers.first.store.view.services] == ["web"]
    assert managers.first.before == []


async def until(predicate: Callable[[], bool]) -> None:
    """Wait for something that only looking can tell."""
    while not predicate():  # noqa: ASYNC110  it happens in the code under test, which sets no event
        await asyncio.sleep(0.01)


class _Broken(Response):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


async def test_a_leader_that_hangs_and_is_replaced_leaves_the_outcome_open(
    managers: Managers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_requests_module, "BUDGET_S", 0.5)
    released = asyncio.Event()

    async def hang() -> None:
        await released.wait()

    managers.first.before = [hang]
    creating = asyncio.ensure_future(managers.second.client.post("/services/create", json=service("web")))
    await until(lambda: not managers.first.before)
    await managers.elect(2)
    answer = await creating
    released.set()
    assert answer.status_code == 503
    assert "may or may not have happened" in answer.json()["message"]
    assert len(managers.second.store.view.services) == 0


async def test_a_commit_whose_answer_is_lost_with_the_leadership_is_not_repeated(managers: Managers) -> None:
    """The leader itself cannot know: its client hears so, in Docker's words."""
    managers.cluster.lost_answers = [LostAnswer.COMMITTED]
    managers.cluster.is_answering.clear()
    creating = asyncio.ensure_future(managers.first.client.post("/services/create", json=service("web")))
    await asyncio.sleep(0.1)
    managers.cluster.elect(0)
    answer = await creating
    assert answer.status_code == 503
    assert answer.json()["message"].startswith(DOCKERS_WORDS)
    assert "may or may not have happened" in answer.json()["message"]
    managers.cluster.is_answering.set()


async def test_a_request_half_done_is_not_repeated(managers: Managers) -> None:
    """Pruning makes an update for each network; the leader moves after the first."""
    for name in ("a", "b"):
        assert (await managers.first.client.post("/networks/create", json={"Name": name, "Driver": "overlay"})).status_code == 201
    store = managers.first.store
    update, made = store.update, list[Any]()

    async def update_once(function: Any) -> Any:
        if made:
            raise NotDone("the leader moved")
        made.append(await update(function))

    store.update = update_once  # type: ignore[method-assign]
    answer = await managers.second.client.post("/networks/prune")
    assert answer.status_code == 503
    assert "a part of it was done" in answer.json()["message"]
    assert len(managers.second.store.view.networks) == 1


async def test_without_a_leader_changes_fail_at_once_and_reads_answer(managers: Managers) -> None:
    await managers.first.client.post("/services/create", json=service("web"))
    managers.cluster.is_answering.clear()
    managers.cluster.elect(0)
    await until(lambda: managers.first.store.is_leaderless and managers.second.store.is_leaderless)
    for each in (managers.first, managers.second):
        began_s = asyncio.get_running_loop().time()
        answer = await each.client.post("/services/create", json=service("other"))
        assert asyncio.get_running_loop().time() - began_s < 0.5
        assert answer.status_code == 503
        assert answer.json()["message"].startswith(DOCKERS_WORDS)
        assert "force-new-cluster" in answer.json()["message"]
        assert [s["Spec"]["Name"] for s in (await each.client.get("/services")).json()] == ["web"]
    managers.cluster.is_answering.set()
    managers.cluster.elect(1)
    answer = await managers.second.client.post("/services/create", json=service("other"))
    assert answer.status_code in (201, 503)


async def test_logs_flow_through_a_follower_and_end_with_their_reader(managers: Managers, tmp_path: Path) -> None:
    await running_task(managers)
    app = managers.second.client._transport.app  # type: ignore[attr-defined]
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    async with served(app, listener), httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        async with client.stream("GET", "/services/web/logs?follow=1&stdout=1") as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
            opened = await managers.first.streams.get()
            publisher = managers.first.broker.accept(opened.stream_id)
            assert publisher is not None
            chunks = answer.aiter_raw()
            for text in (b"one\n", b"two\n"):
                assert await publisher.publish(wire.LogPart(lines=(wire.LogLine(at_ns=1, stream=1, line=text),)))
                assert await anext(chunks) == b"\x01\0\0\0\0\0\0\x04" + text
        async with asyncio.timeout(5):
            await publisher.wait_reader_gone()
    assert managers.second.streams.empty()


async def test_a_renewed_certificate_is_taken_up_while_streams_go_on(managers: Managers, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(Certificates(folder).client())
        return made[-1]

    channel = ManagerChannel(RenewedTLS(make, [folder / "node.pem"]))
    async with channel.request(managers.first.address, "GET", "/engine/services", b"", (), b"") as first:
        await first.send()
        content = (folder / "node.pem").read_bytes()
        (folder / "node.new").write_bytes(content)
        (folder / "node.new").rename(folder / "node.pem")
        async with channel.request(managers.first.address, "GET", "/engine/services", b"", (), b"") as second:
            await second.send()
            assert await second.body() == b"[]\n"
        assert len(made) == 2
        (folder / "node.pem").write_text("cut off")
        async with channel.request(managers.first.address, "GET", "/engine/services", b"", (), b"") as third:
            await third.send()
            assert await third.body() == b"[]\n"
        assert await first.body() == b"[]\n"
    await channel.close()


async def test_the_node_ports_requests_are_passed_on_with_who_asked(managers: Managers, tmp_path: Path) -> None:
    received: list[Request] = []

    async def join(request: Request) -> Response:
        received.append(request)
        return Response(b"made " + await request.body(), 201, headers={"X-Answer": "yes"})

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    certificates = Certificates(tmp_path / "certificates")
    app = Starlette(routes=[Route(wire.JOIN_PATH, join, methods=["POST"])])
    async with served(app, listener, certificates.server()):
        moved = manager_node("manager1", f"127.0.0.1:{listener.getsockname()[1]}")
        await managers.first.store.update(lambda tx: tx.update(moved))
        await managers.second.store.read_index()
        channel = ManagerChannel(certificates.client)
        async with channel.request(
            managers.second.address, "POST", "/join", b"", ((b"pyswarm-forwarded-address", b"1.2.3.4"),), b"me"
        ) as request:
            await request.send()
            assert request.answer is not None
            assert (request.answer.status_code, await request.body()) == (201, b"made me")
            assert request.answer.headers["x-answer"] == "yes"
        await channel.close()
    assert received[0].headers.getlist("pyswarm-forwarded-address") == ["10.0.0.9"]
