"""Which stops are held back for how long: the bookkeeping alone."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common.objects import Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.dispatcher.held_stops import HeldStops, stops_serving

RUNNING = Task(id="t", task_spec_id="s", status=TaskStatus(state=TaskState.RUNNING))


def changed(task: Task = RUNNING, **changes: Any) -> Task:
    return msgspec.structs.replace(task, **changes)


SHUT = changed(desired_state=TaskState.SHUTDOWN)
UNHEALTHY = changed(status=TaskStatus(state=TaskState.RUNNING, error="unhealthy"))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (RUNNING, SHUT, True),
        (RUNNING, changed(desired_state=TaskState.REMOVE), True),
        (RUNNING, RUNNING, False),
        (RUNNING, UNHEALTHY, False),
        (UNHEALTHY, changed(UNHEALTHY, desired_state=TaskState.SHUTDOWN), False),
        (SHUT, changed(desired_state=TaskState.REMOVE), False),
        (RUNNING, changed(desired_state=TaskState.SHUTDOWN, status=TaskStatus(state=TaskState.FAILED)), False),
        (changed(status=TaskStatus(state=TaskState.STARTING)), SHUT, False),
        (RUNNING, None, False),
        (None, SHUT, False),
    ],
)
def test_only_a_task_that_serves_and_is_told_to_stop_is_worth_holding(
    before: Task | None, after: Task | None, expected: bool
) -> None:
    assert stops_serving(before, after) is expected


def test_a_task_is_held_until_the_last_node_of_its_last_network_has_come() -> None:
    stops = HeldStops()
    missing = {("a", 5): ["n1", "n2"], ("b", 5): ["n2"], ("c", 4): []}
    assert stops.hold({"t1": ["a", "b"], "t2": ["a"], "t3": ["c"], "t4": ["d"]}, missing) == ["t1", "t2"]
    assert ("t1" in stops, "t2" in stops, "t3" in stops, "t4" in stops) == (True, True, False, False)
    assert stops.missing_for(["t1"]) == ["n1", "n2"]
    assert stops.reached("n1", {"a": 4}) == []
    assert stops.reached("n1", {"a": 6}) == []
    assert stops.reached("n2", {"a": 5}) == ["t2"]
    assert stops.reached("n2", {"b": 5}) == ["t1"]
    assert len(stops) == 0


@pytest.mark.parametrize(("still_on", "released"), [((), ["t1"]), (("b",), ["t1"]), (("a",), [])])
def test_a_node_that_does_not_hold_a_view_any_more_is_not_waited_for(still_on: tuple[str, ...], released: list[str]) -> None:
    stops = HeldStops()
    stops.hold({"t1": ["a"]}, {("a", 5): ["n1"]})
    assert stops.keep_waiting_for("n1", still_on) == released


def test_who_comes_after_the_bound_changes_nothing() -> None:
    stops = HeldStops()
    stops.hold({"t1": ["a"], "t2": ["a"]}, {("a", 5): ["n1"]})
    assert stops.release(["t1", "gone"]) == ["t1"]
    assert stops.release(["t1"]) == []
    assert stops.reached("n1", {"a": 5}) == ["t2"]
    assert stops.reached("n1", {"a": 5}) == []


NODES = st.sampled_from(["n1", "n2", "n3"])
NETWORKS = st.sampled_from(["a", "b"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(1, 4), st.sets(NETWORKS), st.dictionaries(NETWORKS, st.sets(NODES))),
        st.tuples(st.just("publish"), NETWORKS),
        st.tuples(st.just("reached"), NODES, st.dictionaries(NETWORKS, st.integers(0, 3))),
        st.tuples(st.just("left"), NODES, st.sets(NETWORKS)),
        st.tuples(st.just("release"), st.integers(1, 4)),
    ),
    max_size=20,
)


@given(STEPS)
def test_a_task_is_held_exactly_as_long_as_somebody_is_missing(steps: list[tuple[Any, ...]]) -> None:
    stops = HeldStops()
    versions = {"a": 0, "b": 0}
    waits: dict[str, set[tuple[str, str, int]]] = {}  # by task: node, network, version
    for step in steps:
        match step:
            case ("publish", network):
                versions[network] += 1
                continue
            case ("hold", number, networks, missing):
                at = {(n, versions[n]): nodes for n, nodes in missing.items()}
                mine = {(node, n, versions[n]) for n in networks & missing.keys() for node in missing[n]}
                for held in waits.values():  # a barrier is common to all that wait for it
                    held |= {w for w in mine if any(w[1:] == other[1:] for other in held)}
                others = {w for held in waits.values() for w in held if any(w[1:] == m[1:] for m in mine)}
                assert stops.hold({f"t{number}": networks}, at) == ([f"t{number}"] if mine else [])
                if mine:
                    waits[f"t{number}"] = waits.get(f"t{number}", set()) | mine | others
                continue
            case ("reached", node, reached):
                gone = {t: {w for w in held if w[0] == node and reached.get(w[1], -1) >= w[2]} for t, held in waits.items()}
                released = stops.reached(node, reached)
            case ("left", node, networks):
                gone = {t: {w for w in held if w[0] == node and w[1] not in networks} for t, held in waits.items()}
                released = stops.keep_waiting_for(node, networks)
            case ("release", number):
                gone = {t: held if t == f"t{number}" else set() for t, held in waits.items()}
                released = stops.release([f"t{number}"])
        expected = sorted(t for t, held in waits.items() if held == gone[t])
        assert sorted(released) == expected
        waits = {t: held - gone[t] for t, held in waits.items() if t not in expected}
        assert {f"t{n}" for n in range(1, 5) if f"t{n}" in stops} == waits.keys()
        assert stops.missing_for(waits) == sorted({w[0] for held in waits.values() for w in held})


@given(STEPS)
def test_when_all_nodes_have_left_nothing_is_held_or_remembered(steps: list[tuple[Any, ...]]) -> None:
    stops = HeldStops()
    for step in steps:
        if step[0] == "hold":
            stops.hold({f"t{step[1]}": step[2]}, {(n, 1): nodes for n, nodes in step[3].items()})
    for node in ("n1", "n2", "n3"):
        stops.keep_waiting_for(node)
    assert (len(stops), stops._missing, stops._waiting) == (0, {}, {})
