"""Rebalancing with the real orchestrator and scheduler: it ends, evenly, and no replica is ever missing meanwhile."""

import asyncio
from collections import Counter
from itertools import count, pairwise
from typing import Any

import msgspec
import pytest
from cluster_under_test import ClusterUnderTest, running_cluster
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import node, put, service_with_spec, shuffled
from test_loop_properties import apply

from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import Cluster, Node, Service, Task, TaskSpec, TaskStatus
from pyswarm_common.service_labels import REBALANCE
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.decide import decide as decide_allocator
from pyswarm_manager.orchestration import orchestration_loops
from pyswarm_manager.orchestrator.rebalance.decide import SETTLE_NS
from pyswarm_manager.orchestrator.rebalance.decide import decide as decide_rebalance
from pyswarm_manager.orchestrator.replicated.decide import decide as decide_replicated
from pyswarm_manager.orchestrator.task_reaper.decide import decide as decide_task_reaper
from pyswarm_manager.scheduler.constraints import label_of
from pyswarm_manager.scheduler.decide import decide as decide_scheduler
from pyswarm_manager.scheduler.moving import MovingTasks
from pyswarm_manager.store.memory import MemoryCluster, memory_store
from pyswarm_manager.store.tables import Tables

NOW_NS = 1000 * SECOND_NS
RACK, ZONE = "node.labels.rack", "node.labels.zone"


def rebalanced(service_id: str, replicas: int, template: dict[str, Any] | None = None, **update: int) -> tuple[Service, TaskSpec]:
    extra = {"Labels": {REBALANCE: "true"}, "UpdateConfig": {"Parallelism": 1, **update}}
    return service_with_spec(service_id, {"RestartPolicy": {"Delay": 0}, **(template or {})}, replicas, extra=extra)


