"""`service logs`: lines with their task's name, plain lines, terminals, tasks, and what is missing."""

import json
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID
from click.testing import Result

from pyswarm_agent.runtime.fake import FakeContainerRuntime, FakeProgram
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.clock import SystemClock
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import LogLine, LogPart, OpenStream
from pyswarm_manager.api.manager_services import ManagerServices
from pyswarm_manager.log_broker import LogBroker
from pyswarm_manager.store.store import Store
from pyswarm_node.api.fake_control import FakeNodeControl

Run = Callable[..., Awaitable[Result]]
NOW_NS = 1_795_226_162_906_615_127


@pytest.fixture
def agents(store: Store, control: FakeNodeControl) -> dict[str, list[LogLine]]:
    """The log of each task, by its id; tasks without one are on nodes that are away."""
    lines: dict[str, list[LogLine]] = {}

    def answer(node_id: str, message: OpenStream) -> bool:
        if message.log.task_id not in lines:
            return False
        publisher = broker.accept(message.stream_id, node_id)
        assert publisher is not None
        found = lines[message.log.task_id]
        kept = found[-message.log.tail :] if message.log.tail >= 0 else found
        publisher(LogPart(lines=tuple(kept), is_last=True))
        publisher(None)
        return True

    broker = LogBroker(store, answer)
    control.manager = ManagerServices(store, broker, SystemClock(), lambda: MANAGER_ID)
    return lines


def line(text: str, offset_ns: int, stream: int = 1) -> LogLine:
    return LogLine(stream=stream, at_ns=NOW_NS + offset_ns, line=text.encode() + b"\n")


async def add_service(pyswarm: Run, store: Store, slots: int, *options: str) -> list[str]:
    """Create the service `web` with running tasks; returns their ids."""
    assert (await pyswarm("service", "create", "-d", "--name", "web", *options, "nginx:1")).exit_code == 0
    service = store.view.services.named("web")[0]
    ids = []
    for slot in range(1, slots + 1):
        task = Task(
            id=new_id(),
            service_id=service.id,
            slot=slot,
            node_id=WORKER_ID,
            task_spec_id=service.task_spec_id,
            status=TaskStatus(state=TaskState.RUNNING, container_id="c" * 64),
        )
        await store.update(lambda tx, task=task: tx.create(task))  # type: ignore[misc]
        ids.append(task.id)
    return ids


async def test_lines_carry_the_name_of_their_task(pyswarm: Run, store: Store, agents: dict[str, list[LogLine]]) -> None:
    first, tenth = await add_service(pyswarm, store, 2)
    agents[first] = [line("one", 1), line("three", 3, stream=2)]
    agents[tenth] = [line("two words", 2)]
    result = await pyswarm("service", "logs", "web")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"web.1.{first[:12]}@worker1    | one",
        f"web.2.{tenth[:12]}@worker1    | two words",
    ]
    assert result.stderr == f"web.1.{first[:12]}@worker1    | three\n"
    assert (await pyswarm("service", "logs", "--raw", "web")).stdout == "one\ntwo words\n"
    lines = (await pyswarm("service", "logs", "--timestamps", "--no-task-ids", "--tail", "1", "web")).stdout.splitlines()
    assert lines == ["2026-11-21T01:56:02.906615129Z web.2@worker1    | two words"]
    assert (await pyswarm("service", "logs", "--raw", first)).stdout == "one\n"
    assert (await pyswarm("service", "logs", "--since", "yesterday", "web")).exit_code == 2


async def test_missing_logs_are_told(pyswarm: Run, store: Store, agents: dict[str, list[LogLine]]) -> None:
    first, second = await add_service(pyswarm, store, 2)
    agents[first] = [line("here", 1)]
    result = await pyswarm("service", "logs", "web")
    assert result.exit_code == 1
    assert "| here" in result.stdout
    assert "Error: Error grabbing logs: " in result.stderr or "Error: warning: incomplete log stream" in result.stderr
    assert second in result.stderr or WORKER_ID in result.stderr


