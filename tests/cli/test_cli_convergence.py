"""When a service counts as converged, and when waiting on makes no sense; and how tasks are listed."""

from typing import Any

import pytest

from pyswarm_cli.service.convergence import ConvergenceWatch, Progress, ended_tasks
from pyswarm_cli.service.display import LineDisplay, summary, trouble_of
from pyswarm_cli.service.task_rows import Names, natural_key, task_rows

NODES = {"n1": "alpha", "n2": "beta"}


def service(replicas: int | None = 2, **members: Any) -> dict[str, Any]:
    mode = {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}}
    return {"ID": "s1", "Spec": {"Name": "web", "Mode": mode, "TaskTemplate": {}}, **members}


def task(
    task_id: str,
    state: str,
    *,
    slot: int = 1,
    node: str = "n1",
    desired: str = "running",
    error: str = "",
    created: int = 0,
    exit_code: int = 0,
) -> dict[str, Any]:
    status: dict[str, Any] = {"State": state, "Timestamp": "2026-11-21T01:55:08Z", "PortStatus": {}}
    if error:
        status["Err"] = error
    if exit_code:
        status["ContainerStatus"] = {"ExitCode": exit_code}
    return {
        "ID": task_id,
        "ServiceID": "s1",
        "Slot": slot,
        "NodeID": node,
        "CreatedAt": f"2026-11-21T01:55:{created:02d}Z",
        "DesiredState": desired,
        "Status": status,
        "Spec": {"ContainerSpec": {"Image": "nginx:1@sha256:" + "0" * 64}},
    }


def look(*tasks: dict[str, Any], watch: ConvergenceWatch | None = None, of: dict[str, Any] | None = None) -> Progress:
    return (watch or ConvergenceWatch(())).look(of or service(), tasks, NODES)


def test_converged_when_so_many_run_as_were_asked_for() -> None:
    progress = look(task("a", "running"), task("b", "running", slot=2))
    assert (progress.is_converged, progress.running, progress.desired, progress.failure) == (True, 2, 2, "")


@pytest.mark.parametrize(
    "tasks",
    [
        [],
        [task("a", "running")],
        [task("a", "running"), task("b", "starting", slot=2)],
        [task("a", "running"), task("b", "running", slot=2), task("c", "running", slot=3)],
        [
            task("a", "running"),
            task("b", "running", slot=2, desired="shutdown"),
            task("c", "ready", slot=2, desired="ready", created=1),
        ],
    ],
    ids=["none", "one", "starting", "too-many", "successor-waits"],
)
def test_not_converged(tasks: list[dict[str, Any]]) -> None:
    assert not look(*tasks).is_converged


def test_nothing_asked_for_and_nothing_wanted_is_converged() -> None:
    assert look(of=service(0)).is_converged
    assert look(task("a", "running", desired="remove"), of=service(0)).is_converged


def test_a_global_service_converges_when_all_its_tasks_run() -> None:
    assert look(task("a", "running", slot=0), task("b", "running", slot=0, node="n2"), of=service(None)).is_converged


def test_why_a_task_waits_is_shown() -> None:
    progress = look(
        task("a", "running"), task("b", "pending", slot=2, node="", error="no suitable node (insufficient resources on 2 nodes)")
    )
    assert [(s.name, s.state, s.node, s.error) for s in progress.slots] == [
        ("web.1", "running", "alpha", ""),
        ("web.2", "pending", "", "no suitable node (insufficient resources on 2 nodes)"),
    ]


def test_three_failures_of_a_slot_end_the_wait_even_when_history_forgets_them() -> None:
    watch = ConvergenceWatch(())
    for number in range(3):
        failed = task(f"t{number}", "rejected", desired="shutdown", error="No such image: nosuch:1", created=number)
        successor = task(f"t{number + 1}", "ready", desired="ready", created=number + 1)
        progress = look(failed, successor, watch=watch)
        assert progress.failure == ("task web.1 failed 3 times: No such image: nosuch:1" if number == 2 else "")
    assert not progress.is_converged


