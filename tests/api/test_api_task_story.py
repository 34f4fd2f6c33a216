"""A task's story: why it was made, when it reached each state, and what was before and after it."""

from typing import Any

import httpx
import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID

from pyswarm_common.objects import Service, Task, TaskSpec, TaskStatus
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.state_times import packed_state_time
from pyswarm_common.task_states import TaskState
from pyswarm_manager.api.story.sentences import duration_words, end_words, exit_code_words, moment_words, sentences
from pyswarm_manager.api.story.telling import Relations, tell
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import Tables

START_NS = 1_795_226_105_000_000_000
GONE_ID = "0" * 25


def at(seconds: float) -> int:
    return START_NS + round(seconds * SECOND_NS)


def times(**reached: float) -> bytes:
    return b"".join(packed_state_time(TaskState[name.upper()], at(seconds)) for name, seconds in reached.items())


FIRST = Task(
    id="first",
    task_spec_id="spec",
    service_id="service1",
    slot=2,
    node_id="node1",
    cause="created",
    created_at_ns=at(0),
    desired_state=TaskState.SHUTDOWN,
    status=TaskStatus(state=TaskState.FAILED, at_ns=at(62), error="task: non-zero exit (137)", exit_code=137, container_id="c"),
    state_times=times(pending=0.001, assigned=0.002, accepted=0.1, preparing=0.2, ready=1.5, starting=1.6, running=2, failed=62),
)
SECOND = Task(
    id="second",
    task_spec_id="spec",
    service_id="service1",
    slot=2,
    node_id="node2",
    cause="first",
    replacement_reason=ReplacementReason.FAILED,
    created_at_ns=at(62.5),
    start_at_ns=at(67.5),
    desired_state=TaskState.RUNNING,
    status=TaskStatus(state=TaskState.RUNNING, at_ns=at(70), container_id="d"),
    state_times=times(pending=62.6, assigned=62.6, preparing=63, ready=64, starting=68, running=70),
)


def tables(*tasks: Task) -> Tables:
    made = Tables()
    made.table(Service).put(Service(id="service1", name="web", task_spec_id="spec"), 1)
    for task in tasks:
        made.table(Task).put(task, 1)
    return made


def told(task: Task, *others: Task, now: float = 100) -> list[str]:
    return list(sentences(Relations(tables(task, *others), task), at(now)))


def test_a_task_that_failed_and_was_replaced() -> None:
    assert told(FIRST, SECOND) == [
        "web.2.first was made at 2026-11-21 01:55:05.000 UTC: the service asked for it from the start.",
        "It was placed on node node1 after 2 ms.",
        "It ran 2.0 s after it was made, of which 1.3 s fetching the image and making the container's network.",
        "It failed with exit code 137 (SIGKILL) at 2026-11-21 01:56:07.000 UTC after it had run for 1 min.",
        "web.2.second came in its place 500 ms after its end; it is running.",
    ]


def test_a_task_that_replaced_another_one() -> None:
    assert told(SECOND, FIRST) == [
        "web.2.second was made at 2026-11-21 01:56:07.500 UTC in place of web.2.first, which failed with exit code 137 (SIGKILL) "
        "on node node1.",
        "It was held back until 2026-11-21 01:56:12.500 UTC (delay of 5.0 s).",
        "It was placed on node node2 after 100 ms.",
        "It ran 7.5 s after it was made, of which 4.0 s prepared, waiting for the start.",
        "It has run for 30.0 s.",
    ]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (ReplacementReason.NODE_DOWN, ", because node node1 went down."),
        (ReplacementReason.NODE_REMOVED, ", because node node1 was removed from the cluster."),
        (ReplacementReason.NODE_DRAINED, ", because node node1 was drained."),
        (ReplacementReason.UPDATED, ", because the service was updated."),
        (ReplacementReason.REBALANCED, ", because tasks were rebalanced away from node node1."),
        (ReplacementReason.UNKNOWN, " in place of web.2.first."),
    ],
)
def test_what_was_noted_wins_over_how_the_task_before_ended_later(reason: ReplacementReason, words: str) -> None:
    before = msgspec.structs.replace(FIRST, status=TaskStatus(state=TaskState.SHUTDOWN, at_ns=at(80)))
    cause = told(msgspec.structs.replace(SECOND, replacement_reason=reason), before)[0]
    assert cause.endswith(words)


def test_a_predecessor_that_is_not_kept_any_more_leaves_its_reason() -> None:
    orphan = msgspec.structs.replace(SECOND, cause=GONE_ID)
    assert told(orphan)[0].endswith(f"in place of {GONE_ID} (not kept any more), which failed.")
    story, _ = tell(tables(orphan), orphan, at(100))
    assert (story.cause.kind, story.cause.task_id, story.cause.reason) == ("replaces", GONE_ID, "failed")
    nobody_knows = msgspec.structs.replace(orphan, replacement_reason=ReplacementReason.UNKNOWN)
    assert told(nobody_knows)[0].endswith(f"in place of {GONE_ID} (not kept any more).")


def test_a_task_that_waits_says_for_what() -> None:
    waiting = Task(
        id="w",
        task_spec_id="spec",
        service_id="service1",
        slot=1,
        cause="scaled",
        created_at_ns=at(0),
        status=TaskStatus(state=TaskState.PENDING, at_ns=at(1), error="no suitable node (insufficient memory on 2 nodes)"),
        state_times=times(pending=1),
    )
    assert told(waiting, now=91) == [
        "web.1.w was made at 2026-11-21 01:55:05.000 UTC: the service was scaled up.",
        "It has been pending for 1 min 30 s, waiting for a node: no suitable node (insufficient memory on 2 nodes).",
    ]


