"""A container's log through the API, the docker CLI, and `pyswarm logs`; log drivers of services."""

from typing import Any

import httpx
import pytest
from docker_command import DockerCLI

from pyswarm_agent.runtime.fake import FakeContainerRuntime, FakeProgram
from pyswarm_agent.runtime.records import ContainerConfig, LogConfig
from pyswarm_node.api.fake_control import FakeNodeControl

CONTAINER = "c" * 64
OUTPUT = ((1, b"one\n"), (2, b"two\n"), (1, b"three\n"))


async def run_container(control: FakeNodeControl, **changes: Any) -> None:
    """Run a container that writes three lines and ends."""
    runtime = control.agent.containers
    assert isinstance(runtime, FakeContainerRuntime)
    runtime._program_of = lambda _: FakeProgram(output=OUTPUT, runs_s=0.0)
    settings: dict[str, Any] = {"name": "web", "args": ("sh",), "image": "busybox", **changes}
    await runtime.create(ContainerConfig(id=CONTAINER, **settings))
    await runtime.start_container(CONTAINER)


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        length = int.from_bytes(data[4:8], "big")
        found.append((data[0], data[8 : 8 + length]))
        data = data[8 + length :]
    return found


BOTH = {"stdout": "1", "stderr": "1"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (BOTH, [(1, b"one\n"), (2, b"two\n"), (1, b"three\n")]),
        ({"stderr": "1"}, [(2, b"two\n")]),
        ({**BOTH, "tail": "1"}, [(1, b"three\n")]),
        ({**BOTH, "tail": "all", "follow": "1"}, [(1, b"one\n"), (2, b"two\n"), (1, b"three\n")]),
        ({**BOTH, "since": "9999999999"}, []),
        ({**BOTH, "until": "1"}, []),
        ({**BOTH, "tail": "9" * 30}, [(1, b"one\n"), (2, b"two\n"), (1, b"three\n")]),
    ],
)
async def test_requests(
    client: httpx.AsyncClient, control: FakeNodeControl, parameters: dict[str, str], expected: list[tuple[int, bytes]]
) -> None:
    await run_container(control)
    answer = await client.get("/containers/web/logs", params=parameters)
    assert answer.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert frames(answer.content) == expected


async def test_terminals_give_a_raw_stream(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    await run_container(control, tty=True)
    answer = await client.get(f"/containers/{CONTAINER[:12]}/logs", params={"stdout": "1"})
    assert (answer.headers["content-type"], answer.content) == ("application/vnd.docker.raw-stream", b"one\nthree\n")


async def test_refusals(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    await run_container(control, log=LogConfig(driver="none"))
    answer = await client.get("/containers/web/logs")
    assert (answer.status_code, answer.json()) == (400, {"message": "Bad parameters: you must choose at least one stream"})
    answer = await client.get("/containers/web/logs", params=BOTH)
    assert (answer.status_code, answer.json()) == (501, {"message": "configured logging driver does not support reading"})
    answer = await client.get("/containers/nosuch/logs", params=BOTH)
    assert (answer.status_code, answer.json()) == (404, {"message": "No such container: nosuch"})


async def test_details_stand_between_time_and_line(client: httpx.AsyncClient, control: FakeNodeControl) -> None:
    options = {"labels": "tier,none", "env-regex": "^C", "tag": "{{.Name}}/{{.ID}}"}
    log = LogConfig(driver="json-file", options=options)
    await run_container(control, log=log, labels={"tier": "a b", "other": "x"}, env=("COLOR=red", "SIZE=1"))
    answer = await client.get("/containers/web/logs", params={"stderr": "1", "details": "1"})
    details = "COLOR=red,tag=web%2Fcccccccccccc,tier=a+b"
    assert frames(answer.content) == [(2, f"{details} two\n".encode())]
    answer = await client.get("/containers/web/logs", params={"stderr": "1", "details": "1", "timestamps": "1"})
    time, space, rest = frames(answer.content)[0][1].partition(b" ")
    assert (len(time), space, rest) == (30, b" ", f"{details} two\n".encode())


async def test_the_docker_cli(api_socket: str, control: FakeNodeControl) -> None:
    await run_container(control)
    docker = DockerCLI(api_socket)
    assert await docker.run("logs", "web") == (0, "one\nthree\n", "two\n")
    assert await docker.run("logs", "--follow", "--tail", "1", "web") == (0, "three\n", "")
    code, _, errors = await docker.run("logs", "nosuch")
    assert (code, "No such container: nosuch" in errors) == (1, True)


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ({"Name": "syslog"}, "logger: no log driver named 'syslog' is registered"),
        ({"Name": "json-file", "Options": {"max-sise": "1m"}}, "unknown log opt 'max-sise' for json-file log driver"),
        ({"Name": "local", "Options": {"max-file": "0"}}, "max-file cannot be less than 1"),
        ({"Options": {"max-sise": "1m"}}, "unknown log opt 'max-sise'"),
        ({"Name": "", "Options": {"max-size": "much"}}, "invalid size: 'much'"),
    ],
)
async def test_services_with_wrong_log_drivers_are_refused(client: httpx.AsyncClient, driver: dict[str, Any], words: str) -> None:
    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "nginx"}, "LogDriver": driver}}
    answer = await client.post("/services/create", json=spec)
    assert (answer.status_code, words in answer.json()["message"]) == (400, True), answer.text
    spec["TaskTemplate"]["LogDriver"] = {"Name": "json-file", "Options": {"max-size": "10m"}}  # type: ignore[index]
    answer = await client.post("/services/create", json=spec)
    assert answer.status_code == 201
    spec |= {"Name": "web2"}
    spec["TaskTemplate"]["LogDriver"] = {"Options": {"max-size": "10m", "tag": "x"}}  # type: ignore[index]
    assert (await client.post("/services/create", json=spec)).status_code == 201
    assert "Log" not in str(answer.json().get("Warnings"))
