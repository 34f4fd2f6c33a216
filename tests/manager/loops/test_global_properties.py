"""Sentences about global services, the constraint enforcer and orphaning that hold for whatever cluster."""

from collections.abc import Iterator

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import TablesWriter, node, numbered, put, service_with_spec, shuffled

from pyswarm_common.objects import Cluster, Node, Service, Task, TaskStatus
from pyswarm_common.specs import SECOND_NS, NodeSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.decide import decide as decide_allocator
from pyswarm_manager.decisions import succession_key
from pyswarm_manager.dispatcher.orphaning.decide import decide as decide_orphaning
from pyswarm_manager.orchestrator.constraint_enforcer.decide import decide as decide_constraint_enforcer
from pyswarm_manager.orchestrator.global_service.decide import decide as decide_global_service
from pyswarm_manager.orchestrator.global_service.decide import node_key
from pyswarm_manager.orchestrator.global_service.eligibility import Eligibility, Standing, count_desired
from pyswarm_manager.orchestrator.replicated.decide import decide as decide_replicated
from pyswarm_manager.orchestrator.suitability import Suitability
from pyswarm_manager.orchestrator.task_reaper.decide import decide as decide_task_reaper
from pyswarm_manager.scheduler.decide import decide as decide_scheduler
from pyswarm_manager.store.tables import Tables

NOW_NS = 1_000_000 * SECOND_NS
OBSERVED = [state for state in TaskState if state is not TaskState.REMOVE]
DESIRED = [TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE]
NODE_IDS = ["n0", "n1", "n2", "n3"]
LIVE = TaskState.RUNNING
DECIDES = {
    "global_service": lambda view, limit=None: decide_global_service(
        view, NOW_NS, limit, new_id=numbered(f"new{len(view.tasks)}.").__next__
    ),
    "replicated": lambda view, limit=None: decide_replicated(
        view, NOW_NS, limit, new_id=numbered(f"next{len(view.tasks)}.").__next__
    ),
    "constraint_enforcer": lambda view, limit=None: decide_constraint_enforcer(view, NOW_NS, limit),
    "orphaning": lambda view, limit=None: decide_orphaning(view, NOW_NS, limit),
    "allocator": lambda view, limit=None: decide_allocator(view, NOW_NS, limit),
    "scheduler": lambda view, limit=None: decide_scheduler(view, NOW_NS, limit),
    "task_reaper": lambda view, limit=None: decide_task_reaper(view, NOW_NS, limit),
}
OWN = ["global_service", "constraint_enforcer", "orphaning"]


def _nodes(node_id: str) -> st.SearchStrategy[Node]:
    return st.builds(
        node,
        st.just(node_id),
        state=st.sampled_from(["ready", "ready", "down", "unknown"]),
        availability=st.sampled_from(["active", "active", "drain", "pause"]),
        labels=st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}]),
        memory_bytes=st.integers(0, 5),
        since_ns=st.sampled_from([0, 1, NOW_NS, 2 * NOW_NS]),
    )


@st.composite
def _templates(draw: st.DrawFn) -> dict[str, object]:
    return {
        "RestartPolicy": {
            "Condition": draw(st.sampled_from(["any", "none", "on-failure"])),
            "Delay": draw(st.sampled_from([0, SECOND_NS])),
            "MaxAttempts": draw(st.integers(0, 2)),
        },
        "Resources": {"Reservations": {"MemoryBytes": draw(st.integers(0, 2))}},
        "Placement": {"Constraints": draw(st.sampled_from([[], ["node.labels.zone==a"], ["node.labels.zone!=a"]]))},
    }


