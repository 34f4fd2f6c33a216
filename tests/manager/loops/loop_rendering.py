"""Decisions as the text tables of the loops' tests print them, one per line."""

from collections.abc import Iterator
from typing import Any

import msgspec

from pyswarm_common.objects import NetworkAttachment, NodeStatus, Task, TaskFailure, TaskStatus, UpdateStatus
from pyswarm_common.specs import SECOND_NS, GenericResource, PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.store.tables import Tables


def render(before: Tables, decisions: Decisions) -> str:
    """Print decisions, one per line."""
    lines = [f"create {_task_line(t)}" for t in decisions.created if isinstance(t, Task)]
    for item in decisions.updated:
        old = before.table(type(item)).must_get(item.id)
        lines.append(f"update {type(item).__name__.lower()} {item.id}: {', '.join(_differences(old, item))}")
    lines += [f"delete {type(item).__name__.lower()} {item.id}" for item in decisions.deleted]
    lines += [f"wake {key or 'all'} at {_seconds(at)}" for key, at in sorted(decisions.wake_at_ns.items())]
    lines += [f"unfinished {key or 'all'}" for key in decisions.unfinished]
    return "\n".join(lines) or "nothing"


def _task_line(task: Task) -> str:
    parts = [f"task {task.id} {task.service_id}.{task.slot or task.node_id} desired={task.desired_state.name} cause={task.cause}"]
    if task.spec_generation != 1:
        parts.append(f"generation={task.spec_generation}")
    if task.start_at_ns:
        parts.append(f"start={_seconds(task.start_at_ns)}")
    if task.restarted_at_ns:
        parts.append(f"restarted={','.join(map(_seconds, task.restarted_at_ns))}")
    if task.earlier_outcome:
        parts.append(f"earlier={task.earlier_outcome}")
    return " ".join(parts)


def _differences(old: Any, new: Any) -> Iterator[str]:
    for field in old.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if before == after or field == "state_times":  # the status says it in words
            continue
        if isinstance(after, TaskStatus):
            yield from (d for d in _differences(before, after) if not d.startswith("at_ns"))
        elif isinstance(after, NodeStatus):
            yield from _differences(before, after)
        elif isinstance(after, UpdateStatus):
            yield from _update_words(after)
        elif isinstance(after, bytes):
            yield f"{field}={msgspec.json.decode(after)['Mode']}"
        elif isinstance(after, tuple):
            yield f"{field}={' '.join(map(_item_words, after)) or 'none'}"
        else:
            yield f"{field}={after.name if isinstance(after, TaskState) else repr(after) if ' ' in str(after) else after}"


def _item_words(item: Any) -> str:
    match item:
        case str():
            return item
        case NetworkAttachment():
            return f"{item.network_id}:{item.address}{item.mac and '@' + item.mac}"
        case PortConfig():
            return f"{item.published_port}/{item.protocol}"
        case TaskFailure():
            return f"{item.task_id}:{item.node_id}:{_seconds(item.at_ns)}"
        case GenericResource(named_resource_spec=None, discrete_resource_spec=spec) | GenericResource(named_resource_spec=spec):
            return f"{spec.kind}:{spec.value}" if spec else "nothing"
    return f"{item.network_id}:{item.address}"


def _update_words(status: UpdateStatus) -> Iterator[str]:
    yield f"{status.state} {status.message!r} started={_seconds(status.started_at_ns)}"
    if status.completed_at_ns:
        yield f"completed={_seconds(status.completed_at_ns)}"
    if status.unit_count:
        yield f"units={status.unit_count}"
    if status.renewed_at_ns:
        yield f"renewed={_seconds(status.renewed_at_ns)}"


def _seconds(ns: int) -> str:
    return f"{ns / SECOND_NS:g}"
