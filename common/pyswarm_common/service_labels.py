"""Labels by which a service asks for what Docker's API has no fields for; compose files and the docker CLI can set them."""

from typing import Literal

SCHEDULE = "pyswarm.schedule"
"""Of jobs: when to run, as a cron expression such as `*/5 * * * *`."""
SCHEDULE_TIME_ZONE = "pyswarm.schedule.timezone"
"""The time zone of the schedule, such as `Europe/Berlin`; UTC when not said."""
SCHEDULE_OVERLAP = "pyswarm.schedule.overlap"
"""What happens when a run is due while the one before still runs: `skip` (default), `queue` or `replace`."""
SCHEDULE_HISTORY = "pyswarm.schedule.history"
"""How many runs are remembered."""
DEPENDS_ON = "pyswarm.depends_on"
"""Names of the services that must run before this one starts, separated by commas."""
STRATEGY = "pyswarm.placement.strategy"
"""`spread` (default): the emptiest suitable node first; `binpack`: the fullest that still has room."""
STRATEGIES = ("spread", "binpack")
REBALANCE = "pyswarm.rebalance"
"""`true`: move running tasks to nodes that joined or came back."""
MOVE_ORDER = "pyswarm.move.order"
"""`start-first` or `stop-first`: how a task leaves a drained node or is moved; see `orchestrator/overlap.py` for the default."""
BALANCE = "pyswarm.balance"
"""How connections to the service are spread over its tasks: `round-robin` (default), or `source-hash`: a client keeps its task."""
BALANCINGS = ("round-robin", "source-hash")
STACK_NAMESPACE = "com.docker.stack.namespace"
"""The stack that a service is part of: `docker stack deploy` sets it, and puts it before the service's name with a `_`."""


def names_depended_on(labels: dict[str, str] | None) -> tuple[str, ...]:
    """Return the names that `pyswarm.depends_on` holds, as written, each once."""
    written = (labels or {}).get(DEPENDS_ON, "")
    return tuple(dict.fromkeys(filter(None, (name.strip() for name in written.split(",")))))


def full_names(name: str, labels: dict[str, str] | None) -> tuple[str, ...]:
    """Return what a service with these labels may mean by `name`, likeliest first: a service of its own stack, or any."""
    stack = (labels or {}).get(STACK_NAMESPACE, "")
    return (f"{stack}_{name}", name) if stack else (name,)


def balancing_of(labels: dict[str, str] | None) -> Literal["round-robin", "source-hash"]:
    """Return how connections to a service with these labels are spread over its tasks."""
    return "source-hash" if (labels or {}).get(BALANCE) == "source-hash" else "round-robin"


def asks_to_rebalance(labels: dict[str, str] | None) -> bool:
    """Whether running tasks may be moved to nodes that joined or came back."""
    return (labels or {}).get(REBALANCE, "").lower() == "true"
