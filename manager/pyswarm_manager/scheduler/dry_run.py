"""Where the tasks of a service would land that is not created yet: the scheduler's own code on a copy of the load. Pure."""

from collections.abc import Iterable

from pyswarm_common.specs import GenericResource, ServiceSpec
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.scheduler.explanation import node_verdicts
from pyswarm_manager.scheduler.filters import FILTERS
from pyswarm_manager.scheduler.groups import group_of_draft
from pyswarm_manager.scheduler.placing import Placed, Placing
from pyswarm_manager.scheduler.task_group import TaskGroup
from pyswarm_manager.scheduler.verdicts import DryRun, NodePlacement
from pyswarm_manager.store.tables import View

_OF_GLOBAL_SERVICES = ("constraints", "platform")
"""Filters that say which nodes a global service has tasks for; the others only say whether those can be placed."""


def dry_run(view: View, draft: ServiceSpec, now_ns: int, count: int | None = None) -> DryRun:
    """Return where so many tasks of this draft would be placed now, and why not the rest.

    A draft is a whole posted spec: `msgspec.json.decode(body, type=ServiceSpec)`, with its `task_template`. `count` None: as
    many as its mode asks for at once (global modes: one for each node that is available and that its constraints allow).
    """
    del now_ns  # a service that does not exist yet has not failed anywhere
    load = ClusterLoad(view)
    placing, group = Placing(load), group_of_draft(view, draft)
    if draft.mode_name in ("global", "global-job"):
        asked, placed, refusal = _place_on_each(placing, group)
    else:
        asked = _asked_for(draft) if count is None else count
        placed = placing.place(group, asked)
        refusal = placing.refusal(group) if len(placed) < asked else ""
    return DryRun(
        asked=asked,
        placed=len(placed),
        placements=_by_node(load, placed),
        refusal=refusal,
        nodes=node_verdicts(group, placing.all_infos(), load),
    )


def _asked_for(draft: ServiceSpec) -> int:
    if draft.mode_name == "replicated-job":
        return min(draft.max_concurrent, draft.total_completions)
    return draft.replicas


def _place_on_each(placing: Placing, group: TaskGroup) -> tuple[int, list[Placed], str]:
    """One task for each node that the constraints allow, as a global service has them."""
    filters = [one for one in FILTERS if one.name in _OF_GLOBAL_SERVICES and one.applies(group)]
    checks = [one.check(group, placing.load) for one in filters]
    eligible = [info.id for info in placing.all_infos() if info.is_available and all(check(info) for check in checks)]
    placed = [one for node_id in eligible if (one := placing.place_on(group, node_id)) is not None]
    placed_on = {one.node_id for one in placed}
    left = [node_id for node_id in eligible if node_id not in placed_on]
    return len(eligible), placed, placing.refusal_on(group, left) if left else ""


def _by_node(load: ClusterLoad, placed: Iterable[Placed]) -> tuple[NodePlacement, ...]:
    counts: dict[str, int] = {}
    generic: dict[str, list[GenericResource]] = {}
    for one in placed:
        counts[one.node_id] = counts.get(one.node_id, 0) + 1
        generic.setdefault(one.node_id, []).extend(one.generic_resources)
    placements = (
        NodePlacement(
            node_id=node_id,
            hostname=load.nodes[node_id].node.name or node_id,
            tasks=tasks,
            generic_resources=tuple(generic[node_id]),
        )
        for node_id, tasks in counts.items()
    )
    return tuple(sorted(placements, key=lambda p: (-p.tasks, p.hostname, p.node_id)))
