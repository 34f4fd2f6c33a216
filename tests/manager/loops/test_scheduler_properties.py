"""Sentences about the scheduler that hold for whatever cluster, above all: it decides what the plainest way would decide."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import TablesWriter, node, put, service_with_spec, shuffled
from scheduler_reference import Reference

from pyswarm_common.objects import Cluster, Node, Task, TaskFailure, TaskStatus
from pyswarm_common.specs import SECOND_NS, PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.agenda import Agenda
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.scheduler.constraints import parse_constraints
from pyswarm_manager.scheduler.decide import PENDING_TASKS, decide
from pyswarm_manager.scheduler.dry_run import dry_run
from pyswarm_manager.scheduler.explanation import explain
from pyswarm_manager.store.tables import Tables
from pyswarm_manager.store.transaction import Transaction

NOW_NS = 1000 * SECOND_NS
PLACED = [state for state in TaskState if state >= TaskState.ASSIGNED and state is not TaskState.REMOVE]
EXPRESSIONS = ["node.labels.zone==a", "node.labels.zone!=b", "node.ip==10.0.0.0/8", "node.ip!=10.1.0.1", "node.hostname==n1"]
GENERIC = [(), ("gpu=a",), ("gpu=a", "gpu=b", "ssd=3"), ("ssd=2",)]
HOST_PORTS = [[], [], [], [80], [80, 81]]


@st.composite
def node_objects(draw: st.DrawFn, node_id: str) -> Node:
    """A node in any condition."""
    return node(
        node_id,
        state=draw(st.sampled_from(["ready"] * 7 + ["down"])),
        availability=draw(st.sampled_from(["active"] * 7 + ["drain"])),
        labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b", "rack": "1"}, {"zone": "b", "rack": "2"}])),
        nano_cpus=draw(st.sampled_from([2, 4, 8])),
        memory_bytes=draw(st.sampled_from([3, 6, 12])),
        pids=draw(st.sampled_from([0, 3, 8])),
        generic=draw(st.sampled_from(GENERIC)),
        address=draw(st.sampled_from(["10.1.0.1", "10.2.0.1", "fd00::1", ""])),
        arch=draw(st.sampled_from(["x86_64", "x86_64", "aarch64"])),
    )


@st.composite
def templates(draw: st.DrawFn) -> dict[str, object]:
    """A task template that asks for up to three things: for everything at once no node would be left."""
    asked = draw(st.sets(st.sampled_from(["memory", "cpus", "pids", "generic", "most", "where", "spread", "platform"]), max_size=3))
    kinds = draw(st.sampled_from([["gpu"], ["ssd", "gpu"]])) if "generic" in asked else []
    levels = draw(st.integers(1, 2)) if "spread" in asked else 0
    return {
        "Resources": {
            "Reservations": {
                "MemoryBytes": draw(st.integers(1, 3)) if "memory" in asked else 0,
                "NanoCPUs": draw(st.integers(1, 2)) if "cpus" in asked else 0,
                "Pids": draw(st.integers(1, 2)) if "pids" in asked else 0,
                "GenericResources": [{"DiscreteResourceSpec": {"Kind": kind, "Value": draw(st.integers(1, 2))}} for kind in kinds],
            }
        },
        "Placement": {
            "MaxReplicas": draw(st.integers(1, 2)) if "most" in asked else 0,
            "Constraints": draw(st.lists(st.sampled_from(EXPRESSIONS), min_size=1, max_size=2)) if "where" in asked else [],
            "Preferences": [{"Spread": {"SpreadDescriptor": f"node.labels.{n}"}} for n in ("zone", "rack")[:levels]],
            "Platforms": [{"Architecture": "amd64", "OS": "linux"}] if "platform" in asked else [],
        },
    }


@st.composite
def task_objects(draw: st.DrawFn, number: int, service_id: str, generations: int, nodes: int) -> Task:
    """A task in any state; placed ones hold what they were given, failed ones remember others."""
    generation = draw(st.integers(1, generations))
    state = draw(st.sampled_from([TaskState.PENDING] * 12 + [TaskState.RUNNING] * 6 + PLACED))
    is_placed = state >= TaskState.ASSIGNED
    node_id = f"n{draw(st.integers(0, nodes))}" if is_placed or draw(st.integers(0, 9)) == 0 else ""
    ports = draw(st.sampled_from(HOST_PORTS)) if is_placed else []
    failed, apart_s = draw(st.sampled_from([(0, 0), (0, 0), (0, 0), (6, 20), (9, 70)]))
    failures = [(f"f{n}", f"n{n % 2}" if apart_s > 20 else "n0", NOW_NS - n * apart_s * SECOND_NS) for n in range(failed)]
    return Task(
        id=f"t{number}",
        service_id=service_id,
        slot=draw(st.integers(1, 3)),
        task_spec_id=f"{service_id}-spec{generation}",
        desired_state=draw(st.sampled_from([TaskState.READY] + [TaskState.RUNNING] * 6 + [TaskState.SHUTDOWN])),
        status=TaskStatus(state=state, at_ns=NOW_NS - draw(st.integers(0, 400)) * SECOND_NS),
        node_id=node_id,
        created_at_ns=draw(st.integers(1, 5)),
        must_move=is_placed and draw(st.integers(0, 4)) == 0,
        host_ports=tuple(PortConfig(published_port=port, target_port=port, publish_mode="host") for port in ports),
        recent_failures=tuple(TaskFailure(task_id=f, node_id=n, at_ns=at) for f, n, at in failures),
    )


@st.composite
def crowded(draw: st.DrawFn) -> Tables:
    """Any cluster, from the scheduler's point of view."""
    tables = Tables()
    put(tables, Cluster(id="cluster"))
    nodes = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 12]))
    for number in range(nodes):
        put(tables, draw(node_objects(f"n{number}")))
    number = 0
    for service_id in ("s1", "s2", "s3")[: draw(st.integers(1, 3))]:
        generations = draw(st.integers(1, 2))
        ports = [{"PublishMode": "host", "PublishedPort": p, "TargetPort": p} for p in draw(st.sampled_from(HOST_PORTS))]
        labels = draw(st.sampled_from([{}, {}, {}, {"pyswarm.placement.strategy": "binpack"}]))
        for generation in range(1, generations + 1):
            service, spec = service_with_spec(
                service_id,
                draw(templates()),
                spec_generation=generation,
                endpoint={"Ports": ports},
                extra={"Labels": labels},
            )
            put(tables, spec)
        put(tables, service)
        for _ in range(draw(st.integers(0, 10))):
            number += 1
            put(tables, draw(task_objects(number, service_id, generations, nodes)))
    return tables