class Life:
    """Tables, and the decisions and agents that change them until nothing is left to be done."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.made = 0
        ids = (f"new{number}" for number in count(1))
        self._decides = (
            lambda view: decide_replicated(view, NOW_NS, 20, new_id=ids.__next__),
            lambda view: decide_allocator(view, NOW_NS, 20),
            lambda view: decide_scheduler(view, NOW_NS, 20),
            lambda view: decide_task_reaper(view, NOW_NS, 20),
            lambda view: decide_rebalance(view, NOW_NS, 20),
        )

    def settle(self) -> None:
        """Go on until nothing changes."""
        for _ in range(1000):
            if not self.step():
                return
        raise AssertionError("it does not come to rest")

    def step(self) -> bool:
        """Let every decision be taken once and agents obey; returns whether anything changed."""
        before = self.tables
        for decide in self._decides:
            decisions = decide(self.tables)
            self.made += len(decisions.created)
            self.tables = apply(self.tables, decisions)
            self.check()
        self._obey()
        self.check()
        return {t.id: t for t in before.tasks} != {t.id: t for t in self.tables.tasks}

    def check(self) -> None:
        """No replica is missing: every slot has a task that runs and shall."""
        for service in self.tables.services:
            assert len(self.running(service.id)) == service.spec.replicas

    def running(self, service_id: str) -> dict[int, str]:
        """The nodes on which slots run, and shall."""
        tasks = self.tables.tasks.of_service(service_id)
        found = {t.slot: t.node_id for t in tasks if t.desired_state == t.status.state == TaskState.RUNNING}
        for slot in found:  # while the successor starts there may be two
            assert sum(t.slot == slot and t.desired_state <= TaskState.RUNNING for t in tasks) <= 2
        return found

    def is_quiet(self) -> bool:
        """Whether no task is on its way."""
        return not any(t.must_move or t.status.state < TaskState.RUNNING for t in self.tables.tasks if not t.is_terminal)

    def unevenness(self) -> tuple[int, ...]:
        """What every move must lower: sums of squares, of the counts by zone, by rack, by node and service, and by node."""
        levels = [0, 0, 0, 0]
        totals: Counter[str] = Counter()
        for service in self.tables.services:
            nodes = [self.tables.nodes.must_get(node_id) for node_id in self.running(service.id).values()]
            spreads = spreads_of(self.tables, service)
            for level in range(len(spreads)):
                levels[level] += squares(tuple(label_of(n, label) for label in spreads[: level + 1]) for n in nodes)
            levels[2] += squares(n.id for n in nodes)
            totals.update(n.id for n in nodes)
        levels[3] = sum(number**2 for number in totals.values())
        return tuple(levels)

    def _obey(self) -> None:
        for task in list(self.tables.tasks):
            if task.desired_state is TaskState.RUNNING and task.status.state is TaskState.ASSIGNED:
                put(self.tables, msgspec.structs.replace(task, status=TaskStatus(state=TaskState.RUNNING)))
            if task.desired_state > TaskState.RUNNING and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
                put(self.tables, msgspec.structs.replace(task, status=TaskStatus(state=TaskState.SHUTDOWN)))


def squares(keys: Any) -> int:
    return sum(number**2 for number in Counter(keys).values())


def spreads_of(tables: Tables, service: Service) -> list[str]:
    placement = tables.task_specs.must_get(service.task_spec_id).template.placement
    return [p.spread.spread_descriptor for p in (placement.preferences if placement else None) or [] if p.spread]


@st.composite
def running_clusters(draw: st.DrawFn, *, is_tight: bool = False, has_marks: bool = False) -> Tables:
    """Services that run as they should, but anywhere; `is_tight`: with nodes that are full, paused or not suitable; `has_marks`:
    with any marks, also of services that are not rebalanced any more."""
    tables = Tables()
    put(tables, Cluster(id="cluster"))
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 6))):
        labels = {"zone": draw(st.sampled_from("ab")), "rack": draw(st.sampled_from("xy"))}
        availability = draw(st.sampled_from(["active", "active", "pause"])) if is_tight else "active"
        nodes.append(node(f"n{number}", labels=labels, memory_bytes=draw(st.integers(0, 9)), availability=availability))
        put(tables, nodes[-1])
    task_number = count()
    for service_number in range(draw(st.integers(1, 4))):
        spreads = draw(st.sampled_from([[], [], [ZONE], [ZONE, RACK]]))
        template: dict[str, Any] = {"Placement": {"Preferences": [{"Spread": {"SpreadDescriptor": s}} for s in spreads]}}
        if is_tight:
            template["Resources"] = {"Reservations": {"MemoryBytes": draw(st.integers(0, 3))}}
            template["Placement"] |= {
                "MaxReplicas": draw(st.sampled_from([0, 0, 3])),
                "Constraints": draw(st.sampled_from([[], [f"{ZONE}!=b"]])),
            }
        replicas = draw(st.integers(0, 8))
        service, spec = rebalanced(f"s{service_number}", replicas, template, Parallelism=draw(st.integers(0, 3)))
        if has_marks and not draw(st.integers(0, 4)):
            service = msgspec.structs.replace(service, spec_json=service.spec_json.replace(b'"true"', b'"false"'))
        put(tables, spec)
        put(tables, service)
        for slot in range(1, replicas + 1):
            task = Task(
                id=f"t{next(task_number)}",
                service_id=service.id,
                slot=slot,
                task_spec_id=spec.id,
                spec_generation=1,
                node_id=draw(st.sampled_from(nodes)).id,
                status=TaskStatus(state=TaskState.RUNNING, at_ns=draw(st.integers(0, 3))),
                must_move=has_marks and not draw(st.integers(0, 4)),
            )
            put(tables, task)
    return tables


@settings(max_examples=150, deadline=None)
@given(running_clusters())
def test_it_ends_even_on_every_level_and_no_replica_is_ever_missing(tables: Tables) -> None:
    life = Life(tables)
    life.settle()
    for service in life.tables.services:
        nodes = [life.tables.nodes.must_get(node_id) for node_id in life.running(service.id).values()]
        assert_even(list(life.tables.nodes), nodes, spreads_of(life.tables, service))


def assert_even(all_nodes: list[Node], used: list[Node], spreads: list[str]) -> None:
    """No branch has two tasks more than another one beside it, and so on below."""
    if not spreads:
        counts = [sum(n.id == one.id for n in used) for one in all_nodes]
        assert max(counts) - min(counts) <= 1
        return
    values = {label_of(n, spreads[0]) for n in all_nodes}
    members = {value: [n for n in used if label_of(n, spreads[0]) == value] for value in values}
    assert max(map(len, members.values())) - min(map(len, members.values())) <= 1
    for value in values:
        assert_even([n for n in all_nodes if label_of(n, spreads[0]) == value], members[value], spreads[1:])


@settings(max_examples=150, deadline=None)
@given(running_clusters(is_tight=True, has_marks=True))
def test_it_ends_whatever_stands_in_the_way(tables: Tables) -> None:
    life, marked = Life(tables), sum(task.must_move for task in tables.tasks)
    life.settle()
    assert not any(task.must_move for task in life.tables.tasks if not task.is_terminal)
    assert decide_rebalance(life.tables, NOW_NS).is_empty
    assert life.made <= len(tables.tasks) + marked  # the orchestrator may act on marks before the rebalancer takes them back


@settings(max_examples=150, deadline=None)
@given(running_clusters(is_tight=True, has_marks=True))
def test_after_marks_that_it_keeps_no_task_moves_in_vain(tables: Tables) -> None:
    life = Life(apply(tables, decide_rebalance(tables, NOW_NS)))
    life.settle()
    assert life.made <= len(tables.tasks)


@settings(max_examples=150, deadline=None)
@given(running_clusters(is_tight=True), st.integers(1, 8))
def test_after_marks_of_its_own_no_task_moves_in_vain(tables: Tables, limit: int) -> None:
    life = Life(apply(tables, decide_rebalance(tables, NOW_NS, limit)))
    life.settle()
    assert life.made <= len(tables.tasks)


@settings(max_examples=150, deadline=None)
@given(running_clusters(is_tight=True))
def test_each_move_makes_it_less_uneven_and_never_on_a_higher_level(tables: Tables) -> None:
    life = Life(tables)
    before, made = life.unevenness(), 0
    while life.step():
        if life.is_quiet():
            assert (life.unevenness() < before) == (life.made > made)
            before, made = life.unevenness(), life.made


@settings(max_examples=150, deadline=None)
@given(running_clusters(is_tight=True, has_marks=True), st.integers(1, 3), st.integers(0, 1000))
def test_marks_keep_to_the_rules_of_all_decisions(tables: Tables, limit: int, seed: int) -> None:
    decisions = decide_rebalance(tables, NOW_NS)
    assert decisions == decide_rebalance(shuffled(tables, seed), NOW_NS)
    after = apply(tables, decisions)
    assert decide_rebalance(after, NOW_NS).is_empty
    assert len(decide_rebalance(tables, NOW_NS, limit).updated) <= limit
    for service in after.services:
        config = service.spec.update_config
        assert config is not None
        before = {task.id for task in tables.tasks.of_service(service.id) if task.must_move}
        marked = {task.id for task in after.tasks.of_service(service.id) if task.must_move}
        assert not config.parallelism or len(marked - before) <= config.parallelism
        assert not marked - before or not marked & before


@settings(max_examples=80, deadline=None)
@given(running_clusters(), st.data())
def test_the_count_of_moving_tasks_says_what_the_tasks_say(tables: Tables, data: st.DataObject) -> None:
    kept = tables.derived(MovingTasks)
    for task in list(tables.tasks):
        changed = msgspec.structs.replace(
            task,
            must_move=data.draw(st.booleans()),
            desired_state=data.draw(st.sampled_from([TaskState.RUNNING, TaskState.SHUTDOWN])),
        )
        put(tables, changed)
        if data.draw(st.booleans()):
            tables.tasks.delete(task.id)
    fresh = MovingTasks(tables)
    moving = [t for t in tables.tasks if t.must_move and t.desired_state is TaskState.RUNNING]
    assert kept.by_node == fresh.by_node == Counter(t.node_id for t in moving)
    for service in tables.services:
        counts = Counter(t.node_id for t in tables.tasks.of_service(service.id) if t.desired_state is TaskState.RUNNING)
        left, expected = dict(counts), counts - Counter(t.node_id for t in moving if t.service_id == service.id)
        kept.take_off(service.id, left)
        assert left == dict(expected)


# The loops together


def spread_over(cluster: ClusterUnderTest) -> list[int]:
    counts = Counter(t.node_id for t in cluster.tasks(TaskState.RUNNING))
    return sorted(counts.values())


async def started(cluster: ClusterUnderTest, replicas: int, **update: int) -> None:
    await cluster.change(*rebalanced("web", replicas, **update))
    await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == replicas)
    await cluster.obey()


async def live(cluster: ClusterUnderTest, replicas: int, seconds: float, at_once: int) -> None:
    """Let time pass while agents obey; no replica is missing, and not more than so many too many."""
    for _ in range(round(seconds / 0.1)):
        await cluster.clock.advance(0.1)
        assert replicas <= len(cluster.tasks(TaskState.RUNNING)) <= replicas + at_once
        await cluster.obey()


@pytest.mark.parametrize(("parallelism", "seconds"), [(1, 5.0), (2, 4.0), (0, 3.0)])
async def test_tasks_move_to_a_node_that_joined(parallelism: int, seconds: float) -> None:
    async with running_cluster(2) as cluster:
        await started(cluster, 9, Parallelism=parallelism)
        await cluster.change(node("n3", since_ns=cluster.clock.now_ns() - SETTLE_NS))
        await live(cluster, 9, seconds, parallelism or 3)
        assert spread_over(cluster) == [3, 3, 3]
        assert len(cluster.store.view.tasks) <= 9 + 3


async def test_tasks_return_to_a_node_that_came_back_once_it_has_settled() -> None:
    async with running_cluster(3) as cluster:
        await started(cluster, 6)
        await cluster.set_node("n3", "down")
        await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 2)
        await cluster.obey()
        back: Node = cluster.store.view.nodes.must_get("n3")
        since_ns = cluster.clock.now_ns()
        await cluster.change(msgspec.structs.replace(back, status=node("n3", since_ns=since_ns).status))
        await cluster.obey()
        await live(cluster, 6, 29, 0)
        assert spread_over(cluster) == [3, 3]
        await live(cluster, 6, 5, 1)
        assert spread_over(cluster) == [2, 2, 2]


async def test_the_update_delay_lies_between_moves() -> None:
    async with running_cluster(1) as cluster:
        await started(cluster, 6, Delay=10 * SECOND_NS)
        await cluster.change(node("n2"))
        moved_at_s = [cluster.clock.monotonic_s()]
        for moved in range(1, 4):
            while spread_over(cluster) != sorted([moved, 6 - moved]):
                await live(cluster, 6, 0.1, 1)
            moved_at_s.append(cluster.clock.monotonic_s())
        assert all(10 <= later - before < 11 for before, later in pairwise(moved_at_s))


async def test_services_with_one_task_move_too() -> None:
    async with running_cluster(1) as cluster:
        for number in range(6):
            await cluster.change(*rebalanced(f"s{number}", 1))
        await cluster.until(lambda: len(cluster.tasks(TaskState.ASSIGNED)) == 6)
        await cluster.obey()
        await cluster.change(node("n2"))
        await live(cluster, 6, 4, 6)
        assert spread_over(cluster) == [3, 3]


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
async def test_leaders_that_change_in_the_middle_leave_it_even(steps: int) -> None:
    clock, memory = ManualClock(), MemoryCluster()
    for number in range(60):
        async with memory_store(clock, memory) as store:
            cluster = ClusterUnderTest(store, clock)
            running = [asyncio.ensure_future(loop.run()) for loop in orchestration_loops(store, clock)]
            if number == 0:
                await cluster.change(Cluster(id="cluster"), node("n1"), node("n2"))
                await started(cluster, 6)
                await cluster.change(node("n3"))
            for _ in range(steps):
                await clock.advance(0.02)
                assert 6 <= len(cluster.tasks(TaskState.RUNNING)) <= 7
            await cluster.obey()
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            if spread_over(cluster) == [2, 2, 2]:
                return
    raise AssertionError(f"still {spread_over(cluster)}")
