"""The fault harness's checker: it must accept what may happen, and see each kind of violation; and the plan of faults."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from faults.checker import check
from faults.convergence import parse_epochs
from faults.harness import longest_gap_s
from faults.history import EpochTaken, Fault, FinalState, History, Operation, Record, Sight
from faults.plan import MIXES, POWER_CUT_ALL, plan_faults

ITEM = "services/a"


class Story:
    """Tells a history: each operation takes one second, beginning where the last one ended unless `at_s` says otherwise."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._clock = count(1)

    def add(self, kind: str, *, at_s: float | None = None, outcome: str = "ok", **fields: Any) -> None:
        began_s = float(next(self._clock)) if at_s is None else at_s
        timing = {"began_s": began_s, "ended_s": began_s + 0.9}
        operation = {"client": 0, "manager": "n1", "kind": kind, "item": ITEM, "outcome": outcome, **timing, **fields}
        self.records.append(msgspec.convert(operation, Operation))

    def create(self, wrote: str, **fields: Any) -> None:
        self.add("create", wrote=wrote, depth=1, **fields)

    def update(self, wrote: str, parent: str, depth: int, **fields: Any) -> None:
        self.add("update", wrote=wrote, parent=parent, depth=depth, **{"from_version": depth, **fields})

    def delete(self, **fields: Any) -> None:
        self.add("delete", **fields)

    def read(self, seen: str, depth: int = 0, **fields: Any) -> None:
        version = {"seen_version": depth + 1} if depth else {}
        self.add("read", seen=seen, seen_depth=depth, **{**version, **fields})

    def end(self, mark: str, depth: int = 0, managers: Sequence[str] = ("n1",)) -> "Story":
        items = {ITEM: Sight(item_id="i", mark=mark, depth=depth, version=depth + 1)} if mark else {}
        self.records += [FinalState(manager=m, items=items) for m in managers]
        return self

    @property
    def rules(self) -> set[str]:
        return {violation.rule for violation in check(History(self.records))}


def three_writes() -> Story:
    story = Story()
    story.create("a")
    story.update("b", "a", 2)
    story.update("c", "b", 3)
    return story


def test_a_plain_story_is_right() -> None:
    story = three_writes()
    story.read("c", 3)
    assert story.end("c", 3, ["n1", "n2", "n3"]).rules == set()


def test_an_acknowledged_update_that_is_gone_is_lost() -> None:
    violations = check(History(three_writes().end("b", 2).records))
    assert [(v.rule, v.is_loss) for v in violations] == [("lost", True)]
    assert "update c" in violations[0].text


def test_an_object_that_is_gone_is_lost_unless_somebody_may_have_deleted_it() -> None:
    assert three_writes().end("").rules == {"lost"}
    for outcome, rules in (("ok", set()), ("unknown", set()), ("fail", {"lost"})):
        story = three_writes()
        story.delete(outcome=outcome)
        assert story.end("").rules == rules


def test_a_deleted_object_must_not_be_there() -> None:
    story = three_writes()
    story.delete()
    assert story.end("c", 3).rules == {"lost"}


def test_an_unknown_write_explains_both_ends() -> None:
    for mark, depth in (("a", 1), ("b", 2)):
        story = Story()
        story.create("a")
        story.update("b", "a", 2, outcome="unknown")
        assert story.end(mark, depth).rules == set()


def test_a_write_on_an_unknown_one_shows_that_it_happened() -> None:
    story = Story()
    story.create("a")
    story.update("b", "a", 2, outcome="unknown")
    story.update("x", "a", 2)
    story.update("c", "b", 3)
    assert story.end("c", 3).rules == {"fork", "lost"}


def test_a_refused_write_must_not_take_effect() -> None:
    story = Story()
    story.create("a")
    story.update("b", "a", 2, outcome="fail")
    assert story.end("b", 2).rules == {"refused"}


def test_two_writes_on_one_version_are_a_fork() -> None:
    story = Story()
    story.create("a")
    story.update("b", "a", 2)
    story.update("c", "a", 2)
    assert story.end("c", 2).rules == {"fork", "lost"}


def test_a_fork_beneath_a_delete_is_seen() -> None:
    story = Story()
    story.create("a")
    story.update("b", "a", 2)
    story.update("c", "a", 2)
    story.delete()
    assert story.end("").rules == {"fork"}


def test_two_creates_of_one_name_are_a_fork() -> None:
    story = Story()
    story.create("a")
    story.create("b")
    assert story.end("b", 1).rules == {"fork", "lost"}


def test_versions_grow_along_the_chain() -> None:
    story = three_writes()
    story.read("b", 2, at_s=2.5, seen_version=9)
    story.read("c", 3, seen_version=8)
    assert "versions" in story.end("c", 3).rules


def test_a_read_shows_what_was_acknowledged_before_it_began() -> None:
    story = three_writes()
    story.read("b", 2)
    assert story.end("c", 3).rules == {"stale"}


def test_a_read_beside_a_write_may_show_either_state() -> None:
    for seen, depth in (("b", 2), ("c", 3)):
        story = three_writes()
        story.read(seen, depth, at_s=3.5)
        assert story.end("c", 3).rules == set()