def test_a_task_of_a_job_names_its_execution() -> None:
    of_job = msgspec.structs.replace(FIRST, job_iteration=3, slot=1)
    assert told(of_job)[0] == "web.1.first was made at 2026-11-21 01:55:05.000 UTC: execution 3 of the job began."
    assert told(of_job)[-1] == "No task came in its place."


def test_a_task_that_is_held_back_now_says_until_when() -> None:
    held = msgspec.structs.replace(SECOND, desired_state=TaskState.READY, status=TaskStatus(state=TaskState.READY, at_ns=at(64)))
    assert told(held, FIRST, now=65)[1] == "It is held back until 2026-11-21 01:56:12.500 UTC (delay of 5.0 s)."


def test_a_task_without_times_still_has_its_present_state() -> None:
    plain = msgspec.structs.replace(SECOND, state_times=b"", cause="")
    story, _ = tell(tables(plain), plain, at(100))
    assert [(s.state, s.duration) for s in story.states] == [("new", 7_500_000_000), ("running", 30_000_000_000)]


def test_clocks_that_differ_make_no_negative_duration() -> None:
    early = msgspec.structs.replace(SECOND, state_times=times(pending=62.6, assigned=62.6, running=60))
    story, _ = tell(tables(early), early, at(50))
    assert all(reached.duration >= 0 for reached in story.states)


def test_a_circle_of_causes_ends() -> None:
    one = msgspec.structs.replace(FIRST, cause="second")
    assert [t.id for t in Relations(tables(one, SECOND), one).predecessors] == ["second"]


@pytest.mark.parametrize(
    ("duration_s", "words"),
    [
        (0.0001, "less than 1 ms"),
        (0.812, "812 ms"),
        (5.24, "5.2 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_in_words(duration_s: float, words: str) -> None:
    assert duration_words(round(duration_s * SECOND_NS)) == words


def test_words_for_ends() -> None:
    assert [exit_code_words(code) for code in (1, 128, 137, 143, 255)] == ["1", "128", "137 (SIGKILL)", "143 (SIGTERM)", "255"]
    ends = {
        TaskStatus(state=TaskState.FAILED, exit_code=1, error="unhealthy"): "failed with exit code 1: unhealthy",
        TaskStatus(state=TaskState.FAILED, error="no such file"): "failed: no such file",
        TaskStatus(state=TaskState.REJECTED, error="No such image: x"): "was rejected: No such image: x",
        TaskStatus(state=TaskState.COMPLETE): "completed",
        TaskStatus(state=TaskState.SHUTDOWN): "was stopped",
        TaskStatus(state=TaskState.ORPHANED): "was given up with its node",
    }
    assert {status: end_words(msgspec.structs.replace(FIRST, status=status)) for status in ends} == ends
    assert moment_words(START_NS + 7) == "2026-11-21 01:55:05.000 UTC"


@pytest.fixture
async def web(store: Store) -> None:
    def fill(tx: Any) -> None:
        tx.create(TaskSpec(id="spec", template_json=b'{"ContainerSpec":{"Image":"nginx"}}'))
        tx.create(Service(id="service1", name="web", task_spec_id="spec"))
        tx.create(msgspec.structs.replace(FIRST, node_id=WORKER_ID))
        tx.create(msgspec.structs.replace(SECOND, node_id=MANAGER_ID, start_at_ns=0))

    await store.update(fill)


@pytest.mark.parametrize("reference", ["second", "web.2.second", "web.2", "sec"])
@pytest.mark.parametrize("prefix", ["", "/v1.41"])
async def test_the_route_tells_it_to_scripts_and_people(client: httpx.AsyncClient, web: None, reference: str, prefix: str) -> None:
    answer = await client.get(f"{prefix}/pyswarm/tasks/{reference}/story")
    assert answer.status_code == 200, answer.text
    story = answer.json()
    assert (story["ID"], story["Name"], story["ServiceName"], story["NodeName"]) == ("second", "web.2.second", "web", "vm")
    assert story["Cause"] == {"Kind": "replaces", "TaskID": "first", "Reason": "failed"}
    assert [reached["State"] for reached in story["States"]][-2:] == ["starting", "running"]
    (before,) = story["Predecessors"]
    assert (before["ID"], before["NodeName"], before["State"], before["ExitCode"]) == ("first", "worker1", "failed", 137)
    assert story["Successors"] == []
    assert "which failed with exit code 137 (SIGKILL) on node worker1." in story["Sentences"][0]


async def test_the_newest_task_of_a_slot_is_that_of_the_latest_update_whatever_the_clocks_of_leaders_said(
    client: httpx.AsyncClient, store: Store, web: None
) -> None:
    earlier = msgspec.structs.replace(SECOND, id="earlier", spec_generation=SECOND.spec_generation - 1)
    await store.update(lambda tx: tx.create(earlier))
    assert (await client.get("/pyswarm/tasks/web.2/story")).json()["ID"] == "second"


async def test_what_came_after_and_what_there_is_not(client: httpx.AsyncClient, web: None) -> None:
    story = (await client.get("/pyswarm/tasks/first/story")).json()
    assert [(after["ID"], after["Reason"]) for after in story["Successors"]] == [("second", "failed")]
    for unknown in ("nothing", "web.7", "other.2", "web."):
        answer = await client.get(f"/pyswarm/tasks/{unknown}/story")
        assert answer.status_code == 404, unknown
        assert answer.json()["message"] == f"task {unknown} not found"