@st.composite
def clusters(draw: st.DrawFn) -> Tables:
    """Any cluster with global services, replicated ones, and tasks in every state on nodes that are there or gone."""
    tables = Tables()
    put(tables, Cluster(id="cluster", task_history_limit=draw(st.integers(-1, 4))))
    for node_id in draw(st.sets(st.sampled_from(NODE_IDS))):
        put(tables, draw(_nodes(node_id)))
    for service_id in ("s0", "s1"):
        is_global = draw(st.booleans())
        generation = draw(st.integers(1, 2))
        mode = {"Global": {}} if is_global else {"Replicated": {"Replicas": draw(st.integers(0, 3))}}
        for one in range(1, generation + 1):
            service, spec = service_with_spec(service_id, draw(_templates()), spec_generation=one, mode=mode)
            put(tables, spec)
        put(tables, service)
        for number in range(draw(st.integers(0, 6))):
            put(tables, draw(_tasks(f"{service_id}t{number}", service_id, generation, number, is_global=is_global)))
    return tables


@st.composite
def _tasks(draw: st.DrawFn, task_id: str, service_id: str, generation: int, created: int, *, is_global: bool) -> Task:
    state = draw(st.sampled_from(OBSERVED))
    own_generation = draw(st.integers(1, generation))
    return Task(
        id=task_id,
        service_id=service_id,
        slot=0 if is_global else draw(st.integers(1, 4)),
        task_spec_id=f"{service_id}-spec{own_generation}",
        spec_generation=own_generation,
        desired_state=draw(st.sampled_from(DESIRED)),
        status=TaskStatus(state=state),
        node_id=draw(st.sampled_from(NODE_IDS)) if is_global or state >= TaskState.ASSIGNED else "",
        created_at_ns=created,
        start_at_ns=draw(st.sampled_from([0, NOW_NS - 1, NOW_NS + 1])),
        rejection=draw(st.sampled_from(["", "", "why"])),
    )


def apply(tables: Tables, name: str, limit: int | None = None) -> Tables:
    """The tables after one decision."""
    after = tables.copy()
    DECIDES[name](tables, limit).apply_to(TablesWriter(after, NOW_NS))
    return after


def settle(tables: Tables, *names: str, limit: int | None = None) -> Tables:
    """The tables when none of these loops has anything left to do."""
    for _ in range(200):
        busy = [n for n in names if not (found := DECIDES[n](tables, limit)).is_empty or found.unfinished]
        if not busy:
            return tables
        tables = apply(tables, busy[0], limit)
    raise AssertionError(f"{names} do not come to rest")


def global_services(tables: Tables) -> Iterator[tuple[Service, Eligibility]]:
    return ((s, Eligibility(tables, s)) for s in tables.services if s.spec.mode_name == "global")


def wanted_on(tables: Tables, service_id: str, node_id: str) -> list[Task]:
    return [t for t in tables.tasks.of_node(node_id) if t.service_id == service_id and t.desired_state <= LIVE]


@settings(max_examples=100, deadline=None)
@given(clusters(), st.sampled_from(OWN), st.integers(0, 1000))
def test_the_order_of_insertion_does_not_matter(tables: Tables, name: str, seed: int) -> None:
    assert DECIDES[name](tables) == DECIDES[name](shuffled(tables, seed))


@settings(max_examples=150, deadline=None)
@given(clusters(), st.sampled_from(OWN))
def test_what_was_decided_needs_no_second_decision(tables: Tables, name: str) -> None:
    assert DECIDES[name](apply(tables, name)).is_empty


@settings(max_examples=100, deadline=None)
@given(clusters(), st.sampled_from(OWN), st.integers(2, 5))
def test_any_limit_is_kept_and_leads_to_the_same_rest(tables: Tables, name: str, limit: int) -> None:
    decisions = DECIDES[name](tables, limit)
    assert len(decisions.created) + len(decisions.updated) + len(decisions.deleted) <= limit
    by_steps, at_once = settle(tables, name, limit=limit), apply(tables, name)
    assert _picture(by_steps) == _picture(at_once)


def _picture(tables: Tables) -> object:
    """What is left when the ids of new tasks do not count."""
    return sorted(
        (t.service_id, t.slot, t.node_id, t.desired_state, t.status.state, t.rejection, t.cause if "." not in t.id else "")
        for t in tables.tasks
    )


