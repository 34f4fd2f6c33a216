"""How services change in the store: the functions that `store.update` runs on the head.

They may run more than once before their changes are committed (once), so new ids are given to them.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from pyswarm_common.errors import AlreadyExists, FailedPrecondition, Unimplemented
from pyswarm_common.objects import Service, TaskSpec
from pyswarm_manager.api.service_spec import (
    ServiceDraft,
    is_same_template,
    registry_auth_of,
    resolve_networks,
    with_registry_auth,
)
from pyswarm_manager.api.service_validation import validate_published_ports
from pyswarm_manager.store.tables import View
from pyswarm_manager.store.transaction import Transaction


@dataclass(frozen=True)
class ServiceUpdate:
    """What an update asks for. `registry_auth` "" keeps the credentials of the current (or the previous) template."""

    draft: ServiceDraft
    version_index: int
    new_task_spec_id: str
    registry_auth: str = ""
    auth_from_previous: bool = False


def create_service(tx: Transaction, service_id: str, task_spec_id: str, draft: ServiceDraft, registry_auth: str) -> None:
    """Store a service and its task spec. Raises AlreadyExists and what its networks and ports may raise."""
    if tx.services.named(draft.name):
        raise AlreadyExists(
            f"name conflicts with an existing object: service {draft.name} already exists", grpc_code="AlreadyExists"
        )
    validate_published_ports(draft.typed, service_id, tx)
    template = resolve_networks(with_registry_auth(draft.template, registry_auth), tx)
    tx.create(TaskSpec(id=task_spec_id, template_json=msgspec.json.encode(template)))
    tx.create(Service(id=service_id, name=draft.name, spec_json=draft.spec_json, task_spec_id=task_spec_id, spec_generation=1))


def update_service(tx: Transaction, service_id: str, update: ServiceUpdate) -> None:
    """Give a service a new spec; its task spec only changes when the template means something else now.

    Raises NotFound, OutOfSequence, Unimplemented (renaming) and what networks and ports may raise.
    """
    service, draft = tx.services.must_get(service_id), update.draft
    _refuse_renaming(service, draft)
    validate_published_ports(draft.typed, service.id, tx)
    template = resolve_networks(with_registry_auth(draft.template, _registry_auth(tx, service, update)), tx)
    before = tx.task_specs.must_get(service.task_spec_id)
    changes: dict[str, Any] = {"spec_json": draft.spec_json}
    if not is_same_template(template, msgspec.json.decode(before.template_json)):
        tx.create(TaskSpec(id=update.new_task_spec_id, template_json=msgspec.json.encode(template)))
        changes |= {"task_spec_id": update.new_task_spec_id, "spec_generation": service.spec_generation + 1}
    _put(tx, service, changes, update.version_index)


def roll_back_service(tx: Transaction, service_id: str, version_index: int) -> None:
    """Swap a service's spec and its previous spec. Raises NotFound, OutOfSequence, FailedPrecondition."""
    service = tx.services.must_get(service_id)
    if service.previous_spec_json is None:
        raise FailedPrecondition(f"service {service.id} does not have a previous spec", grpc_code="FailedPrecondition")
    changes: dict[str, Any] = {"spec_json": service.previous_spec_json}
    if service.previous_task_spec_id != service.task_spec_id:
        changes |= {"task_spec_id": service.previous_task_spec_id, "spec_generation": service.spec_generation + 1}
    _put(tx, service, changes, version_index)


def remove_service(tx: Transaction, service_id: str) -> None:
    """Delete a service; the orchestrator ends its tasks. Raises NotFound."""
    tx.delete(Service, service_id)


def _put(tx: Transaction, service: Service, changes: dict[str, Any], version_index: int) -> None:
    previous = {"previous_spec_json": service.spec_json, "previous_task_spec_id": service.task_spec_id}
    changed = msgspec.structs.replace(service, **previous, **changes, update_status=None)
    tx.update(changed, expected_index=version_index)


def _registry_auth(view: View, service: Service, update: ServiceUpdate) -> str:
    if update.registry_auth:
        return update.registry_auth
    source_id = service.previous_task_spec_id if update.auth_from_previous else service.task_spec_id
    source = view.task_specs.get(source_id) or view.task_specs.must_get(service.task_spec_id)
    return registry_auth_of(source.template_json)


def _refuse_renaming(service: Service, draft: ServiceDraft) -> None:
    if draft.name != service.name:
        raise Unimplemented("renaming services is not supported", grpc_code="Unimplemented")
    if service.spec.is_replicated != draft.typed.is_replicated:
        raise Unimplemented("service mode change is not allowed", grpc_code="Unimplemented")
