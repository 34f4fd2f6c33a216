"""Services that depend on others: sentences about who waits, and the loops together bringing a chain up in order."""

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest
from cluster_under_test import ClusterUnderTest, running_cluster
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import node, put, service_with_spec
from test_loop_properties import apply

from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Cluster, Service, Task, TaskSpec, TaskStatus
from pyswarm_common.replacement_reasons import ReplacementReason
from pyswarm_common.service_labels import DEPENDS_ON, REBALANCE, SCHEDULE, STACK_NAMESPACE
from pyswarm_common.specs import SECOND_NS, ServiceSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.api.service_dependencies import refuse_cycle, validate_dependency_labels
from pyswarm_manager.orchestration import orchestration_loops
from pyswarm_manager.scheduler.decide import decide as decide_scheduler
from pyswarm_manager.scheduler.dependencies import has_started, touched_by, why_waiting
from pyswarm_manager.store.memory import MemoryCluster, memory_store
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import Tables

NOW_NS = 1000 * SECOND_NS


def depending(service_id: str, *names: str, replicas: int = 1, **more: Any) -> tuple[Service, TaskSpec]:
    labels = {DEPENDS_ON: ",".join(names)} if names else {}
    return service_with_spec(service_id, {"RestartPolicy": {"Delay": 0}}, replicas, extra={"Labels": labels}, **more)


def one_task(service: Service, spec: TaskSpec, task_id: str, state: TaskState, **more: Any) -> Task:
    node_id = "n1" if state >= TaskState.ASSIGNED else ""
    more = {"slot": 1, "node_id": node_id, **more}
    return Task(id=task_id, service_id=service.id, task_spec_id=spec.id, status=TaskStatus(state=state), **more)


def tables_of(*items: Any) -> Tables:
    tables = Tables()
    for item in (Cluster(id="cluster"), node("n1"), *items):
        put(tables, item)
    return tables


# Who waits


@pytest.mark.parametrize(("completed", "iteration", "waits"), [(2, 0, False), (1, 0, True), (2, 1, True)])
def test_a_job_is_up_when_its_present_iteration_has_completed(completed: int, iteration: int, waits: bool) -> None:
    mode = {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 2}}
    job, job_spec = service_with_spec("migrate", {}, mode=mode, job_iteration=iteration)
    web, web_spec = depending("web", "migrate")
    done = [one_task(job, job_spec, f"m{n}", TaskState.COMPLETE, job_iteration=0, slot=n) for n in range(completed)]
    tables = tables_of(job, job_spec, web, web_spec, *done)
    assert why_waiting(tables, "web") == ("waiting for job migrate to complete" if waits else "")


def test_a_scheduled_job_whose_first_run_is_not_due_has_not_completed() -> None:
    mode = {"ReplicatedJob": {"TotalCompletions": 0}}
    job, job_spec = service_with_spec("nightly", {}, mode=mode, extra={"Labels": {SCHEDULE: "0 3 * * *"}})
    web, web_spec = depending("web", "nightly")
    tables = tables_of(job, job_spec, web, web_spec)
    assert why_waiting(tables, "web") == "waiting for job nightly to complete"
    put(tables, msgspec.structs.replace(job, job_started_at_ns=NOW_NS))
    assert why_waiting(tables, "web") == ""


def test_each_iteration_of_a_job_waits_anew() -> None:
    mode = {"ReplicatedJob": {"TotalCompletions": 1}}
    job, spec = depending("report", "db", mode=mode, job_iteration=1)
    tables = tables_of(job, spec, one_task(job, spec, "r0", TaskState.COMPLETE, job_iteration=0))
    assert not has_started(tables, job)
    assert why_waiting(tables, "report") == "waiting for service db, which does not exist"
    put(tables, one_task(job, spec, "r1", TaskState.RUNNING, job_iteration=1))
    assert why_waiting(tables, "report") == ""


