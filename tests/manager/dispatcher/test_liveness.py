"""When a node counts as dead, and how often nodes shall beat."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_manager.dispatcher.liveness import BEATS_PER_S, TICK_S, Liveness, heartbeat_period_s


def run(
    liveness: Liveness,
    from_s: float,
    until_s: float,
    beating: tuple[str, ...] = (),
    probe: Callable[[str, float], bool] | None = None,
) -> dict[str, float]:
    """Tick from one time to another; returns when each node was declared dead. `probe` answers one tick after it was asked for."""
    dead: dict[str, float] = {}
    asked: list[str] = []
    steps = round((until_s - from_s) / TICK_S)
    for step in range(1, steps + 1):
        now_s = from_s + step * TICK_S
        for node in beating:
            liveness.heard(node, now_s)
        for node in asked:
            liveness.probed(node, now_s, is_reachable=probe is not None and probe(node, now_s))
        verdict = liveness.tick(now_s, lambda _: probe is not None)
        asked = verdict.to_probe
        for node in verdict.dead:
            assert node not in dead
            dead[node] = now_s
    return dead


def cluster(size: int) -> Liveness:
    liveness = Liveness(1.0, 0.0)
    for index in range(size):
        liveness.heard(f"n{index}", 0.0)
    return liveness


def test_a_silent_node_is_dead_after_three_periods_and_no_later_than_three_and_a_half() -> None:
    dead = run(cluster(3), 0.0, 10.0, beating=("n1", "n2"))
    assert list(dead) == ["n0"]
    assert 3.0 <= dead["n0"] <= 3.5


def test_a_beating_node_lives() -> None:
    assert run(cluster(1), 0.0, 60.0, beating=("n0",)) == {}


def test_many_that_fall_silent_together_get_more_time() -> None:
    dead = run(cluster(4), 0.0, 30.0, beating=("n2", "n3"))
    assert sorted(dead) == ["n0", "n1"]
    assert all(17.5 <= at_s <= 18.5 for at_s in dead.values())


def test_a_paused_leader_declares_nobody_dead() -> None:
    liveness = cluster(3)
    run(liveness, 0.0, 2.0, beating=("n0", "n1", "n2"))
    assert liveness.tick(12.0).dead == []
    assert run(liveness, 12.0, 20.0, beating=("n0", "n1", "n2")) == {}


def test_a_new_leader_gives_more_time() -> None:
    liveness = Liveness(1.0, 0.0)
    liveness.expect("n0", 0.0)
    dead = run(liveness, 0.0, 10.0)
    assert 4.5 <= dead["n0"] <= 5.0


def test_an_unreachable_manager_is_dead_as_soon_as_any_node() -> None:
    dead = run(cluster(3), 0.0, 10.0, beating=("n1", "n2"), probe=lambda *_: False)
    assert list(dead) == ["n0"]
    assert 3.0 <= dead["n0"] <= 3.5


def test_a_manager_that_takes_connections_is_forgiven_for_fifteen_seconds_in_all() -> None:
    dead = run(cluster(3), 0.0, 30.0, beating=("n1", "n2"), probe=lambda *_: True)
    assert list(dead) == ["n0"]
    assert 15.0 <= dead["n0"] <= 15.5


def test_a_manager_that_pauses_for_ten_seconds_lives() -> None:
    liveness = cluster(3)
    assert run(liveness, 0.0, 10.0, beating=("n1", "n2"), probe=lambda *_: True) == {}
    assert run(liveness, 10.0, 20.0, beating=("n0", "n1", "n2"), probe=lambda *_: True) == {}


def test_a_paused_manager_that_stops_taking_connections_is_dead_soon() -> None:
    dead = run(cluster(3), 0.0, 30.0, beating=("n1", "n2"), probe=lambda _, now_s: now_s < 8.0)
    assert list(dead) == ["n0"]
    assert 8.0 <= dead["n0"] <= 9.5


def test_a_beat_while_a_probe_is_under_way_counts_more_than_the_probe() -> None:
    liveness = cluster(1)
    run(liveness, 0.0, 2.4)
    assert liveness.tick(2.6, lambda _: True).to_probe == ["n0"]
    liveness.heard("n0", 2.7)
    liveness.probed("n0", 2.9, is_reachable=False)
    assert liveness.tick(3.2, lambda _: True).dead == []


def test_a_shorter_period_counts_from_the_next_beat_on() -> None:
    liveness = Liveness(5.0, 0.0)
    liveness.heard("n0", 0.0)
    liveness.heard("n1", 0.0)
    liveness.tick(0.2)
    liveness.change_period(0.5, 0.2)
    dead = run(liveness, 0.2, 30.0, beating=("n1",))
    assert list(dead) == ["n0"]
    assert dead["n0"] == pytest.approx(15.2, abs=0.3)
    liveness.heard("n1", 30.0)
    assert run(liveness, 30.0, 40.0)["n1"] == pytest.approx(31.5, abs=0.3)


def test_a_longer_period_counts_at_once() -> None:
    liveness = Liveness(1.0, 0.0)
    liveness.heard("n0", 0.0)
    run(liveness, 0.0, 2.0)
    liveness.change_period(5.0, 2.0)
    assert run(liveness, 2.0, 30.0)["n0"] == pytest.approx(17.0, abs=0.3)


@pytest.mark.parametrize(
    ("configured_s", "nodes", "period_s"),
    [(1.0, 1, 1.0), (1.0, 1000, 1.0), (1.0, 1001, 1.25), (1.0, 1260, 1.5), (1.0, 9999, 10.0), (5.0, 5000, 5.0), (5.0, 5001, 5.25)],
)
def test_the_period_stretches_with_the_cluster(configured_s: float, nodes: int, period_s: float) -> None:
    assert heartbeat_period_s(configured_s, nodes) == period_s


@given(st.floats(0.1, 60), st.integers(1, 50_000), st.integers(1, 1000))
def test_the_period_never_falls_below_what_is_configured_nor_with_more_nodes(configured_s: float, nodes: int, more: int) -> None:
    period_s = heartbeat_period_s(configured_s, nodes)
    assert configured_s <= period_s <= heartbeat_period_s(configured_s, nodes + more)
    assert nodes / period_s <= BEATS_PER_S + 1e-6
