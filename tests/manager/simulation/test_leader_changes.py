"""A leader may fall at any step of anything: the next one, which knows nothing but the store, brings it to the same end.

Each scenario runs once undisturbed, which counts its decisions; then once for each decision and way to fall.
"""

import functools
from typing import Any

import pytest
from scenarios import TEXTS, final_state, readable, scenario

from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.simulator.leader import Interruption
from pyswarm_manager.simulator.simulation import Simulation


def run(name: str, interruptions: dict[int, Interruption] | None = None, gap_ns: int = 0) -> tuple[dict[str, Any], Simulation]:
    simulation = Simulation(scenario(name))
    simulation.leader.gap_ns = gap_ns
    simulation.leader.interruption_of = (interruptions or {}).get
    outcome = simulation.run()
    assert outcome.settled_ns is not None, f"{name} does not settle with {interruptions}: {simulation.timeline.entries}"
    return final_state(simulation.head.view), simulation


@functools.cache
def undisturbed(name: str) -> tuple[dict[str, Any], Simulation]:
    return run(name)


def assert_same_end(name: str, interruptions: dict[int, Interruption], gap_ns: int = 0) -> None:
    expected, _ = undisturbed(name)
    state, simulation = run(name, interruptions, gap_ns)
    assert simulation.leader.leader_count == 1 + len(interruptions), "the leader fell less often than planned"
    assert state == expected, (
        f"{name}: another end with {interruptions} and a gap of {gap_ns} ns\n{readable(state)}\ninstead of\n{readable(expected)}"
    )


@pytest.mark.parametrize("name", sorted(TEXTS))
@pytest.mark.parametrize("way", Interruption, ids=lambda way: way.name)
def test_a_leader_that_falls_at_any_decision_changes_nothing(name: str, way: Interruption) -> None:
    for number in range(1, undisturbed(name)[1].leader.decision_count + 1):
        assert_same_end(name, {number: way})


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_leaders_that_fall_at_every_third_decision_change_nothing(name: str) -> None:
    count = undisturbed(name)[1].leader.decision_count
    for first in (1, 2, 3):
        assert_same_end(name, dict.fromkeys(range(first, count + 1, 3), Interruption.AFTER_COMMIT))


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_time_without_a_leader_changes_nothing(name: str) -> None:
    for number in range(1, undisturbed(name)[1].leader.decision_count + 1):
        assert_same_end(name, {number: Interruption.AFTER_COMMIT}, gap_ns=SECOND_NS // 2)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_one_seed_gives_one_result(name: str) -> None:
    one, other = Simulation(scenario(name)), Simulation(scenario(name))
    assert one.run() == other.run()
    assert list(one.head.view.tasks) == list(other.head.view.tasks)
    assert one.timeline.entries == other.timeline.entries