def test_a_read_shows_what_another_read_showed_before() -> None:
    story = Story()
    story.create("a")
    story.update("b", "a", 2, outcome="unknown")
    story.read("b", 2, manager="n2")
    story.read("a", 1, manager="n3")
    assert story.end("b", 2).rules == {"stale"}


def test_a_read_without_a_leader_may_be_old() -> None:
    story = three_writes()
    story.read("a", 1, leaderless=True)
    story.read("", leaderless=True)
    assert story.end("c", 3).rules == set()


def test_a_read_that_finds_nothing_is_stale_unless_there_was_a_delete() -> None:
    story = three_writes()
    story.read("")
    assert story.end("c", 3).rules == {"stale"}
    story = three_writes()
    story.delete(outcome="unknown")
    story.read("")
    assert story.end("").rules == set()


def test_nothing_comes_back_after_its_delete() -> None:
    story = three_writes()
    story.delete()
    story.read("c", 3)
    assert story.end("").rules == {"stale"}
    story = three_writes()
    story.delete()
    story.update("d", "c", 4)
    assert story.end("").rules == {"order"}


def test_nothing_is_seen_before_it_was_asked_for() -> None:
    story = Story()
    story.create("a")
    story.read("b", 2)
    story.update("b", "a", 2)
    assert story.end("b", 2).rules == {"order"}


def test_what_nobody_wrote_is_seen() -> None:
    story = Story()
    story.create("a")
    story.read("z", 2)
    assert story.end("z", 2).rules == {"stranger", "lost"}


def test_managers_must_agree() -> None:
    story = three_writes()
    story.end("c", 3, ["n1", "n2"])
    story.records.append(FinalState(manager="n3", items={}))
    assert story.rules == {"agreement"}


@pytest.mark.parametrize(("nodes", "rules"), [(("n1", "n2"), {"epoch"}), (("n1", "n1"), {"epoch"}), (("n1",), set())])
def test_an_epoch_belongs_to_one_node_once(nodes: tuple[str, ...], rules: set[str]) -> None:
    story = Story()
    story.records += [EpochTaken(node=node, epoch=7, event="store.fence_taken") for node in nodes]
    story.records.append(EpochTaken(node="n1", epoch=7, event="store.leading"))
    assert story.rules == rules


def test_epochs_are_found_in_a_daemons_log(tmp_path: Path) -> None:
    log = tmp_path / "pyswarmd.log"
    log.write_text(
        '{"epoch": 3, "raft_term": 7, "event": "store.fence_taken", "level": "info"}\n'
        "INFO something else\n"
        '{"epoch": 3, "raft_term": 7, "event": "store.leading", "level": "info"}\n'
        '{"epoch": 3, "reason": "so", "event": "store.leadership_lost", "level": "warning"}\n'
    )
    assert parse_epochs("n1", log) == [EpochTaken(node="n1", epoch=3, event=f"store.{e}") for e in ("fence_taken", "leading")]
    assert parse_epochs("n1", tmp_path / "no-log") == []


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    story = three_writes().end("c", 3)
    history = History([*story.records, Fault(kind="kill-etcd", hosts=("n1",), began_s=1.0, ended_s=2.0)])
    history.save(tmp_path / "history.jsonl")
    loaded = History.load(tmp_path / "history.jsonl")
    assert loaded.operations == history.operations
    assert (loaded.finals, loaded.faults, loaded.epochs) == (history.finals, history.faults, [])


def test_the_longest_gap_leaves_out_faults_that_take_the_majority() -> None:
    story = Story()
    for at_s in (1.0, 2.0, 9.0, 30.0, 34.0):
        story.create("a", at_s=at_s)
    operations = History(story.records).operations
    faults = [Fault(kind="cut-off", hosts=("n1",), began_s=11.9, ended_s=25.9), Fault("flap", ("n2",), 20.9, 27.9)]
    assert longest_gap_s(operations) == pytest.approx(21.0)
    assert longest_gap_s(operations, faults, managers=3) == pytest.approx(11.0)
    assert longest_gap_s(operations, faults, managers=5) == pytest.approx(21.0)
    assert longest_gap_s(operations, faults, managers=1) == pytest.approx(7.0)
    assert longest_gap_s([]) == 0.0


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("seed", range(20))
def test_a_plan_keeps_to_its_mix(name: str, seed: int) -> None:
    mix, hosts = MIXES[name], ["n1", "n2", "n3"]
    faults = plan_faults(seed, 120.0, hosts, mix)
    assert len(faults) > 10
    assert faults == plan_faults(seed, 120.0, hosts, mix)
    assert faults != plan_faults(seed + 1, 120.0, hosts, mix)
    for fault in faults:
        others = [f for f in faults if f is not fault and f.at_s <= fault.at_s < f.at_s + f.lasts_s]
        assert fault.at_s + fault.lasts_s <= 120.0
        assert len(others) < mix.at_once
        assert not any(POWER_CUT_ALL in (fault.kind, other.kind) for other in others)


def test_every_kind_of_fault_comes() -> None:
    planned = {fault.kind for seed in range(5) for fault in plan_faults(seed, 300.0, ["n1", "n2", "n3"], MIXES["all"])}
    assert planned == set(MIXES["all"].weights)


def test_a_single_manager_gets_no_faults_between_hosts() -> None:
    assert {len(f.hosts) for f in plan_faults(1, 300.0, ["n1"], MIXES["all"])} == {1}
