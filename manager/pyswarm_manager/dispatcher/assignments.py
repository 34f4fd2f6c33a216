"""What to send to one agent: pure comparison of what its node should have with what was sent before.

A node gets the views of the networks that its living tasks stand on, and of those on which it has an address of its own. A task
whose stop is held back (`held_stops.py`) is told to go on running meanwhile.
"""

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from pyswarm_common.objects import Task
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import Assignments, TaskAssignment
from pyswarm_manager.dispatcher.contents import contents_of, needed_contents, templates_of
from pyswarm_manager.dispatcher.network_views import PublishedView
from pyswarm_manager.store.tables import View
from pyswarm_manager.task_names import has_slot

_LABELS_PLACEHOLDER = b".Service.Labels"


@dataclass(frozen=True)
class Sent:
    """What an agent has: tasks by id, ids of task specs, view versions by network id, ids of secrets and configs; and the networks
    that its tasks need."""

    tasks: Mapping[str, TaskAssignment] = field(default_factory=dict)
    task_specs: frozenset[str] = frozenset()
    views: Mapping[str, int] = field(default_factory=dict)
    networks: Sequence[str] = ()
    contents: frozenset[str] = frozenset()


def wanted_task(view: View, node_id: str, task_id: str, *, is_held: bool = False) -> TaskAssignment | None:
    """Return a task as the node should have it; None when it should not. `is_held`: it is not yet to be told to stop."""
    task = view.tasks.get(task_id)
    if task is None or task.node_id != node_id or task.status.state < TaskState.ASSIGNED:
        return None
    service = view.services.get(task.service_id)
    return TaskAssignment(
        task_id=task.id,
        task_spec_id="" if task.attached_container_id else task.task_spec_id,
        desired_state=TaskState.RUNNING if is_held else task.desired_state,
        service_id=task.service_id,
        service_name=service.name if service else "",
        slot=task.slot,
        node_id="" if has_slot(task, service) else node_id,
        attachments=task.attachments,
        generic_resources=task.generic_resources,
        service_labels=_labels_to_tell(view, task),
        attached_container_id=task.attached_container_id,
        host_ports=task.host_ports,
    )


def _labels_to_tell(view: View, task: Task) -> dict[str, str]:
    """The service's labels, if the task's spec, or a secret or config of it, has placeholders for them.

    A node with many tasks need not hold them for each.
    """
    spec, service = view.task_specs.get(task.task_spec_id), view.services.get(task.service_id)
    if spec is None or service is None or not service.spec.labels:
        return {}
    templates = templates_of(spec.template_json, view)
    is_asked = _LABELS_PLACEHOLDER in spec.template_json or any(_LABELS_PLACEHOLDER in data for data in templates)
    return service.spec.labels if is_asked else {}


def needed_networks(tasks: Mapping[str, TaskAssignment], view: View) -> tuple[str, ...]:
    """Return the networks that the node's living tasks stand on, sorted."""
    attached = (view.tasks.get(task_id) for task_id, assignment in tasks.items() if assignment.attachments)
    living = (task for task in attached if task is not None and not task.is_terminal)
    return tuple(sorted({attachment.network_id for task in living for attachment in task.attachments}))


def next_assignments(
    view: View,
    node_id: str,
    sent: Sent,
    published: Mapping[str, PublishedView],
    *,
    is_complete: bool,
    touched: Collection[str] | None = None,
    held: Container[str] = (),
    is_answer_awaited: bool = False,
    follows_deltas: bool = True,
) -> tuple[Assignments | None, Sent]:
    """Return the message that brings the agent up to date (None: nothing to say) and what it will have then.

    For a complete set `sent` holds only the view versions that the agent said it still has. `touched`: the tasks that may differ
    from what was sent (None: all). The node gets everything that is placed on it and still in the store, also ended tasks, whose
    logs are kept. `held`: tasks that are not yet to be told to stop. `is_answer_awaited`: the agent shall say when it has applied
    the views that it has then, even if this message brings none. Agents that do not follow deltas as they are now get whole views.
    """
    if touched is None:
        touched = dict.fromkeys([*sent.tasks, *(task.id for task in view.tasks.of_node(node_id))])
    tasks = dict(sent.tasks)
    changed: list[TaskAssignment] = []
    removed_tasks: list[str] = []
    for task_id in touched:
        wanted = wanted_task(view, node_id, task_id, is_held=task_id in held)
        if wanted is None:
            if tasks.pop(task_id, None) is not None:
                removed_tasks.append(task_id)
        elif tasks.get(task_id) != wanted:
            tasks[task_id] = wanted
            changed.append(wanted)
    spec_ids = frozenset([t.task_spec_id for t in tasks.values()]) if touched else sent.task_specs
    new_specs = {i: spec.template_json for i in spec_ids - sent.task_specs if (spec := view.task_specs.get(i)) is not None}
    content_ids = needed_contents(tasks.values(), spec_ids, view) if touched else sent.contents
    needed = needed_networks(tasks, view) if touched else sent.networks
    node = view.nodes.get(node_id)
    own = [attachment.network_id for attachment in node.attachments] if node is not None else []
    networks = [n for n in (*needed, *(n for n in own if n not in needed)) if n in published]
    whole: list[msgspec.Raw] = []
    deltas: list[msgspec.Raw] = []
    for network_id in networks:
        current, known = published[network_id], sent.views.get(network_id)
        if follows_deltas and known is not None and known == current.delta_from:
            deltas.append(current.delta)
        elif known != current.view.version:
            whole.append(current.whole)
    removed_views = tuple(n for n in sent.views if n not in networks)
    now_sent = Sent(tasks, spec_ids, {n: published[n].view.version for n in networks}, needed, content_ids)
    new_contents = contents_of(content_ids - sent.contents, view)
    removed_contents = tuple(sorted(sent.contents - content_ids))
    is_news = bool(changed or removed_tasks or whole or deltas or removed_views or new_contents or removed_contents)
    if not (is_complete or is_news or is_answer_awaited):
        return None, now_sent
    message = Assignments(
        is_complete=is_complete,
        tasks=tuple(changed),
        removed_tasks=tuple(removed_tasks),
        task_specs=new_specs,
        views=tuple(whole),
        view_deltas=tuple(deltas),
        removed_views=removed_views,
        contents=new_contents,
        removed_contents=removed_contents,
        is_answer_awaited=is_answer_awaited,
    )
    return message, now_sent