def apply(tables: Tables, decisions: Decisions) -> Tables:
    """The tables after the decisions."""
    after = tables.copy()
    decisions.apply_to(TablesWriter(after, NOW_NS))
    return after


def placed_by(decisions: Decisions) -> dict[str, Task]:
    """The tasks that got a node."""
    tasks = (item for item in decisions.updated if isinstance(item, Task))
    return {task.id: task for task in tasks if task.status.state is TaskState.ASSIGNED}


def what_it_got(tasks: dict[str, Task]) -> dict[str, object]:
    """Node, ports and resources by task."""
    return {t.id: (t.node_id, t.host_ports, t.generic_resources) for t in tasks.values()}


@settings(max_examples=600, deadline=None)
@given(crowded())
def test_it_decides_what_the_plainest_way_decides(tables: Tables) -> None:
    assert what_it_got(placed_by(decide(tables, NOW_NS, None))) == what_it_got(Reference(tables, NOW_NS).place())


@settings(max_examples=300, deadline=None)
@given(crowded())
def test_no_node_suits_a_task_that_was_told_so(tables: Tables) -> None:
    decisions = decide(tables, NOW_NS, None)
    after = Reference(apply(tables, decisions), NOW_NS)
    for task in decisions.updated:
        assert isinstance(task, Task)
        if task.status.state is TaskState.PENDING:
            nodes = after.tables.nodes if not task.node_id else filter(None, [after.tables.nodes.get(task.node_id)])
            objections = [next(after.objections(task, one)) for one in nodes]
            for reason, count in Counter(objections).items():
                assert reason in task.status.error or reason in ("ports", "constraints")
                assert f"{count} node" in task.status.error


