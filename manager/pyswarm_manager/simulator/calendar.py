"""What is planned for later, on a grid of times, in the order of planning within one time."""

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Calendar(Generic[T]):
    """Plans by time. Times are rounded up to the grid, so that what agents do comes in few batches."""

    def __init__(self, grid_ns: int) -> None:
        self._grid_ns = max(1, grid_ns)
        self._plans: dict[int, list[T]] = {}
        self._times: list[int] = []

    def add(self, at_ns: int, plan: T) -> None:
        """Note a plan for the first time on the grid that is not before `at_ns`."""
        time_ns = -(-at_ns // self._grid_ns) * self._grid_ns
        plans = self._plans.get(time_ns)
        if plans is None:
            self._plans[time_ns] = [plan]
            heapq.heappush(self._times, time_ns)
        else:
            plans.append(plan)

    def take(self, now_ns: int) -> list[T]:
        """Return the plans for the earliest time that has come; empty when there are none."""
        if not self._times or self._times[0] > now_ns:
            return []
        return self._plans.pop(heapq.heappop(self._times))

    @property
    def next_ns(self) -> int | None:
        """The time of the earliest plans; None when there are none."""
        return self._times[0] if self._times else None
