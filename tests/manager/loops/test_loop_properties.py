"""Sentences about the loops' decisions that hold for whatever cluster."""

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import TablesWriter, World, node, numbered, put, service_with_spec, shuffled

from pyswarm_common.objects import Cluster, Network, Node, Task, TaskStatus
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.decide import decide as decide_allocator
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.dispatcher.orphaning.decide import decide as decide_orphaning
from pyswarm_manager.orchestrator.constraint_enforcer.decide import decide as decide_constraint_enforcer
from pyswarm_manager.orchestrator.replicated.decide import decide as decide_replicated
from pyswarm_manager.orchestrator.replicated.slots import group_slots
from pyswarm_manager.orchestrator.task_reaper.decide import decide as decide_task_reaper
from pyswarm_manager.scheduler.decide import decide as decide_scheduler
from pyswarm_manager.store.tables import Tables

NOW_NS = 1000 * SECOND_NS
OBSERVED = [state for state in TaskState if state is not TaskState.REMOVE]
DESIRED = [TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE]
DECIDES = {
    "replicated": lambda view, limit=None: decide_replicated(
        view, NOW_NS, limit, new_id=numbered(f"new{len(view.tasks)}.").__next__
    ),
    "task_reaper": lambda view, limit=None: decide_task_reaper(view, NOW_NS, limit),
    "allocator": lambda view, limit=None: decide_allocator(view, NOW_NS, limit),
    "scheduler": lambda view, limit=None: decide_scheduler(view, NOW_NS, limit),
    "constraint_enforcer": lambda view, limit=None: decide_constraint_enforcer(view, NOW_NS, limit),
    "orphaning": lambda view, limit=None: decide_orphaning(view, NOW_NS, limit),
}


@st.composite
def clusters(draw: st.DrawFn) -> Tables:
    """Any cluster: nodes in all conditions, services of every policy, tasks in every state, two small networks."""
    tables = Tables()
    put(tables, Cluster(id="cluster", task_history_limit=draw(st.integers(-1, 4))))
    for number in range(draw(st.integers(0, 4))):
        put(tables, draw(_nodes(f"n{number}")))
    put(tables, Network(id="app", name="app", spec_json=b'{"Driver":"overlay"}', vni=4096, subnet="10.0.1.0/28"))
    put(tables, Network(id="db", name="db", spec_json=b'{"Driver":"overlay"}'))
    number = 0
    for service_number in range(draw(st.integers(1, 3))):
        service_id = f"s{service_number}"
        generation = draw(st.integers(1, 2))
        for one in range(1, generation + 1):
            service, spec = service_with_spec(
                service_id, draw(_templates()), draw(st.integers(0, 5)), spec_generation=one, created_at_ns=service_number
            )
            put(tables, spec)
        if draw(st.integers(0, 4)):
            put(tables, service)
        slots = st.integers(1, 6)
        for _ in range(draw(st.integers(0, 7))):
            number += 1
            put(tables, draw(_tasks(f"t{number}", service_id, generation, number, slots, len(tables.nodes))))
    return tables


def _nodes(node_id: str) -> st.SearchStrategy[Node]:
    return st.builds(
        node,
        st.just(node_id),
        state=st.sampled_from(["ready", "ready", "down", "unknown"]),
        availability=st.sampled_from(["active", "active", "drain", "pause"]),
        labels=st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}]),
        memory_bytes=st.integers(0, 5),
    )


@st.composite
def _templates(draw: st.DrawFn) -> dict[str, object]:
    template: dict[str, object] = {
        "RestartPolicy": {
            "Condition": draw(st.sampled_from(["any", "none", "on-failure"])),
            "Delay": draw(st.sampled_from([0, SECOND_NS])),
            "MaxAttempts": draw(st.integers(0, 2)),
        },
        "Resources": {"Reservations": {"MemoryBytes": draw(st.integers(0, 2))}},
        "Networks": [{"Target": target} for target in draw(st.sets(st.sampled_from(["app", "db"])))],
        "Placement": {
            "MaxReplicas": draw(st.integers(0, 2)),
            "Constraints": draw(st.sampled_from([[], ["node.labels.zone==a"]])),
            "Preferences": draw(st.sampled_from([[], [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]])),
        },
    }
    return template


