"""The worker when things hang, fail or come at the wrong moment: no task is wedged, nothing is left, no other one suffers."""

import asyncio
import base64
from collections.abc import Callable

import msgspec
import pytest
from agent_bench import Bench, assigned, container_spec, message, raw, view
from image_builder import BuiltImage, Entry, make_layer
from image_registries import Reply, Request, ScriptedServer, scripted_server

from pyswarm_agent.images.records import RegistryAuth, registry_auth_of_header
from pyswarm_agent.persistence import error_text
from pyswarm_agent.runtime.fake import FakeProgram
from pyswarm_agent.task_container import PARALLEL_STARTS, container_id_of
from pyswarm_common import wire
from pyswarm_common.errors import InvalidArgument, NotFound, PyswarmError
from pyswarm_common.task_states import TaskState
from pyswarm_netplugin import operations as op


def failing(operation: str, times: int, error: Exception) -> Callable[[str, str], object]:
    """Return a control of the runtime: the operation fails so many times."""
    left = [times]

    async def control(called: str, _: str) -> None:
        if called == operation and left[0] > 0:
            left[0] -= 1
            raise error

    return control


def hanging(operation: str, reached: asyncio.Event) -> Callable[[str, str], object]:
    """Return a control of the runtime: the operation never ends."""

    async def control(called: str, _: str) -> None:
        if called == operation:
            reached.set()
            await asyncio.Event().wait()

    return control


async def assign(bench: Bench, task_id: str = "t1", *, spec: bytes | None = None, network: str = "") -> None:
    """Assign a task with a spec of its own."""
    views = (raw(view()),) if network else ()
    task = assigned(task_id, spec=f"spec-{task_id}", network=network)
    await bench.agent.handle(message(task, task_specs={f"spec-{task_id}": spec or container_spec()}, views=views))


async def shut_down(bench: Bench, task_id: str = "t1") -> None:
    """Ask for a task's end."""
    await bench.agent.handle(message(assigned(task_id, TaskState.SHUTDOWN, spec=f"spec-{task_id}"), task_specs={}))


async def test_a_stop_interrupts_a_hanging_pull(bench: Bench) -> None:
    asked = asyncio.Event()

    def hang(_: Request) -> Reply:
        asked.set()
        return Reply(b"{}", hold=asyncio.Event())

    async with scripted_server() as registry:
        registry.routes["/v2/x/manifests/1"] = hang
        await assign(bench, spec=container_spec(f"{registry.host}/x:1"))
        await asked.wait()
        await shut_down(bench)
        await bench.until_state("t1", TaskState.SHUTDOWN)


async def test_a_stop_interrupts_a_hanging_start(bench: Bench) -> None:
    reached = asyncio.Event()
    bench.runtime.before_each = hanging("start", reached)  # type: ignore[assignment]
    await assign(bench, network="net")
    await reached.wait()
    await shut_down(bench)
    await bench.until_state("t1", TaskState.SHUTDOWN)
    assert "t1" not in bench.kernel.sandboxes


async def test_interrupted_starts_make_room_for_others(bench: Bench) -> None:
    reached = asyncio.Event()
    bench.runtime.before_each = hanging("create", reached)  # type: ignore[assignment]
    stuck = [f"stuck{i}" for i in range(PARALLEL_STARTS + 1)]
    for task_id in stuck:
        await assign(bench, task_id)
    await reached.wait()
    for task_id in stuck:
        await shut_down(bench, task_id)
    for task_id in stuck:
        await bench.until_state(task_id, TaskState.SHUTDOWN)
    bench.runtime.before_each = failing("none", 0, OSError())  # type: ignore[assignment]
    await assign(bench, "next")
    await bench.until_state("next", TaskState.RUNNING)


async def test_an_image_that_no_registry_has_is_said_to_be_missing(bench: Bench) -> None:
    async with scripted_server() as registry:
        await assign(bench, spec=container_spec(f"{registry.host}/x:1"))
        await bench.until_state("t1", TaskState.REJECTED)
        assert bench.status("t1").error.startswith(f"No such image: {registry.host}/x:1")


def private_registry(registry: ScriptedServer, image: BuiltImage) -> None:
    """Let the server give an image only to ada, password `pw`."""
    registry.serve_image(image, "x", "1")
    wanted = "Basic " + base64.b64encode(b"ada:pw").decode()
    denied = Reply(status=401, headers={"www-authenticate": 'Basic realm="test"'})

    def guarded(answer: Callable[[Request], Reply]) -> Callable[[Request], Reply]:
        return lambda request: answer(request) if request.headers.get("authorization") == wanted else denied

    registry.routes = {path: guarded(answer) for path, answer in registry.routes.items()}


