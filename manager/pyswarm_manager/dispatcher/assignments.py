"""What to send to one agent: pure comparison of what its node should have with what was sent before."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from pyswarm_common.objects import Task
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import Assignments, TaskAssignment
from pyswarm_manager.dispatcher.network_views import PublishedView
from pyswarm_manager.store.tables import View


@dataclass(frozen=True)
class Sent:
    """What an agent has: tasks by id, task spec ids, view versions by network id."""

    tasks: Mapping[str, TaskAssignment] = field(default_factory=dict)
    task_specs: frozenset[str] = frozenset()
    views: Mapping[str, int] = field(default_factory=dict)


def wanted_tasks(view: View, node_id: str) -> dict[str, TaskAssignment]:
    """Return the node's tasks: everything placed on it and still in the store, also ended ones (their logs are kept)."""
    wanted = {}
    for task in view.tasks.of_node(node_id):
        if task.status.state >= TaskState.ASSIGNED:
            service = view.services.get(task.service_id)
            wanted[task.id] = TaskAssignment(
                task_id=task.id,
                task_spec_id=task.task_spec_id,
                desired_state=task.desired_state,
                service_id=task.service_id,
                service_name=service.name if service else "",
                slot=task.slot,
                attachments=task.attachments,
            )
    return wanted


def needed_networks(tasks: Mapping[str, Task | TaskAssignment], view: View) -> set[str]:
    """Return the networks that the node's living tasks stand on."""
    living = (view.tasks.get(task_id) for task_id in tasks)
    return {a.network_id for task in living if task is not None and not task.is_terminal for a in task.attachments}


def next_assignments(
    view: View, node_id: str, sent: Sent, published: Mapping[str, PublishedView], *, is_complete: bool
) -> tuple[Assignments | None, Sent]:
    """Return the message that brings the agent up to date (None: nothing to say) and what it will have then.

    For a complete set `sent` holds only the view versions that the agent said it still has.
    """
    tasks = wanted_tasks(view, node_id)
    changed = [t for t in tasks.values() if sent.tasks.get(t.task_id) != t]
    spec_ids = frozenset(t.task_spec_id for t in tasks.values())
    new_specs = {i: spec.template_json for i in spec_ids - sent.task_specs if (spec := view.task_specs.get(i)) is not None}
    networks = [n for n in sorted(needed_networks(tasks, view)) if n in published]
    whole: list[msgspec.Raw] = []
    deltas: list[msgspec.Raw] = []
    for network_id in networks:
        current, held = published[network_id], sent.views.get(network_id)
        if held is not None and held == current.delta_from:
            deltas.append(current.delta)
        elif held != current.view.version:
            whole.append(current.whole)
    removed_tasks = tuple(t for t in sent.tasks if t not in tasks)
    removed_views = tuple(n for n in sent.views if n not in networks)
    now_sent = Sent(tasks=tasks, task_specs=spec_ids, views={n: published[n].view.version for n in networks})
    if not (is_complete or changed or removed_tasks or whole or deltas or removed_views):
        return None, now_sent
    message = Assignments(
        is_complete=is_complete,
        tasks=tuple(changed),
        removed_tasks=removed_tasks,
        task_specs=new_specs,
        views=tuple(whole),
        view_deltas=tuple(deltas),
        removed_views=removed_views,
    )
    return message, now_sent
