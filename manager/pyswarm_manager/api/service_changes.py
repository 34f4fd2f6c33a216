"""How services change in the store: the functions that `store.update` runs on the head.

They may run more than once before their changes are committed (once), so new ids are given to them.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from pyswarm_common.errors import AlreadyExists, FailedPrecondition, Unimplemented
from pyswarm_common.objects import Service, TaskSpec, UpdateStatus
from pyswarm_common.specs import PortConfig, ServiceSpec, decode_service_spec, decode_task_template
from pyswarm_manager.api.job_changes import with_first_execution, with_next_execution
from pyswarm_manager.api.port_validation import validate_published_ports
from pyswarm_manager.api.service_contents import refuse_unknown_contents
from pyswarm_manager.api.service_dependencies import refuse_cycle
from pyswarm_manager.api.service_networks import refuse_without_ingress, validate_fixed_places, validate_own_networks
from pyswarm_manager.api.service_spec import (
    ServiceDraft,
    is_same_template,
    registry_auth_of,
    resolve_networks,
    with_registry_auth,
)
from pyswarm_manager.orchestrator.update.plan import ROLLBACK_STARTED, rolled_back
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
    refuse_conflicts(tx, service_id, draft)
    template = resolve_networks(with_registry_auth(draft.template, registry_auth), tx)
    networks = decode_task_template(msgspec.json.encode(template)).networks
    validate_own_networks(draft.typed, networks)
    validate_fixed_places(draft.typed, networks, service_id, tx)
    tx.create(TaskSpec(id=task_spec_id, template_json=msgspec.json.encode(template)))
    service = Service(id=service_id, name=draft.name, spec_json=draft.spec_json, task_spec_id=task_spec_id, spec_generation=1)
    tx.create(with_first_execution(service, tx.now_ns))


def refuse_conflicts(view: View, service_id: str, draft: ServiceDraft) -> None:
    """Check that a new service gets on with those that there are. Raises AlreadyExists and InvalidArgument."""
    if view.services.named(draft.name):
        raise AlreadyExists(
            f"name conflicts with an existing object: service {draft.name} already exists", grpc_code="AlreadyExists"
        )
    validate_published_ports(draft.typed, service_id, view)
    refuse_without_ingress(draft.typed, view)
    refuse_unknown_contents(view, draft.typed.task_template)
    refuse_cycle(view, draft.name, draft.typed.labels)


def update_service(tx: Transaction, service_id: str, update: ServiceUpdate) -> None:
    """Give a service a new spec; its task spec only changes when its tasks would be made differently now.

    An update that was under way, or paused, goes on under the new spec, and what failed so far counts no more: that is what a new
    generation means where the task spec stays the same.
    Raises NotFound, OutOfSequence, Unimplemented (renaming) and what networks and ports may raise.
    """
    service, draft = tx.services.must_get(service_id), update.draft
    _refuse_renaming(service, draft)
    validate_published_ports(draft.typed, service.id, tx)
    refuse_without_ingress(draft.typed, tx)
    refuse_unknown_contents(tx, draft.typed.task_template)
    refuse_cycle(tx, service.name, draft.typed.labels)
    template = resolve_networks(with_registry_auth(draft.template, _registry_auth(tx, service, update)), tx)
    networks = decode_task_template(msgspec.json.encode(template)).networks
    validate_own_networks(draft.typed, networks)
    validate_fixed_places(draft.typed, networks, service.id, tx)
    before = tx.task_specs.must_get(service.task_spec_id)
    changes: dict[str, Any] = {"spec_json": draft.spec_json}
    is_same = is_same_template(template, msgspec.json.decode(before.template_json))
    if not is_same or _ports_of_tasks(service.spec) != _ports_of_tasks(draft.typed):
        template_json = before.template_json if is_same else msgspec.json.encode(template)
        tx.create(TaskSpec(id=update.new_task_spec_id, template_json=template_json))
        changes |= {"task_spec_id": update.new_task_spec_id, "spec_generation": service.spec_generation + 1}
    elif service.update_status is not None:
        changes["spec_generation"] = service.spec_generation + 1
    _put(tx, service, changes, update.version_index)


def roll_back_service(tx: Transaction, service_id: str, version_index: int) -> None:
    """Swap a service's spec and its previous spec. Raises NotFound, OutOfSequence, FailedPrecondition, and what ports may raise."""
    service = tx.services.must_get(service_id)
    if service.previous_spec_json is None:
        raise FailedPrecondition(f"service {service.id} does not have a previous spec", grpc_code="FailedPrecondition")
    validate_published_ports(decode_service_spec(service.previous_spec_json), service.id, tx)  # others may have taken them since
    previous_spec, previous = decode_service_spec(service.previous_spec_json), tx.task_specs.get(service.previous_task_spec_id)
    refuse_without_ingress(previous_spec, tx)
    if previous is not None:
        refuse_unknown_contents(tx, previous.template)
        validate_fixed_places(previous_spec, previous.template.networks, service.id, tx)
    status = UpdateStatus(state=ROLLBACK_STARTED, message="manually requested rollback", started_at_ns=tx.now_ns)
    _store(tx, service, rolled_back(service, None if service.spec.is_job else status), version_index)


def remove_service(tx: Transaction, service_id: str) -> None:
    """Delete a service; the orchestrator ends its tasks. Raises NotFound."""
    tx.delete(Service, service_id)


def _put(tx: Transaction, service: Service, changes: dict[str, Any], version_index: int) -> None:
    previous = {"previous_spec_json": service.spec_json, "previous_task_spec_id": service.task_spec_id}
    _store(tx, service, msgspec.structs.replace(service, **previous, **changes, update_status=None), version_index)


def _store(tx: Transaction, service: Service, changed: Service, version_index: int) -> None:
    is_forced = _force_update(tx, changed) > _force_update(tx, service)
    tx.update(with_next_execution(service, changed, tx.now_ns, is_forced=is_forced), expected_index=version_index)


def _ports_of_tasks(spec: ServiceSpec) -> tuple[bool, list[PortConfig]]:
    """What of its published ports a service's tasks are made from: their own ones, and whether they are reached by the mesh."""
    ports = (spec.endpoint_spec.ports if spec.endpoint_spec else None) or ()
    return spec.publishes_in_mesh, [port for port in ports if port.publish_mode == "host"]


def _force_update(view: View, service: Service) -> int:
    task_spec = view.task_specs.get(service.task_spec_id)
    return task_spec.template.force_update if task_spec is not None else 0


def _registry_auth(view: View, service: Service, update: ServiceUpdate) -> str:
    if update.registry_auth:
        return update.registry_auth
    source_id = service.previous_task_spec_id if update.auth_from_previous else service.task_spec_id
    source = view.task_specs.get(source_id) or view.task_specs.must_get(service.task_spec_id)
    return registry_auth_of(source.template_json)


def stored_registry_auth(view: View, service: Service) -> str:
    """Return the credentials that a service's current template holds; "" for none."""
    task_spec = view.task_specs.get(service.task_spec_id)
    return registry_auth_of(task_spec.template_json) if task_spec is not None else ""


def _refuse_renaming(service: Service, draft: ServiceDraft) -> None:
    if draft.name != service.name:
        raise Unimplemented("renaming services is not supported", grpc_code="Unimplemented")
    if service.spec.mode_name != draft.typed.mode_name:
        raise Unimplemented("service mode change is not allowed", grpc_code="Unimplemented")