@pytest.mark.parametrize(("password", "state"), [("pw", TaskState.RUNNING), ("wrong", TaskState.REJECTED)])
async def test_an_image_is_pulled_with_the_credentials_of_its_service(bench: Bench, password: str, state: TaskState) -> None:
    async with scripted_server() as registry:
        private_registry(registry, BuiltImage([make_layer([Entry("private", b"x")])], {"Cmd": ["/x"]}))
        auth = base64.urlsafe_b64encode(msgspec.json.encode({"username": "ada", "password": password})).decode()
        await assign(bench, spec=container_spec(f"{registry.host}/x:1", PullOptions={"RegistryAuth": auth}))
        await bench.until_state("t1", state)


def test_credentials_are_read_with_and_without_padding() -> None:
    header = base64.urlsafe_b64encode(b'{"username":"\xc3\xbc","password":"p??>"}').decode()
    assert registry_auth_of_header(header) == RegistryAuth(username="ü", password="p??>")
    assert registry_auth_of_header(header.rstrip("=")) == registry_auth_of_header(header)
    assert registry_auth_of_header("") is None
    for bad in ("x", "%%%%", base64.b64encode(b"[]").decode(), "ü"):
        with pytest.raises(InvalidArgument, match="invalid X-Registry-Auth header"):
            registry_auth_of_header(bad)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (b"{", "DecodeError"),
        (b'{"ContainerSpec": {"Image": 7}}', "ValidationError"),
        (container_spec(""), "names no image"),
        (container_spec(Env=["A={{.Nonsense}}"]), "cannot evaluate {{.Nonsense}}"),
        (container_spec(Hostname="{{.Nonsense}}"), "cannot evaluate {{.Nonsense}}"),
        (container_spec(StopSignal="SIGNONSENSE"), "SIGNONSENSE"),
        (container_spec(PullOptions={"RegistryAuth": "%"}, Image="127.0.0.1:1/x"), "X-Registry-Auth"),
    ],
)
async def test_a_spec_that_cannot_run_is_that_tasks_fault_alone(bench: Bench, spec: bytes, error: str) -> None:
    await bench.run_task("good")
    await assign(bench, "bad", spec=spec)
    await bench.until_state("bad", TaskState.REJECTED)
    assert error in bench.status("bad").error
    await assign(bench, "next")
    await bench.until_state("next", TaskState.RUNNING)


async def test_a_host_name_is_expanded_for_the_network_too(bench: Bench) -> None:
    await assign(bench, spec=container_spec(Hostname="{{.Service.Name}}-{{.Task.Slot}}"), network="net")
    await bench.until_state("t1", TaskState.RUNNING)
    container = bench.container("t1")
    assert container is not None
    assert container.config.hostname == "web-1"
    assert container.config.hosts.endswith("\tweb-1\n")


@pytest.mark.parametrize(("step", "state"), [("create", TaskState.REJECTED), ("start", TaskState.FAILED)])
@pytest.mark.parametrize("error", [KeyError("surprise"), ValueError("surprise"), PyswarmError("surprise"), OSError(5, "surprise")])
async def test_no_error_of_one_task_ends_the_agent(bench: Bench, step: str, state: TaskState, error: Exception) -> None:
    bench.runtime.before_each = failing(step, 1, error)  # type: ignore[assignment]
    await assign(bench, network="net")
    await bench.until_state("t1", state)
    assert bench.status("t1").error == error_text(error)
    await bench.until(lambda: "t1" not in bench.kernel.sandboxes)
    await assign(bench, "t2")
    await bench.until_state("t2", TaskState.RUNNING)


@pytest.mark.parametrize("error", [PyswarmError("busy"), KeyError("surprise")])
async def test_a_container_that_cannot_be_removed_is_removed_later(bench: Bench, error: Exception) -> None:
    await bench.run_task("t1", network="net")
    bench.runtime.before_each = failing("remove", 3, error)  # type: ignore[assignment]
    await bench.agent.handle(message(removed_tasks=("t1",)))
    await bench.until(lambda: "t1" not in bench.kernel.sandboxes)
    assert "t1" in bench.records()
    await bench.until(lambda: bench.has_left_nothing("t1"), advancing_s=0.5)


def refusing_removal(times: int) -> Callable[[op.Operation], None]:
    """Return a kernel that keeps its sandboxes so many times."""
    left = [times]

    def refuse(operation: op.Operation) -> None:
        if isinstance(operation, op.RemoveSandbox) and left[0] > 0:
            left[0] -= 1
            raise OSError("busy")

    return refuse