@pytest.mark.parametrize("reason", list(ReplacementReason))
def test_a_service_has_started_when_its_only_task_replaces_one_that_had_been_placed(reason: ReplacementReason) -> None:
    web, spec = depending("web", "db")
    tables = tables_of(web, spec, one_task(web, spec, "w", TaskState.PENDING, cause="gone", replacement_reason=reason))
    may_be_new = (ReplacementReason.UNKNOWN, ReplacementReason.STOPPED, ReplacementReason.UPDATED)
    assert has_started(tables, web) == (reason not in may_be_new)


def test_a_change_of_a_service_that_nobody_names_touches_nothing() -> None:
    db, db_spec = depending("db")
    web, web_spec = depending("web", "db")
    tables = tables_of(db, db_spec, web, web_spec)
    running = one_task(db, db_spec, "d", TaskState.RUNNING)
    starting = msgspec.structs.replace(running, status=TaskStatus(state=TaskState.STARTING))
    assert touched_by(Change(starting, running), tables) == ["web"]
    assert list(touched_by(Change(running, running), tables)) == []
    assert list(touched_by(Change(None, one_task(web, web_spec, "w", TaskState.RUNNING)), tables)) == []
    assert list(touched_by(Change(None, db), tables)) == ["web"]
    assert list(touched_by(Change(web, msgspec.structs.replace(web, spec_json=b"{}")), tables)) == ["web"]
    tables.services.delete("web")
    assert not tables.services.has_dependents
    assert list(touched_by(Change(starting, running), tables)) == []


NAMES = ["a", "b", "c", "d", "s_a", "s_b"]


@st.composite
def dependent_clusters(draw: st.DrawFn) -> Tables:
    """Services that name each other as they like, some in a stack, with tasks in every state."""
    tables, number = tables_of(), count()
    for name in draw(st.sets(st.sampled_from(NAMES), min_size=1)):
        labels = {DEPENDS_ON: ",".join(draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=2)))}
        if name.startswith("s_"):
            labels[STACK_NAMESPACE] = "s"
        service, spec = service_with_spec(name, {}, draw(st.integers(0, 3)), extra={"Labels": labels})
        put(tables, spec)
        put(tables, service)
        for _ in range(draw(st.integers(0, 3))):
            state = draw(st.sampled_from([s for s in TaskState if s not in (TaskState.NEW, TaskState.REMOVE)]))
            desired = draw(st.sampled_from([TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN]))
            put(tables, one_task(service, spec, f"t{next(number)}", state, desired_state=desired))
    return tables


def is_up(tables: Tables, name: str) -> bool:
    tasks = [t for s in tables.services.named(name) for t in tables.tasks.of_service(s.id)]
    return any(t.status.state is TaskState.RUNNING and t.desired_state <= TaskState.RUNNING for t in tasks)


@settings(max_examples=150, deadline=None)
@given(dependent_clusters())
def test_a_first_task_is_placed_only_while_all_that_its_service_names_runs(tables: Tables) -> None:
    for task in decide_scheduler(tables, NOW_NS).updated:
        assert isinstance(task, Task)
        service = tables.services.must_get(task.service_id)
        labels = service.spec.labels or {}
        prefix = "s_" if STACK_NAMESPACE in labels else ""
        names = [n for n in labels[DEPENDS_ON].split(",") if n]
        meant = [prefix + n if tables.services.named(prefix + n) else n for n in names]
        had_started = any(t.node_id for t in tables.tasks.of_service(service.id))
        is_placed = task.status.state is TaskState.ASSIGNED
        assert is_placed == (had_started or all(is_up(tables, name) for name in meant))
        assert is_placed or all((f" {name} " in task.status.error) != is_up(tables, name) for name in meant if name in NAMES[4:])


