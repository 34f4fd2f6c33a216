"""The secrets and configs that a service's spec names: whether the references are well formed, and whether they are there.

Words are SwarmKit's (`manager/controlapi/service.go`). References hold an id, which counts, and a name, which must fit to it.
"""

import posixpath
import re
from typing import NoReturn

from pyswarm_common.container_spec import ContainerSpec
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Content, Service
from pyswarm_common.secret_spec import ContentNoun, ContentReference, content_ids_of_template, content_references
from pyswarm_common.specs import TaskTemplate
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestrator.update.plan import COMPLETED, ROLLBACK_COMPLETED
from pyswarm_manager.store.tables import View

_NOUNS: tuple[ContentNoun, ...] = ("secret", "config")
_NUMBER = re.compile(r"[0-9]{0,10}")
_LARGEST_ID = 2**31 - 1
_LARGEST_MODE = 0o7777


def validate_content_references(container: ContainerSpec) -> None:
    """Check the references themselves. Raises InvalidArgument."""
    names_by_target: dict[tuple[str, str], str] = {}
    for reference in content_references(container):
        noun, name = reference.noun, reference.name
        if not reference.id or not name:
            _refuse(f"malformed {noun} reference")
        if not reference.has_target:
            _refuse(f"malformed {noun} reference, no target provided")
        if reference.file is None:
            continue
        _validate_file(reference)
        target = (noun, reference.file.name)
        if target in names_by_target:
            _refuse(f"{noun} references '{names_by_target[target]}' and '{name}' have a conflicting target: '{target[1]}'")
        names_by_target[target] = name


def refuse_unknown_contents(view: View, template: TaskTemplate) -> None:
    """Check that all secrets and configs that a template names are there, under these names. Raises InvalidArgument."""
    references = content_references(template.container_spec or ContainerSpec())
    for noun in _NOUNS:
        missing = [r.name for r in references if r.noun == noun and not _is_there(view, r)]
        if missing:
            _refuse(f"{noun}{'s' if len(missing) > 1 else ''} not found: {', '.join(missing)}")


def services_that_need(view: View, content_id: str) -> list[str]:
    """Return the names, sorted, of the services whose tasks may need this secret or config.

    That includes services that an update, which may be rolled back, is leading away from it, or is about to.
    """
    return sorted(service.name for service in view.services if _may_need(view, service, content_id))


def _may_need(view: View, service: Service, content_id: str) -> bool:
    if _names(view, service.task_spec_id, content_id):
        return True
    previous, status = service.previous_task_spec_id, service.update_status
    if not _names(view, previous, content_id):
        return False
    if status is not None and status.state not in (COMPLETED, ROLLBACK_COMPLETED):
        return True
    # An update that was just stored has no status yet.
    tasks = view.tasks.of_service(service.id)
    return any(task.task_spec_id == previous and task.desired_state <= TaskState.RUNNING for task in tasks)


def _names(view: View, task_spec_id: str, content_id: str) -> bool:
    spec = view.task_specs.get(task_spec_id)
    return spec is not None and content_id in content_ids_of_template(spec.template_json)


def _is_there(view: View, reference: ContentReference) -> bool:
    table = view.secrets if reference.noun == "secret" else view.configs
    item: Content | None = table.get(reference.id)
    return item is not None and item.name == reference.name


def _validate_file(reference: ContentReference) -> None:
    noun, file = reference.noun, reference.file
    assert file is not None
    if "\0" in file.name or posixpath.basename(file.name) in ("", ".", ".."):
        kind = "file secret" if noun == "secret" else "file config"
        _refuse(f"malformed {kind} reference, invalid target file name provided")
    for what, number in (("user", file.uid), ("group", file.gid)):
        if not _NUMBER.fullmatch(number) or int(number or 0) > _LARGEST_ID:
            _refuse(f"{noun} '{reference.name}': the {what} of its file is {number!r}, and must be a number of 0 to {_LARGEST_ID}")
    if not 0 <= file.mode <= _LARGEST_MODE:
        _refuse(f"{noun} '{reference.name}': the mode of its file is {file.mode}, and must be one of 0 to {_LARGEST_MODE}")


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument(message, grpc_code="InvalidArgument")