@settings(max_examples=200, deadline=None)
@given(crowded(), st.integers(0, 1000))
def test_the_order_in_which_objects_came_does_not_matter(tables: Tables, seed: int) -> None:
    assert decide(tables, NOW_NS, None) == decide(shuffled(tables, seed), NOW_NS, None)


@settings(max_examples=200, deadline=None)
@given(crowded())
def test_a_second_decision_has_nothing_to_add(tables: Tables) -> None:
    after = apply(tables, decide(tables, NOW_NS, None))
    assert decide(after, NOW_NS, None).is_empty
    assert decide(tables.copy(), NOW_NS, None) == decide(tables, NOW_NS, None)


@settings(max_examples=200, deadline=None)
@given(crowded(), st.integers(1, 4), st.integers(1, 3))
def test_in_small_steps_it_comes_to_rest_and_breaks_no_rule(tables: Tables, limit: int, keys_at_once: int) -> None:
    agenda = Agenda()
    agenda.add([PENDING_TASKS])
    now = tables.copy()
    for _ in range(100):
        keys = agenda.take(0, lambda _: 1, keys_at_once)
        if not keys:
            break
        reference = Reference(now, NOW_NS)
        decisions = decide(now, NOW_NS, limit, keys)
        assert len(decisions.updated) <= limit
        for task in placed_by(decisions).values():
            assert reference.suits(now.tasks.must_get(task.id), now.nodes.must_get(task.node_id))
            reference.tasks[task.id] = task
        decisions.apply_to(TablesWriter(now, NOW_NS))
        agenda.note(decisions, 0, 0)
    assert not agenda.has_due
    assert not placed_by(decide(now, NOW_NS, None))


