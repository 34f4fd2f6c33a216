"""Sentences about jobs that hold for whatever cluster, and whatever happens to it."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import TablesWriter, node, numbered, put, service_with_spec, shuffled

from pyswarm_common.objects import Cluster, Service, Task, TaskStatus
from pyswarm_common.service_labels import SCHEDULE
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.orchestrator.job_progress import job_progress, may_still_run, slots_of_iteration
from pyswarm_manager.orchestrator.jobs.decide import decide as decide_jobs
from pyswarm_manager.orchestrator.schedule.decide import decide as decide_schedule
from pyswarm_manager.orchestrator.task_reaper.decide import decide as decide_task_reaper
from pyswarm_manager.store.tables import Tables

NOW_NS = 1000 * SECOND_NS
OBSERVED = [state for state in TaskState if state is not TaskState.REMOVE]
DESIRED = [TaskState.READY, TaskState.RUNNING, TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE]
DECIDES: dict[str, Any] = {
    "jobs": lambda view, limit=None: decide_jobs(view, NOW_NS, limit, new_id=numbered(f"new{len(view.tasks)}.").__next__),
    "schedule": lambda view, limit=None: decide_schedule(view, NOW_NS, limit),
    "task_reaper": lambda view, limit=None: decide_task_reaper(view, NOW_NS, limit),
}


def job_mode(total: int | None, concurrent: int) -> dict[str, Any]:
    """A replicated job's mode; without a total that of a global one."""
    if total is None:
        return {"GlobalJob": {}}
    return {"ReplicatedJob": {"TotalCompletions": total, "MaxConcurrent": concurrent}}


@st.composite
def job_clusters(draw: st.DrawFn) -> Tables:
    """Any cluster with jobs of all kinds: nodes in all conditions, tasks of two iterations in all states."""
    tables = Tables()
    put(tables, Cluster(id="cluster", task_history_limit=draw(st.integers(-1, 3))))
    nodes = draw(st.integers(0, 3))
    for number in range(nodes):
        state, availability = draw(st.sampled_from(["ready", "ready", "down"])), draw(st.sampled_from(["active", "drain", "pause"]))
        put(tables, node(f"n{number}", state=state, availability=availability))
    for job_number in range(draw(st.integers(1, 2))):
        put_job(draw, tables, f"j{job_number}")
        is_global = tables.services.must_get(f"j{job_number}").spec.mode_name == "global-job"
        for number in range(draw(st.integers(0, 7))):
            put(tables, draw(job_tasks(f"j{job_number}t{number}", f"j{job_number}", number, nodes, is_global=is_global)))
    return tables


def put_job(draw: st.DrawFn, tables: Tables, job_id: str) -> None:
    policy = {
        "Condition": draw(st.sampled_from(["any", "none", "on-failure"])),
        "Delay": draw(st.sampled_from([0, SECOND_NS])),
        "MaxAttempts": draw(st.integers(0, 2)),
    }
    job, spec = service_with_spec(
        job_id,
        {"RestartPolicy": policy},
        mode=job_mode(draw(st.one_of(st.none(), st.integers(0, 4))), draw(st.integers(0, 3))),
        extra={"Labels": {SCHEDULE: "*/5 * * * *"} if draw(st.booleans()) else {}},
        job_iteration=draw(st.integers(0, 1)),
        job_started_at_ns=draw(st.sampled_from([0, NOW_NS - SECOND_NS])),
    )
    put(tables, spec)
    put(tables, job)


@st.composite
def job_tasks(draw: st.DrawFn, task_id: str, job_id: str, created: int, nodes: int, *, is_global: bool) -> Task:
    state = draw(st.sampled_from(OBSERVED))
    is_placed = is_global or state >= TaskState.ASSIGNED
    return Task(
        id=task_id,
        service_id=job_id,
        slot=0 if is_global else draw(st.integers(0, 5)),
        task_spec_id=f"{job_id}-spec1",
        spec_generation=1,
        desired_state=draw(st.sampled_from(DESIRED)),
        status=TaskStatus(state=state),
        node_id=f"n{draw(st.integers(0, nodes))}" if is_placed else "",
        created_at_ns=created,
        start_at_ns=draw(st.sampled_from([0, NOW_NS - 1, NOW_NS + 1])),
        job_iteration=draw(st.integers(0, 1)),
        rejection=draw(st.sampled_from(["", "", "", "why"])),
    )


def apply(tables: Tables, decisions: Decisions) -> Tables:
    """The tables after the decisions."""
    after = tables.copy()
    decisions.apply_to(TablesWriter(after, NOW_NS))
    return after


def settle(tables: Tables, name: str, limit: int | None = None) -> Tables:
    """The tables after as many decisions as it takes."""
    for _ in range(100):
        decisions = DECIDES[name](tables, limit)
        if decisions.is_empty and not decisions.unfinished:
            return tables
        tables = apply(tables, decisions)
    raise AssertionError(f"{name} does not come to rest")


