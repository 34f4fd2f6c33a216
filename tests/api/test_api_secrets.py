"""Secrets and configs through the API: shapes, rules and refusals as Docker's; references of services; events."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from json_shapes import shape_differences

from pyswarm_common.objects import Task, UpdateStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.store import Store

Golden = Callable[[str], Any]
NOUNS = ("secret", "config")
LIMITS = {"secret": 500 * 1024, "config": 1000 * 1024}


@pytest.fixture(params=NOUNS)
def noun(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def post(
    client: httpx.AsyncClient, noun: str, name: str = "key", data: bytes = b"open sesame", **more: Any
) -> httpx.Response:
    return await client.post(f"/{noun}s/create", json={"Name": name, "Data": encoded(data), **more})


async def create(client: httpx.AsyncClient, noun: str, name: str = "key", data: bytes = b"open sesame", **more: Any) -> str:
    answer = await post(client, noun, name, data, **more)
    assert answer.status_code == 201, answer.text
    assert list(answer.json()) == ["ID"]
    created: str = answer.json()["ID"]
    return created


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["message"]


def invalid(words: str) -> tuple[int, str]:
    return 400, f"rpc error: code = InvalidArgument desc = {words}"


def reference(noun: str, content_id: str, name: str = "key", target: str = "key", **file: Any) -> dict[str, Any]:
    noun = noun.capitalize()
    return {f"{noun}ID": content_id, f"{noun}Name": name, "File": {"Name": target, "UID": "0", "GID": "0", "Mode": 292, **file}}


def service(noun: str, *references: dict[str, Any], name: str = "web", image: str = "nginx:1") -> dict[str, Any]:
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": image, f"{noun.capitalize()}s": list(references)}}}


async def create_service(client: httpx.AsyncClient, spec: dict[str, Any]) -> str:
    answer = await client.post("/services/create", json=spec)
    assert answer.status_code == 201, answer.text
    created: str = answer.json()["ID"]
    return created


async def update_service(client: httpx.AsyncClient, spec: dict[str, Any], **parameters: Any) -> httpx.Response:
    version = (await client.get(f"/services/{spec['Name']}")).json()["Version"]["Index"]
    return await client.post(f"/services/{spec['Name']}/update", params={"version": version, **parameters}, json=spec)


@pytest.mark.parametrize(("noun", "name", "data"), [("secret", "gsec", b"s\n"), ("config", "c1", b"s\n")])
async def test_lists_look_as_docker_shows_them(
    client: httpx.AsyncClient, golden: Golden, noun: str, name: str, data: bytes
) -> None:
    await create(client, noun, name, data)
    ours, theirs = (await client.get(f"/{noun}s")).json(), golden(f"{noun}s")
    assert shape_differences(ours, theirs) == []
    assert ours[0]["Spec"] == {**theirs[0]["Spec"], **({"Data": encoded(data)} if noun == "config" else {})}
    assert ours == [(await client.get(f"/{noun}s/{name}")).json()]


async def test_there_may_be_none(client: httpx.AsyncClient, noun: str) -> None:
    assert (await client.get(f"/{noun}s")).json() == []


async def test_inspect_by_name_id_and_prefix(client: httpx.AsyncClient, noun: str) -> None:
    created = await create(client, noun, Labels={"a": "b"}, Templating={"Name": "golang"})
    for reference in (created, "key", created[:12]):
        found = (await client.get(f"/{noun}s/{reference}")).json()
        assert (found["ID"], found["Spec"]["Labels"], found["Spec"]["Templating"]) == (created, {"a": "b"}, {"Name": "golang"})
    assert refusal(await client.get(f"/{noun}s/nosuch")) == (404, f"{noun} nosuch not found")
    assert refusal(await client.delete(f"/{noun}s/nosuch")) == (404, f"{noun} nosuch not found")


async def test_an_ambiguous_prefix(client: httpx.AsyncClient, noun: str) -> None:
    ids = [await create(client, noun, f"n{number}") for number in range(40)]
    first = next(i[0] for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    matches = sum(i[0] == first for i in ids)
    assert refusal(await client.get(f"/{noun}s/{first}")) == (400, f"{noun} {first} is ambiguous ({matches} matches found)")


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"name": {"k": True}}, {"key", "key2"}),
        ({"names": {"key": True}}, {"key"}),
        ({"names": ["key", "other"]}, {"key", "other"}),
        ({"label": {"a=b": True}}, {"key2"}),
        ({"id": ["nosuch"]}, set()),
    ],
)
async def test_filters(client: httpx.AsyncClient, noun: str, filters: Any, found: set[str]) -> None:
    for name in ("key", "other"):
        await create(client, noun, name)
    await create(client, noun, "key2", Labels={"a": "b"})
    listed = (await client.get(f"/{noun}s", params={"filters": json.dumps(filters)})).json()
    assert {item["Spec"]["Name"] for item in listed} == found
    assert refusal(await client.get(f"/{noun}s", params={"filters": '{"x":["y"]}'})) == (400, "Invalid filter 'x'")


async def test_a_name_is_taken_once(client: httpx.AsyncClient, noun: str) -> None:
    answers = await asyncio.gather(*(post(client, noun) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert refusal(await post(client, noun)) == (409, f"rpc error: code = AlreadyExists desc = {noun} key already exists")
    await create(client, NOUNS[1 - NOUNS.index(noun)])  # the other noun's names are its own


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 64])
async def test_good_names(client: httpx.AsyncClient, noun: str, name: str) -> None:
    await create(client, noun, name)


@pytest.mark.parametrize("name", ["-a", "a-", ".a", "a b", "ä", "x" * 65, "a\n"])
async def test_bad_names(client: httpx.AsyncClient, noun: str, name: str) -> None:
    words = "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]"
    assert refusal(await post(client, noun, name)) == invalid(words)


async def test_what_cannot_be_stored(client: httpx.AsyncClient, noun: str) -> None:
    assert refusal(await post(client, noun, "")) == invalid("name must be provided")
    words = f"{noun} data must be larger than 0 and less than {LIMITS[noun]} bytes"
    for data in (b"", bytes(LIMITS[noun])):
        assert refusal(await post(client, noun, data=data)) == invalid(words)
    assert refusal(await client.post(f"/{noun}s/create", json={"Name": "key"})) == invalid(words)
    assert (await client.post(f"/{noun}s/create", json={"Name": "key", "Data": "!"})).status_code == 400
    assert (await post(client, noun, Driver={"Name": "vault"})).status_code == 501
    assert (await post(client, noun, Templating={"Name": "jinja"})).status_code == 400
    assert (await client.get(f"/{noun}s")).json() == []


async def test_the_largest_there_may_be(client: httpx.AsyncClient, store: Store, noun: str) -> None:
    largest = bytes(range(256)) * 4000
    data = largest[: LIMITS[noun] - 1]
    created = await create(client, noun, data=data, Labels={"a": "b" * 1000})
    assert store.view.table(type_of(store, noun)).must_get(created).data == data


def type_of(store: Store, noun: str) -> Any:
    return {kind.noun: type_ for type_, kind in store.view._by_type.items()}[noun]  # type: ignore[attr-defined]


async def test_data_is_shown_of_configs_alone(client: httpx.AsyncClient, store: Store) -> None:
    texts = ["b3BlbiBzZXNhbWU", "open sesame"]
    for noun in NOUNS:
        await create(client, noun)
    shown = [(await client.get(f"/{noun}s{rest}")).text for noun in NOUNS for rest in ("", "/key")]
    assert [any(text in one for text in texts) for one in shown] == [False, False, True, True]
    secret, config = store.view.secrets.named("key")[0], store.view.configs.named("key")[0]
    assert not any("sesame" in text for item in (secret, config) for text in (repr(item), f"{item}", repr([item])))


async def test_only_labels_can_be_updated(client: httpx.AsyncClient, noun: str) -> None:
    created = await create(client, noun, Labels={"old": "1"}, Templating={"Name": "golang"})

    async def update(**changes: Any) -> httpx.Response:
        found = (await client.get(f"/{noun}s/key")).json()
        body = {"Name": "key", "Labels": {"new": "2"}, **changes}
        return await client.post(f"/{noun}s/{created}/update", params={"version": found["Version"]["Index"]}, json=body)

    refused = invalid("only updates to Labels are allowed")
    assert refusal(await update(Data=encoded(b"other"))) == refused
    assert refusal(await update(Name="other")) == refused
    for accepted in ({"Data": encoded(b"open sesame")}, {}, {"Data": None}, {"Data": ""}):
        assert (await update(**accepted)).status_code == 200
        found = (await client.get(f"/{noun}s/key")).json()["Spec"]
        assert (found["Labels"], found["Templating"]) == ({"new": "2"}, {"Name": "golang"})
    assert (await update(Labels=None)).status_code == 200
    assert (await client.get(f"/{noun}s/key")).json()["Spec"]["Labels"] == {}


async def test_updates_compare_the_version(client: httpx.AsyncClient, noun: str) -> None:
    created = await create(client, noun)
    version = (await client.get(f"/{noun}s/key")).json()["Version"]["Index"]
    for number, status in ((version, 200), (version, 500)):
        answer = await client.post(f"/{noun}s/{created}/update", params={"version": number}, json={"Name": "key"})
        assert answer.status_code == status
    assert answer.json()["message"] == "rpc error: code = Unknown desc = update out of sequence"
    answer = await client.post(f"/{noun}s/{created}/update", json={"Name": "key"})
    assert refusal(answer) == (400, f"invalid {noun} version '': strconv.ParseUint: parsing \"\": invalid syntax")


async def test_what_services_need_cannot_be_removed(client: httpx.AsyncClient, noun: str) -> None:
    created = await create(client, noun)
    await create_service(client, service(noun, reference(noun, created)))
    assert refusal(await client.delete(f"/{noun}s/key")) == invalid(f"{noun} 'key' is in use by the following service: web")
    await create_service(client, service(noun, reference(noun, created), name="api"))
    assert refusal(await client.delete(f"/{noun}s/key")) == invalid(f"{noun} 'key' is in use by the following services: api, web")
    for name in ("api", "web"):
        assert (await client.delete(f"/services/{name}")).status_code == 200
    assert (await client.delete(f"/{noun}s/key")).status_code == 204
    assert (await client.get(f"/{noun}s/key")).status_code == 404


async def test_a_removal_and_a_reference_never_both_succeed(client: httpx.AsyncClient, store: Store, noun: str) -> None:
    for number in range(10):
        created = await create(client, noun)
        spec = service(noun, reference(noun, created), name=f"web{number}")
        removed, made = await asyncio.gather(client.delete(f"/{noun}s/key"), client.post("/services/create", json=spec))
        assert (removed.status_code, made.status_code) in {(204, 400), (400, 201)}
        if made.status_code == 201:
            await client.delete(f"/services/web{number}")
            await client.delete(f"/{noun}s/key")


async def test_what_an_update_is_about_to_lead_away_from_is_kept(client: httpx.AsyncClient, store: Store, noun: str) -> None:
    created = await create(client, noun)
    service_id = await create_service(client, service(noun, reference(noun, created)))
    spec_id = store.view.services.must_get(service_id).task_spec_id
    task = Task(id="t1", service_id=service_id, task_spec_id=spec_id, slot=1)
    await store.update(lambda tx: tx.create(task))
    assert (await update_service(client, service(noun, image="nginx:2"))).status_code == 200
    assert refusal(await client.delete(f"/{noun}s/key")) == invalid(f"{noun} 'key' is in use by the following service: web")
    await store.update(lambda tx: tx.update(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN)))
    assert (await client.delete(f"/{noun}s/key")).status_code == 204


@pytest.mark.parametrize("is_changing", [True, False])
async def test_what_an_update_may_be_rolled_back_to_is_kept(
    client: httpx.AsyncClient, store: Store, noun: str, is_changing: bool
) -> None:
    created = await create(client, noun)
    service_id = await create_service(client, service(noun, reference(noun, created)))
    assert (await update_service(client, service(noun, image="nginx:2"))).status_code == 200
    changed = msgspec.structs.replace(
        store.view.services.must_get(service_id),
        update_status=UpdateStatus(state="updating" if is_changing else "completed"),
    )
    await store.update(lambda tx: tx.update(changed))
    removed = await client.delete(f"/{noun}s/key")
    rolled_back = await update_service(client, service(noun), rollback="previous")
    if is_changing:
        assert (removed.status_code, rolled_back.status_code) == (400, 200)
    else:
        assert (removed.status_code, refusal(rolled_back)) == (204, invalid(f"{noun} not found: key"))


async def test_references_must_fit(client: httpx.AsyncClient, noun: str) -> None:
    created, other = await create(client, noun), await create(client, noun, "other")
    file, ids = f"file {noun}", "of 0 to 2147483647"
    for references, words in (
        ([reference(noun, "nosuch", "ghost")], f"{noun} not found: ghost"),
        ([reference(noun, "a", "x"), reference(noun, "b", "y", "z")], f"{noun}s not found: x, y"),
        ([reference(noun, created, "wrong")], f"{noun} not found: wrong"),
        ([reference(noun, "", "key")], f"malformed {noun} reference"),
        ([reference(noun, created, "")], f"malformed {noun} reference"),
        ([{**reference(noun, created), "File": None}], f"malformed {noun} reference, no target provided"),
        ([reference(noun, created, target="")], f"malformed {file} reference, invalid target file name provided"),
        (
            [reference(noun, created), reference(noun, other, "other")],
            f"{noun} references 'key' and 'other' have a conflicting target: 'key'",
        ),
        *(
            ([reference(noun, created, target=name)], f"malformed {file} reference, invalid target file name provided")
            for name in (".", "a/..", "/", "x\0")
        ),
        *(
            ([reference(noun, created, UID=user)], f"{noun} 'key': the user of its file is '{user}', and must be a number {ids}")
            for user in ("www", "-1", "4294967295")
        ),
        ([reference(noun, created, Mode=4096)], f"{noun} 'key': the mode of its file is 4096, and must be one of 0 to 4095"),
    ):
        assert refusal(await client.post("/services/create", json=service(noun, *references))) == invalid(words), references
    await create_service(client, service(noun, reference(noun, created), reference(noun, created, target="/etc/key")))
    answer = await update_service(client, service(noun, reference(noun, "nosuch", "ghost")))
    assert refusal(answer) == invalid(f"{noun} not found: ghost")


async def test_references_come_back_as_posted(client: httpx.AsyncClient, noun: str) -> None:
    created = await create(client, noun)
    posted = [reference(noun, created, Mode=256, UID="33", GID="50"), reference(noun, created, target="/etc/x")]
    await create_service(client, service(noun, *posted))
    container = (await client.get("/services/web")).json()["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert container[f"{noun.capitalize()}s"] == posted


async def test_a_config_may_be_for_the_runtime_alone(client: httpx.AsyncClient) -> None:
    created = await create(client, "config")
    await create_service(client, service("config", {"ConfigID": created, "ConfigName": "key", "Runtime": {}}))


async def test_a_dry_run_looks_at_references_too(client: httpx.AsyncClient, noun: str) -> None:
    answer = await client.post("/pyswarm/services/dry-run", json=service(noun, reference(noun, "nosuch", "ghost")))
    assert refusal(answer) == invalid(f"{noun} not found: ghost")


async def test_events(client: httpx.AsyncClient, store: Store, noun: str, api_socket: str) -> None:
    transport, parameters = httpx.AsyncHTTPTransport(uds=api_socket), {"filters": json.dumps({"type": [noun]})}
    events = []
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=10) as other,
        other.stream("GET", "/events", params=parameters) as stream,
    ):
        lines = stream.aiter_lines()
        created = await create(client, noun)
        events.append(json.loads(await anext(lines)))
        version = (await client.get(f"/{noun}s/key")).json()["Version"]["Index"]
        body = {"Name": "key", "Labels": {"a": "b"}}
        await client.post(f"/{noun}s/{created}/update", params={"version": version}, json=body)
        events.append(json.loads(await anext(lines)))
        await client.delete(f"/{noun}s/key")
        events.append(json.loads(await anext(lines)))
    assert [(event["Type"], event["Action"], event["scope"]) for event in events] == [
        (noun, action, "swarm") for action in ("create", "update", "remove")
    ]
    assert all(event["Actor"] == {"ID": created, "Attributes": {"name": "key"}} for event in events)