async def test_a_sandbox_that_cannot_be_removed_is_removed_later(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    bench.kernel.refuse = refusing_removal(4)
    await bench.agent.handle(message(removed_tasks=("t1",)))
    await bench.until(lambda: bench.container("t1") is None)
    assert "t1" in bench.records()
    await bench.until(lambda: bench.has_left_nothing("t1"), advancing_s=0.5)


async def test_a_stopped_task_is_told_though_its_network_cannot_be_freed_yet(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    bench.kernel.refuse = refusing_removal(4)
    await bench.agent.handle(message(assigned("t1", TaskState.SHUTDOWN, network="net")))
    await bench.until_state("t1", TaskState.SHUTDOWN, advancing_s=0.1)
    await bench.until(lambda: "t1" not in bench.kernel.sandboxes, advancing_s=0.5)


async def test_the_network_of_an_ended_task_is_freed_in_the_end(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    bench.kernel.refuse = refusing_removal(4)
    bench.runtime.end_container(container_id_of("t1"), 0)
    await bench.until_state("t1", TaskState.COMPLETE)
    await bench.until(lambda: "t1" not in bench.kernel.sandboxes, advancing_s=0.5)
    assert bench.container("t1") is not None  # for its logs


async def test_a_container_that_cannot_be_stopped_does_not_count_as_stopped(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    bench.runtime.before_each = failing("stop", 2, PyswarmError("does not die"))  # type: ignore[assignment]
    await bench.agent.handle(message(assigned("t1", TaskState.SHUTDOWN, network="net")))
    await bench.clock.advance(0.2)
    assert bench.states("t1")[-1] is TaskState.RUNNING
    assert "t1" in bench.kernel.sandboxes
    await bench.until_state("t1", TaskState.SHUTDOWN, advancing_s=0.5)
    assert bench.status("t1").exit_code == 143


async def test_a_container_that_goes_while_it_is_stopped_is_stopped(bench: Bench) -> None:
    await bench.run_task("t1")
    bench.runtime.before_each = failing("stop", 9, NotFound("gone"))  # type: ignore[assignment]
    await bench.agent.handle(message(assigned("t1", TaskState.SHUTDOWN)))
    await bench.until_state("t1", TaskState.SHUTDOWN)


async def test_a_task_whose_container_somebody_removes_has_failed(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    container = bench.runtime._containers.pop(container_id_of("t1"))
    container.ended.set()
    await bench.until_state("t1", TaskState.FAILED)
    assert bench.status("t1").error == "task: its container was removed"


async def test_out_of_memory_is_told_in_words(bench: Bench) -> None:
    await bench.run_task("t1")
    bench.runtime.end_container(container_id_of("t1"), 137, oom_killed=True)
    await bench.until_state("t1", TaskState.FAILED)
    assert "out of memory" in bench.status("t1").error


async def test_an_end_between_start_and_watch_is_seen(bench: Bench) -> None:
    bench.programs["t1"] = FakeProgram(runs_s=0.0, exit_code=4)
    await assign(bench)
    await bench.until_state("t1", TaskState.FAILED, advancing_s=0.1)
    assert bench.status("t1").exit_code == 4


async def test_the_third_job_of_a_task_waits_for_the_first(bench: Bench) -> None:
    """A job that ends slowly when it is interrupted must have ended before anything else is done for its task."""
    reached, goes_on, order = asyncio.Event(), asyncio.Event(), list[str]()

    async def control(operation: str, _: str) -> None:
        order.append(operation)
        if operation == "start":
            reached.set()
            try:
                await asyncio.Event().wait()
            finally:
                await goes_on.wait()
                order.append("start ended")

    bench.runtime.before_each = control
    await assign(bench)
    await reached.wait()
    await shut_down(bench)
    await bench.clock.advance(0)
    await bench.agent.handle(message(removed_tasks=("t1",)))
    await bench.clock.advance(0)
    assert order == ["create", "start"]
    goes_on.set()
    await bench.until(lambda: bench.has_left_nothing("t1"))
    assert order == ["create", "start", "start ended", "remove"]


async def test_a_session_that_breaks_off_changes_nothing_for_a_running_task(bench: Bench) -> None:
    await bench.run_task("t1")
    reports = list(bench.reports)
    bench.agent.session_began()
    await bench.agent.handle(message(assigned("t1"), complete=True))
    await bench.clock.advance(1)
    assert bench.reports == reports
    assert isinstance(bench.agent.hello(), wire.Hello)
