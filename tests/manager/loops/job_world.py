"""The small language of `loop_world.py`, extended for jobs and schedules.

    job batch total=5 concurrent=2 iteration=1 started=50 generation=2 condition=any delay=5 attempts=2
    job sweep global constraint=node.labels.zone==a
    job cron schedule=*/5_*_*_*_* zone=Europe/Berlin overlap=queue history=3 due=120 runs=60/0/completed,120/1/running
    task a batch.0 n1 running iteration=1      (of a global job: `task a sweep n1 running iteration=0`)

A job has begun at 50 s unless `started` says otherwise (0: not yet). Runs are due time / iteration / outcome.
"""

from dataclasses import replace
from typing import Any

import msgspec
from loop_world import World, put, render, service_with_spec

from pyswarm_common.objects import ScheduledRun, ScheduleStatus, Service, Task
from pyswarm_common.service_labels import SCHEDULE, SCHEDULE_HISTORY, SCHEDULE_OVERLAP, SCHEDULE_TIME_ZONE
from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.store.tables import Tables

_LABELS = {"schedule": SCHEDULE, "zone": SCHEDULE_TIME_ZONE, "overlap": SCHEDULE_OVERLAP, "history": SCHEDULE_HISTORY}


class JobWorld(World):
    """Tables made from the language's lines."""

    def _job(self, flags: list[str], values: dict[str, str]) -> None:
        total = int(values.get("total", 1))
        concurrent = int(values.get("concurrent", total))
        mode: dict[str, Any] = {"ReplicatedJob": {"MaxConcurrent": concurrent, "TotalCompletions": total}}
        if "global" in flags:
            mode = {"GlobalJob": {}}
        policy: dict[str, Any] = {"Condition": values.get("condition", "any")}
        if "delay" in values:
            policy["Delay"] = round(float(values["delay"]) * SECOND_NS)
        if "attempts" in values:
            policy["MaxAttempts"] = int(values["attempts"])
        template = {"RestartPolicy": policy, "Placement": {"Constraints": values.get("constraint", "").split(",")}}
        if "constraint" not in values:
            del template["Placement"]
        labels = {label: values[word].replace("_", " ") for word, label in _LABELS.items() if word in values}
        generation = int(values.get("generation", 1))
        for number in range(1, generation + 1):
            job, spec = service_with_spec(
                flags[0],
                {**template, "ForceUpdate": number},
                spec_generation=number,
                mode=mode,
                extra={"Labels": labels},
                job_iteration=int(values.get("iteration", 0)),
                job_started_at_ns=round(float(values.get("started", 50)) * SECOND_NS),
                schedule=_schedule(values),
            )
            put(self.tables, spec)
        put(self.tables, job)

    def _task(self, flags: list[str], values: dict[str, str]) -> None:
        super()._task(flags, values)
        if "iteration" in values:
            made = self.tables.tasks.must_get(flags[0])
            put(self.tables, msgspec.structs.replace(made, job_iteration=int(values["iteration"])))


def render_jobs(before: Tables, decisions: Decisions) -> str:
    """Print decisions, one per line."""
    services = [item for item in decisions.updated if isinstance(item, Service)]
    others = tuple(item for item in decisions.updated if not isinstance(item, Service))
    text = render(before, replace(decisions, updated=others))
    iterations = {task.id: task.job_iteration for task in decisions.created if isinstance(task, Task)}
    lines = [_with_iteration(line, iterations) for line in text.splitlines() if line != "nothing" or not services]
    return "\n".join([*(_service_line(before.services.must_get(s.id), s) for s in services), *lines])


def _with_iteration(line: str, iterations: dict[str, int | None]) -> str:
    """A line about a new task, with what only jobs have: slots from 0, and iterations."""
    if not line.startswith("create task"):
        return line
    return f"{line.replace('. ', '.0 ', 1)} iteration={iterations[line.split()[2]]}"


def _service_line(old: Service, new: Service) -> str:
    parts = []
    if new.job_iteration != old.job_iteration or new.job_started_at_ns != old.job_started_at_ns:
        parts.append(f"iteration={new.job_iteration} started={new.job_started_at_ns / SECOND_NS:g}")
    before, after = old.schedule or ScheduleStatus(), new.schedule or ScheduleStatus()
    if after.next_due_ns != before.next_due_ns:
        parts.append(f"due={after.next_due_ns / SECOND_NS:g}")
    if after.queued != before.queued:
        parts.append(f"queued={after.queued}")
    if after.runs != before.runs:
        parts.append(f"runs={','.join(map(_run_text, after.runs)) or 'none'}")
    return f"update service {new.id}: {' '.join(parts) or 'no schedule'}"


def _run_text(run: ScheduledRun) -> str:
    return f"{run.due_at_ns / SECOND_NS:g}/{run.iteration}/{run.outcome}"


def _schedule(values: dict[str, str]) -> ScheduleStatus | None:
    if "due" not in values and "runs" not in values:
        return None
    runs = []
    for text in filter(None, values.get("runs", "").split(",")):
        due, iteration, outcome = text.split("/")
        runs.append(ScheduledRun(due_at_ns=round(float(due) * SECOND_NS), iteration=int(iteration), outcome=outcome))
    queued = sum(run.outcome == "queued" for run in runs)
    return ScheduleStatus(next_due_ns=round(float(values.get("due", 0)) * SECOND_NS), queued=queued, runs=tuple(runs))