@settings(max_examples=100, deadline=None)
@given(dependent_clusters(), st.one_of(st.none(), st.integers(1, 3)))
def test_waiting_comes_to_rest_under_any_limit(tables: Tables, limit: int | None) -> None:
    whole = apply(tables, decide_scheduler(tables, NOW_NS, None))
    assert decide_scheduler(whole, NOW_NS, None).is_empty
    for _ in range(40):
        decisions = decide_scheduler(tables, NOW_NS, limit)
        if decisions.is_empty and not decisions.unfinished:
            break
        assert limit is None or len(decisions.updated) <= limit
        tables = apply(tables, decisions)
    assert {t.id: t.status.error for t in tables.tasks} == {t.id: t.status.error for t in whole.tasks}


# What is refused


def graph(**edges: str) -> Tables:
    return tables_of(*(item for name, names in edges.items() for item in depending(name, *names.split())))


@pytest.mark.parametrize(
    ("edges", "name", "names", "text"),
    [
        ({}, "web", "web", "label pyswarm.depends_on: service web cannot depend on itself"),
        (
            {"db": "web"},
            "web",
            "db",
            "label pyswarm.depends_on: services cannot depend on each other in a circle: web -> db -> web",
        ),
        (
            {"db": "mail cache", "cache": "web", "mail": ""},
            "web",
            "db",
            "label pyswarm.depends_on: services cannot depend on each other in a circle: web -> db -> cache -> web",
        ),
    ],
)
def test_the_service_that_closes_a_cycle_is_refused_and_the_cycle_shown(
    edges: dict[str, str], name: str, names: str, text: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        refuse_cycle(graph(**edges), name, {DEPENDS_ON: names})
    assert str(refused.value) == text


def test_a_service_may_name_what_does_not_exist_and_what_others_name_too() -> None:
    tables = graph(a="b c", b="d", c="d")
    refuse_cycle(tables, "d", {DEPENDS_ON: "later"})
    refuse_cycle(tables, "a", {DEPENDS_ON: "b,d"})
    with pytest.raises(InvalidArgument, match=r"later -> a -> b -> d -> later|later -> a -> c -> d -> later"):
        refuse_cycle(graph(a="b c", b="d", c="d", d="later"), "later", {DEPENDS_ON: "a"})


def test_a_cycle_inside_a_stack_is_found_by_its_short_names() -> None:
    labels = {STACK_NAMESPACE: "shop", DEPENDS_ON: "web"}
    db, spec = service_with_spec("shop_db", {}, extra={"Labels": labels})
    tables = tables_of(db, spec, *depending("web"))
    with pytest.raises(InvalidArgument, match="shop_web -> shop_db -> shop_web"):
        refuse_cycle(tables, "shop_web", {STACK_NAMESPACE: "shop", DEPENDS_ON: "db"})
    refuse_cycle(tables, "other_web", {STACK_NAMESPACE: "other", DEPENDS_ON: "db"})


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"), max_size=3)), max_size=12))
def test_whatever_is_created_and_updated_no_cycle_is_ever_stored(changes: list[tuple[str, set[str]]]) -> None:
    tables = tables_of()
    stored: dict[str, set[str]] = {}
    for name, names in changes:
        with contextlib.suppress(InvalidArgument):
            refuse_cycle(tables, name, {DEPENDS_ON: ",".join(sorted(names))})
            for item in depending(name, *sorted(names)):
                put(tables, item)
            stored[name] = names
    while stored:  # services can be taken away one by one, each after what it names
        free = {name for name, names in stored.items() if not names & stored.keys()}
        assert free
        stored = {name: names for name, names in stored.items() if name not in free}


@pytest.mark.parametrize(
    ("label", "value", "text"),
    [
        (DEPENDS_ON, "db cache", '"db cache" is not the name of a service'),
        (DEPENDS_ON, "db,-x", '"-x" is not the name of a service'),
        (REBALANCE, "yes", 'label pyswarm.rebalance is "yes": it must be true or false'),
    ],
)
def test_labels_that_mean_nothing_are_refused(label: str, value: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        validate_dependency_labels(ServiceSpec(name="web", labels={label: value}))
    validate_dependency_labels(ServiceSpec(name="web", labels={DEPENDS_ON: " db, shop_cache ,", REBALANCE: "True"}))


# The loops together


async def chain(cluster: ClusterUnderTest) -> None:
    """C waits for b, b for a; they come in the wrong order."""
    await cluster.change(*depending("c", "b", replicas=2))
    await cluster.change(*depending("b", "a", replicas=2))
    await cluster.change(*depending("a", replicas=2))


def states(cluster: ClusterUnderTest) -> dict[str, set[TaskState]]:
    return {s.id: {t.status.state for t in cluster.store.view.tasks.of_service(s.id)} for s in cluster.store.view.services}


async def test_a_chain_comes_up_in_order() -> None:
    async with running_cluster() as cluster:
        await chain(cluster)
        for step, name in enumerate("abc"):
            waiting = {s: {TaskState.PENDING} for s in "abc"[step + 1 :]}
            expected = {**{s: {TaskState.RUNNING} for s in "abc"[:step]}, name: {TaskState.ASSIGNED}, **waiting}
            await cluster.until(lambda expected=expected: states(cluster) == expected)  # type: ignore[misc]
            await cluster.clock.advance(60)
            assert states(cluster) == expected
            await cluster.obey()
        assert states(cluster) == {s: {TaskState.RUNNING} for s in "abc"}


async def test_who_waits_says_for_what_and_is_told_when_that_changes() -> None:
    async with running_cluster() as cluster:
        await cluster.change(*depending("web", "db"))

        def error() -> str:
            return "".join(task.status.error for task in cluster.store.view.tasks.of_service("web"))

        await cluster.until(lambda: error() == "waiting for service db, which does not exist")
        await cluster.change(*depending("db", replicas=0))
        await cluster.until(lambda: error() == "waiting for service db (0/0 running)")
        await cluster.scale("db", 3)
        await cluster.until(lambda: error() == "waiting for service db (0/3 running)")
        await cluster.store.update(lambda tx: tx.delete(Service, "db"))
        await cluster.until(lambda: error() == "waiting for service db, which does not exist")
        web = cluster.store.view.services.must_get("web")
        await cluster.change(msgspec.structs.replace(web, spec_json=depending("web")[0].spec_json))
        await cluster.until(lambda: [t.service_id for t in cluster.tasks(TaskState.ASSIGNED)] == ["web"])


async def test_a_dependency_that_is_down_later_keeps_no_replacement_from_starting() -> None:
    async with running_cluster() as cluster:
        await cluster.change(*depending("db"), *depending("web", "db"))
        for _ in range(2):
            await cluster.until(lambda: bool(cluster.tasks(TaskState.ASSIGNED)))
            await cluster.obey()
        await cluster.scale("db", 0)
        await cluster.until(lambda: not [t for t in cluster.tasks() if t.service_id == "db"])
        await cluster.report(cluster.tasks(TaskState.RUNNING), TaskState.FAILED)
        await cluster.until(lambda: [t.service_id for t in cluster.tasks(TaskState.ASSIGNED)] == ["web"])


def leaders(clock: ManualClock, memory: MemoryCluster) -> Iterator[Any]:
    while True:
        yield memory_store(clock, memory)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
async def test_leaders_that_change_in_the_middle_do_no_harm(steps: int) -> None:
    clock, memory = ManualClock(), MemoryCluster()
    order: list[str] = []
    for number, leading in zip(range(40), leaders(clock, memory), strict=False):
        async with leading as store:
            cluster = ClusterUnderTest(store, clock)
            if number == 0:
                await cluster.change(Cluster(id="cluster"), node("n1"), node("n2"))
                await chain(cluster)
            running = [asyncio.ensure_future(loop.run()) for loop in orchestration_loops(store, clock)]
            for _ in range(steps):
                await clock.advance(0.02)
            await cluster.obey()
            order += sorted({t.service_id for t in cluster.tasks(TaskState.RUNNING)} - set(order))
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            if len(cluster.tasks(TaskState.RUNNING)) == 6:
                break
    assert order == ["a", "b", "c"]
    assert len(store.view.tasks) == 6