def taken_places(tables: Tables, job: Service) -> int:
    """How many tasks of a replicated job are wanted, or may run still; of one slot and iteration never more than one does."""
    slots = slots_of_iteration(job, tables.tasks.of_service(job.id))
    working = {(job.job_iteration, key) for key, slot in slots.items() if slot.is_open}
    for task in tables.tasks.of_service(job.id):
        if is_wanted(task) or may_still_run(task, tables.nodes.get(task.node_id)):
            working.add((task.job_iteration, task.slot))
    return len(working)


def is_wanted(task: Task) -> bool:
    return task.desired_state <= TaskState.RUNNING and not task.is_terminal


def gist(tables: Tables, matters: Callable[[Task], bool] = lambda task: True) -> Counter[Any]:
    """What became of the tasks, ids aside."""
    return Counter(
        (t.service_id, t.slot, t.node_id, t.job_iteration, t.desired_state, t.status.state, t.start_at_ns)
        for t in filter(matters, tables.tasks)
    )


@settings(max_examples=150, deadline=None)
@given(job_clusters(), st.sampled_from(sorted(DECIDES)), st.integers(0, 1000))
def test_a_decision_needs_no_second_one_and_goes_by_no_order(tables: Tables, name: str, seed: int) -> None:
    decisions = DECIDES[name](tables)
    assert not decisions.unfinished
    assert DECIDES[name](apply(tables, decisions)).is_empty
    other = DECIDES[name](shuffled(tables, seed))
    assert set(map(repr, other.updated)) == set(map(repr, decisions.updated))
    assert list(map(repr, other.created)) == list(map(repr, decisions.created))
    assert {item.id for item in other.deleted} == {item.id for item in decisions.deleted}


@settings(max_examples=150, deadline=None)
@given(job_clusters(), st.sampled_from(sorted(DECIDES)), st.integers(2, 5))
def test_a_limit_changes_the_pace_and_not_the_end(tables: Tables, name: str, limit: int) -> None:
    decisions = DECIDES[name](tables, limit)
    assert len(decisions.created) + len(decisions.updated) + len(decisions.deleted) <= limit
    assert gist(settle(tables, name, limit)) == gist(settle(tables, name))


@settings(max_examples=200, deadline=None)
@given(job_clusters(), st.integers(2, 5))
def test_never_more_unfinished_tasks_than_max_concurrent(tables: Tables, limit: int) -> None:
    while not (decisions := DECIDES["jobs"](tables, limit)).is_empty:
        after = apply(tables, decisions)
        for job in tables.services:
            if job.spec.mode_name == "replicated-job":
                assert taken_places(after, job) <= max(taken_places(tables, job), job.spec.max_concurrent)
        tables = after


@settings(max_examples=150, deadline=None)
@given(job_clusters())
def test_the_reaper_takes_nothing_that_a_job_goes_by(tables: Tables) -> None:
    after = settle(tables, "task_reaper")
    for job in tables.services:
        assert job_progress(after, job) == job_progress(tables, job)
        before = slots_of_iteration(job, tables.tasks.of_service(job.id))
        left = slots_of_iteration(job, after.tasks.of_service(job.id))
        assert {key: slot.newest for key, slot in left.items()} == {key: slot.newest for key, slot in before.items()}
    assert gist(settle(after, "jobs"), is_wanted) == gist(settle(tables, "jobs"), is_wanted)