def test_failures_before_the_wait_do_not_count() -> None:
    old = [task(f"t{n}", "failed", desired="shutdown", created=n) for n in range(3)]
    progress = look(*old, task("t4", "running", created=4), watch=ConvergenceWatch(ended_tasks(old)), of=service(1))
    assert progress.is_converged
    assert progress.failure == ""


def test_a_failure_between_is_told_while_its_successor_starts() -> None:
    watch = ConvergenceWatch(())
    failed = task("a", "failed", desired="shutdown", exit_code=3)
    progress = look(failed, task("b", "preparing", created=1), watch=watch)
    assert trouble_of(progress.slots[0]) == "failed once: task: non-zero exit (3)"
    assert trouble_of(look(failed, task("b", "running", created=1), watch=watch).slots[0]) == ""


def test_a_task_that_is_not_restarted_ends_the_wait() -> None:
    progress = look(task("a", "complete", desired="shutdown"))
    assert progress.failure == "task web.1 is not restarted, as its restart policy says: it ended as complete"
    assert look(task("a", "shutdown", desired="shutdown")).failure == ""


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("paused", "the update paused"),
        ("rollback_completed", "the update was rolled back"),
        ("rollback_paused", "the rollback paused"),
    ],
)
def test_an_update_that_went_wrong_ends_the_wait(state: str, words: str) -> None:
    status = {"State": state, "Message": "task b failed"}
    assert look(of=service(0, UpdateStatus=status)).failure == f"{words}: task b failed"
    watch = ConvergenceWatch((), update_before=status)
    assert look(watch=watch, of=service(0, UpdateStatus=status)).failure == "", "it went wrong before the wait began"


def test_a_rollback_that_was_asked_for_is_no_failure() -> None:
    asked_for = ConvergenceWatch((), is_rollback=True)
    status = {"State": "rollback_completed", "Message": "rollback completed"}
    progress = look(task("a", "running"), watch=asked_for, of=service(1, UpdateStatus=status))
    assert (progress.is_converged, progress.failure, progress.needs_settling) == (True, "", False)
    paused = look(watch=asked_for, of=service(1, UpdateStatus={"State": "rollback_paused", "Message": "task b failed"}))
    assert paused.failure == "the rollback paused: task b failed"


def test_an_update_under_way_is_not_converged() -> None:
    tasks = (task("a", "running"), task("b", "running", slot=2))
    assert not look(*tasks, of=service(2, UpdateStatus={"State": "updating"})).is_converged
    assert look(*tasks, of=service(2, UpdateStatus={"State": "completed"})).is_converged


def test_an_update_that_watches_its_tasks_says_so_and_a_rollback_is_called_one() -> None:
    updating = service(1, UpdateStatus={"State": "updating"}, PreviousSpec={"TaskTemplate": {"ForceUpdate": 1}})
    assert summary(look(task("a", "running"), of=updating)) == "web: 1 of 1 tasks updated, watched for failures"
    rolling = service(2, UpdateStatus={"State": "rollback_started"}, PreviousSpec={"TaskTemplate": {"ForceUpdate": 1}})
    assert summary(look(task("a", "running"), of=rolling)) == "web: 1 of 2 tasks rolled back"


def job(iteration: int = 0, **mode: Any) -> dict[str, Any]:
    status = {"JobIteration": {"Index": iteration}} if iteration else {"JobIteration": {}}
    return {"ID": "s1", "Spec": {"Name": "job", "Mode": mode, "TaskTemplate": {}}, "JobStatus": status}


def of_iteration(made: dict[str, Any], index: int) -> dict[str, Any]:
    return {**made, "JobIteration": {"Index": index} if index else {}}


def test_a_job_converges_when_all_have_completed() -> None:
    five = job(ReplicatedJob={"TotalCompletions": 3, "MaxConcurrent": 2})
    done = task("a", "complete", slot=0)
    progress = look(done, task("b", "running", slot=1), of=five)
    assert (progress.is_converged, summary(progress)) == (False, "job: 1/3 completed, 1 running")
    assert [slot.name for slot in progress.slots] == ["job.0", "job.1"]
    ended = [done, task("b", "complete", slot=1, desired="shutdown"), task("c", "complete", slot=2)]
    progress = look(*ended, of=five)
    assert (progress.is_converged, progress.failure, progress.needs_settling) == (True, "", False)