@settings(max_examples=200, deadline=None)
@given(crowded(), st.data())
def test_the_index_says_at_any_time_what_a_new_one_would_say(tables: Tables, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        _index(tables.derived(ClusterLoad), tables)  # so that everything is in it that is made on demand
        transaction = Transaction(tables, NOW_NS)
        for _ in range(data.draw(st.integers(1, 4))):
            _change_something(tables, transaction, data)
        if data.draw(st.booleans()):
            transaction.undo()
        assert _index(tables.derived(ClusterLoad), tables) == _index(ClusterLoad(tables), tables)


def _change_something(tables: Tables, transaction: Transaction, data: st.DataObject) -> None:
    tasks, nodes, specs = (sorted(table, key=lambda o: o.id) for table in (tables.tasks, tables.nodes, tables.task_specs))
    what = data.draw(st.sampled_from(["task", "task", "task", "node", "gone", "spec", "new node"]))
    if what == "task" and tasks:
        task = data.draw(st.sampled_from(tasks))
        number, generations = int(task.id[1:]), int(task.task_spec_id[-1])
        transaction.update(data.draw(task_objects(number, task.service_id, generations, len(nodes))))
    elif what == "node" and nodes:
        transaction.update(data.draw(node_objects(data.draw(st.sampled_from(nodes)).id)))
    elif what == "new node" and f"n{len(nodes)}" not in tables.nodes:
        transaction.create(data.draw(node_objects(f"n{len(nodes)}")))
    elif what == "spec" and specs:
        transaction.delete(type(specs[0]), data.draw(st.sampled_from(specs)).id)
    elif what == "gone" and (tasks or nodes):
        chosen = data.draw(st.sampled_from([*tasks, *nodes]))
        transaction.delete(type(chosen), chosen.id)


def _index(load: ClusterLoad, tables: Tables) -> object:
    fields = ("nano_cpus", "memory_bytes", "pids", "task_count", "ports", "generic", "is_available", "node")
    counts = {s.id: {n: c for n, c in load.counts_of(tables, s.id).items() if n in load.nodes} for s in tables.services}
    nodes = {node_id: [getattr(info, name) for name in fields] for node_id, info in load.nodes.items()}
    allowed = [set(load.attributes.nodes_equal_to(constraint, load.all_nodes)) for constraint in parse_constraints(EXPRESSIONS)]
    return nodes, load.order, load.pending.groups(None), load.failures, counts, allowed


@settings(max_examples=100, deadline=None)
@given(crowded())
def test_an_explanation_agrees_with_the_decision(tables: Tables) -> None:
    decisions = decide(tables, NOW_NS, None)
    placed = placed_by(decisions)
    after = apply(tables, decisions)
    for task in after.tasks:
        if task.task_spec_id not in after.task_specs:
            continue
        told = explain(after, task, NOW_NS)
        assert msgspec.json.decode(msgspec.json.encode(told), type=type(told)) == told
        if task.status.state is TaskState.PENDING and task.desired_state <= TaskState.RUNNING:
            assert told.summary == task.status.error
            assert not any(verdict.is_suitable for verdict in told.nodes)
        elif task.id in placed and f"{task.service_id}-spec2" not in after.task_specs:  # those may have been placed after it
            own = [verdict for verdict in told.nodes if verdict.node_id == task.node_id]
            assert [verdict.refused_by for verdict in own] == [""]


@settings(max_examples=100, deadline=None)
@given(crowded())
def test_before_anything_is_placed_the_first_rank_is_where_the_oldest_task_goes(tables: Tables) -> None:
    groups = tables.derived(ClusterLoad).pending.groups(None)
    if groups:
        first = tables.tasks.must_get(next(groups[0].ids()))
        placed = placed_by(decide(tables, NOW_NS, None)).get(first.id)
        best = [verdict.node_id for verdict in explain(tables, first, NOW_NS).nodes if verdict.rank == 1]
        assert best == ([placed.node_id] if placed is not None else [])


@settings(max_examples=100, deadline=None)
@given(crowded(), templates(), st.integers(0, 6))
def test_a_dry_run_says_what_comes_of_it(tables: Tables, template: dict[str, object], replicas: int) -> None:
    settled = apply(tables, decide(tables, NOW_NS, None))
    service, spec = service_with_spec("draft", template, replicas)
    draft = msgspec.structs.replace(service.spec, task_template=spec.template)
    foretold = dry_run(settled, draft, NOW_NS)
    put(settled, service)
    put(settled, spec)
    for slot in range(1, replicas + 1):
        put(
            settled,
            Task(id=f"d{slot}", service_id="draft", slot=slot, task_spec_id=spec.id, status=TaskStatus(state=TaskState.PENDING)),
        )
    decisions = decide(settled, NOW_NS, None, ["draft"])
    placed = placed_by(decisions)
    assert {p.node_id: p.tasks for p in foretold.placements} == Counter(t.node_id for t in placed.values())
    assert (foretold.asked, foretold.placed) == (replicas, len(placed))
    errors = {t.status.error for t in decisions.updated if isinstance(t, Task) and t.id not in placed}
    assert errors == ({foretold.refusal} if foretold.refusal else set())


_PRINT_DECISIONS = """
from loop_world import World
from pyswarm_manager.scheduler.decide import decide
lines = [f"node n{i} label.zone={i % 3} label.rack={i % 2} memory=5 cpus=3 generic=gpu:a{i},gpu:x{i}" for i in range(20)]
for s in range(12):
    spread = "node.labels.zone,node.labels.rack" if s % 2 else "engine.labels.none"
    where = ["node.labels.zone!=1", "node.labels.zone==2,node.id!=n2", "node.role==worker"][s % 3]
    lines.append(f"service s{s} memory={s % 3} spread={spread} constraint={where} generic=gpu:1 max={s % 4} ports={80 + s % 2}")
    lines += [f"task t{s}.{i} s{s}.{i} pending" for i in range(6)]
print(decide(World("\\n".join(lines)).tables, 10**12, None))
"""


def test_the_seed_of_hashes_does_not_matter() -> None:
    here = str(Path(__file__).parent)
    answers = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
        ran = subprocess.run([sys.executable, "-c", _PRINT_DECISIONS], env=env, capture_output=True, text=True, check=True)
        answers.append(ran.stdout)
    assert "ASSIGNED" in answers[0]
    assert answers[0] == answers[1]