async def test_a_terminals_output_comes_as_it_is(pyswarm: Run, store: Store, agents: dict[str, list[LogLine]]) -> None:
    (only,) = await add_service(pyswarm, store, 1, "--tty")
    agents[only] = [line("a\r", 1), line("b", 2)]
    assert (await pyswarm("service", "logs", "web")).stdout_bytes == b"a\r\nb\n"


async def test_one_tasks_log_by_its_slot(pyswarm: Run, store: Store, agents: dict[str, list[LogLine]]) -> None:
    first, second = await add_service(pyswarm, store, 2)
    agents[first], agents[second] = [line("one", 1)], [line("two", 2)]
    assert (await pyswarm("task", "logs", "--raw", "web.2")).stdout == "two\n"
    assert (await pyswarm("task", "logs", "--no-trunc", first)).stdout == f"web.1.{first}@worker1    | one\n"
    assert (await pyswarm("task", "logs", "nosuch")).exit_code == 1


async def test_ids_instead_of_names(pyswarm: Run, store: Store, agents: dict[str, list[LogLine]]) -> None:
    (only,) = await add_service(pyswarm, store, 1)
    agents[only] = [line("one", 1)]
    service_id = store.view.services.named("web")[0].id
    result = await pyswarm("service", "logs", "--no-resolve", "web")
    assert result.stdout == f"{service_id}.1.{only[:12]}@{WORKER_ID}    | one\n"


async def test_details_of_the_log_options(pyswarm: Run, store: Store, agents: dict[str, list[LogLine]]) -> None:
    (only,) = await add_service(pyswarm, store, 1, "--env", "COLOR=dark red")
    spec = store.view.task_specs.must_get(store.view.services.named("web")[0].task_spec_id)
    template = {**json.loads(spec.template_json), "LogDriver": {"Name": "json-file", "Options": {"env": "COLOR"}}}
    changed = msgspec.structs.replace(spec, template_json=json.dumps(template).encode())
    await store.update(lambda tx: tx.update(changed))
    agents[only] = [line("one", 1)]
    prefix = f"web.1.{only[:12]}@worker1    | "
    assert (await pyswarm("service", "logs", "--details", "web")).stdout == f"{prefix}COLOR=dark+red one\n"
    assert (await pyswarm("service", "logs", "web")).stdout == f"{prefix}one\n"


async def test_a_containers_log(pyswarm: Run, control: FakeNodeControl) -> None:
    runtime = control.agent.containers
    assert isinstance(runtime, FakeContainerRuntime)
    runtime._program_of = lambda _: FakeProgram(output=((1, b"out\n"), (2, b"err\n"), (1, b"end\n")))
    await runtime.create(ContainerConfig(id="c" * 64, name="db", args=("sh",)))
    await runtime.start_container("c" * 64)
    result = await pyswarm("logs", "db")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "out\nend\n", "err\n")
    assert (await pyswarm("container", "logs", "--tail", "1", "db")).stdout == "end\n"
    assert (await pyswarm("logs", "--until", "1970-01-01T00:00:01Z", "db")).stdout == ""
    assert (await pyswarm("logs", "--since", "soon", "db")).exit_code == 2


async def test_log_drivers_of_services(pyswarm: Run, store: Store, agents: dict[str, list[LogLine]]) -> None:
    def driver() -> object:
        service = store.view.services.named("web")[0]
        return json.loads(store.view.task_specs.must_get(service.task_spec_id).template_json).get("LogDriver")

    await add_service(pyswarm, store, 0, "--log-opt", "max-size=1m")
    assert driver() == {"Options": {"max-size": "1m"}}
    assert (await pyswarm("service", "update", "-d", "--log-driver", "local", "--log-opt", "max-file=2", "web")).exit_code == 0
    assert driver() == {"Name": "local", "Options": {"max-file": "2"}}
    assert (await pyswarm("service", "update", "-d", "--label-add", "a=b", "web")).exit_code == 0
    assert driver() == {"Name": "local", "Options": {"max-file": "2"}}
    result = await pyswarm("service", "update", "-d", "--log-driver", "syslog", "web")
    assert (result.exit_code, "logger: no log driver named 'syslog' is registered" in result.stderr) == (1, True)
