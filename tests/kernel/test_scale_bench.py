"""The scale benchmark with few agents: that it works, whatever the figures are."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

from scale import measure, parse_arguments

pytestmark = pytest.mark.kernel

AGENTS, TASKS, VICTIMS = 30, 300, 5


def test_the_scale_bench_measures_a_small_cluster() -> None:
    sizes = ["--agents", str(AGENTS), "--tasks", str(TASKS), "--victims", str(VICTIMS)]
    figures = measure(parse_arguments([*sizes, "--services", "3", "--networks", "1", "--idle-s", "0", "--patience-s", "120"]))
    assert figures["check"]["running_tasks"] == TASKS
    assert figures["check"]["nodes_mistaken_for_dead"] == 0
    assert figures["check"]["heartbeats"] > AGENTS
    assert figures["failure"]["nodes_noticed"] == VICTIMS
    assert figures["failure"]["lost_tasks"] > 0
    assert 0 < figures["tasks"]["running_s"]["p50"] <= figures["tasks"]["running_s"]["max"]
    assert all(figures[phase]["n1 pyswarmd CPU s"] > 0 for phase in ("joining", "tasks", "failure"))