@settings(max_examples=200, deadline=None)
@given(clusters(), st.one_of(st.none(), st.integers(2, 5)))
def test_at_rest_each_eligible_node_has_exactly_one_task_and_no_other_node_has_one(tables: Tables, limit: int | None) -> None:
    after = settle(tables, "global_service", limit=limit)
    for service, eligibility in global_services(after):
        for node_id in NODE_IDS:
            wanted = wanted_on(after, service.id, node_id)
            match eligibility.standing(after.nodes.get(node_id)):
                case Standing.WANTED:
                    # An ended task stays in its place until the delay that held it back is over, or for good.
                    assert [t for t in wanted if t.is_terminal and t.start_at_ns <= NOW_NS] == []
                    assert len(wanted) == 1 or _last_ended_by_itself(after, service.id, node_id)
                case Standing.KEPT:
                    assert {t.id for t in wanted} <= {t.id for t in tables.tasks}
                    assert len([t for t in wanted if not t.is_terminal and not t.rejection]) <= 1
                case Standing.GONE:
                    assert all(
                        t.desired_state is TaskState.REMOVE for t in after.tasks.of_node(node_id) if t.service_id == service.id
                    )
                case _:
                    assert [t for t in wanted if not t.is_terminal] == []


def _last_ended_by_itself(tables: Tables, service_id: str, node_id: str) -> bool:
    tasks = [t for t in tables.tasks.of_node(node_id) if t.service_id == service_id and t.desired_state is TaskState.SHUTDOWN]
    last = max(tasks, key=succession_key, default=None)
    ended_by_itself = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)
    return last is not None and last.status.state in ended_by_itself and not last.rejection


@settings(max_examples=100, deadline=None)
@given(clusters(), st.sampled_from(NODE_IDS))
def test_looking_at_a_node_does_what_looking_at_all_services_does_there(tables: Tables, node_id: str) -> None:
    of_node = decide_global_service(tables, NOW_NS, None, new_id=numbered("x.").__next__, keys=[node_key(node_id)])
    of_all = DECIDES["global_service"](tables)
    here = [t for t in (*of_all.created, *of_all.updated) if isinstance(t, Task) and t.node_id == node_id]
    found = [t for t in (*of_node.created, *of_node.updated) if isinstance(t, Task)]
    renewed = set(of_node.unfinished)  # these are looked at whole afterwards
    here, found = ([t for t in tasks if t.service_id not in renewed] for tasks in (here, found))
    assert sorted(_without_id(t) for t in found) == sorted(_without_id(t) for t in here)


def _without_id(task: Task) -> tuple[object, ...]:
    id_ = "" if "." in task.id else task.id
    return id_, task.service_id, task.node_id, task.desired_state, task.status.state, task.start_at_ns, task.restarted_at_ns


@settings(max_examples=150, deadline=None)
@given(clusters())
def test_no_task_stays_on_a_node_that_does_not_satisfy_it_or_has_too_little(tables: Tables) -> None:
    after = settle(tables, "constraint_enforcer", "replicated", "global_service")
    for one in after.nodes:
        if one.spec.availability != "active" or one.status.state == "down":
            continue
        reserved = 0
        for task in after.tasks.of_node(one.id):
            if not (task.desired_state <= LIVE and TaskState.ASSIGNED <= task.status.state <= LIVE):
                continue
            template = after.task_specs.must_get(task.task_spec_id).template
            present = after.task_specs.must_get(after.services.must_get(task.service_id).task_spec_id).template
            assert Suitability(template).suits(one) or Suitability(present).suits(one)
            assert template.resources is not None
            assert template.resources.reservations is not None
            reserved += template.resources.reservations.memory_bytes
        assert reserved <= one.description.resources.memory_bytes


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_no_task_is_held_by_a_node_that_will_not_report(tables: Tables) -> None:
    after = settle(tables, "orphaning")
    for task in after.tasks:
        if TaskState.ASSIGNED <= task.status.state <= LIVE:
            holder = after.nodes.must_get(task.node_id)
            assert holder.status.state != "down" or NOW_NS - holder.status.since_ns < 24 * 3600 * SECOND_NS


