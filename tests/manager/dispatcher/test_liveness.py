"""When a node counts as dead."""

from pyswarm_manager.dispatcher.liveness import TICK_S, Liveness


def run(liveness: Liveness, from_s: float, until_s: float, beating: tuple[str, ...] = ()) -> dict[str, float]:
    """Tick from one time to another; returns when each node was declared dead."""
    dead: dict[str, float] = {}
    steps = round((until_s - from_s) / TICK_S)
    for step in range(1, steps + 1):
        now_s = from_s + step * TICK_S
        for node in beating:
            liveness.heard(node, now_s)
        for node in liveness.tick(now_s):
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
    assert liveness.tick(12.0) == []
    assert run(liveness, 12.0, 20.0, beating=("n0", "n1", "n2")) == {}


def test_a_new_leader_gives_double_time() -> None:
    liveness = Liveness(1.0, 0.0)
    liveness.expect("n0", 0.0)
    dead = run(liveness, 0.0, 10.0)
    assert 6.0 <= dead["n0"] <= 6.5


def test_a_death_is_told_once() -> None:
    liveness = cluster(1)
    assert len(run(liveness, 0.0, 30.0)) == 1
