"""Which secrets and configs a node needs for its tasks, and in which messages they travel; pure.

A node gets the bytes of what its living tasks name, and of nothing else. The answers to its heartbeats share the connection with
them and must not wait for long: so no message carries many bytes, and what a task needs comes before the task.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from pyswarm_common.objects import Content
from pyswarm_common.secret_spec import content_ids_of_template
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import Assignments, FileContent, TaskAssignment
from pyswarm_manager.store.tables import View

CONTENT_BYTES_PER_MESSAGE = 1 << 20


def needed_contents(tasks: Iterable[TaskAssignment], task_spec_ids: Collection[str], view: View) -> frozenset[str]:
    """Return the ids of the secrets and configs that those of the tasks name that run or are to run.

    `task_spec_ids`: those of all these tasks.
    """
    ids_by_spec: dict[str, tuple[str, ...]] = {}
    for task_spec_id in task_spec_ids:
        spec = view.task_specs.get(task_spec_id)
        if spec is not None and (ids := content_ids_of_template(spec.template_json)):
            ids_by_spec[task_spec_id] = ids
    if not ids_by_spec:
        return frozenset()
    naming = (assignment for assignment in tasks if assignment.task_spec_id in ids_by_spec)
    living = {assignment.task_spec_id for assignment in naming if _is_to_run(assignment, view)}
    return frozenset(content_id for task_spec_id in living for content_id in ids_by_spec[task_spec_id])


def contents_of(ids: Iterable[str], view: View) -> dict[str, FileContent]:
    """Return those of the secrets and configs that there are, by id."""
    found = {content_id: item for content_id in sorted(ids) if (item := _find(content_id, view)) is not None}
    return {content_id: FileContent(data=item.data, is_template=item.spec.is_template) for content_id, item in found.items()}


def templates_of(template_json: bytes, view: View) -> Iterator[bytes]:
    """Yield the data of those secrets and configs of a task template whose placeholders the node fills in."""
    for content_id in content_ids_of_template(template_json):
        item = _find(content_id, view)
        if item is not None and item.spec.is_template:
            yield item.data


def split_contents(message: Assignments) -> Iterator[Assignments]:
    """Yield the messages to send in place of one: contents that are large together travel before it, a few at a time."""
    parts = list(_portions(message.contents))
    for part in parts[:-1]:
        yield Assignments(is_complete=False, contents=part)
    yield msgspec.structs.replace(message, contents=parts[-1]) if len(parts) > 1 else message


def _portions(contents: Mapping[str, FileContent]) -> Iterator[dict[str, FileContent]]:
    part: dict[str, FileContent] = {}
    size_bytes = 0
    for content_id, content in contents.items():
        if part and size_bytes + len(content.data) > CONTENT_BYTES_PER_MESSAGE:
            yield part
            part, size_bytes = {}, 0
        part[content_id] = content
        size_bytes += len(content.data)
    yield part


def _find(content_id: str, view: View) -> Content | None:
    return view.secrets.get(content_id) or view.configs.get(content_id)


def _is_to_run(assignment: TaskAssignment, view: View) -> bool:
    task = view.tasks.get(assignment.task_id)
    return task is not None and not task.is_terminal and assignment.desired_state <= TaskState.RUNNING