class Life:
    """A job on a cluster to which things happen; agents, dispatcher and scheduler are played by hand."""

    def __init__(self, total: int | None, concurrent: int) -> None:
        self.tables = Tables()
        self.now_ns = NOW_NS
        self.lost: set[str] = set()
        """Tasks whose node was down at some time: nobody can tell whether they ran on."""
        put(self.tables, Cluster(id="cluster", task_history_limit=1))
        for number in range(3):
            put(self.tables, node(f"n{number}"))
        mode = job_mode(total, concurrent)
        job, spec = service_with_spec("job", {"RestartPolicy": {"Delay": 0}}, mode=mode, job_started_at_ns=NOW_NS)
        put(self.tables, spec)
        put(self.tables, job)
        self._new_id = numbered().__next__

    @property
    def job(self) -> Service:
        return self.tables.services.must_get("job")

    def of_index(self, index: int) -> Task | None:
        """Some task that is not over and whose node can be heard."""
        alive = [t for t in self.tables.tasks if not t.is_terminal and (not t.node_id or self.is_up(t.node_id))]
        return alive[index % len(alive)] if alive else None

    def is_up(self, node_id: str) -> bool:
        return self.tables.nodes.must_get(node_id).status.state == "ready"

    def report(self, task: Task, state: TaskState, node_id: str = "") -> None:
        put(self.tables, msgspec.structs.replace(task, status=TaskStatus(state=state), node_id=node_id or task.node_id))

    def happen(self, what: str, index: int) -> None:
        """Let one thing happen, if it can."""
        if what == "iterate":
            job = self.job
            put(self.tables, msgspec.structs.replace(job, job_iteration=job.job_iteration + 1, job_started_at_ns=self.now_ns))
        elif what in ("down", "ready", "drain", "active"):
            self.set_node(f"n{index % 3}", what)
        elif (task := self.of_index(index)) is not None:
            self.move(task, what, index)

    def set_node(self, node_id: str, what: str) -> None:
        before = self.tables.nodes.must_get(node_id)
        if what in ("down", "ready"):
            put(self.tables, msgspec.structs.replace(before, status=msgspec.structs.replace(before.status, state=what)))
            self.lost |= {t.id for t in self.tables.tasks.of_node(node_id)} if what == "down" else set()
        else:
            put(self.tables, msgspec.structs.replace(before, spec=msgspec.structs.replace(before.spec, availability=what)))

    def move(self, task: Task, what: str, index: int) -> None:
        """One task goes on, as far as its desired state lets it."""
        if task.status.state < TaskState.ASSIGNED:
            node_id = task.node_id or f"n{index % 3}"
            if self.is_up(node_id) and task.desired_state <= TaskState.RUNNING:
                state = TaskState.RUNNING if task.desired_state is TaskState.RUNNING else TaskState.READY
                self.report(task, state, node_id)
        elif task.status.state is TaskState.READY:
            if task.desired_state is not TaskState.READY:
                self.report(task, TaskState.RUNNING if task.desired_state is TaskState.RUNNING else TaskState.SHUTDOWN)
        elif what == "fail":
            self.report(task, TaskState.FAILED)
        elif what == "complete":
            self.report(task, TaskState.COMPLETE)
        elif task.desired_state > TaskState.RUNNING:
            self.report(task, TaskState.SHUTDOWN)

    def decide(self) -> None:
        """Let the orchestrator and the reaper work."""
        self.now_ns += 10 * SECOND_NS
        for decisions in (
            decide_jobs(self.tables, self.now_ns, None, new_id=self._new_id),
            decide_task_reaper(self.tables, self.now_ns, None),
        ):
            decisions.apply_to(TablesWriter(self.tables, self.now_ns))

    def running(self) -> list[Task]:
        """Tasks that certainly run."""
        return [t for t in self.tables.tasks if t.status.state is TaskState.RUNNING and t.id not in self.lost]

    def completed(self) -> list[Task]:
        """The present iteration's completed tasks."""
        return [t for t in self.tables.tasks if t.job_iteration == self.job.job_iteration and t.status.state is TaskState.COMPLETE]

    def end_well(self) -> None:
        """From now on all goes well, until nothing happens any more."""
        for number in range(3):
            self.set_node(f"n{number}", "ready")
            self.set_node(f"n{number}", "active")
        for _ in range(200):
            self.decide()
            alive = [t for t in self.tables.tasks if not t.is_terminal]
            if not alive:
                return
            for index, task in enumerate(alive):
                self.move(task, "complete", index)
        raise AssertionError("the job does not come to rest")


HAPPENINGS = ["run", "run", "complete", "complete", "fail", "stop", "stop", "down", "ready", "drain", "active", "iterate"]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 6),
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 20), st.booleans()), max_size=60),
)
def test_whatever_happens_a_job_runs_within_its_bounds_and_completes_exactly(
    total: int, concurrent: int, happenings: list[tuple[str, int, bool]]
) -> None:
    life = Life(total, concurrent)
    for what, index, decides in happenings:
        if decides:
            life.decide()
        life.happen(what, index)
        assert len(life.running()) <= concurrent
        assert len({task.slot for task in life.completed()}) <= total
        assert {task.slot for task in life.completed()} <= set(range(total))
    life.end_well()
    completed = life.completed()
    assert {task.slot for task in completed} == set(range(total))
    assert len([task for task in completed if task.id not in life.lost]) <= total
    progress = job_progress(life.tables, life.job)
    assert progress.is_finished
    assert (progress.completed, progress.failed) == (total, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 20), st.booleans()), max_size=60))
def test_whatever_happens_a_global_job_completes_once_on_every_node(happenings: list[tuple[str, int, bool]]) -> None:
    life = Life(None, 0)
    for what, index, decides in happenings:
        if decides:
            life.decide()
        life.happen(what, index)
        assert max(Counter(task.node_id for task in life.running()).values(), default=0) <= 1
    life.end_well()
    assert Counter(task.node_id for task in life.completed()) == {"n0": 1, "n1": 1, "n2": 1}
    assert job_progress(life.tables, life.job).is_finished
