"""The agent on a node: assignments in, statuses out, and what a restart finds."""

import asyncio
from pathlib import Path

import pytest
from agent_bench import APP, Bench, assigned, container_spec, message, raw, view

from pyswarm_agent.images import Image
from pyswarm_agent.runtime.fake import FakeProgram
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_agent.task_container import container_id_of
from pyswarm_agent.task_store import StoredTask, TaskStore
from pyswarm_agent.worker import BALANCERS_PAUSE_S
from pyswarm_common import wire
from pyswarm_common.errors import Conflict, FailedPrecondition, Unavailable
from pyswarm_common.objects import NetworkAttachment, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.driver import SandboxRequest


async def test_an_assigned_task_runs_and_each_step_is_reported(bench: Bench) -> None:
    await bench.agent.handle(message(assigned("t1", network="net"), complete=True, views=(raw(view()),)))
    await bench.until_state("t1", TaskState.RUNNING)
    states = bench.states("t1")
    assert states == sorted(set(states))
    assert TaskState.PREPARING in states
    container = bench.container("t1")
    assert container is not None
    assert bench.status("t1").container_id == container.config.id
    assert bench.status("t1").pid == container.pid
    assert "t1" in bench.kernel.sandboxes


async def test_the_views_are_applied_before_a_task_is_stopped(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    versions: list[int] = []

    async def note(operation: str, _: str) -> None:
        if operation == "stop":
            versions.append(bench.driver.views()["net"].version)

    bench.runtime.before_each = note
    delta = wire.view_delta(view(1), view(2, backends=("10.0.1.9",)))
    await bench.agent.handle(message(assigned("t1", TaskState.SHUTDOWN, network="net"), view_deltas=(raw(delta),)))
    await bench.clock.advance(BALANCERS_PAUSE_S / 2)
    assert versions == [], "the balancers of other nodes get a moment, too"
    await bench.clock.advance(BALANCERS_PAUSE_S / 2)
    await bench.until_state("t1", TaskState.SHUTDOWN)
    assert versions == [2]


async def test_a_removed_task_leaves_nothing(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    await bench.agent.handle(message(removed_tasks=("t1",)))
    await bench.until(lambda: bench.has_left_nothing("t1"))


async def test_a_task_that_a_complete_set_does_not_name_is_removed(bench: Bench) -> None:
    await bench.run_task("t1")
    await bench.run_task("t2")
    await bench.agent.handle(message(assigned("t2"), complete=True))
    await bench.until(lambda: bench.has_left_nothing("t1"))
    assert bench.container("t2") is not None


async def test_a_restarted_agent_adopts_what_runs(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    before, seen = bench.container("t1"), []

    async def note(operation: str, container_id: str) -> None:
        seen.append((operation, container_id))

    bench.runtime.before_each = note
    await bench.restart()
    await bench.until_state("t1", TaskState.RUNNING)
    assert bench.agent.hello().view_versions == {"net": 1}
    assert (bench.container("t1"), seen) == (before, [])
    assert "t1" in bench.kernel.sandboxes
    bench.runtime.end_container(container_id_of("t1"), 3)
    await bench.until_state("t1", TaskState.FAILED)
    assert bench.status("t1").exit_code == 3
    await bench.until(lambda: "t1" not in bench.kernel.sandboxes)


@pytest.mark.parametrize(("exit_code", "state"), [(0, TaskState.COMPLETE), (7, TaskState.FAILED)])
async def test_what_ended_while_the_agent_was_down_is_told_as_it_ended(bench: Bench, exit_code: int, state: TaskState) -> None:
    await bench.run_task("t1")
    await bench.stop()
    bench.runtime.end_container(container_id_of("t1"), exit_code)
    await bench.start()
    await bench.until_state("t1", state)
    assert bench.status("t1").exit_code == exit_code


async def test_a_stop_that_a_restart_cut_short_is_taken_up_again(bench: Bench) -> None:
    bench.programs["t1"] = FakeProgram(ignores_stop=True)
    await bench.run_task("t1")
    await bench.agent.handle(message(assigned("t1", TaskState.SHUTDOWN)))
    await bench.clock.advance(1)
    await bench.restart()
    await bench.until_state("t1", TaskState.SHUTDOWN, advancing_s=1)
    assert bench.status("t1").exit_code == 137


async def test_a_restarted_agent_clears_away_what_no_task_explains(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    await bench.run_task("t2")
    attachment = NetworkAttachment(network_id="net", address="10.0.1.7/24")
    await bench.driver.attach(SandboxRequest(id="ghost", hostname="ghost", attachments=(attachment,)))
    labels = {"com.docker.swarm.task.id": "stray"}
    await bench.runtime.create(ContainerConfig(id=container_id_of("stray"), args=("/x",), labels=labels))
    await bench.runtime.create(ContainerConfig(id="f" * 64, args=("/x",), labels={"com.docker.swarm.task.id": "other"}))
    await bench.stop()
    (bench.directory / "tasks" / "torn").write_bytes(b"\xff")
    (bench.directory / "tasks" / "t3.tmp").write_bytes((bench.directory / "tasks" / "t2").read_bytes())
    await bench.start()
    await bench.until(lambda: bench.has_left_nothing("ghost") and bench.has_left_nothing("stray"))
    assert bench.records() == {"t1", "t2"}
    assert bench.runtime.get("f" * 64) is not None  # not by us
    await bench.agent.handle(message(assigned("t1", network="net"), complete=True))
    await bench.until(lambda: bench.has_left_nothing("t2"))
    assert "t1" in bench.kernel.sandboxes


async def test_a_task_whose_record_was_lost_is_adopted_when_it_is_assigned(bench: Bench) -> None:
    await bench.run_task("t1")
    before = bench.container("t1")
    await bench.stop()
    (bench.directory / "tasks" / "t1").write_bytes(b"")
    hold = asyncio.Event()
    bench.runtime.before_each = lambda operation, _: hold.wait() if operation == "remove" else asyncio.sleep(0)  # type: ignore[assignment,return-value]
    await bench.start()
    await bench.run_task("t1")
    assert bench.container("t1") == before


async def test_two_agents_never_work_with_the_same_records(bench: Bench) -> None:
    with pytest.raises(Conflict, match="another agent already works"):
        await bench.new_agent().run()
    await bench.run_task("t1")


async def test_a_change_that_does_not_fit_ends_the_session_and_asks_for_everything(bench: Bench) -> None:
    await bench.run_task("t1", network="net")
    assert bench.agent.hello().view_versions == {"net": 1}
    misfit = wire.view_delta(view(7), view(8))
    with pytest.raises(FailedPrecondition, match="delta from 7 does not fit version 1"):
        await bench.agent.handle(message(assigned("t1", TaskState.SHUTDOWN), view_deltas=(raw(misfit),)))
    assert bench.agent.hello().view_versions == {}
    assert bench.agent.views["net"].version == 1
    anew = message(assigned("t1", network="net"), complete=True, views=(raw(view(9)),))
    await bench.agent.handle(anew)
    assert bench.agent.hello().view_versions == {"net": 9}
    assert bench.states("t1")[-1] == TaskState.RUNNING


@pytest.mark.parametrize("broken", [raw(wire.view_delta(view(1, network_id="other"), view(2, network_id="other"))), raw({"a": 1})])
async def test_a_change_of_a_view_that_is_not_held_ends_the_session(bench: Bench, broken: bytes) -> None:
    await bench.run_task("t1", network="net")
    with pytest.raises(FailedPrecondition, match="do not fit"):
        await bench.agent.handle(message(view_deltas=(broken,)))
    assert bench.agent.hello().view_versions == {}


async def test_views_in_doubt_that_are_not_sent_again_are_gone(bench: Bench) -> None:
    await bench.agent.handle(message(views=(raw(view()),)))
    with pytest.raises(FailedPrecondition):
        await bench.agent.handle(message(view_deltas=(raw(wire.view_delta(view(7), view(8))),)))
    await bench.agent.handle(message(complete=True))
    assert bench.agent.views == {}
    await bench.until(lambda: not bench.kernel.overlays)


async def test_views_that_could_not_be_applied_are_tried_again(bench: Bench) -> None:
    await bench.run_task("t1", network="net")

    def refuse(operation: op.Operation) -> None:
        if isinstance(operation, op.ChangeBalancing) and operation.sandbox_id == "t1":
            raise OSError("no")

    bench.kernel.refuse = refuse
    changed = view(2, backends=("10.0.1.9",))
    await bench.agent.handle(message(assigned("t2"), views=(raw(changed),)))
    await bench.until_state("t2", TaskState.RUNNING)  # it holds up nothing
    bench.kernel.executed.clear()
    bench.kernel.refuse = lambda _: None
    await bench.until(lambda: any(isinstance(o, op.ChangeBalancing) for o in bench.kernel.executed), advancing_s=1)


async def test_the_end_of_a_session_does_not_cut_a_change_of_views_in_half(bench: Bench) -> None:
    held, goes_on = asyncio.Event(), asyncio.Event()
    set_network = bench.dns.set_network

    async def hold(*arguments: object) -> None:
        held.set()
        await goes_on.wait()
        await set_network(*arguments)  # type: ignore[arg-type]

    bench.dns.set_network = hold  # type: ignore[method-assign]
    session = asyncio.create_task(bench.agent.handle(message(views=(raw(view(backends=("10.0.1.9",))),))))
    await held.wait()
    session.cancel()
    await asyncio.wait([session])
    goes_on.set()
    await bench.until(lambda: "web" in bench.dns.networks.get("net", {}))


async def test_a_disk_that_refuses_holds_up_nothing_and_is_asked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    save, full = TaskStore.save, [True]

    def saving(store: TaskStore, task: StoredTask) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        save(store, task)

    monkeypatch.setattr(TaskStore, "save", saving)
    await bench.run_task("t1")
    assert bench.records() == set()
    full[0] = False
    await bench.until(lambda: bench.records() == {"t1"}, advancing_s=1)
    stored = TaskStore(bench.directory / "tasks").load()
    assert stored[0].status.state is TaskState.RUNNING


async def test_a_node_state_that_cannot_be_followed_does_not_end_the_session(bench: Bench) -> None:
    async def refuse(_: wire.NodeState) -> None:
        raise OSError("disk full")

    bench.agent.on_node_state = refuse
    await bench.agent.handle(wire.NodeState(role="worker", managers=(), heartbeat_period_s=1.0))


async def test_a_task_without_its_spec_is_rejected(bench: Bench) -> None:
    await bench.agent.handle(message(assigned("t1"), task_specs={}))
    await bench.until_state("t1", TaskState.REJECTED)
    assert "did not send the task's spec" in bench.status("t1").error


async def test_a_task_that_comes_back_while_it_is_cleared_away_has_failed(bench: Bench) -> None:
    await bench.run_task("t1")
    await bench.agent.handle(message(removed_tasks=("t1",)))
    await bench.agent.handle(message(assigned("t1")))
    await bench.until_state("t1", TaskState.FAILED)
    assert bench.container("t1") is None
    await bench.agent.handle(message(complete=True))
    await bench.until(lambda: bench.has_left_nothing("t1"))


async def test_the_spec_of_a_task_serves_the_next_one(bench: Bench) -> None:
    await bench.run_task("t1")
    await bench.agent.handle(message(assigned("t2"), task_specs={}))
    await bench.until_state("t2", TaskState.RUNNING)


def layers_of(bench: Bench) -> set[str]:
    return {path.name for path in (bench.directory / "images/layers").iterdir()}


def app_image(bench: Bench) -> Image:
    image = bench.images.get(APP)
    assert image is not None
    return image


async def test_unused_layers_go_at_the_start_but_not_those_under_a_container(bench: Bench) -> None:
    await bench.run_task("t1")
    layer = app_image(bench).layer_ids[0]
    bench.images._index.delete(app_image(bench).id)
    bench.images._index.snapshot()()  # writes it
    await bench.restart()
    assert bench.images.layer_ids_at([bench.container("t1").config.layer_paths[0], Path("/elsewhere")]) == {layer}  # type: ignore[union-attr]
    await bench.agent.handle(message(complete=True))
    await bench.until(lambda: bench.has_left_nothing("t1"))
    await bench.restart()
    await bench.until(lambda: not layers_of(bench))


async def test_a_record_is_read_as_it_was_written(bench: Bench) -> None:
    store = TaskStore(bench.directory / "tasks")
    task = StoredTask(assignment=assigned("t9"), status=TaskStatus(state=TaskState.COMPLETE), template_json=container_spec())
    store.save(task)
    assert [t for t in store.load() if t.assignment.task_id == "t9"] == [task]
    store.delete("t9")
    store.delete("t9")


async def test_an_apply_that_always_fails_does_not_keep_a_task_from_stopping(bench: Bench) -> None:
    await bench.run_task("t1", network="net")

    async def refuse(_: object) -> None:
        raise Unavailable("netlink is gone")

    bench.driver.apply_views = refuse  # type: ignore[method-assign,assignment]
    await bench.agent.handle(message(assigned("t1", TaskState.SHUTDOWN, network="net"), views=(raw(view(2)),)))
    await bench.until_state("t1", TaskState.SHUTDOWN, advancing_s=0.1)
