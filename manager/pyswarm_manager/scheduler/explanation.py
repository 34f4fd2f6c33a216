"""Why a task is where it is, or nowhere: the verdict of every filter on every node, with its figures. Pure.

The shapes are what the API answers: `msgspec.json.encode` gives Docker's style of names (`{"TaskID": …, "Nodes": […]}`), and
`msgspec.json.decode(…, type=Explanation)` reads them back.
"""

from collections.abc import Callable, Iterable

from pyswarm_common.errors import NotFound
from pyswarm_common.objects import Task
from pyswarm_common.specs import ServiceSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.scheduler.dependencies import why_waiting
from pyswarm_manager.scheduler.filters import Nodes
from pyswarm_manager.scheduler.groups import GroupMaker, group_of_draft
from pyswarm_manager.scheduler.node_info import NodeInfo
from pyswarm_manager.scheduler.pending import is_pending
from pyswarm_manager.scheduler.placing import Placing, filters_of
from pyswarm_manager.scheduler.ranking import rank_key
from pyswarm_manager.scheduler.task_group import TaskGroup
from pyswarm_manager.scheduler.verdicts import Explanation, FilterVerdict, NodeVerdict
from pyswarm_manager.store.tables import View


def explain(view: View, subject: Task | ServiceSpec, now_ns: int) -> Explanation:
    """Return what the scheduler thinks of each node for this task, or for one task of this service draft.

    A draft is a whole posted spec: `msgspec.json.decode(body, type=ServiceSpec)`, with its `task_template`. A task that is on a
    node already is looked at as if it were still to be placed. Raises NotFound when the task's spec is gone.
    """
    load = ClusterLoad(view)
    if isinstance(subject, ServiceSpec):
        return _explain_draft(load, group_of_draft(view, subject))
    group = GroupMaker(view, load, now_ns).make(subject.service_id, subject.task_spec_id)
    if group is None:
        raise NotFound(f"task spec {subject.task_spec_id} not found")
    _take_off(load, group, subject)
    infos: Iterable[NodeInfo] = load.nodes.values()
    if is_pending(subject) and subject.node_id:
        infos = filter(None, [load.nodes.get(subject.node_id)])  # it has no choice
    verdicts = node_verdicts(group, infos, load)
    return Explanation(
        task_id=subject.id,
        service_id=subject.service_id,
        node_id=subject.node_id,
        state=subject.status.state.api_name,
        summary=_summary(view, load, group, subject, verdicts),
        nodes=verdicts,
    )


def node_verdicts(group: TaskGroup, infos: Iterable[NodeInfo], nodes: Nodes) -> tuple[NodeVerdict, ...]:
    """Return the verdicts on these nodes: suitable ones first, by rank, then the others by hostname."""
    infos = list(infos)
    checks = [(one, one.check(group, nodes)) for one in filters_of(group)]
    key = rank_key(group, infos)
    suitable: list[tuple[NodeInfo, tuple[FilterVerdict, ...]]] = []
    refused: list[NodeVerdict] = []
    for info in infos:
        verdicts = tuple(one.verdict(group, info, check(info)) for one, check in checks)
        if all(verdict.passes for verdict in verdicts):
            suitable.append((info, verdicts))
        else:
            refused.append(_node_verdict(group, info, 0, verdicts))
    suitable.sort(key=lambda item: key(item[0]))
    refused.sort(key=lambda verdict: (verdict.hostname, verdict.node_id))
    return (*(_node_verdict(group, info, rank, verdicts) for rank, (info, verdicts) in enumerate(suitable, 1)), *refused)


def _explain_draft(load: ClusterLoad, group: TaskGroup) -> Explanation:
    verdicts = node_verdicts(group, load.nodes.values(), load)
    summary = _next_place(verdicts, lambda: Placing(load).refusal(group))
    return Explanation(task_id="", service_id="", node_id="", state="", summary=summary, nodes=verdicts)


def _take_off(load: ClusterLoad, group: TaskGroup, task: Task) -> None:
    """Take a task off its node, in a load that was made for this purpose."""
    info = load.nodes.get(task.node_id)
    if info is None or not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
        return
    if task.desired_state <= TaskState.RUNNING:
        info.reserve(group.demand, -1)
        if not task.must_move:
            group.counts[info.id] = group.counts.get(info.id, 1) - 1
    info.hold(task.host_ports, task.generic_resources, -1)


def _summary(view: View, load: ClusterLoad, group: TaskGroup, task: Task, verdicts: tuple[NodeVerdict, ...]) -> str:
    state = task.status.state
    if state >= TaskState.ASSIGNED or task.desired_state > TaskState.RUNNING:
        node = view.nodes.get(task.node_id)
        where = f" on {(node.name if node else '') or task.node_id}" if task.node_id else ""
        return f"runs{where}" if state is TaskState.RUNNING else f"{state.api_name}{where}"
    waiting = why_waiting(view, task.service_id)
    if waiting:
        return waiting
    if task.node_id:
        return _next_place(verdicts, lambda: Placing(load).refusal_on(group, [task.node_id]))
    return _next_place(verdicts, lambda: Placing(load).refusal(group))


def _next_place(verdicts: tuple[NodeVerdict, ...], refusal: Callable[[], str]) -> str:
    best = next((verdict for verdict in verdicts if verdict.is_suitable), None)
    return f"would be placed on {best.hostname}" if best is not None else refusal()


def _node_verdict(group: TaskGroup, info: NodeInfo, rank: int, verdicts: tuple[FilterVerdict, ...]) -> NodeVerdict:
    return NodeVerdict(
        node_id=info.id,
        hostname=info.node.name or info.id,
        is_suitable=bool(rank),
        refused_by=next((verdict.filter for verdict in verdicts if not verdict.passes), ""),
        rank=rank,
        task_count=info.task_count,
        service_task_count=group.count_on(info.id),
        recent_failures=group.failures.get(info.id, 0),
        filters=verdicts,
    )
