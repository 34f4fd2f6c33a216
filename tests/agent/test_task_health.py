"""The task machine of tasks that have a healthcheck: they start until they are healthy, and fail when they are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent import task_events as m
from pyswarm_agent.task_machine import TaskMachine
from pyswarm_common.objects import NetworkAttachment, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import TaskAssignment

REASON = "unhealthy container (its healthcheck failed 3 times; the last time: exit code 1)"


def assignment(desired: TaskState = TaskState.RUNNING) -> TaskAssignment:
    attachments = (NetworkAttachment(network_id="net", address="10.0.1.5/24"),)
    return TaskAssignment(task_id="t1", task_spec_id="s1", desired_state=desired, attachments=attachments)


ASSIGNED, SHUT = m.TaskAssigned(assignment=assignment()), m.TaskAssigned(assignment=assignment(TaskState.SHUTDOWN))
PREPARED = m.TaskPrepared(task_id="t1", container_id="c1")
STARTED = m.TaskStarted(task_id="t1", pid=7, awaits_health=True)
HEALTHY, UNHEALTHY = m.TaskHealthy(task_id="t1"), m.TaskUnhealthy(task_id="t1", error=REASON)
REMOVED = m.TaskRemoved(task_id="t1")


def exited(exit_code: int) -> m.TaskExited:
    return m.TaskExited(task_id="t1", exit_code=exit_code)


def stopped(exit_code: int) -> m.TaskStopped:
    return m.TaskStopped(task_id="t1", exit_code=exit_code)


def restored(
    state: TaskState, error: str = "", *, is_running: bool = True, desired: TaskState = TaskState.RUNNING
) -> m.TaskRestored:
    status = TaskStatus(state=state, at_ns=1, container_id="c1", error=error)
    return m.TaskRestored(assignment=assignment(desired), status=status, is_running=is_running, pid=7, awaits_health=True)


def words_of(instruction: m.Instruction) -> str:
    if isinstance(instruction, m.ReportStatus):
        status = instruction.status
        is_early = not status.state.is_terminal and bool(status.error)
        return f"report {status.state.api_name}" + (" unhealthy" if is_early else "")
    name = type(instruction).__name__
    return f"{name} after news" if isinstance(instruction, m.StopTask) and instruction.is_news else name


def transcript(*events: m.Event) -> list[str]:
    """Give the events to a new machine; returns one word per instruction."""
    machine = TaskMachine()
    return [words_of(i) for now_ns, event in enumerate(events, 1) for i in machine.handle(event, now_ns)]


def status_after(*events: m.Event) -> TaskStatus:
    machine = TaskMachine()
    for now_ns, event in enumerate(events, 1):
        machine.handle(event, now_ns)
    return machine.records["t1"].status


TO_STARTING = [ASSIGNED, PREPARED, STARTED]
TO_RUNNING = [*TO_STARTING, HEALTHY]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([*TO_RUNNING], ["report running"]),
        ([*TO_RUNNING, HEALTHY], ["report running"]),
        ([*TO_STARTING, exited(0)], ["report complete", "ReleaseTask"]),
        ([*TO_STARTING, exited(3)], ["report failed", "ReleaseTask"]),
        ([*TO_STARTING, UNHEALTHY, stopped(137)], ["report starting unhealthy", "StopTask", "report failed"]),
        ([*TO_STARTING, SHUT, stopped(0)], ["StopTask", "report shutdown"]),
        ([*TO_STARTING, SHUT, UNHEALTHY, HEALTHY, stopped(0)], ["StopTask", "report shutdown"]),
        ([*TO_STARTING, REMOVED, HEALTHY, UNHEALTHY], ["ClearTask"]),
        (
            [*TO_RUNNING, UNHEALTHY, stopped(0)],
            ["report running", "report running unhealthy", "StopTask after news", "report failed"],
        ),
        (
            [*TO_RUNNING, UNHEALTHY, SHUT, UNHEALTHY, HEALTHY, exited(1), stopped(0)],
            ["report running", "report running unhealthy", "StopTask after news", "report failed"],
        ),
        ([*TO_RUNNING, exited(1), UNHEALTHY], ["report running", "report failed", "ReleaseTask"]),
    ],
)
def test_what_follows_the_start(events: list[m.Event], words: list[str]) -> None:
    assert transcript(*events)[:5] == ["report preparing", "PrepareTask", "report ready", "report starting", "StartTask"]
    assert transcript(*events)[5:] == words


def test_health_before_the_start_means_nothing() -> None:
    assert transcript(ASSIGNED, HEALTHY, UNHEALTHY, PREPARED, HEALTHY, UNHEALTHY, exited(1)) == transcript(ASSIGNED, PREPARED)


@pytest.mark.parametrize(("exit_code", "error"), [(137, f"task: non-zero exit (137): {REASON}"), (0, f"task: {REASON}")])
def test_an_unhealthy_task_has_failed_whatever_its_exit_code(exit_code: int, error: str) -> None:
    status = status_after(*TO_RUNNING, UNHEALTHY, stopped(exit_code))
    assert (status.state, status.exit_code, status.error, status.pid) == (TaskState.FAILED, exit_code, error, 0)


def test_the_process_is_known_once_it_runs() -> None:
    assert status_after(*TO_STARTING).pid == 7
    assert status_after(*TO_RUNNING).pid == 7


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([restored(TaskState.STARTING)], ["WatchTask", "report starting"]),
        ([restored(TaskState.STARTING), HEALTHY], ["WatchTask", "report starting", "report running"]),
        ([restored(TaskState.STARTING), exited(1)], ["WatchTask", "report starting", "report failed", "ReleaseTask"]),
        ([restored(TaskState.READY), HEALTHY], ["WatchTask", "report starting", "report running"]),
        ([restored(TaskState.RUNNING), HEALTHY], ["WatchTask", "report running"]),
        (
            [restored(TaskState.RUNNING), UNHEALTHY, stopped(0)],
            ["WatchTask", "report running", "report running unhealthy", "StopTask after news", "report failed"],
        ),
        ([restored(TaskState.RUNNING, REASON), stopped(0)], ["report running unhealthy", "StopTask after news", "report failed"]),
        ([restored(TaskState.STARTING, REASON), stopped(9)], ["report starting unhealthy", "StopTask", "report failed"]),
        (
            [restored(TaskState.RUNNING, REASON, desired=TaskState.SHUTDOWN), stopped(0)],
            ["report running unhealthy", "StopTask", "report failed"],
        ),
        (
            [restored(TaskState.STARTING, desired=TaskState.SHUTDOWN), stopped(0)],
            ["report starting", "StopTask", "report shutdown"],
        ),
        ([restored(TaskState.STARTING, is_running=False)], ["report failed", "ReleaseTask"]),
    ],
)
def test_what_follows_a_restart_of_the_agent(events: list[m.Event], words: list[str]) -> None:
    assert transcript(*events) == words


EVENTS = st.sampled_from(
    [ASSIGNED, SHUT, PREPARED, STARTED, HEALTHY, UNHEALTHY, exited(0), exited(1), stopped(0), stopped(137), REMOVED]
)


@given(st.lists(EVENTS, max_size=25))
def test_whatever_happens_it_runs_only_when_healthy_and_unhealthy_means_failed(events: list[m.Event]) -> None:
    machine = TaskMachine()
    was_healthy = is_given_up = False
    last = TaskState.NEW
    for event in events:
        was_healthy |= event is HEALTHY
        for instruction in machine.handle(event, 1):
            if not isinstance(instruction, m.ReportStatus):
                continue
            status = instruction.status
            is_early = not status.state.is_terminal and bool(status.error)
            assert status.state > last or (is_early and not is_given_up and status.state == last)
            assert status.state is not TaskState.RUNNING or was_healthy
            assert not is_given_up or status.state is TaskState.FAILED
            is_given_up, last = is_given_up or is_early, status.state
