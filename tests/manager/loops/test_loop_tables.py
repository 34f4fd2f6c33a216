"""The loops' rules as text tables: each case is a title, a cluster, `----`, and what is decided (see loop_world.py)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loop_world import World, numbered, render

from pyswarm_manager.allocator.decide import decide as decide_allocator
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.dispatcher.orphaning.decide import decide as decide_orphaning
from pyswarm_manager.orchestrator.constraint_enforcer.decide import decide as decide_constraint_enforcer
from pyswarm_manager.orchestrator.global_service.decide import decide as decide_global_service
from pyswarm_manager.orchestrator.rebalance.decide import decide as decide_rebalance
from pyswarm_manager.orchestrator.replicated.decide import decide as decide_replicated
from pyswarm_manager.orchestrator.task_reaper.decide import decide as decide_task_reaper
from pyswarm_manager.scheduler.decide import decide as decide_scheduler

TABLES = Path(__file__).parent / "tables"
DECIDE: dict[str, Callable[[World], Decisions]] = {
    "replicated": lambda w: decide_replicated(w.tables, w.now_ns, w.limit, new_id=numbered().__next__),
    "update": lambda w: decide_replicated(w.tables, w.now_ns, w.limit, new_id=numbered().__next__),
    "global_service": lambda w: decide_global_service(w.tables, w.now_ns, w.limit, new_id=numbered().__next__),
    "constraint_enforcer": lambda w: decide_constraint_enforcer(w.tables, w.now_ns, w.limit),
    "orphaning": lambda w: decide_orphaning(w.tables, w.now_ns, w.limit),
    "task_reaper": lambda w: decide_task_reaper(w.tables, w.now_ns, w.limit),
    "allocator": lambda w: decide_allocator(w.tables, w.now_ns, w.limit),
    "scheduler": lambda w: decide_scheduler(w.tables, w.now_ns, w.limit),
    "rebalance": lambda w: decide_rebalance(w.tables, w.now_ns, w.limit),
    "dependencies": lambda w: decide_scheduler(w.tables, w.now_ns, w.limit),
    "moving": lambda w: decide_scheduler(w.tables, w.now_ns, w.limit),
}


def _cases(name: str) -> Iterator[tuple[str, str, str]]:
    for block in (TABLES / f"{name}.txt").read_text().strip().split("\n\n"):
        head, _, expected = block.partition("\n----")
        title, _, cluster = head.partition("\n")
        yield title, cluster, expected.strip()


@pytest.mark.parametrize("name", DECIDE)
def test_every_case_of_the_table_is_decided_as_written(name: str, rewrite: bool) -> None:
    results = []
    for title, cluster, _ in _cases(name):
        world = World(cluster)
        results.append(f"{title}\n{cluster}\n----\n{render(world.tables, DECIDE[name](world))}\n")
    path, text = TABLES / f"{name}.txt", "\n".join(results)
    if rewrite:
        path.write_text(text)
    assert text == path.read_text()
