"""Why a task had to be replaced: noted with its successor when that is made, as afterwards it can no longer be told."""

from enum import IntEnum


class ReplacementReason(IntEnum):
    """What had happened to the task that another one replaces. Numbers are stored: never give one a new meaning."""

    UNKNOWN = 0
    FAILED = 1
    COMPLETED = 2
    REJECTED = 3
    """Its node refused it, or stopped satisfying its constraints."""
    ORPHANED = 4
    """Its node had been down for so long that the task was given up."""
    STOPPED = 5
    NODE_DOWN = 6
    NODE_REMOVED = 7
    NODE_DRAINED = 8
    UPDATED = 9
    """The service has another task spec now."""
    REBALANCED = 10

    @property
    def api_name(self) -> str:
        """The word for scripts, such as `node-down`; "" for UNKNOWN."""
        return "" if self is ReplacementReason.UNKNOWN else self.name.lower().replace("_", "-")
