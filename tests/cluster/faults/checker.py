"""Reads a history and names every violation of what the cluster promises. Pure: records in, violations out.

What it holds against a history:
  * every acknowledged write is there in the end, or beneath a later write, or was deleted by somebody (acknowledged or unknown);
  * a write that was refused never took effect;
  * the writes of an object form one chain: no two took effect on the same version, and versions grow along it;
  * a read shows no older state than what was acknowledged, or shown by another read, before it began, on whichever manager;
    a manager that knows no leader answers from what it last knew, which is why such reads are exempt;
  * nothing is seen before it was asked for, and nothing comes back after an acknowledged delete;
  * no epoch of the fence was held twice;
  * in the end all managers show the same.
"""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from faults.chains import ABSENT, Chain
from faults.history import EpochTaken, FinalState, History, Operation


class Violation(NamedTuple):
    """A broken promise: which, of what, and how it shows. `lost`: an acknowledged write is gone."""

    rule: str
    item: str
    text: str

    @property
    def is_loss(self) -> bool:
        """Whether an acknowledged write is gone."""
        return self.rule == "lost"


class ItemHistory:
    """What happened to one object. `final` is its mark in the end, None when nobody looked."""

    def __init__(self, item: str, operations: Sequence[Operation], finals: Sequence[FinalState]) -> None:
        self.item = item
        self.operations = operations
        self.reads = [o for o in operations if o.kind == "read" and o.outcome == "ok"]
        self.deletes = [o for o in operations if o.kind == "delete"]
        sights = [final.items[item] for final in finals if item in final.items]
        self.final: str | None = (sights[0].mark if sights else ABSENT) if finals else None
        self.versions = [(o.seen, o.seen_depth, o.seen_version) for o in self.reads if o.seen] + [
            (s.mark, s.depth, s.version) for s in sights
        ]
        self.chain = Chain(operations, [o.seen for o in self.reads] + [s.mark for s in sights])

    def may_be_deleted_by(self, at_s: float) -> bool:
        """Whether somebody may have deleted it before this time."""
        return any(o.outcome != "fail" and o.began_s < at_s for o in self.deletes)

    def is_deleted_by(self, at_s: float) -> bool:
        """Whether a delete was acknowledged before this time."""
        return any(o.outcome == "ok" and o.ended_s < at_s for o in self.deletes)


def check(history: History) -> list[Violation]:
    """Return all violations; none is what we hope for."""
    by_item: dict[str, list[Operation]] = defaultdict(list)
    finals = history.finals
    for operation in history.operations:
        by_item[operation.item].append(operation)
    found = [*_check_epochs(history.epochs), *_check_agreement(finals)]
    for name, operations in sorted(by_item.items()):
        item = ItemHistory(name, operations, finals)
        for rule in ITEM_RULES:
            found += rule(item)
    return found


def _check_kept(item: ItemHistory) -> Iterator[Violation]:
    if item.final is None:
        return
    if item.final == ABSENT:
        if item.chain.acknowledged and not item.may_be_deleted_by(float("inf")):
            marks = ", ".join(o.wrote for o in item.chain.acknowledged)
            yield Violation("lost", item.item, f"it is gone, though nobody deleted it; acknowledged: {marks}")
        return
    beneath = set(item.chain.ancestors(item.final))
    for write in item.chain.acknowledged:
        if write.wrote not in beneath:
            text = f"{_describe(write)} was acknowledged, but is not beneath the last write, {item.final}"
            yield Violation("lost", item.item, text)


def _check_deleted(item: ItemHistory) -> Iterator[Violation]:
    if item.final not in (None, ABSENT) and item.is_deleted_by(float("inf")):
        yield Violation("lost", item.item, f"its delete was acknowledged, but it is there ({item.final})")
    for write in item.chain.acknowledged:
        if item.is_deleted_by(write.began_s):
            yield Violation("order", item.item, f"{_describe(write)} was acknowledged after its delete was")


def _check_refused(item: ItemHistory) -> Iterator[Violation]:
    for write in item.chain.refused_yet_there():
        yield Violation("refused", item.item, f"{_describe(write)} was refused ({write.status} {write.message}), yet took effect")


def _check_strangers(item: ItemHistory) -> Iterator[Violation]:
    for mark in item.chain.strangers:
        yield Violation("stranger", item.item, f"{mark} was seen, but nobody wrote it")


