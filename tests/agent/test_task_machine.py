"""The task machine: each way through a task's life, and what it may never do."""

from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent import task_events as m
from pyswarm_agent.task_machine import TaskMachine
from pyswarm_common.objects import TaskStatus
from pyswarm_common.task_states import TaskState, may_follow
from pyswarm_common.wire import TaskAssignment


def assignment(desired: TaskState = TaskState.RUNNING, task_id: str = "t1") -> TaskAssignment:
    return TaskAssignment(task_id=task_id, task_spec_id="s1", desired_state=desired)


def transcript(*events: m.Event) -> list[str]:
    """Give the events to a new machine; returns one word per instruction, `report <state>` for reports."""
    machine = TaskMachine()
    words: list[str] = []
    for now_ns, event in enumerate(events, 1):
        for instruction in machine.handle(event, now_ns):
            if isinstance(instruction, m.ReportStatus):
                words.append(f"report {instruction.status.state.api_name}")
            else:
                words.append(type(instruction).__name__)
    return words


ASSIGNED = m.TaskAssigned(assignment=assignment())
PREPARED = m.TaskPrepared(task_id="t1", container_id="c1")
STARTED = m.TaskStarted(task_id="t1", pid=7)
SHUT = m.TaskAssigned(assignment=assignment(TaskState.SHUTDOWN))
TO_RUNNING = ["report preparing", "PrepareTask", "report ready", "report starting", "StartTask", "report running"]


def test_a_task_runs_and_is_stopped() -> None:
    words = transcript(ASSIGNED, PREPARED, STARTED, SHUT, m.TaskStopped(task_id="t1", exit_code=137))
    assert words == [*TO_RUNNING, "StopTask", "report shutdown"]


def test_a_task_that_ends_well_is_complete() -> None:
    assert transcript(ASSIGNED, PREPARED, STARTED, m.TaskExited(task_id="t1", exit_code=0))[-2:] == [
        "report complete",
        "ReleaseTask",
    ]


def test_a_task_that_ends_badly_has_failed_and_says_why() -> None:
    machine = TaskMachine()
    for event in (ASSIGNED, PREPARED, STARTED, m.TaskExited(task_id="t1", exit_code=3)):
        machine.handle(event, 1)
    status = machine.records["t1"].status
    assert (status.state, status.exit_code, status.error) == (TaskState.FAILED, 3, "task: non-zero exit (3)")


def test_a_task_that_cannot_be_prepared_is_rejected() -> None:
    words = transcript(ASSIGNED, m.PreparationFailed(task_id="t1", error="No such image: x"))
    assert words == ["report preparing", "PrepareTask", "report rejected", "ReleaseTask"]


def test_a_held_task_starts_only_when_it_is_wanted_running() -> None:
    held = m.TaskAssigned(assignment=assignment(TaskState.READY))
    assert transcript(held, PREPARED) == ["report preparing", "PrepareTask", "report ready"]
    assert transcript(held, PREPARED, ASSIGNED)[3:] == ["report starting", "StartTask"]


def test_a_stop_during_preparation_is_asked_once() -> None:
    removal = m.TaskAssigned(assignment=assignment(TaskState.REMOVE))
    words = transcript(ASSIGNED, SHUT, removal, m.TaskStopped(task_id="t1"))
    assert words == ["report preparing", "PrepareTask", "StopTask", "report shutdown"]


def test_a_task_assigned_to_be_shut_down_never_starts() -> None:
    assert transcript(SHUT, m.TaskStopped(task_id="t1")) == ["StopTask", "report shutdown"]


def test_an_exit_while_stopping_counts_as_the_stop() -> None:
    words = transcript(ASSIGNED, PREPARED, STARTED, SHUT, m.TaskExited(task_id="t1", exit_code=1), m.TaskStopped(task_id="t1"))
    assert words[len(TO_RUNNING) :] == ["StopTask", "report shutdown"]


def test_a_removed_task_leaves_nothing() -> None:
    words = transcript(ASSIGNED, PREPARED, STARTED, m.TaskRemoved(task_id="t1"), m.TaskCleared(task_id="t1"))
    assert words[len(TO_RUNNING) :] == ["ClearTask", "ForgetTask"]


def restored(state: TaskState, *, is_running: bool, is_startable: bool = False) -> m.TaskRestored:
    status = TaskStatus(state=state, at_ns=1, container_id="c1")
    return m.TaskRestored(assignment=assignment(), status=status, is_running=is_running, is_startable=is_startable)


