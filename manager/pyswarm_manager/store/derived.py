"""What a part of the manager keeps beside the tables to decide fast: made from them when first asked for, then kept up.

Each change is told at the very place where it enters the tables, also one that is taken back. So at any time a derived index
says exactly what one that is made anew would say, and a function that uses it is a pure function of the view. It belongs to one
set of tables: those of a manager that does not lead have none.
"""

from typing import Any, Protocol, TypeVar

from pyswarm_common.objects import AnyObject


class Derived(Protocol):
    """May be read only: what it holds follows from the tables alone."""

    is_stale: bool
    """Whether something happened that it could not follow: it is made anew when next asked for."""

    def __init__(self, view: Any, /) -> None:
        """Made from the tables."""
        ...

    def note(self, before: AnyObject | None, after: AnyObject | None) -> None:
        """Follow a change that the tables show already (before None: new; after None: gone)."""
        ...


DerivedT = TypeVar("DerivedT", bound=Derived)


class DerivedIndexes:
    """The derived indexes of one set of tables."""

    def __init__(self) -> None:
        self._by_type: dict[type[Any], Any] = {}

    def get(self, type_: type[DerivedT], view: Any) -> DerivedT:
        """Return the one of this type, made from `view` when there is none or it is stale."""
        found: DerivedT | None = self._by_type.get(type_)
        if found is None or found.is_stale:
            found = self._by_type[type_] = type_(view)
        return found

    def note(self, before: AnyObject | None, after: AnyObject | None) -> None:
        """Tell all of them of a change."""
        for one in self._by_type.values():
            one.note(before, after)
