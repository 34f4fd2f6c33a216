"""What is shown of scheduler's verdicts, of stories, of scheduled runs, and of services in all modes."""

from typing import Any

import pytest

from pyswarm_cli.pretty import member_lines
from pyswarm_cli.service.description import describe_service
from pyswarm_cli.service.listing import service_row
from pyswarm_cli.service.runs import run_row, schedule_text
from pyswarm_cli.service.verdicts import figure_lines, node_rows, ordinal, refusal_lines
from pyswarm_cli.task.story_rows import duration, relation_rows, state_rows

VERDICTS = [
    {"Filter": "ready", "Passes": True, "Detail": ""},
    {"Filter": "memory", "Passes": False, "Detail": "needs 512 MiB, free 100 MiB of 2 GiB"},
    {"Filter": "constraints", "Passes": False, "Detail": "node.labels.zone==north: node has zone=south"},
]


def verdict(hostname: str, rank: int = 0, failures: int = 0) -> dict[str, Any]:
    filters = VERDICTS[:1] if rank else VERDICTS
    return {
        "NodeID": f"id-{hostname}",
        "Hostname": hostname,
        "IsSuitable": rank > 0,
        "RefusedBy": "" if rank else "memory",
        "Rank": rank,
        "TaskCount": 7,
        "ServiceTaskCount": 2,
        "RecentFailures": failures,
        "Filters": filters,
    }


def test_a_node_shows_its_rank_or_all_that_refuses_it() -> None:
    rows = node_rows([verdict("alpha", 1), verdict("beta", 2, failures=5), verdict("gamma")])
    assert [(row["Node"], row["Suitable"], row["Tasks"], row["OfService"]) for row in rows] == [
        ("alpha", "yes, 1st choice", "7", "2"),
        ("beta", "yes, 2nd choice", "7", "2"),
        ("gamma", "no", "7", "2"),
    ]
    assert [row["WhyNot"] for row in rows] == [
        "",
        "5 of its tasks failed there lately",
        "memory: needs 512 MiB, free 100 MiB of 2 GiB; constraints: node.labels.zone==north: node has zone=south",
    ]
    assert figure_lines(verdict("gamma"))[:2] == ["ready: passes", "memory: REFUSES, needs 512 MiB, free 100 MiB of 2 GiB"]


def test_nodes_that_are_too_many_are_counted() -> None:
    nodes = [verdict(f"n{number}") for number in range(5)] + [verdict("alpha", 1)]
    assert refusal_lines(nodes) == ["5 more nodes refused by memory", "1 more nodes suitable"]
    assert refusal_lines([]) == []


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st"), (113, "113th")]
)
def test_ordinals(number: int, text: str) -> None:
    assert ordinal(number) == text


STORY: dict[str, Any] = {
    "Name": "web.2.b",
    "NodeName": "n1",
    "State": "running",
    "Error": "",
    "ExitCode": 0,
    "CreatedAt": "2026-11-21T01:56:07.5Z",
    "States": [
        {"State": "new", "At": "2026-11-21T01:56:07.5Z", "Duration": 1_200_000},
        {"State": "running", "At": "2026-11-21T01:56:09Z", "Duration": 90_000_000_000},
    ],
    "Predecessors": [
        {"Name": "web.2.a", "NodeName": "n2", "State": "failed", "Error": "", "ExitCode": 137, "CreatedAt": "2026-11-21T01:55:05Z"}
    ],
    "Successors": [],
}


def test_a_story_in_tables() -> None:
    assert state_rows(STORY) == [
        ["new", "2026-11-21 01:56:07.500Z", "1 ms"],
        ["running", "2026-11-21 01:56:09.000Z", "1.5 min so far"],
    ]
    assert [(row[0], row[1], row[3], row[5]) for row in relation_rows(STORY)] == [
        ("this one", "web.2.b", "running", ""),
        ("before", "web.2.a", "failed", "exit code 137"),
    ]
    ended = {**STORY, "States": [{"State": "failed", "At": "2026-11-21T01:56:09Z", "Duration": 0}], "Predecessors": []}
    assert state_rows(ended)[0][2] == "the end"
    assert relation_rows(ended) == []


@pytest.mark.parametrize(
    ("duration_ns", "text"), [(0, "0 ms"), (812_000_000, "812 ms"), (5_240_000_000, "5.2 s"), (99_000_000_000_000, "27.5 h")]
)
def test_durations(duration_ns: int, text: str) -> None:
    assert duration(duration_ns) == text


RUNS: dict[str, Any] = {
    "ServiceName": "backup",
    "Schedule": "30 3 * * *",
    "TimeZone": "Europe/Berlin",
    "Overlap": "skip",
    "NextDue": "2026-11-22T02:30:00Z",
    "Queued": 0,
    "Runs": [
        {
            "Due": "2026-11-20T02:30:00Z",
            "Started": "2026-11-20T02:30:00.2Z",
            "Finished": "2026-11-20T02:31:15.1Z",
            "Iteration": 3,
            "Outcome": "completed",
        },
        {"Due": "2026-11-21T02:30:00Z", "Started": "", "Finished": "", "Iteration": None, "Outcome": "skipped"},
    ],
}


