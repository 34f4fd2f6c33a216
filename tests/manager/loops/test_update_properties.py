"""Sentences about updates that hold whatever the service, its rules, its failures, and the leaders on the way."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from update_simulation import BAD, BROKEN, GOOD, UpdateUnderTest

from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.replicated.slots import group_slots

MONITOR_S = 3
ENDS = ("completed", "paused", "rollback_completed", "rollback_paused")


def config(order: str, parallelism: int, delay_s: int = 0, action: str = "pause", ratio: float = 0.0) -> dict[str, Any]:
    return {
        "Order": order,
        "Parallelism": parallelism,
        "Delay": delay_s * SECOND_NS,
        "FailureAction": action,
        "Monitor": MONITOR_S * SECOND_NS,
        "MaxFailureRatio": ratio,
    }


CONFIGS = st.builds(
    config,
    st.sampled_from(["stop-first", "start-first"]),
    st.integers(0, 3),
    st.sampled_from([0, 2]),
    st.sampled_from(["pause", "continue", "rollback"]),
    st.sampled_from([0.0, 0.4]),
)
ROLLBACK_CONFIGS = st.builds(config, st.sampled_from(["stop-first", "start-first"]), st.integers(0, 3))
RESTARTS = st.sampled_from([{"Delay": 0}, {"Delay": 4 * SECOND_NS}, {"Condition": "none"}])
CASES = st.builds(
    UpdateUnderTest,
    replicas=st.integers(1, 6),
    config=CONFIGS,
    rollback_config=ROLLBACK_CONFIGS,
    history_limit=st.integers(0, 5),
    restart=RESTARTS,
)


def play_to_the_end(update: UpdateUnderTest, chance: random.Random | None = None, limit: int | None = None) -> None:
    """Go on until the update has ended one way or the other and everything is at rest."""
    quiet = 0
    for _ in range(600):
        update.step(chance, limit)
        quiet = quiet + 1 if update.state in ENDS else 0
        if quiet > 40:
            return
    raise AssertionError(f"the update has no end: {update.state}")


@settings(max_examples=60, deadline=None)
@given(CASES, st.integers(0, 10_000), st.sampled_from([None, 2, 3]))
def test_an_update_never_has_more_than_parallelism_slots_down(update: UpdateUnderTest, seed: int, limit: int | None) -> None:
    chance = random.Random(seed)
    parallelism = update.config["Parallelism"] or update.replicas
    update.update(GOOD)
    for _ in range(120):
        update.step(chance, limit)
        assert update.down() <= (parallelism if update.config["Order"] == "stop-first" else 0)


@settings(max_examples=60, deadline=None)
@given(CASES, st.integers(0, 10_000), st.sampled_from([GOOD, BAD, BROKEN]))
def test_stop_first_at_most_one_task_of_a_slot_is_active(update: UpdateUnderTest, seed: int, image: str) -> None:
    update.config["Order"] = update.rollback_config["Order"] = "stop-first"
    update = UpdateUnderTest(update.replicas, update.config, update.rollback_config, update.history_limit, update.restart)
    chance = random.Random(seed)
    update.update(image)
    for _ in range(120):
        update.step(chance)
        assert max(Counter(task.slot for task in update.active()).values(), default=0) <= 1


@settings(max_examples=60, deadline=None)
@given(CASES, st.integers(0, 10_000), st.sampled_from([GOOD, BAD, BROKEN]))
def test_tasks_that_should_run_never_exceed_the_replicas_and_what_starts_first(
    update: UpdateUnderTest, seed: int, image: str
) -> None:
    """Start-first, `parallelism` tasks are beside others; and one in each slot that failed, where failures are put up with."""
    chance = random.Random(seed)
    configs = (update.config, update.rollback_config)
    beside = max((c["Parallelism"] or update.replicas) for c in configs) if any(c["Order"] == "start-first" for c in configs) else 0
    failed: set[int] = set()
    update.update(image)
    for _ in range(120):
        update.step(chance)
        wanted = [t for t in update.tables.tasks if t.desired_state is TaskState.RUNNING and not t.is_terminal]
        assert len({task.slot for task in wanted}) <= update.replicas
        failed |= {t.slot for t in update.tables.tasks if t.earlier_outcome == "failed" or t.status.state is TaskState.FAILED}
        is_put_up_with = update.config["FailureAction"] == "continue" or update.config["MaxFailureRatio"] > 0
        assert len(wanted) <= update.replicas + beside + (len(failed) if is_put_up_with and beside else 0)


@settings(max_examples=60, deadline=None)
@given(CASES, st.integers(0, 10_000), st.sampled_from([GOOD, BAD, BROKEN]), st.integers(1, 60))
def test_what_was_decided_of_an_update_needs_no_second_decision(update: UpdateUnderTest, seed: int, image: str, steps: int) -> None:
    chance = random.Random(seed)
    update.update(image)
    for _ in range(steps):
        update.agents_now_ns += SECOND_NS // 2
        for task in sorted(update.tables.tasks, key=lambda t: t.id):
            if chance.random() < 0.6:
                update.get_on(task)
        update.decide()
        assert update.decide()


@settings(max_examples=40, deadline=None)
@given(CASES, st.integers(0, 10_000), st.sampled_from([GOOD, BAD, BROKEN]), st.sampled_from([2, 3, 5]))
def test_an_update_that_many_leaders_carry_on_ends_as_with_one(case: UpdateUnderTest, seed: int, image: str, limit: int) -> None:
    def made() -> UpdateUnderTest:
        return UpdateUnderTest(case.replicas, case.config, case.rollback_config, case.history_limit, case.restart)

    with_one, with_many = made(), made()
    chance = random.Random(seed)
    for update in (with_one, with_many):
        update.update(image)
    play_to_the_end(with_one)
    for _ in range(40):  # another leader at every step, whose clock is behind that of the one before, and which gets only so far
        with_many.step(chance, limit)
        with_many.clock_offset_ns -= chance.choice([0, 1]) * chance.randrange(100) * SECOND_NS
    play_to_the_end(with_many)
    if image == GOOD or case.config["MaxFailureRatio"] == 0:
        assert with_many.outcome()[:3] == with_one.outcome()[:3]
    if image == GOOD:
        assert with_many.outcome() == with_one.outcome()


@settings(max_examples=60, deadline=None)
@given(CASES, st.integers(0, 10_000), st.sampled_from([GOOD, BROKEN]))
def test_start_first_no_slot_is_ever_down_unless_what_ran_fails(update: UpdateUnderTest, seed: int, image: str) -> None:
    update.config["Order"] = update.rollback_config["Order"] = "start-first"
    update = UpdateUnderTest(update.replicas, update.config, update.rollback_config, update.history_limit, update.restart)
    chance = random.Random(seed)
    update.update(image)
    for _ in range(120):
        update.step(chance, step_s=5)
        assert update.down() == 0


@settings(max_examples=40, deadline=None)
@given(CASES, st.integers(0, 10_000), st.sampled_from([BAD, BROKEN]))
def test_a_bad_image_ends_as_the_failure_action_says(update: UpdateUnderTest, seed: int, image: str) -> None:
    update.update(image)
    play_to_the_end(update, random.Random(seed))
    is_tolerated = update.replicas * update.config["MaxFailureRatio"] >= update.replicas
    action = "continue" if is_tolerated else update.config["FailureAction"]
    assert update.state == {"pause": "paused", "continue": "completed", "rollback": "rollback_completed"}[action]
    if action == "rollback":
        assert update.service.task_spec_id == "spec1"
        assert sorted(task.slot for task in update.running()) == list(range(1, update.replicas + 1))
        assert {task.task_spec_id for task in update.running()} == {"spec1"}
    assert len(group_slots(update.tables.tasks)) == update.replicas


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_a_paused_update_goes_on_with_a_better_image(order: str) -> None:
    update = UpdateUnderTest(4, config(order, 1))
    update.update(BAD)
    play_to_the_end(update)
    assert update.state == "paused"
    assert len({t.slot for t in update.tables.tasks if t.spec_generation == 2}) <= 2  # the second began when the first one ran
    update.update(GOOD)
    play_to_the_end(update)
    assert update.state == "completed"
    assert {task.task_spec_id for task in update.running()} == {"spec3"}


def test_an_update_takes_no_longer_than_its_tasks_and_rules_ask_for() -> None:
    """Ten tasks, two at once, each five steps from told to running: five batches, and the monitoring only at the end."""
    update = UpdateUnderTest(10, config("stop-first", 2))
    update.update(GOOD)
    update.settle()
    steps = 0
    while len([t for t in update.running() if t.spec_generation == 2]) < 10:
        update.step()
        steps += 1
    assert steps <= 5 * 6
    assert update.state == "updating"
    for _ in range(round(MONITOR_S / 0.5)):
        update.step()
    assert update.state == "completed"