@st.composite
def _tasks(
    draw: st.DrawFn, task_id: str, service_id: str, generation: int, created: int, slots: st.SearchStrategy[int], nodes: int
) -> Task:
    state = draw(st.sampled_from(OBSERVED))
    own_generation = draw(st.integers(1, generation))
    is_placed = state >= TaskState.ASSIGNED
    return Task(
        id=task_id,
        service_id=service_id,
        slot=draw(slots),
        task_spec_id=f"{service_id}-spec{own_generation}",
        spec_generation=own_generation,
        desired_state=draw(st.sampled_from(DESIRED)),
        status=TaskStatus(state=state),
        node_id=f"n{draw(st.integers(0, max(nodes, 1)))}" if is_placed else "",
        created_at_ns=created,
        start_at_ns=draw(st.sampled_from([0, NOW_NS - 1, NOW_NS + 1])),
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


@settings(max_examples=80, deadline=None)
@given(clusters(), st.sampled_from(sorted(DECIDES)), st.integers(0, 1000))
def test_the_order_of_insertion_does_not_matter(tables: Tables, name: str, seed: int) -> None:
    assert DECIDES[name](tables) == DECIDES[name](shuffled(tables, seed))


@settings(max_examples=80, deadline=None)
@given(clusters(), st.sampled_from(sorted(DECIDES)))
def test_what_was_decided_needs_no_second_decision(tables: Tables, name: str) -> None:
    assert DECIDES[name](apply(tables, DECIDES[name](tables))).is_empty


@settings(max_examples=80, deadline=None)
@given(clusters(), st.integers(2, 5))
def test_any_limit_is_kept_and_all_loops_come_to_rest(tables: Tables, limit: int) -> None:
    for name in DECIDES:
        decisions = DECIDES[name](tables, limit)
        assert len(decisions.created) + len(decisions.updated) + len(decisions.deleted) <= limit
        settle(tables, name, limit)


@settings(max_examples=80, deadline=None)
@given(clusters(), st.one_of(st.none(), st.integers(2, 5)))
def test_at_rest_each_service_has_as_many_slots_as_it_asks_for(tables: Tables, limit: int | None) -> None:
    after = settle(tables, "replicated", limit)
    for service in after.services:
        slots = group_slots(after.tasks.of_service(service.id))
        assert len(slots) == service.spec.replicas
        for slot in slots.values():
            current = slot.current  # an ended task keeps its slot only until the delay that held it back is over
            assert current is None or not current.is_terminal or current.start_at_ns > NOW_NS
    for task in after.tasks:
        assert task.service_id in after.services or task.desired_state is TaskState.REMOVE


@settings(max_examples=80, deadline=None)
@given(clusters())
def test_no_address_is_held_twice_or_is_a_networks_own(tables: Tables) -> None:
    after = settle(tables, "allocator")
    for network in after.networks:
        held = [v.address for s in after.services for v in s.virtual_ips if v.network_id == network.id]
        held += [a.address for t in after.tasks if not t.is_terminal for a in t.attachments if a.network_id == network.id]
        assert len(set(held)) == len(held)
        assert not {f"{network.gateway}/28", "10.0.1.0/28", "10.0.1.15/28"} & set(held)
    for task in after.tasks.unplaced(TaskState.PENDING):
        if task.attachments:
            addresses = {a.network_id for a in task.attachments}
            assert addresses == {n.target for n in after.task_specs.must_get(task.task_spec_id).template.networks or ()}


@settings(max_examples=80, deadline=None)
@given(clusters())
def test_no_placement_breaks_a_rule(tables: Tables) -> None:
    for task in DECIDES["scheduler"](tables).updated:
        if not isinstance(task, Task) or task.status.state is not TaskState.ASSIGNED:
            continue
        after = apply(tables, DECIDES["scheduler"](tables))
        chosen = after.nodes.must_get(task.node_id)
        placement = after.task_specs.must_get(task.task_spec_id).template.placement
        assert placement is not None
        assert (chosen.status.state, chosen.spec.availability) == ("ready", "active")
        assert not placement.constraints or chosen.spec.labels.get("zone") == "a"
        live = [t for t in after.tasks.of_node(chosen.id) if max(t.status.state, t.desired_state) <= TaskState.RUNNING]
        if placement.max_replicas:
            assert sum(t.service_id == task.service_id for t in live) <= placement.max_replicas


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.integers(0, 40))
def test_tasks_are_spread_evenly(node_count: int, task_count: int) -> None:
    lines = [f"node n{i}" for i in range(node_count)] + [f"service web replicas={task_count}"]
    lines += [f"task t{i} web.{i + 1} pending" for i in range(task_count)]
    after = settle(World("\n".join(lines)).tables, "scheduler", 7)
    counts = Counter(t.node_id for t in after.tasks)
    per_node = [counts[f"n{i}"] for i in range(node_count)]
    assert sum(per_node) == task_count
    assert max(per_node) - min(per_node) <= 1


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_the_reaper_leaves_what_lives_and_the_mark_of_every_slot(tables: Tables) -> None:
    after = settle(tables, "task_reaper")
    for service in tables.services:
        before = group_slots(tables.tasks.of_service(service.id))
        assert group_slots(after.tasks.of_service(service.id)).keys() == before.keys()
        for number, slot in before.items():
            assert group_slots(after.tasks.of_service(service.id))[number].newest == slot.newest
    for task in tables.tasks:
        if task.desired_state <= TaskState.RUNNING and task.service_id in tables.services:
            assert task.id in after.tasks