def test_only_the_present_run_of_a_job_counts() -> None:
    again = job(2, ReplicatedJob={})
    former, present = of_iteration(task("a", "complete", slot=0), 1), of_iteration(task("b", "running", slot=0, created=1), 2)
    assert not look(former, of=again).is_converged
    assert summary(look(former, present, of=again)) == "job: 0/1 completed, 1 running"
    assert look(former, of_iteration(task("b", "complete", slot=0, created=1), 2), of=again).is_converged


def test_a_job_whose_task_is_not_tried_again_fails() -> None:
    failed = task("a", "failed", slot=0, desired="shutdown", exit_code=2)
    progress = look(failed, of=job(ReplicatedJob={}))
    assert progress.failure == "task job.0 is not restarted, as its restart policy says: task: non-zero exit (2)"


def test_a_global_job_needs_a_moment_until_its_tasks_are_made() -> None:
    everywhere = job(GlobalJob={})
    assert look(of=everywhere).needs_settling
    tasks = [task("a", "complete", slot=0, node="n1"), task("b", "running", slot=0, node="n2")]
    assert not look(*tasks, of=everywhere).is_converged
    assert look(tasks[0], of=everywhere).is_converged
    assert look(of=service(None)).needs_settling, "so does a global service"


def test_lines_say_each_news_once(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    display = LineDisplay(sys.stdout)
    waiting = look(task("a", "running"), task("b", "pending", slot=2, node="", error="no suitable node"))
    for _ in range(3):
        display.show(waiting)
    display.show(look(task("a", "running"), task("b", "running", slot=2)))
    display.done("service web converged")
    assert capsys.readouterr().out.splitlines() == [
        summary(waiting),
        "  web.2: pending: no suitable node",
        "web: 2 of 2 tasks running",
        "service web converged",
    ]


def test_each_failure_is_one_line_even_when_a_task_runs_between(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    display, watch, tasks = LineDisplay(sys.stdout), ConvergenceWatch(()), []
    for number in range(2):
        tasks.append(task(f"t{number}", "failed", desired="shutdown", exit_code=4, created=number))
        for state in ("preparing", "starting"):
            display.show(look(*tasks, task(f"t{number + 1}", state, created=number + 1), watch=watch))
    assert capsys.readouterr().out.splitlines() == [
        "web: 0 of 2 tasks running",
        "  web.1: failed once: task: non-zero exit (4)",
        "  web.1: failed 2 times: task: non-zero exit (4)",
    ]


def test_after_an_update_tasks_of_the_new_form_count() -> None:
    updated = service(1, PreviousSpec={"TaskTemplate": {"ForceUpdate": 1}})
    assert summary(look(task("a", "running"), of=updated)) == "web: 1 of 1 tasks updated"
    scaled = service(1, PreviousSpec={"TaskTemplate": {}})
    assert summary(look(task("a", "running"), of=scaled)) == "web: 1 of 1 tasks running"


def test_task_rows_show_history_below_the_newest() -> None:
    tasks = [
        task("old2", "failed", slot=2, desired="shutdown", error="task: non-zero exit (1)", created=1),
        task("ten", "running", slot=10, created=5),
        task("new2", "running", slot=2, node="n2", created=9),
        task("one", "pending", slot=1, node="", error="no suitable node"),
    ]
    rows = task_rows(tasks, Names({"s1": "web"}, NODES), 1795226108 + 5, whole_ids=False)
    assert [(r["ID"], r["Name"], r["Node"], r["DesiredState"], r["Error"]) for r in rows] == [
        ("one", "web.1", "", "Running", "no suitable node"),
        ("new2", "web.2", "beta", "Running", ""),
        ("old2", " \\_ web.2", "alpha", "Shutdown", "task: non-zero exit (1)"),
        ("ten", "web.10", "alpha", "Running", ""),
    ]
    assert {r["CurrentState"] for r in rows[1:2]} == {"Running 5 seconds ago"}
    assert {r["Image"] for r in rows} == {"nginx:1"}


def test_natural_order() -> None:
    assert sorted(["web.10", "web.9", "web2.1", "web.1"], key=natural_key) == ["web.1", "web.9", "web.10", "web2.1"]