EVENTS = st.one_of(
    st.tuples(st.just("state"), st.sampled_from(NODE_IDS), st.sampled_from(["ready", "down"])),
    st.tuples(st.just("availability"), st.sampled_from(NODE_IDS), st.sampled_from(["active", "pause", "drain"])),
    st.tuples(st.just("zone"), st.sampled_from(NODE_IDS), st.sampled_from(["a", "b"])),
    st.tuples(st.just("removed"), st.sampled_from(NODE_IDS), st.just("")),
    st.tuples(st.just("joined"), st.sampled_from(NODE_IDS), st.just("")),
    st.tuples(st.just("fails"), st.sampled_from(NODE_IDS), st.sampled_from(["s0", "s1"])),
    st.tuples(st.just("loops"), st.just(""), st.sampled_from(sorted(DECIDES))),
    st.tuples(st.just("agents"), st.just(""), st.just("")),
)


def happen(tables: Tables, what: str, node_id: str, how: str) -> Tables:
    """The cluster after one event, if it can be."""
    after = tables.copy()
    one = after.nodes.get(node_id)
    if what == "loops":
        return apply(tables, how, limit=3)
    if what == "agents":
        return obeyed(tables)
    if what == "joined" and one is None:
        put(after, node(node_id))
    if one is None:
        return after
    replace = msgspec.structs.replace
    match what:
        case "state":
            put(after, replace(one, status=replace(one.status, state=how, since_ns=NOW_NS)))
        case "availability":
            put(after, replace(one, spec=replace(one.spec, availability=how)))
        case "zone":
            put(after, replace(one, spec=NodeSpec(labels={"zone": how}, availability=one.spec.availability)))
        case "removed":
            after.nodes.delete(node_id)
        case "fails":
            for task in wanted_on(tables, how, node_id):
                if task.status.state is TaskState.RUNNING and one.status.state == "ready":
                    put(after, replace(task, status=TaskStatus(state=TaskState.FAILED)))
    return after


def obeyed(tables: Tables) -> Tables:
    """The cluster after the agents of all nodes that can be heard did what they are told."""
    after = tables.copy()
    for task in tables.tasks:
        holder = tables.nodes.get(task.node_id)
        if holder is None or holder.status.state == "down" or not TaskState.ASSIGNED <= task.status.state <= LIVE:
            continue
        state = TaskState.SHUTDOWN if task.desired_state > LIVE else TaskState.RUNNING
        if state is TaskState.SHUTDOWN and task.rejection:
            state = TaskState.REJECTED
        if task.desired_state is not TaskState.READY:
            put(after, msgspec.structs.replace(task, status=TaskStatus(state=state)))
    return after


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, max_size=25), st.sampled_from([[], ["node.labels.zone==a"]]))
def test_whatever_happens_to_nodes_in_the_end_each_eligible_one_runs_one_task(
    events: list[tuple[str, str, str]], constraints: list[str]
) -> None:
    tables = Tables()
    put(tables, Cluster(id="cluster"))
    template = {"RestartPolicy": {"Delay": 0}, "Placement": {"Constraints": constraints}}
    for item in (*service_with_spec("s0", template, mode={"Global": {}}), *service_with_spec("s1", template, 2)):
        put(tables, item)
    for node_id in NODE_IDS[:3]:
        put(tables, node(node_id, labels={"zone": "a"}))
    for event in events:
        tables = happen(tables, *event)
    for _ in range(30):
        before = _picture(tables)
        tables = obeyed(settle(tables, *DECIDES))
        if _picture(tables) == before:
            break
    service = tables.services.must_get("s0")
    running = [t for t in tables.tasks.of_service("s0") if t.status.state is TaskState.RUNNING and t.desired_state is LIVE]
    assert len({t.node_id for t in running}) == len(running) == count_desired(tables, service)
    for task in running:
        assert Eligibility(tables, service).standing(tables.nodes.get(task.node_id)) in (Standing.WANTED, Standing.KEPT)
    assert {t.node_id for t in tables.tasks.of_service("s0")} <= {n.id for n in tables.nodes}