@settings(max_examples=80, deadline=None)
@given(clusters(), clusters())
def test_the_indexes_of_tasks_say_what_the_tasks_say(tables: Tables, others: Tables) -> None:
    for task in others.tasks:
        put(tables, task)
    for task in list(tables.tasks)[::3]:
        tables.tasks.delete(task.id)
    tasks = list(tables.tasks)
    for node_id in ("n0", "n1", "n2", "n3", "n4"):
        assert {t.id for t in tables.tasks.of_node(node_id)} == {t.id for t in tasks if t.node_id == node_id}
    for state in (TaskState.NEW, TaskState.PENDING):
        assert {t.id for t in tables.tasks.unplaced(state)} == {t.id for t in tasks if t.status.state is state}
    settled = settle(tables, "allocator")
    for network in settled.networks:
        attached = {t.id for t in settled.tasks if any(a.network_id == network.id for a in t.attachments)}
        assert {t.id for t in settled.tasks.of_network(network.id)} == attached


def test_the_reason_is_written_once() -> None:
    world = World("node n1 down\nservice web\ntask a web.1 pending")
    after = apply(world.tables, DECIDES["scheduler"](world.tables))
    assert after.tasks.must_get("a").status.error == "no suitable node (1 node not available for new tasks)"
    assert DECIDES["scheduler"](after).is_empty
    put(after, node("n2", availability="drain"))
    put(after, msgspec.structs.replace(after.tasks.must_get("a"), updated_at_ns=NOW_NS - 10 * SECOND_NS))
    later = DECIDES["scheduler"](after)
    assert later.is_empty  # another number only
    assert later.wake_at_ns == {"web": NOW_NS + 20 * SECOND_NS}
    put(after, msgspec.structs.replace(after.tasks.must_get("a"), updated_at_ns=NOW_NS - 30 * SECOND_NS))
    assert len(DECIDES["scheduler"](after).updated) == 1
