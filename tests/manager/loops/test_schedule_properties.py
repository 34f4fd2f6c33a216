"""Sentences about schedules that hold however the clock jumps, and whoever leads when."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import TablesWriter, node, put, service_with_spec

from pyswarm_common.objects import Cluster, Service, Task, TaskStatus
from pyswarm_common.service_labels import SCHEDULE, SCHEDULE_OVERLAP
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.schedule.decide import (
    LOOK_EVERY_NS,
    QUEUE_LIMIT,
    SET_BACK_TOLERANCE_NS,
    decide,
)
from pyswarm_manager.orchestrator.schedule.timetable import Timetable
from pyswarm_manager.store.tables import Tables

START_NS = 1_800_000_000 * SECOND_NS
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS


class Timeline:
    """A scheduled job under a clock that can be set; its runs are noted as they begin."""

    def __init__(self, expression: str = "*/5 * * * *", overlap: str = "skip") -> None:
        self.tables = Tables()
        self.now_ns = START_NS
        self.timetable = Timetable(expression)
        self.begun: list[tuple[int, int]] = []
        """Due time and iteration of each run."""
        put(self.tables, Cluster(id="cluster"))
        put(self.tables, node("n1"))
        mode = {"ReplicatedJob": {"TotalCompletions": 1, "MaxConcurrent": 1}}
        labels = {SCHEDULE: expression, SCHEDULE_OVERLAP: overlap}
        for item in service_with_spec("job", {}, mode=mode, extra={"Labels": labels}):
            put(self.tables, item)

    @property
    def job(self) -> Service:
        return self.tables.services.must_get("job")

    def look(self) -> None:
        """Let whoever leads look."""
        before = self.job.job_iteration if self.job.job_started_at_ns else -1
        decisions = decide(self.tables, self.now_ns)
        decisions.apply_to(TablesWriter(self.tables, self.now_ns))
        again = decide(self.tables, self.now_ns)
        assert again.is_empty
        assert self.now_ns < again.wake_at_ns["job"] <= self.now_ns + LOOK_EVERY_NS
        assert self.job.schedule is not None
        if self.job.job_started_at_ns and self.job.job_iteration != before:
            assert self.job.job_iteration == before + 1
            run = next(run for run in self.job.schedule.runs if run.iteration == self.job.job_iteration)
            self.begun.append((run.due_at_ns, run.iteration))

    def complete(self) -> None:
        """Let the present run complete, if there is one."""
        iteration, status = self.job.job_iteration, TaskStatus(state=TaskState.COMPLETE)
        task = Task(id=f"t{iteration}", service_id="job", task_spec_id="job-spec1", status=status, job_iteration=iteration)
        if self.job.job_started_at_ns:
            put(self.tables, task)

    def pass_time(self, duration_ns: int, *, completes: bool = True) -> None:
        """Let time pass while somebody leads."""
        end_ns = self.now_ns + duration_ns
        while self.now_ns < end_ns:
            if completes:
                self.complete()
            self.look()
            self.now_ns = min(end_ns, decide(self.tables, self.now_ns).wake_at_ns["job"])
        self.look()


def outcomes(line: Timeline) -> list[str]:
    """What became of the remembered runs."""
    line.look()
    assert line.job.schedule is not None
    return [run.outcome for run in line.job.schedule.runs]


JUMPS = st.integers(-3 * HOUR_NS // 2, 3 * HOUR_NS // 2)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(JUMPS, st.integers(0, 20 * MINUTE_NS)), max_size=12))
def test_any_sequence_of_clock_jumps_starts_at_most_one_run_per_due_time(errors: Sequence[tuple[int, int]]) -> None:
    """The clock is wrong by up to one and a half hours either way, and set anew again and again."""
    line, error_ns = Timeline(), 0
    line.look()
    for new_error_ns, duration_ns in errors:
        line.now_ns += new_error_ns - error_ns
        error_ns = new_error_ns
        line.pass_time(duration_ns)
    assert max(Counter(due_ns for due_ns, _ in line.begun).values(), default=0) <= 1


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-(10**17), 10**17), st.integers(0, 10 * MINUTE_NS)), max_size=12))
def test_no_clock_jumps_make_a_storm(jumps: Sequence[tuple[int, int]]) -> None:
    """Each jump starts one run at most; beyond that there are no more than time that really passes has due times."""
    line = Timeline()
    line.look()
    passed_ns = 0
    for jump_ns, duration_ns in jumps:
        line.now_ns = max(line.now_ns + jump_ns, SECOND_NS)
        line.pass_time(duration_ns)
        passed_ns += duration_ns
    assert len(line.begun) <= len(jumps) + passed_ns // (5 * MINUTE_NS) + len(jumps)
    assert [iteration for _, iteration in line.begun] == list(range(len(line.begun)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-(10**17), 10**17), st.integers(0, 10 * MINUTE_NS)), max_size=8))
def test_no_clock_jumps_silence_a_schedule_for_long(jumps: Sequence[tuple[int, int]]) -> None:
    line = Timeline()
    line.look()
    for jump_ns, duration_ns in jumps:
        line.now_ns = max(line.now_ns + jump_ns, SECOND_NS)
        line.pass_time(duration_ns)
    begun = len(line.begun)
    remembered = 10 * 5 * MINUTE_NS
    line.pass_time(SET_BACK_TOLERANCE_NS + remembered + 10 * MINUTE_NS)
    assert len(line.begun) > begun


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12 * HOUR_NS), max_size=8))
def test_a_time_without_a_leader_costs_its_runs_but_one(gaps: Sequence[int]) -> None:
    line = Timeline()
    line.look()
    for gap_ns in gaps:
        schedule = line.job.schedule
        assert schedule is not None
        begun = len(line.begun)
        line.now_ns += gap_ns
        line.look()
        assert len(line.begun) - begun == (1 if line.now_ns >= schedule.next_due_ns else 0)
        line.complete()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["skip", "queue", "replace"]), st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=40))
def test_one_run_at_a_time_and_no_due_time_goes_unmentioned(overlap: str, steps: Sequence[tuple[int, bool]]) -> None:
    line = Timeline("* * * * *", overlap)
    line.look()
    for seconds, completes in steps:
        if completes:
            line.complete()
        line.now_ns += seconds * SECOND_NS
        line.look()
        schedule = line.job.schedule
        assert schedule is not None
        outcomes = Counter(run.outcome for run in schedule.runs)
        assert outcomes["running"] <= 1
        assert outcomes["queued"] == schedule.queued <= QUEUE_LIMIT
        assert overlap == "queue" or not schedule.queued
        assert overlap == "replace" or not outcomes["replaced"]
        assert schedule.next_due_ns == line.timetable.next_due_ns(line.now_ns)
    iterations = [iteration for _, iteration in line.begun]
    assert iterations == list(range(len(iterations)))
    assert [due for due, _ in line.begun] == sorted({due for due, _ in line.begun})


def test_a_leader_change_at_any_moment_changes_nothing() -> None:
    """All that the loop goes by is in the store: looking twice as often, by whomever, leads to the same."""
    once, often = Timeline(), Timeline()
    for line, step_ns in ((once, MINUTE_NS), (often, 7 * SECOND_NS)):
        for moment_ns in range(START_NS, START_NS + HOUR_NS, step_ns):
            line.now_ns = moment_ns
            line.look()
            line.complete()
    assert len(once.begun) == 11
    assert once.begun == often.begun
    assert outcomes(once) == outcomes(often) == ["completed"] * 10
