"""How loops hear of changes: a subscription collects them, joined per object, until its owner takes them.

Joined: two changes of one object become one, from the first `before` to the last `after`; an object that came and went
is not reported. So a slow owner costs memory for the objects that changed, not for the changes. Loops are level-triggered:
they look at the view, and use changes only to know where to look.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pyswarm_common.objects import AnyObject


class Change(NamedTuple):
    """An object before (None: it is new) and after (None: it is gone)."""

    before: AnyObject | None
    after: AnyObject | None

    @property
    def item(self) -> AnyObject:
        """The object: its new form, or the last one when it is gone."""
        item = self.after if self.after is not None else self.before
        assert item is not None
        return item


class Subscription:
    """The changes of some types of objects since they were last taken. Close it when done (`with`).

    `async for changes in subscription` gives one non-empty list after another; `await subscription.wait()` is for those who only
    want to know that something changed.
    """

    def __init__(self, types: Iterable[type[AnyObject]], on_close: Callable[["Subscription"], None]) -> None:
        self._types = frozenset(types)
        self._pending: dict[tuple[type[AnyObject], str], Change] = {}
        self._changed = asyncio.Event()
        self._on_close = on_close
        self._is_closed = False

    async def wait(self) -> None:
        """Return when something changed since the last `wait` or `take`, and forget what."""
        await self._changed.wait()
        self.take()

    def take(self) -> list[Change]:
        """Return the changes since the last `wait` or `take`, oldest first; may be empty."""
        changes = list(self._pending.values())
        self._pending.clear()
        self._changed.clear()
        return changes

    def offer(self, changes: Sequence[Change]) -> None:
        """Add changes. For the mirror only."""
        for change in changes:
            item = change.item
            type_ = type(item)
            if self._types and type_ not in self._types:
                continue
            self._join(type_, item.id, change)
            self._changed.set()

    def _join(self, type_: type[AnyObject], object_id: str, change: Change) -> None:
        earlier = self._pending.pop((type_, object_id), None)
        if earlier is not None:
            change = Change(earlier.before, change.after)
            if change.before is None and change.after is None:
                return
        self._pending[type_, object_id] = change

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> list[Change]:
        while True:
            await self._changed.wait()
            changes = self.take()
            if changes:
                return changes

    def close(self) -> None:
        """Hear no more."""
        if not self._is_closed:
            self._is_closed = True
            self._on_close(self)
            self._pending.clear()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
