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


@pytest.mark.parametrize("state", ["paused", "rollback_completed", "rollback_paused"])
def test_an_update_that_went_wrong_ends_the_wait(state: str) -> None:
    progress = look(of=service(0, UpdateStatus={"State": state, "Message": "task b failed"}))
    assert progress.failure == f"the update is {state.replace('_', ' ')}: task b failed"


def test_an_update_under_way_is_not_converged() -> None:
    tasks = (task("a", "running"), task("b", "running", slot=2))
    assert not look(*tasks, of=service(2, UpdateStatus={"State": "updating"})).is_converged
    assert look(*tasks, of=service(2, UpdateStatus={"State": "completed"})).is_converged


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
