"""The rules by which an ended task gets a successor: when, after how long, and how often. Pure, shared by the orchestrators.

Source of the rules: SwarmKit `manager/orchestrator/restart/restart.go`. Other than Swarm, which counts attempts in the memory of
one manager, each task carries the times of its slot's restarts, so the count outlives a change of leader and a short task history.

Times are nanoseconds, of the wall clock of whichever manager led when they were written. For the one that leads now they may lie in
the future, or long ago, and no rule trusts them: a task that is held back for longer than its delay is held back anew, and restarts
count only while they lie within the window, on either side of now.
"""

from pyswarm_common.objects import Node, Task
from pyswarm_common.specs import DEFAULT_RESTART_DELAY_NS, SECOND_NS, RestartPolicy, TaskTemplate
from pyswarm_common.task_states import TaskState

STOP_WAIT_NS = 60 * SECOND_NS
"""How long a successor waits at most for its predecessor to stop."""
_STOP_MARGIN_NS = 10 * SECOND_NS
"""How long stopping may take beyond the grace period."""
CLOCK_TOLERANCE_NS = SECOND_NS
"""Clocks of managers may differ by so much without any effect."""
_DEFAULT_POLICY = RestartPolicy()


def is_node_gone(node: Node | None) -> bool:
    """Whether nothing can be heard from a task there: its node was removed, or is down."""
    return node is None or node.status.state == "down"


def is_node_unusable(node: Node | None) -> bool:
    """Whether the tasks of this node must move: it was removed, is down, or is drained."""
    return node is None or node.status.state == "down" or node.spec.availability == "drain"


def should_restart(policy: RestartPolicy | None, task: Task, now_ns: int) -> bool:
    """Whether the policy allows a successor of a task that has ended or lost its node."""
    rules = policy or _DEFAULT_POLICY
    if rules.condition == "none":
        return False
    if rules.condition == "on-failure" and task.status.state is TaskState.COMPLETE:
        return False
    return not rules.max_attempts or len(_counted(rules, task.restarted_at_ns, now_ns)) < rules.max_attempts


def restart_delay_ns(policy: RestartPolicy | None, node: Node | None) -> int:
    """Return how long a successor is held back: not at all when its predecessor only leaves a drained node."""
    if node is not None and node.spec.availability == "drain":
        return 0
    delay = policy.delay if policy else None
    return DEFAULT_RESTART_DELAY_NS if delay is None else delay


def is_held_too_long(policy: RestartPolicy | None, task: Task, now_ns: int) -> bool:
    """Whether a task is held back for longer than any delay of its policy: the clock was set back since, or is another one."""
    return task.start_at_ns - now_ns > restart_delay_ns(policy, None) + CLOCK_TOLERANCE_NS


def restarts_of_successor(policy: RestartPolicy | None, task: Task, now_ns: int, *, is_same_spec: bool) -> tuple[int, ...]:
    """Return the restart times that a successor carries; a new task spec starts the count anew."""
    rules = policy or _DEFAULT_POLICY
    if not rules.max_attempts or not is_same_spec:
        return ()
    return (*_counted(rules, task.restarted_at_ns, now_ns), now_ns)[-rules.max_attempts :]


def is_stopping(task: Task) -> bool:
    """Whether the task was told to stop and may still run."""
    return task.desired_state > TaskState.RUNNING and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


def stop_wait_ns(template: TaskTemplate | None) -> int:
    """Return how long a successor waits at most for such a task to stop: a minute, or what its grace period asks for."""
    container = template.container_spec if template else None
    grace_ns = container.stop_grace_period if container else None
    return max(STOP_WAIT_NS, (grace_ns or 0) + _STOP_MARGIN_NS)


def _counted(rules: RestartPolicy, restarted_at_ns: tuple[int, ...], now_ns: int) -> tuple[int, ...]:
    if not rules.window:
        return restarted_at_ns
    return tuple(at_ns for at_ns in restarted_at_ns if abs(at_ns - now_ns) < rules.window)