def test_runs_of_a_scheduled_job() -> None:
    text = "backup runs at 30 3 * * * (Europe/Berlin), overlap: skip; next run 2026-11-22 02:30:00Z"
    assert schedule_text(RUNS) == text
    assert schedule_text({**RUNS, "Queued": 2, "NextDue": ""}).endswith("; no run is due, 2 queued")
    assert list(run_row(RUNS["Runs"][0]).values()) == [
        "2026-11-20 02:30:00Z",
        "2026-11-20 02:30:00Z",
        "2026-11-20 02:31:15Z",
        "1m15s",
        "3",
        "completed",
    ]
    assert list(run_row(RUNS["Runs"][1]).values()) == ["2026-11-21 02:30:00Z", "", "", "", "", "skipped"]


def found(mode: dict[str, Any], running: int, desired: int, completed: int = 0, **template: Any) -> dict[str, Any]:
    return {
        "ID": "service1",
        "CreatedAt": "2026-11-21T01:55:05Z",
        "UpdatedAt": "2026-11-21T01:55:06Z",
        "Spec": {"Name": "web", "Mode": mode, "TaskTemplate": {"ContainerSpec": {"Image": "nginx"}, **template}},
        "ServiceStatus": {"RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": completed},
    }


@pytest.mark.parametrize(
    ("service", "mode", "replicas"),
    [
        (found({"Replicated": {"Replicas": 3}}, 3, 3), "replicated", "3/3"),
        (found({"Replicated": {"Replicas": 3}}, 3, 3, Placement={"MaxReplicas": 1}), "replicated", "3/3 (max 1 per node)"),
        (found({"Global": {}}, 2, 4), "global", "2/4"),
        (found({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 20}}, 0, 2, 5), "replicated job", "0/2 (5/20 completed)"),
        (found({"ReplicatedJob": {}}, 1, 1), "replicated job", "1/1 (0/1 completed)"),
        (found({"GlobalJob": {}}, 1, 1, 2), "global job", "1/1 (2/3 completed)"),
    ],
)
def test_replicas_as_docker_words_them(service: dict[str, Any], mode: str, replicas: str) -> None:
    row = service_row(service)
    assert (row["Mode"], row["Replicas"]) == (mode, replicas)


def test_a_service_described_says_how_its_containers_are_checked() -> None:
    service = found({"Replicated": {"Replicas": 3}}, 3, 3)
    container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    container["Healthcheck"] = {"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 10**10, "StartPeriod": 0, "Retries": 5}
    lines = list(member_lines(describe_service(service, {})))
    assert lines[lines.index(" Healthcheck:") + 1 :][:3] == ["  Test: curl -f localhost", "  Interval: 10s", "  Retries: 5"]
    container["Healthcheck"] = {"Test": ["NONE"]}
    lines = list(member_lines(describe_service(service, {})))
    assert lines[lines.index(" Healthcheck:") + 1] == "  Test: none"
    del container["Healthcheck"]
    assert " Healthcheck:" not in list(member_lines(describe_service(service, {})))


def test_a_service_described_says_how_it_is_updated_and_how_that_goes() -> None:
    service = found({"Replicated": {"Replicas": 3}}, 3, 3)
    service["Spec"]["UpdateConfig"] = {"Parallelism": 0, "Delay": 10**10, "FailureAction": "rollback", "Order": "start-first"}
    service["UpdateStatus"] = {"State": "updating", "StartedAt": "2026-11-21T01:55:05.1Z", "Message": "update in progress"}
    lines = list(member_lines(describe_service(service, {})))
    assert lines[lines.index("Update Status:") + 1 :][:3] == [
        " State: updating",
        " Started: 2026-11-21 01:55:05Z",
        " Message: update in progress",
    ]
    assert lines[lines.index("Update Config:") + 1 :][:5] == [
        " Parallelism: all at once",
        " Delay: 10s",
        " On failure: rollback",
        " Max failure ratio: 0",
        " Order: start-first",
    ]
    assert "Rollback Config:" not in lines
    assert "Replicas: 3" in lines


def test_a_job_described_says_its_counts_and_its_schedule() -> None:
    service = found({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 20}}, 0, 2, 5)
    service["JobStatus"] = {"JobIteration": {"Index": 3}, "LastExecution": "2026-11-20T02:30:00.2Z"}
    resource = {"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}
    service["Spec"]["TaskTemplate"]["Resources"] = {"Reservations": {"GenericResources": [resource]}}
    lines = list(member_lines(describe_service(service, {}, RUNS)))
    for line in (
        "Max Concurrent: 2",
        "Total Completions: 20",
        " Iteration: 3",
        " Last execution: 2026-11-20 02:30:00Z",
        " Rule: backup runs at 30 3 * * * (Europe/Berlin), overlap: skip",
        " Next run: 2026-11-22 02:30:00Z",
        "  - 2026-11-20 02:30:00Z completed after 1m15s",
        "   - gpu=2",
    ):
        assert line in lines, line
    never = list(member_lines(describe_service({**service, "JobStatus": {"LastExecution": "0001-01-01T00:00:00Z"}}, {})))
    assert " Iteration: 0" in never
    assert not any("execution" in line for line in never)
