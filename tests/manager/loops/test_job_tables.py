"""The rules of jobs, of their history and of schedules as text tables (see job_world.py)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from job_world import JobWorld, render_jobs
from loop_world import numbered

from pyswarm_manager.decisions import Decisions
from pyswarm_manager.orchestrator.jobs.decide import decide as decide_jobs
from pyswarm_manager.orchestrator.schedule.decide import decide as decide_schedule
from pyswarm_manager.orchestrator.task_reaper.decide import decide as decide_task_reaper

TABLES = Path(__file__).parent / "tables"
DECIDE: dict[str, Callable[[JobWorld], Decisions]] = {
    "jobs": lambda w: decide_jobs(w.tables, w.now_ns, w.limit, new_id=numbered().__next__),
    "job_history": lambda w: decide_task_reaper(w.tables, w.now_ns, w.limit),
    "schedule": lambda w: decide_schedule(w.tables, w.now_ns, w.limit),
}


def _cases(name: str) -> Iterator[tuple[str, str]]:
    for block in (TABLES / f"{name}.txt").read_text().strip().split("\n\n"):
        head, _, _ = block.partition("\n----")
        title, _, cluster = head.partition("\n")
        yield title, cluster


@pytest.mark.parametrize("name", DECIDE)
def test_every_case_of_the_table_is_decided_as_written(name: str, rewrite: bool) -> None:
    results = []
    for title, cluster in _cases(name):
        world = JobWorld(cluster)
        results.append(f"{title}\n{cluster}\n----\n{render_jobs(world.tables, DECIDE[name](world))}\n")
    path, text = TABLES / f"{name}.txt", "\n".join(results)
    if rewrite:
        path.write_text(text)
    assert text == path.read_text()