def test_a_running_container_is_adopted_without_a_restart() -> None:
    assert transcript(restored(TaskState.RUNNING, is_running=True)) == ["WatchTask", "report running"]


def test_a_container_that_started_while_the_agent_died_is_adopted() -> None:
    assert transcript(restored(TaskState.STARTING, is_running=True)) == ["WatchTask", "report running"]


def test_a_container_that_vanished_has_failed() -> None:
    assert transcript(restored(TaskState.RUNNING, is_running=False)) == ["report failed", "ReleaseTask"]


def test_an_interrupted_preparation_is_taken_up_again() -> None:
    assert transcript(restored(TaskState.PREPARING, is_running=False)) == ["PrepareTask"]


def test_a_restored_task_whose_start_was_cut_short_is_started() -> None:
    cut_short = restored(TaskState.STARTING, is_running=False, is_startable=True)
    assert transcript(cut_short, PREPARED, STARTED) == ["PrepareTask", "StartTask", "report running"]
    failed = m.PreparationFailed(task_id="t1", error="no network")
    assert transcript(cut_short, failed) == ["PrepareTask", "report failed", "ReleaseTask"]


def test_a_restored_task_whose_container_is_gone_has_failed() -> None:
    assert transcript(restored(TaskState.STARTING, is_running=False)) == ["report failed", "ReleaseTask"]
    assert transcript(restored(TaskState.RUNNING, is_running=False, is_startable=True)) == ["report failed", "ReleaseTask"]


def test_a_restored_ready_task_is_prepared_again_and_starts() -> None:
    assert transcript(restored(TaskState.READY, is_running=False), PREPARED) == ["PrepareTask", "report starting", "StartTask"]


EVENTS = st.sampled_from(
    [
        ASSIGNED,
        SHUT,
        m.TaskAssigned(assignment=assignment(TaskState.READY)),
        PREPARED,
        STARTED,
        m.PreparationFailed(task_id="t1", error="e"),
        m.StartFailed(task_id="t1", error="e"),
        m.TaskExited(task_id="t1", exit_code=1),
        m.TaskStopped(task_id="t1"),
        m.TaskRemoved(task_id="t1"),
    ]
)


@given(st.lists(EVENTS, max_size=25))
def test_reported_states_only_go_forward(events: list[m.Event]) -> None:
    machine = TaskMachine()
    last: TaskState | None = None
    for event in events:
        for instruction in machine.handle(event, 1):
            if isinstance(instruction, m.ReportStatus):
                assert last is None or may_follow(last, instruction.status.state)
                last = instruction.status.state


@given(st.lists(EVENTS, max_size=25))
def test_a_removed_task_is_never_started_again(events: list[m.Event]) -> None:
    machine = TaskMachine()
    machine.handle(ASSIGNED, 1)
    machine.handle(m.TaskRemoved(task_id="t1"), 1)
    for event in events:
        assert machine.handle(event, 1) == []


def test_a_restored_task_that_is_wanted_down_is_stopped_without_waiting_for_a_manager() -> None:
    status = TaskStatus(state=TaskState.RUNNING, at_ns=1, container_id="c1")
    event = m.TaskRestored(assignment=assignment(TaskState.SHUTDOWN), status=status, is_running=True)
    assert transcript(event, SHUT, m.TaskStopped(task_id="t1")) == ["report running", "StopTask", "report shutdown"]


def test_the_clearing_of_an_earlier_life_forgets_nothing() -> None:
    assert transcript(ASSIGNED, m.TaskCleared(task_id="t1"), PREPARED)[2:] == ["report ready", "report starting", "StartTask"]


REMOVED, CLEARED = m.TaskRemoved(task_id="t1"), m.TaskCleared(task_id="t1")


def test_a_task_that_comes_back_while_it_is_cleared_away_has_failed() -> None:
    words = transcript(ASSIGNED, PREPARED, STARTED, REMOVED, ASSIGNED, CLEARED)
    assert words[len(TO_RUNNING) :] == ["ClearTask", "report failed"]


def test_an_ended_task_that_comes_back_while_it_is_cleared_away_stays_as_it_was() -> None:
    words = transcript(ASSIGNED, m.PreparationFailed(task_id="t1", error="e"), REMOVED, ASSIGNED, CLEARED, REMOVED, CLEARED)
    assert words[-4:] == ["ClearTask", "report rejected", "ClearTask", "ForgetTask"]


def test_a_task_that_comes_back_and_goes_again_is_forgotten() -> None:
    assert transcript(ASSIGNED, REMOVED, ASSIGNED, REMOVED, CLEARED)[-2:] == ["ClearTask", "ForgetTask"]