def _check_linear(item: ItemHistory) -> Iterator[Violation]:
    for parent, marks in item.chain.forks():
        yield Violation("fork", item.item, f"{', '.join(marks)} were all made on {parent or 'nothing'}")
    acknowledged: dict[int, str] = {}
    for write in item.chain.acknowledged:
        if write.kind == "update" and acknowledged.setdefault(write.from_version, write.wrote) != write.wrote:
            text = f"{acknowledged[write.from_version]} and {write.wrote} were both acknowledged from version {write.from_version}"
            yield Violation("fork", item.item, text)


def _check_versions(item: ItemHistory) -> Iterator[Violation]:
    lowest: dict[int, int] = {}
    highest: dict[int, int] = {}
    for _, depth, version in item.versions:
        lowest[depth] = min(version, lowest.get(depth, version))
        highest[depth] = max(version, highest.get(depth, version))
    depths = sorted(lowest)
    for below, above in itertools.pairwise(depths):
        if highest[below] >= lowest[above]:
            text = f"write {below} was seen with version {highest[below]}, the later write {above} with {lowest[above]}"
            yield Violation("versions", item.item, text)


def _check_reads(item: ItemHistory) -> Iterator[Violation]:
    floor = _Floor(item)
    for read in item.reads:
        where = f"a read on {read.manager} at {read.began_s:.3f} s"
        if read.seen == ABSENT:
            if not read.leaderless and floor.at(read.began_s) > 0 and not item.may_be_deleted_by(read.ended_s):
                yield Violation("stale", item.item, f"{where} found nothing, though write {floor.at(read.began_s)} was known")
            continue
        write = item.chain.writes.get(read.seen)
        if write is not None and write.began_s > read.ended_s:
            yield Violation("order", item.item, f"{where} saw {_describe(write)}, which was asked for later")
        if read.leaderless:
            continue
        if item.is_deleted_by(read.began_s):
            yield Violation("stale", item.item, f"{where} saw {read.seen}, though its delete was acknowledged before")
        if read.seen_depth < floor.at(read.began_s):
            text = f"{where} saw write {read.seen_depth} ({read.seen}), though write {floor.at(read.began_s)} was known before"
            yield Violation("stale", item.item, text)


class _Floor:
    """How deep a read that begins at some time must at least see: what was acknowledged or shown before."""

    def __init__(self, item: ItemHistory) -> None:
        known = [(o.ended_s, o.depth) for o in item.chain.acknowledged]
        known += [(o.ended_s, o.seen_depth) for o in item.reads if o.seen]
        self._times_s: list[float] = []
        self._depths: list[int] = []
        for at_s, depth in sorted(known):
            self._times_s.append(at_s)
            self._depths.append(max(depth, self._depths[-1] if self._depths else 0))

    def at(self, at_s: float) -> int:
        """Return the depth that was known before this time."""
        index = bisect.bisect_left(self._times_s, at_s)
        return self._depths[index - 1] if index else 0


def _check_epochs(epochs: Sequence[EpochTaken]) -> Iterator[Violation]:
    for event in sorted({taken.event for taken in epochs}):
        holders: dict[int, list[str]] = defaultdict(list)
        for taken in epochs:
            if taken.event == event:
                holders[taken.epoch].append(taken.node)
        for epoch, nodes in sorted(holders.items()):
            if len(nodes) > 1:
                yield Violation("epoch", f"epoch {epoch}", f"{event} was said by {' and '.join(nodes)}")


def _check_agreement(finals: Sequence[FinalState]) -> Iterator[Violation]:
    if not finals:
        return
    first = finals[0]
    for other in finals[1:]:
        for name in sorted(first.items.keys() | other.items.keys()):
            one, two = first.items.get(name), other.items.get(name)
            if one != two:
                yield Violation("agreement", name, f"{first.manager} shows {one}, {other.manager} shows {two}")


def _describe(write: Operation) -> str:
    return f"{write.kind} {write.wrote} (write {write.depth}, on {write.manager} at {write.began_s:.3f}–{write.ended_s:.3f} s)"


ITEM_RULES: tuple[Callable[[ItemHistory], Iterator[Violation]], ...] = (
    _check_kept,
    _check_deleted,
    _check_refused,
    _check_strangers,
    _check_linear,
    _check_versions,
    _check_reads,
)
